/** NodeStageVolume where nothing crashes: what is made, what is recognised, and what is left alone. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { CephFailed } from "../../../lib/ceph/errors.ts";
import { intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { HostFailed, HostStuck } from "../../../lib/host/errors.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import { hostMemoryService, type MemoryNode, setDisk } from "../../support/host-memory.ts";
import {
  aNode,
  expanding,
  IMAGE,
  nodeOn,
  PLACE,
  publishing,
  STAGING,
  staging,
  STASH,
  TARGET,
  unstaging,
  UUID,
  VOLUME,
} from "../../support/node-world.ts";
import {
  asBlock,
  codeOf,
  EAST,
  failureOf,
  GIB,
  MOUNT,
  mounted,
  objectsOf,
  PARAMETERS,
  poolDump,
  seed,
  seedImage,
} from "../../support/world.ts";
import { virtualTime } from "../../support/virtual-time.ts";

const stashed = (host: MemoryNode) => {
  const file = host.tree.get(STASH);
  return file?.kind === "file" ? file.text : undefined;
};
const options = (host: MemoryNode) => host.mounts.map(({ point, options: own }) => [point, own.join(",")]);

/** An image that holds what this says, and is allocated. */
const holding = (host: MemoryNode, disk: Parameters<typeof setDisk>[1]) => {
  const image = host.cluster.image("rbd", IMAGE);
  image.hasData = true;
  setDisk(image, disk);
};
const EXT4 = () => ({
  kind: "filesystem" as const,
  type: "ext4",
  sizeBytes: GIB,
  files: new Map([["data", "precious"]]),
});

describe("NodeStageVolume of a new volume", () => {
  test("NodeStageVolume maps a new volume, formats it once, mounts it, and records it in ceph-csi's form", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    expect(await driver.stage(staging())).toEqual({});
    expect(host.dump().mapped).toEqual([`rbd/${IMAGE}`]);
    expect(options(host)).toEqual([[PLACE, "rw"]]);
    expect(host.formatted).toHaveLength(1);
    expect(stashed(host)).toBe(
      `{"Version":3,"pool":"rbd","radosNamespace":"","image":"${IMAGE}","unmapOptions":"","accessType":false,"encrypted":false,"device":"","logDir":"","logFileStrategy":""}`,
    );
  });

  test("A repeated NodeStageVolume recognises the volume by mapping and mount, without a call to the cluster", async () => {
    const { host, cluster } = await aNode();
    const { service, calls, forget } = recorded(cephMemoryService(cluster));
    await using driver = nodeOn(host, { ceph: service });
    await driver.stage(staging());
    forget();
    const before = host.dump();
    await driver.stage(staging());
    expect(host.dump()).toEqual(before);
    expect(calls()).toEqual([]);
  });

  test("A repeated NodeStageVolume makes the record of the node that the first one could not make", async () => {
    const { host, cluster } = await aNode();
    seed(cluster, { "csi.volumes.default": { [`csi.volume.pvc-${UUID}`]: UUID } });
    const record = () => objectsOf(cluster).get("csi.volumes.default")?.get(`csi-rbd.nodes.pvc-${UUID}`);
    const state = { refused: true };
    const ceph = intercepted(cephMemoryService(cluster), ({ method, subject }, act) =>
      state.refused && method === "omapWrite" && subject.includes("csi.volumes")
        ? Effect.fail(new CephFailed({ op: "rados_write_op_operate", subject, errno: 110, reason: "no answer" }))
        : act,
    );
    await using driver = nodeOn(host, { ceph, flags: { nodeid: "node-1" } });
    await driver.stage(staging());
    expect(record()).toBeUndefined();
    state.refused = false;
    await driver.stage(staging());
    expect(record()).toBe(JSON.stringify([UUID, "node-1"]));
  });

  test("NodeStageVolume makes the filesystem that the request asks for", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    const capability = {
      accessType: { case: "mount" as const, value: { fsType: "xfs", mountFlags: ["noatime"] } },
      accessMode: { mode: Mode.SINGLE_NODE_WRITER },
    };
    await driver.stage(staging({ volumeCapability: capability }));
    expect(host.formatted[0]).toStartWith("xfs ");
  });

  test("NodeStageVolume of raw block binds the device over a file, and never formats it", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging({ volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) }));
    expect(host.tree.get(PLACE)?.kind).toBe("file");
    expect(host.mounts.map(({ root, point }) => [root, point])).toEqual([["/rbd0", PLACE]]);
    expect(host.formatted).toEqual([]);
  });

  test("NodeStageVolume keeps the data of a volume that has some, in every mode", async () => {
    const { host } = await aNode();
    holding(host, EXT4());
    await using driver = nodeOn(host);
    await driver.stage(staging());
    expect(host.files(PLACE).get("data")).toBe("precious");
    expect(host.formatted).toEqual([]);
  });

  test("NodeStageVolume grows the filesystem of a volume that was expanded while it was not staged", async () => {
    const { host, cluster } = await aNode();
    holding(host, EXT4());
    cluster.image("rbd", IMAGE).sizeBytes = 3n * GIB;
    await using driver = nodeOn(host);
    await driver.stage(staging());
    expect(await driver.expand(expanding({ volumePath: PLACE }))).toEqual({
      capacityBytes: 3n * GIB,
    });
  });
});

