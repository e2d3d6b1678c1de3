/** Volumes of the in-tree plugin on a node: the locks on their images and the files that it left. */
import { describe, expect, test } from "bun:test";
import { cephMemoryService, memoryAccess } from "../../support/ceph-memory/memory.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { MemoryNode, setDisk } from "../../support/host-memory.ts";
import { nodeOn, PLACE, staging, UUID, unstaging, VOLUME } from "../../support/node-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { aCluster, asBlock, codeOf, EAST, failureOf, GIB, mounted, PARAMETERS } from "../../support/world.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import * as Effect from "effect/Effect";

const IMAGE = `kubernetes-dynamic-pvc-${UUID}`;
const HANDLE = `mig_mons-east_image-${UUID}_726264`;
const STAGING = `/var/lib/kubelet/plugins/kubernetes.io/csi/rbd.csi.ceph.com/0123/globalmount`;
const FOLDERS = ["mounts", "rbd"].map(
  (kind) => `/var/lib/kubelet/plugins/kubernetes.io/rbd/${kind}/rbd-image-${IMAGE}`,
);
const LOCK = { id: "kubelet_lock_magic_node-1", client: "client.4101", address: "10.0.0.9:0/77" };
const request = {
  volumeId: HANDLE,
  stagingTargetPath: STAGING,
  volumeContext: { ...PARAMETERS, staticVolume: "true", migration: "true", imageName: IMAGE },
};

const aWorld = async (locks = [LOCK], features?: bigint) => {
  const cluster = aCluster();
  const ref = { access: memoryAccess, pool: "rbd", namespace: "" };
  const spec = { sizeBytes: GIB, ...(features === undefined ? {} : { features }) };
  await Effect.runPromise(cephMemoryService(cluster).imageCreate(ref, IMAGE, spec));
  const image = cluster.image("rbd", IMAGE);
  image.hasData = true;
  image.locks = locks;
  setDisk(image, {
    kind: "filesystem",
    type: "ext4",
    sizeBytes: image.sizeBytes,
    files: new Map([["data", "precious"]]),
  });
  const host = new MemoryNode(cluster);
  host.addDirectory(STAGING);
  return { cluster, host, image, time: virtualTime() };
};

