/** A volume of the in-tree plugin on a real kernel: the lock and the files that a dead kubelet left of it. */
import { expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CLUSTER, GIB } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { checksum, failureOf, left, LIMIT, MINUTES, rbd, type TestVolume, worldOfFile, writeData } from "./kubelet.ts";
import { tool } from "./loop.ts";

const world = worldOfFile("intree");
const UUID = "b0285c97-a0ce-11eb-8c66-0242ac110002";

/** An image as the in-tree plugin made it, with a filesystem and data, and as kubelet of today asks for it. */
const migrated = (at: number, features: string): { readonly volume: TestVolume; readonly sum: string } => {
  const pool = world().pool.name;
  const uuid = `${UUID.slice(0, -1)}${at}`;
  const image = `kubernetes-dynamic-pvc-${uuid}`;
  rbd("create", `${pool}/${image}`, "--size=256M", `--image-feature=${features}`);
  const device = rbd("map", "-o", "noudev", `${pool}/${image}`);
  tool("mkfs.ext4", "-q", device);
  tool("mount", device, "/mnt");
  const sum = writeData("/mnt/data", 1);
  tool("umount", "/mnt");
  rbd("unmap", "-o", "noudev", device);
  const known = world().known({
    kind: "ext4",
    volumeId: `mig_mons-${CLUSTER}_image-${uuid}_${Buffer.from(pool).toString("hex")}`,
    volumeContext: { staticVolume: "true", migration: "true", clusterID: CLUSTER, imageName: image, pool },
    image,
  });
  const staging = join(world().dir, `plugins/kubernetes.io/csi/rbd.csi.ceph.com/${at}/globalmount`);
  mkdirSync(staging, { recursive: true });
  return { volume: known.as({ staging }), sum };
};

const locksOf = ({ spec }: TestVolume): string => rbd("lock", "ls", spec);

/** What the driver says between its two looks. */
const LOOKS_AGAIN = "it is looked at once more";
const said = () => world().driver().log().split(LOOKS_AGAIN).length;

/** The failure of a stage during which something happens between the two looks. */
const failureWith = async (volume: TestVolume, between: () => unknown) => {
  const before = said();
  const failed = failureOf(volume.stage());
  while (said() === before) await Bun.sleep(50);
  await between();
  return failed;
};

const addLock = ({ spec }: TestVolume, node: string): string =>
  rbd("lock", "add", "--shared=plugin", spec, `kubelet_lock_magic_${node}`);

const withJson = (volume: TestVolume): string => {
  const folder = join(world().dir, `plugins/kubernetes.io/rbd/rbd/${world().pool.name}-image-${volume.image}`);
  mkdirSync(folder, { recursive: true });
  const json = { Pool: world().pool.name, Image: volume.image, Id: "admin", Secret: rig().key };
  writeFileSync(`${folder}/rbd.json`, JSON.stringify(json));
  return folder;
};

for (const [at, features] of [
  [1, "layering"],
  [2, "layering,exclusive-lock"],
] as const) {
  test(
    `an in-tree volume with ${features} that a dead kubelet has locked is staged, grown, unstaged and deleted`,
    async () => {
      const { volume, sum } = migrated(at, features);
      const folder = withJson(volume);
      const before = said();
      addLock(volume, "node-1");
      await volume.stage();
      // Without exclusive-lock it keeps nobody from writing.
      const plain = features === "layering";
      expect([locksOf(volume).includes("node-1"), said() === before, existsSync(folder)]).toEqual([
        plain,
        plain,
        false,
      ]);
      withJson(volume);
      await volume.stage();
      expect(existsSync(folder)).toBe(false);
      await volume.publish();
      expect(checksum(`${volume.target}/data`, 1)).toBe(sum);
      writeData(`${volume.target}/more`, 1);
      await volume.grow(GIB);
      expect((await volume.expand(GIB)).capacityBytes).toBe(GIB);
      await volume.unpublish();
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
      // With exclusive-lock the kernel has the lock while it has the image.
      if (!plain) addLock(volume, "node-1");
      await volume.grow(2n * GIB);
      const { volumeId, secrets } = volume;
      await world().driver().controller.deleteVolume({ volumeId, secrets }, LIMIT);
      expect(rbd("ls", world().pool.name)).not.toContain(volume.image);
      expect(world().driver().log()).not.toContain(rig().key);
    },
    2 * MINUTES,
  );
}

test(
  "an in-tree volume whose kubelet lives keeps its lock and is not mapped: it opens the image, or another takes a lock, between two looks",
  async () => {
    const { volume, sum } = migrated(3, "layering,exclusive-lock");
    const folder = withJson(volume);
    addLock(volume, "node-1");
    const locks = locksOf(volume);
    const alive: { end?: () => Promise<unknown> } = {};
    const opened = await failureWith(volume, async () => {
      const watcher = Bun.spawn(["rbd", "-c", rig().conf, "watch", volume.spec], {
        stdin: "pipe",
        stdout: "ignore",
        stderr: "ignore",
      });
      alive.end = () => (watcher.kill(), watcher.exited);
    });
    try {
      expect(opened).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("client.") });
    } finally {
      await alive.end?.();
    }
    expect([locksOf(volume), left(volume), existsSync(folder)]).toEqual([locks, [[], []], true]);
    while (rbd("status", volume.spec).includes("watcher=")) await Bun.sleep(200);

    const relocked = await failureWith(volume, () => addLock(volume, "node-2"));
    expect(relocked).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringMatching(/kubelet_lock_magic_node-2.*about to use it/),
    });
    for (const node of ["node-1", "node-2"]) expect(locksOf(volume)).toContain(node);
    expect(left(volume)).toEqual([[], []]);

    await volume.stage();
    // what is there now is the kernel's own
    expect(locksOf(volume)).not.toContain("kubelet_lock_magic");
    expect(checksum(`${volume.stagingTarget}/data`, 1)).toBe(sum);
    await volume.unstage();
  },
  2 * MINUTES,
);