describe("proof before harm", () => {
  const refused = async (prepare: (host: MemoryNode) => unknown, more: Parameters<typeof staging>[0] = {}) => {
    const { host } = await aNode();
    await prepare(host);
    const before = host.dump();
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(staging(more)));
    expect(host.formatted).toEqual([]);
    expect(host.dump()).toEqual(before);
    return failure;
  };

  test("NodeStageVolume runs no mkfs on an image that holds data where blkid finds nothing, and leaves nothing mapped", async () => {
    const failure = await refused((host) => (host.cluster.image("rbd", IMAGE).hasData = true));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain("holds data");
  });

  test("NodeStageVolume refuses what a mkfs that was killed has left, whenever it is asked, and says what to do", async () => {
    const { host } = await aNode();
    const image = host.cluster.image("rbd", IMAGE);
    await using driver = nodeOn(host);
    host.killsMkfs = true;
    expect((await failureOf(driver.stage(staging())))?.message).toContain("SIGKILL");
    host.killsMkfs = false;
    for (let n = 0; n < 2; n++) {
      const failure = await failureOf(driver.stage(staging()));
      expect(failure).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringMatching(
          /image rbd\/csi-vol-\S+ holds data\. A mkfs that was cut off .*wipefs.*debugfs.*rbd export/,
        ),
      });
      expect([host.formatted, image.hasData, host.dump().mapped]).toEqual([[], true, []]);
    }
  });

  test("NodeStageVolume neither mounts nor formats an xfs whose mkfs was cut off, and says what to do", async () => {
    for (const volumeCapability of [mounted(Mode.SINGLE_NODE_WRITER), mounted(Mode.SINGLE_NODE_READER_ONLY)]) {
      const failure = await refused(
        (host) =>
          setDisk(host.cluster.image("rbd", IMAGE), {
            kind: "filesystem",
            type: "xfs",
            sizeBytes: GIB,
            files: new Map(),
            unfinished: true,
          }),
        { volumeCapability },
      );
      expect(failure).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringMatching(
          /image rbd\/csi-vol-\S+ holds an unfinished xfs\. A mkfs that was cut off .*deleted/,
        ),
      });
    }
  });

  for (const [what, disk] of [
    ["a partition table", { kind: "other", type: "dos" }],
    ["a LUKS header", { kind: "other", type: "crypto_LUKS" }],
    ["another filesystem", { kind: "filesystem", type: "xfs", sizeBytes: GIB, files: new Map() }],
  ] as const) {
    test(`NodeStageVolume does not touch an image with ${what}`, async () => {
      expect((await refused((host) => holding(host, disk)))?.code).toBe("FAILED_PRECONDITION");
    });
  }

  test("NodeStageVolume does not mount a filesystem that fsck can't repair", async () => {
    const failure = await refused((host) => holding(host, { ...EXT4(), damaged: true }));
    expect(failure?.message).toContain("damaged");
  });

  test("NodeStageVolume never formats an image for a reader", async () => {
    for (const mode of [Mode.SINGLE_NODE_READER_ONLY, Mode.MULTI_NODE_READER_ONLY]) {
      expect((await refused(() => {}, { volumeCapability: mounted(mode) }))?.code).toBe("FAILED_PRECONDITION");
    }
  });

  test("NodeStageVolume does not touch a device that is not the cluster's image of that name", async () => {
    const { host } = await aNode();
    const inner = hostMemoryService(host);
    const twisted = {
      ...inner,
      map: (request: Parameters<typeof inner.map>[0]) =>
        Effect.map(inner.map(request), (device) => ({ ...device, imageId: "other" })),
    };
    await using driver = nodeOn(host, { host: twisted });
    expect(await codeOf(driver.stage(staging()))).toBe("FAILED_PRECONDITION");
    expect(host.formatted).toEqual([]);
    expect(host.dump().mapped).toEqual([]);
  });

  test("NodeStageVolume unmaps an image that another node maps between look and map", async () => {
    const { host, cluster } = await aNode();
    let leave: (() => void) | undefined;
    const racing = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      if (method === "map") leave ??= cluster.watch("rbd", IMAGE);
      return act;
    });
    const before = host.dump();
    await using driver = nodeOn(host, { host: racing });
    const failure = await failureOf(driver.stage(staging()));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain("in use by 127.0.0.1");
    expect(host.dump()).toEqual(before);
    expect(host.formatted).toEqual([]);
    leave?.();
    await driver.stage(staging());
    expect(host.formatted).toHaveLength(1);
  });
});