describe("a lock that the in-tree plugin left", () => {
  test("NodeStageVolume takes it away once nobody has used the image for a while, and the volume has its data", async () => {
    const { host, image, time } = await aWorld();
    await using driver = nodeOn(host, { time });
    const since = time.now();
    await time.until(driver.stage(staging(request), "100 seconds"));
    expect(time.now() - since).toBeGreaterThanOrEqual(15_000);
    expect(image.locks).toEqual([]);
    expect(host.files(`${STAGING}/${HANDLE}`).get("data")).toBe("precious");
    await driver.unstage(unstaging(request));
    expect(host.dump().mapped).toEqual([]);
  });

  test("NodeStageVolume waits for nothing where there is no lock", async () => {
    const { host, time } = await aWorld([]);
    await using driver = nodeOn(host, { time });
    const since = time.now();
    expect(await codeOf(driver.stage(staging(request)))).toBe("OK");
    expect(time.now() - since).toBe(0);
  });

  test("NodeStageVolume leaves it alone while its owner has the image open, also one that opens it meanwhile", async () => {
    const { cluster, host, image, time } = await aWorld();
    await using driver = nodeOn(host, { time });
    const close = cluster.watch("rbd", IMAGE);
    const used = await failureOf(time.until(driver.stage(staging(request), "20 seconds")));
    expect(used).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("client.") });
    expect(image.locks).toEqual([LOCK]);
    close();
    const staged = failureOf(driver.stage(staging(request), "100 seconds"));
    await time.pass("8 seconds");
    const again = cluster.watch("rbd", IMAGE);
    expect(await time.until(staged)).toMatchObject({ code: "FAILED_PRECONDITION" });
    expect([image.locks, host.dump().mapped]).toEqual([[LOCK], []]);
    again();
    await time.until(driver.stage(staging(request), "100 seconds"));
    expect(image.locks).toEqual([]);
  });

  test("NodeStageVolume takes no lock away that another kubelet takes meanwhile", async () => {
    const { host, image, time } = await aWorld();
    await using driver = nodeOn(host, { time });
    const staged = failureOf(driver.stage(staging(request), "100 seconds"));
    await time.pass("8 seconds");
    const newer = { ...LOCK, id: "kubelet_lock_magic_node-2", client: "client.4190" };
    image.locks = [newer];
    const failure = await time.until(staged);
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("node-2") });
    expect(image.locks).toEqual([newer]);
  });

  test("NodeStageVolume takes away only the very lock that it has seen, and fails if it is taken anew in the last moment", async () => {
    const { cluster, host, image, time } = await aWorld();
    const newer = { ...LOCK, client: "client.4190" };
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) => {
      if (method !== "imageUnlock") return act;
      return Effect.andThen(
        Effect.sync(() => void (image.locks = [newer])),
        act,
      );
    });
    await using driver = nodeOn(host, { time, ceph });
    const failure = await failureOf(time.until(driver.stage(staging(request), "100 seconds")));
    expect(failure).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringMatching(/client\.4190.*about to use it/),
    });
    expect([image.locks, host.dump().mapped]).toEqual([[newer], []]);
  });

  test("NodeStageVolume fails if a person locks or somebody opens the image while the lock is taken away", async () => {
    for (const [what, message] of [
      ["lock", "rbd lock remove"],
      ["open", "client."],
    ] as const) {
      const { cluster, host, image, time } = await aWorld();
      const byHand = { ...LOCK, id: "maintenance" };
      const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
        method !== "imageUnlock"
          ? act
          : Effect.tap(act, () =>
              Effect.sync(() => {
                if (what === "lock") image.locks = [byHand];
                else cluster.watch("rbd", IMAGE);
              }),
            ),
      );
      await using driver = nodeOn(host, { time, ceph });
      const failure = await failureOf(time.until(driver.stage(staging(request), "100 seconds")));
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining(message) });
      expect(host.dump().mapped).toEqual([]);
    }
  });

  test("NodeStageVolume proves by its last look which image it has mapped", async () => {
    const { cluster, host, time } = await aWorld();
    const ref = { access: memoryAccess, pool: "rbd", namespace: "" };
    const inner = cephMemoryService(cluster);
    const ceph = intercepted(inner, ({ method }, act) =>
      method !== "imageUnlock"
        ? act
        : Effect.tap(act, () =>
            // somebody puts another image in its place
            Effect.andThen(inner.trashMove(ref, IMAGE), inner.imageCreate(ref, IMAGE, { sizeBytes: GIB })),
          ),
    );
    await using driver = nodeOn(host, { time, ceph });
    await time.until(driver.stage(staging(request), "100 seconds"));
    expect(host.dump().mapped).toEqual([`rbd/${IMAGE}`]);
  });

  test("NodeStageVolume leaves the lock alone, and waits for nothing, where it keeps nobody from writing", async () => {
    const { host, image, time } = await aWorld([LOCK], 1n);
    await using driver = nodeOn(host, { time });
    const since = time.now();
    expect(await codeOf(driver.stage(staging(request)))).toBe("OK");
    expect([time.now() - since, image.locks]).toEqual([0, [LOCK]]);
  });

  test("NodeStageVolume counts a mirror daemon as a user before it takes a lock away", async () => {
    const { cluster, host, image, time } = await aWorld();
    image.mirror = "primary";
    await using driver = nodeOn(host, { time, clusters: [{ ...EAST, mirrorDaemonCount: 1 }] });
    cluster.watch("rbd", IMAGE);
    const failure = await failureOf(time.until(driver.stage(staging(request), "100 seconds")));
    expect([failure?.code, image.locks]).toEqual(["FAILED_PRECONDITION", [LOCK]]);
    image.locks = [];
    expect(await codeOf(driver.stage(staging(request)))).toBe("OK");
  });

  test("NodeStageVolume takes the lock away behind a device that the plugin left mapped", async () => {
    const { host, image, time } = await aWorld([]);
    const dead = nodeOn(host);
    await dead.stage(staging(request));
    await dead[Symbol.asyncDispose]();
    host.mounts.length = 0;
    image.locks = [LOCK];
    await using driver = nodeOn(host, { time });
    await time.until(driver.stage(staging(request), "100 seconds"));
    expect([image.locks, host.dump().mapped]).toEqual([[], [`rbd/${IMAGE}`]]);
  });

  test("A read-only stage leaves it, and a shared volume in use is refused with it", async () => {
    const { cluster, host, image, time } = await aWorld();
    await using driver = nodeOn(host, { time });
    const reader = mounted(Mode.SINGLE_NODE_READER_ONLY);
    expect(await codeOf(driver.stage(staging({ ...request, volumeCapability: reader })))).toBe("OK");
    await driver.unstage(unstaging(request));
    const close = cluster.watch("rbd", IMAGE);
    const shared = { ...request, volumeCapability: asBlock(Mode.MULTI_NODE_MULTI_WRITER) };
    expect(await failureOf(driver.stage(staging(shared)))).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining("rbd lock remove"),
    });
    expect(image.locks).toEqual([LOCK]);
    close();
  });

  test("NodeStageVolume refuses a lock of anybody else where it keeps the image from being written, and says how to remove it", async () => {
    const byHand = { ...LOCK, id: "maint'enance; 1" };
    const { host, time } = await aWorld([byHand]);
    await using driver = nodeOn(host, { time });
    const failure = await failureOf(driver.stage(staging(request)));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain(`rbd lock remove rbd/${IMAGE} 'maint'\\''enance; 1' client.4101`);
    const other = await aWorld([byHand], 1n);
    await using onPlain = nodeOn(other.host);
    expect(await codeOf(onPlain.stage(staging(request)))).toBe("OK");
    expect(other.image.locks).toEqual([byHand]);
  });
});

