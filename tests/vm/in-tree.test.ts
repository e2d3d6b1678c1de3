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

for (const [at, features] of [
  [1, "layering"],
  [2, "layering,exclusive-lock"],
] as const) {
  test(
    `an in-tree volume with ${features} that a dead kubelet has locked is staged, grown, unstaged and deleted; a live one's is not`,
    async () => {
      const { volume, sum } = migrated(at, features);
      const folder = join(world().dir, `plugins/kubernetes.io/rbd/rbd/${world().pool.name}-image-${volume.image}`);
      mkdirSync(folder, { recursive: true });
      writeFileSync(
        `${folder}/rbd.json`,
        JSON.stringify({ Pool: world().pool.name, Image: volume.image, Id: "admin", Secret: rig().key }),
      );
      rbd("lock", "add", volume.spec, "kubelet_lock_magic_node-1");

      const alive = Bun.spawn(["rbd", "-c", rig().conf, "watch", volume.spec], {
        stdin: "pipe",
        stdout: "ignore",
        stderr: "ignore",
      });
      try {
        while (!rbd("status", volume.spec).includes("watcher=")) await Bun.sleep(200);
        expect((await failureOf(volume.stage({ timeoutMs: 8_000 })))?.code).toBe("FAILED_PRECONDITION");
        expect(locksOf(volume)).toContain("kubelet_lock_magic_node-1");
        expect(existsSync(folder)).toBe(true);
      } finally {
        alive.kill();
        await alive.exited;
      }

      await volume.stage();
      expect([locksOf(volume), existsSync(folder)]).toEqual(["", false]);
      await volume.publish();
      expect(checksum(`${volume.target}/data`, 1)).toBe(sum);
      writeData(`${volume.target}/more`, 1);
      await volume.grow(GIB);
      expect((await volume.expand(GIB)).capacityBytes).toBe(GIB);
      await volume.unpublish();
      // With exclusive-lock the kernel has the lock while it has the image.
      const lockAgain = () => rbd("lock", "add", volume.spec, "kubelet_lock_magic_node-1");
      if (features === "layering") lockAgain();
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
      if (features !== "layering") lockAgain();
      await volume.grow(2n * GIB);
      const { volumeId, secrets } = volume;
      await world().driver().controller.deleteVolume({ volumeId, secrets }, LIMIT);
      expect(rbd("ls", world().pool.name)).not.toContain(volume.image);
      expect(world().driver().log()).not.toContain(rig().key);
    },
    2 * MINUTES,
  );
}