describe("an image in use on another node", () => {
  test("NodeStageVolume waits for an image in use on another node, and reports it before the caller's deadline", async () => {
    const { host, cluster } = await aNode();
    cluster.watch("rbd", IMAGE);
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    const failure = await failureOf(time.until(driver.stage(staging(), "20 seconds")));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain("client.41");
    expect(time.now()).toBeLessThan(20_000);
    expect(host.dump().mapped).toEqual([]);
  });

  test("NodeStageVolume stages an image as soon as the other node releases it", async () => {
    const { host, cluster } = await aNode();
    const leave = cluster.watch("rbd", IMAGE);
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    const staged = driver.stage(staging());
    await time.pass("999 millis");
    expect(host.dump().mapped).toEqual([]);
    leave();
    await time.pass("1 milli");
    await staged;
    expect(host.mounts).toHaveLength(1);
  });

  test("NodeStageVolume of a filesystem for one writer of many nodes gives it to one node after another", async () => {
    const volumeCapability = mounted(Mode.MULTI_NODE_SINGLE_WRITER);
    const { host } = await aNode();
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    host.cluster.image("rbd", IMAGE).watchers.add("10.0.0.9:0/1/client.7");
    const failure = await failureOf(time.until(driver.stage(staging({ volumeCapability }), "20 seconds")));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("10.0.0.9") });
    host.cluster.image("rbd", IMAGE).watchers.clear();
    await time.until(driver.stage(staging({ volumeCapability })));
    await driver.publish(publishing({ volumeCapability }));
  });

  test("NodeStageVolume for many writers or for readers does not wait for other users of the image", async () => {
    for (const volumeCapability of [asBlock(Mode.MULTI_NODE_MULTI_WRITER), mounted(Mode.MULTI_NODE_READER_ONLY)]) {
      const { host, cluster } = await aNode();
      holding(host, EXT4());
      cluster.watch("rbd", IMAGE);
      await using driver = nodeOn(host);
      expect(await driver.stage(staging({ volumeCapability }))).toEqual({});
    }
  });

  test("An image is free if only a mirror daemon has it open; a mirror's secondary image is not writable", async () => {
    const { host, cluster } = await aNode();
    cluster.image("rbd", IMAGE).mirror = "primary";
    cluster.watch("rbd", IMAGE);
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.unstage(unstaging());
    cluster.image("rbd", IMAGE).mirror = "non-primary";
    const failure = await failureOf(driver.stage(staging()));
    expect([failure?.code, failure?.message]).toEqual(["FAILED_PRECONDITION", expect.stringContaining("Promote")]);
  });

  test("Who writes to a primary image is no mirror daemon, whatever else has it open", async () => {
    const { host, cluster } = await aNode();
    const image = cluster.image("rbd", IMAGE);
    image.mirror = "primary";
    image.watchers.add("10.0.0.9:0/77/client.4242");
    image.writer = "client.4242";
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(staging(), "2 seconds"));
    expect(failure).toMatchObject({ message: expect.stringContaining("client.4242") });
    expect([host.formatted, host.dump().mapped]).toEqual([[], []]);
    image.writer = undefined;
    await driver.stage(staging());
  });
});