describe("a file that the in-tree plugin left", () => {
  const json = (more = {}) => JSON.stringify({ Pool: "rbd", Image: IMAGE, Id: "admin", Secret: "a key", ...more });
  const withFiles = async (text: string) => {
    const world = await aWorld([]);
    for (const folder of FOLDERS) {
      world.host.addDirectory(folder);
      world.host.tree.set(`${folder}/rbd.json`, { kind: "file", text });
    }
    const files = () =>
      [...world.host.tree.keys()].filter((path) => path.includes("kubernetes.io/rbd/") && path.includes(IMAGE));
    return { ...world, files };
  };

  test("NodeStageVolume removes rbd.json and its folder", async () => {
    const { host, files } = await withFiles(json());
    await using driver = nodeOn(host);
    await driver.stage(staging(request));
    expect(files()).toEqual([]);
  });

  test("NodeStageVolume removes rbd.json also where the volume is staged already", async () => {
    const { host, files } = await withFiles(json());
    const before = [...host.tree].filter(([path]) => path.includes("kubernetes.io/rbd/"));
    await using driver = nodeOn(host);
    await driver.stage(staging(request));
    for (const [path, node] of before) host.tree.set(path, node);
    expect(files()).not.toEqual([]);
    expect(await codeOf(driver.stage(staging(request)))).toBe("OK");
    expect(files()).toEqual([]);
  });

  test("NodeStageVolume leaves a file of another image, one that it cannot read, and what else is in the folder", async () => {
    for (const text of [json({ Image: "another" }), json({ Pool: "another" }), "{", ""]) {
      const { host, files } = await withFiles(text);
      await using driver = nodeOn(host);
      expect(await codeOf(driver.stage(staging(request)))).toBe("OK");
      expect([text, files()]).toEqual([text, FOLDERS.flatMap((folder) => [folder, `${folder}/rbd.json`])]);
    }
    const { host, files } = await withFiles(json());
    host.tree.set(`${FOLDERS[0]}/other`, { kind: "file", text: "data" });
    await using driver = nodeOn(host);
    expect(await codeOf(driver.stage(staging(request)))).toBe("OK");
    expect(files()).toEqual([FOLDERS[0] ?? "", `${FOLDERS[0]}/other`]);
  });

  test("NodeStageVolume leaves the folder of an image that is mounted there, and of a dynamic volume", async () => {
    const { cluster, host, files } = await withFiles(json());
    const before = files();
    host.mount({
      major: 8,
      minor: 1,
      root: "/",
      point: FOLDERS[0] ?? "",
      options: ["rw"],
      fsType: "ext4",
      source: "/dev/sda1",
      superOptions: ["rw"],
    });
    await using driver = nodeOn(host);
    expect(await codeOf(driver.stage(staging(request)))).toBe("OK");
    expect(files()).toEqual(before.slice(0, 2));
    expect([PLACE.includes(VOLUME), cluster.image("rbd", IMAGE).locks]).toEqual([true, []]);
  });
});

describe("a volume that was migrated, and whose image-meta.json is gone", () => {
  /** As a stage that was cut off leaves it: mapped, and with nothing at its staging target. */
  const mappedAs = async (pool: string, imageName: string) => {
    const { cluster, host } = await aWorld([]);
    const ref = { access: memoryAccess, pool, namespace: "" };
    const there = pool === "rbd" && imageName === IMAGE;
    if (!there) await Effect.runPromise(cephMemoryService(cluster).imageCreate(ref, imageName, { sizeBytes: GIB }));
    const name = { pool, namespace: "", image: imageName };
    host.add(cluster.image(pool, imageName), { ...name, mapper: "krbd", readOnly: false, cookie: "", logFile: "" });
    return host;
  };

  test("NodeUnstageVolume unmaps it", async () => {
    const host = await mappedAs("rbd", IMAGE);
    await using driver = nodeOn(host);
    await driver.unstage(unstaging(request));
    expect(host.dump().mapped).toEqual([]);
  });

  for (const [what, pool, image] of [
    ["another pool", "ssd", IMAGE],
    ["another image", "rbd", `csi-vol-${UUID}`],
    ["a longer name", "rbd", `my-${IMAGE}`],
  ] as const) {
    test(`NodeUnstageVolume leaves a device of ${what} alone`, async () => {
      const host = await mappedAs(pool, image);
      await using driver = nodeOn(host);
      await driver.unstage(unstaging(request));
      expect(host.dump().mapped).toEqual([`${pool}/${image}`]);
    });
  }
});