describe("NodeStageVolume over an existing mount or stash", () => {
  test("Another volume's mount at the staging path is a conflict", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    const [entry] = host.mounts;
    const { host: other } = await aNode();
    other.addDirectory(PLACE);
    other.mounts.push({ ...entry!, major: 8, minor: 1, source: "/dev/sda1" });
    await using second = nodeOn(other);
    expect(await codeOf(second.stage(staging()))).toBe("ALREADY_EXISTS");
    expect(other.mounts).toHaveLength(1);
  });

  const READER = mounted(Mode.SINGLE_NODE_READER_ONLY);
  for (const [is, staged, asked] of [
    ["as a filesystem", MOUNT, asBlock(Mode.SINGLE_NODE_WRITER)],
    ["read-only", READER, MOUNT],
  ] as const) {
    test(`NodeStageVolume of a volume that is already staged ${is}, and is asked for otherwise, is a conflict`, async () => {
      const { host } = await aNode();
      host.cluster.image("rbd", IMAGE).hasData = true;
      setDisk(host.cluster.image("rbd", IMAGE), EXT4());
      await using driver = nodeOn(host);
      await driver.stage(staging({ volumeCapability: staged }));
      expect(await codeOf(driver.stage(staging({ volumeCapability: asked })))).toBe("ALREADY_EXISTS");
    });
  }

  // kubelet asks anew after a restart, and mountOptions of the PersistentVolume may have changed meanwhile.
  for (const [what, staged, asked] of [
    ["a filesystem", MOUNT, READER],
    ["raw block", asBlock(Mode.SINGLE_NODE_WRITER), asBlock(Mode.SINGLE_NODE_READER_ONLY)],
  ] as const) {
    test(`NodeStageVolume for a reader of ${what} that is staged writable leaves it, and what is published then is read-only`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      await driver.stage(staging({ volumeCapability: staged }));
      const before = host.dump();
      await driver.stage(staging({ volumeCapability: asked }));
      expect(host.dump()).toEqual(before);
      await driver.publish(publishing({ volumeCapability: asked }));
      expect(host.mounts.at(-1)?.options).toContain("ro");
    });
  }

  const ruin: readonly (readonly [string, (host: MemoryNode) => void])[] = [
    ["answers with EIO", (host) => void host.broken.add(PLACE)],
    ["was shut down", (host) => void (host.mounts[0] = { ...host.mounts[0]!, superOptions: ["rw", "shutdown"] })],
    ["went read-only", (host) => void (host.mounts[0] = { ...host.mounts[0]!, superOptions: ["ro"] })],
    ["lost its device", (host) => host.mappings.forEach((mapping) => host.drop(mapping))],
  ];
  for (const [what, harm] of ruin) {
    test(`NodeStageVolume stages a filesystem anew that ${what}`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      await driver.stage(staging());
      host.files(PLACE).set("data", "precious");
      const sound = host.dump();
      harm(host);
      await driver.stage(staging());
      expect(host.dump()).toEqual(sound);
      expect(host.files(PLACE).get("data")).toBe("precious");
    });
  }

  test("A filesystem that does not answer in time is not broken: nothing is done to it, and the call says so", async () => {
    const { host } = await aNode();
    const reason = "statfs has not returned for 1 s";
    const slow = interceptedHost(hostMemoryService(host), ({ method }, act) =>
      method === "usage" ? Effect.fail(new HostStuck({ op: "statfs", subject: PLACE, reason })) : act,
    );
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.publish(publishing());
    const before = host.dump();
    await using second = nodeOn(host, { host: slow });
    expect(await failureOf(second.stage(staging()))).toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringContaining(reason),
    });
    expect(host.dump()).toEqual(before);
  });

  test("NodeUnstageVolume removes what a write of the stash left that was cut off", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    const clean = host.dump();
    host.tree.set(`${STASH}.new`, { kind: "file", text: "{" });
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(clean);
  });

  test("NodeUnstageVolume unmaps the image although something is in the way of the target", async () => {
    const { host } = await aNode();
    const full = interceptedHost(hostMemoryService(host), ({ method, subject }, act) =>
      method === "removePath"
        ? Effect.fail(new HostFailed({ op: "rmdir", subject, errno: 39, reason: "it is not empty" }))
        : act,
    );
    await using driver = nodeOn(host, { host: full });
    await driver.stage(staging());
    expect(await failureOf(driver.unstage(unstaging()))).toMatchObject({
      message: expect.stringContaining("not empty"),
    });
    expect(host.dump().mapped).toEqual([]);
  });

  test("NodeStageVolume leaves a broken filesystem to the pods that still use it, and names them", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.publish(publishing());
    host.broken.add(PLACE);
    const before = host.dump();
    const failure = await failureOf(driver.stage(staging()));
    expect(failure?.code).toBe("UNAVAILABLE");
    expect(failure?.message).toContain(TARGET);
    expect(host.dump()).toEqual(before);
  });

  test("NodeStageVolume writes a lost or broken stash again", async () => {
    for (const text of [undefined, "", "{"]) {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      await driver.stage(staging());
      const good = stashed(host);
      if (text === undefined) host.tree.delete(STASH);
      else host.tree.set(STASH, { kind: "file", text });
      await driver.stage(staging());
      expect(stashed(host)).toBe(good);
    }
  });
});

describe("a volume that can't be staged", () => {
  const cases: readonly (readonly [string, Parameters<typeof staging>[0], string])[] = [
    ["has no ID", { volumeId: "" }, "INVALID_ARGUMENT"],
    ["has an ID that is a path", { volumeId: "../../etc" }, "INVALID_ARGUMENT"],
    ["has an ID of 255 bytes that no driver wrote", { volumeId: "x".repeat(255) }, "NOT_FOUND"],
    ["has an ID of 256 bytes", { volumeId: "x".repeat(256) }, "INVALID_ARGUMENT"],
    ["has an ID that no driver wrote", { volumeId: "nonsense" }, "NOT_FOUND"],
    ["has the ID of a volume that is gone", { volumeId: VOLUME.replace(/.$/, "0") }, "NOT_FOUND"],
    [
      "has an ID of a pool that is gone",
      { volumeId: VOLUME.replace("-0000000000000002-", "-0000000000000099-") },
      "NOT_FOUND",
    ],
    ["has no staging path", { stagingTargetPath: "" }, "INVALID_ARGUMENT"],
    ["has a relative staging path", { stagingTargetPath: "staging" }, "INVALID_ARGUMENT"],
    ["has a staging path with ..", { stagingTargetPath: `${STAGING}/../x` }, "INVALID_ARGUMENT"],
    ["has a staging path that is not there", { stagingTargetPath: "/nowhere/at/all" }, "INVALID_ARGUMENT"],
    ["has a staging path with a NUL", { stagingTargetPath: `${STAGING}\0` }, "INVALID_ARGUMENT"],
    ["has no capability", { volumeCapability: undefined as never }, "INVALID_ARGUMENT"],
    ["has no access mode", { volumeCapability: mounted(Mode.UNKNOWN) }, "INVALID_ARGUMENT"],
    [
      "has a filesystem with many writing nodes",
      { volumeCapability: mounted(Mode.MULTI_NODE_MULTI_WRITER) },
      "INVALID_ARGUMENT",
    ],
    [
      "has a filesystem that nobody knows",
      {
        volumeCapability: {
          accessType: { case: "mount", value: { fsType: "../sh" } },
          accessMode: { mode: Mode.SINGLE_NODE_WRITER },
        },
      },
      "INVALID_ARGUMENT",
    ],
    ["has no secrets", { secrets: {} }, "INVALID_ARGUMENT"],
    ["has a wrong key", { secrets: { userID: "admin", userKey: "wrong" } }, "PERMISSION_DENIED"],
    [
      "is plain, by a context that asks for encrypted files",
      { volumeContext: { ...PARAMETERS, encrypted: "true", encryptionType: "file" } },
      "FAILED_PRECONDITION",
    ],
    [
      "is plain, by a context that asks for encryption",
      { volumeContext: { ...PARAMETERS, encrypted: "true" } },
      "FAILED_PRECONDITION",
    ],
    [
      "has a parameter encrypted that is not a boolean",
      { volumeContext: { ...PARAMETERS, encrypted: "yes" } },
      "INVALID_ARGUMENT",
    ],
    [
      "has map options of an unknown mounter",
      { volumeContext: { ...PARAMETERS, mapOptions: "fuse:x" } },
      "INVALID_ARGUMENT",
    ],
    ["is static, and has no pool", { volumeContext: { clusterID: "east", staticVolume: "true" } }, "INVALID_ARGUMENT"],
    [
      "is static, and is in an unknown cluster",
      { volumeContext: { clusterID: "west", pool: "rbd", staticVolume: "true" } },
      "INVALID_ARGUMENT",
    ],
  ];
  for (const [what, more, code] of cases) {
    test(`NodeStageVolume of a volume that ${what} answers ${code}, and the node is as before`, async () => {
      const { host } = await aNode();
      const before = host.dump();
      await using driver = nodeOn(host);
      expect(await codeOf(driver.stage(staging(more)))).toBe(code);
      expect(host.dump()).toEqual(before);
    });
  }

  test("NodeStageVolume refuses a volume that is encrypted according to the journal", async () => {
    const { host, cluster } = await aNode();
    cluster
      .namespace("rbd", "")
      ?.objects.get(`csi.volume.${IMAGE.slice(8)}`)
      ?.set("csi.volume.encryptKMS", "vault");
    await using driver = nodeOn(host);
    expect(await codeOf(driver.stage(staging()))).toBe("FAILED_PRECONDITION");
  });

  test("NodeStageVolume names the features of an image that the kernel lacks", async () => {
    const { host } = await aNode();
    host.features = 1n;
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(staging()));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain("exclusive-lock, object-map, fast-diff, deep-flatten");
    host.features = undefined;
    expect(await codeOf(driver.stage(staging()))).toBe("OK");
  });
});

describe("a static volume", () => {
  test("A static volume is the image of its ID, or the image that a migrated volume names", async () => {
    const { host, cluster } = await aNode();
    await seedImage(cluster, "by-hand");
    cluster.image("rbd", "by-hand").hasData = true;
    setDisk(cluster.image("rbd", "by-hand"), EXT4());
    await using driver = nodeOn(host);
    for (const [volumeId, more] of [
      ["by-hand", {}],
      ["mig_mons-1_image-2_3", { migration: "true", imageName: "by-hand" }],
    ] as const) {
      const volumeContext = { ...PARAMETERS, staticVolume: "true", ...more };
      await driver.stage(staging({ volumeId, volumeContext }));
      expect(host.dump().mapped).toEqual(["rbd/by-hand"]);
      await driver.unstage(unstaging({ volumeId }));
      expect(host.dump().mapped).toEqual([]);
    }
  });

  test("A static volume is in the namespace of its cluster, and NodeStageVolume does not read the journal for it", async () => {
    const { host, cluster } = await aNode();
    const before = JSON.stringify(poolDump(cluster));
    await using driver = nodeOn(host, { clusters: [{ ...EAST, radosNamespace: "tenant" }] });
    const volumeContext = { ...PARAMETERS, staticVolume: "true" };
    expect(await codeOf(driver.stage(staging({ volumeId: "absent", volumeContext })))).toBe("NOT_FOUND");
    expect(JSON.stringify(poolDump(cluster))).toBe(before);
  });
});
