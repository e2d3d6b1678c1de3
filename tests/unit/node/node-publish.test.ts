/** The Node RPCs after staging: publish, unpublish, unstage, expand, stats; and what the node says of itself. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { VolumeCapability_AccessMode_Mode as Mode, VolumeUsage_Unit as Unit } from "../../../lib/gen/csi_pb.ts";
import { conditionOf } from "../../support/csi-1.12.ts";
import { diskOf, type MemoryNode } from "../../support/host-memory.ts";
import { Placement } from "../../../lib/kube/placement.ts";
import type { Driver, DriverWorld } from "../../support/one-world.ts";
import {
  aNode,
  expanding,
  IMAGE,
  nodeOn,
  OTHER_UUID,
  PLACE,
  publishing,
  seedVolume,
  STAGING,
  staging,
  STASH,
  statistics,
  TARGET,
  unpublishing,
  unstaging,
  volumeIdOf,
  VOLUME,
} from "../../support/node-world.ts";
import { asBlock, codeOf, EAST, failureOf, GIB, mounted } from "../../support/world.ts";
import { virtualTime } from "../../support/virtual-time.ts";

const BLOCK = { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) };
const at = (host: MemoryNode, path: string) => host.mounts.filter(({ point }) => point === path);

/** A node with the volume staged, as a filesystem or raw. */
const stagedNode = async (more: Parameters<typeof staging>[0] = {}, given: DriverWorld = {}) => {
  const { host, cluster } = await aNode();
  const driver = nodeOn(host, given);
  await driver.stage(staging(more));
  return { host, cluster, driver, staged: host.dump() };
};

describe("NodePublishVolume", () => {
  test("NodePublishVolume binds the staged filesystem at the target, and a repeated call changes nothing", async () => {
    const { host, driver } = await stagedNode();
    await driver.publish(publishing());
    const once = host.dump();
    expect(at(host, TARGET).map(({ source, options }) => [source, options.join()])).toEqual([["/dev/rbd0", "rw"]]);
    await driver.publish(publishing());
    expect(host.dump()).toEqual(once);
  });

  test("NodePublishVolume makes the folders that lead to the target", async () => {
    const { host, driver } = await stagedNode();
    await driver.publish(publishing({ targetPath: "/a/b/c/mount" }));
    expect(at(host, "/a/b/c/mount")).toHaveLength(1);
  });

  test("NodePublishVolume with readonly makes a read-only mount next to a writable one", async () => {
    const { host, driver } = await stagedNode();
    await driver.publish(publishing());
    await driver.publish(publishing({ targetPath: "/kubelet/pods/2/mount", readonly: true }));
    expect([at(host, TARGET)[0]?.options, at(host, "/kubelet/pods/2/mount")[0]?.options]).toEqual([["rw"], ["ro"]]);
  });

  test("NodePublishVolume at a target that is published otherwise is a conflict", async () => {
    const { host, driver } = await stagedNode();
    await driver.publish(publishing({ readonly: true }));
    expect(await codeOf(driver.publish(publishing()))).toBe("ALREADY_EXISTS");
    await seedVolume(host.cluster, OTHER_UUID);
    host.addDirectory("/kubelet/other");
    const other = { volumeId: volumeIdOf(OTHER_UUID), stagingTargetPath: "/kubelet/other" };
    await driver.stage(staging({ ...other, volumeContext: { clusterID: "east", pool: "rbd" } }));
    expect(await codeOf(driver.publish(publishing(other)))).toBe("ALREADY_EXISTS");
    expect(at(host, TARGET)).toHaveLength(1);
  });

  test("NodePublishVolume refuses a volume that is not staged or is staged in the other mode, and leaves no target", async () => {
    const { host } = await aNode();
    await using fresh = nodeOn(host);
    const before = host.dump();
    expect(await codeOf(fresh.publish(publishing()))).toBe("FAILED_PRECONDITION");
    expect(host.dump()).toEqual(before);
    const { driver } = await stagedNode();
    expect(await codeOf(driver.publish(publishing(BLOCK)))).toBe("FAILED_PRECONDITION");
  });

  test("NodePublishVolume publishes a volume for a single writer at one target only", async () => {
    const volumeCapability = mounted(Mode.SINGLE_NODE_SINGLE_WRITER);
    const { driver } = await stagedNode({ volumeCapability });
    await driver.publish(publishing({ volumeCapability }));
    await driver.publish(publishing({ volumeCapability }));
    const second = publishing({ volumeCapability, targetPath: "/kubelet/pods/2/mount" });
    expect(await codeOf(driver.publish(second))).toBe("FAILED_PRECONDITION");
  });

  test("NodePublishVolume refuses a target that is a file, and the file stays", async () => {
    const { host, driver } = await stagedNode();
    host.tree.set(TARGET, { kind: "file", text: "mine" });
    const before = host.dump();
    expect(await codeOf(driver.publish(publishing()))).toBe("FAILED_PRECONDITION");
    expect(host.dump()).toEqual(before);
  });

  const bad: readonly (readonly [string, Parameters<typeof publishing>[0]])[] = [
    ["volume ID", { volumeId: "" }],
    ["target", { targetPath: "" }],
    ["absolute target", { targetPath: "mount" }],
    ["target that stays where it is", { targetPath: "/kubelet/pods/../../etc" }],
    ["staging path", { stagingTargetPath: "" }],
    ["capability", { volumeCapability: undefined as never }],
  ];
  for (const [what, more] of bad) {
    test(`NodePublishVolume with no ${what} answers INVALID_ARGUMENT`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      expect(await codeOf(driver.publish(publishing(more)))).toBe("INVALID_ARGUMENT");
    });
  }
});

describe("a volume that is for the pods of some ServiceAccounts", () => {
  const META = ".rbd.csi.ceph.com/serviceaccount";
  const byPod = (serviceAccount: string, more: Parameters<typeof publishing>[0] = {}) => {
    const pod = { "csi.storage.k8s.io/pod.namespace": "shop", "csi.storage.k8s.io/pod.name": "till-0" };
    const volumeContext = { ...pod, "csi.storage.k8s.io/serviceAccount.name": serviceAccount };
    return publishing({ volumeContext, ...more });
  };
  const restricted = async (list: string) => {
    const { host, cluster } = await aNode();
    cluster.image("rbd", IMAGE).meta.set(META, list);
    await using driver = nodeOn(host);
    await driver.stage(staging());
    return { host, cluster };
  };

  for (const list of ["till", "audit,till", " audit , till "]) {
    test(`"${list}": a pod with till gets it, one with another gets nothing, also after a restart of the driver`, async () => {
      const { host } = await restricted(list);
      await using next = nodeOn(host);
      const before = host.dump();
      const failure = await failureOf(next.publish(byPod("tills")));
      expect(failure?.code).toBe("PERMISSION_DENIED");
      expect(failure?.message).toContain('; pod "shop/till-0" has "tills"');
      expect(failure?.message).toContain(META);
      const names = list.split(",").map((name) => JSON.stringify(name.trim()));
      expect(failure?.message).toContain(`is for pods with the ServiceAccount ${names.join(" or ")};`);
      expect(host.dump()).toEqual(before);
      await next.publish(byPod("till"));
      expect(at(host, TARGET)).toHaveLength(1);
    });
  }

  test("What the volume is restricted to counts from its next stage on, and not for a volume without", async () => {
    const { host, cluster } = await restricted("till");
    cluster.image("rbd", IMAGE).meta.delete(META);
    await using driver = nodeOn(host);
    expect(await codeOf(driver.publish(byPod("other")))).toBe("PERMISSION_DENIED");
    await driver.unstage(unstaging());
    await driver.stage(staging());
    await driver.publish(byPod("other"));
    expect(at(host, TARGET)).toHaveLength(1);
  });

  test("A stage that finds the volume staged without image-meta.json reads the image's metadata anew", async () => {
    const { host } = await restricted("till");
    host.tree.delete(STASH);
    await using driver = nodeOn(host);
    await driver.stage(staging());
    expect(await codeOf(driver.publish(byPod("other")))).toBe("PERMISSION_DENIED");
  });

  test("What ControllerPublishVolume found counts for a volume that ceph-csi has staged", async () => {
    const { driver } = await stagedNode();
    const publishContext = { serviceAccount: "till" };
    expect(await codeOf(driver.publish(byPod("other", { publishContext })))).toBe("PERMISSION_DENIED");
    await driver.publish(byPod("till", { publishContext }));
  });

  test("Where kubelet does not say whose pod it is, any pod gets it, and the log says what to do", async () => {
    const { host } = await restricted("till");
    await using driver = nodeOn(host);
    await driver.publish(publishing());
    expect(at(host, TARGET)).toHaveLength(1);
    expect(driver.log.join("\n")).toContain("Set podInfoOnMount: true");
  });
});

describe("NodePublishVolume of a raw volume, read-only", () => {
  const readOnly = publishing({ ...BLOCK, readonly: true });
  const deviceIs = (host: MemoryNode) => [...host.mappings.values()].map((each) => each.readOnly);

  test("A read-only publish sets the raw device read-only, and the next writer's publish makes it writable again", async () => {
    const { host, driver } = await stagedNode(BLOCK);
    await driver.publish(readOnly);
    expect(deviceIs(host)).toEqual([true]);
    await driver.publish(readOnly);
    await driver.unpublish(unpublishing());
    await driver.publish(publishing(BLOCK));
    expect(deviceIs(host)).toEqual([false]);
  });

  test("NodePublishVolume refuses a reader while a writer has the raw device, and a writer while a reader has it", async () => {
    for (const [first, second] of [
      [false, true],
      [true, false],
    ] as const) {
      const { host, driver } = await stagedNode(BLOCK);
      await driver.publish(publishing({ ...BLOCK, readonly: first }));
      const other = publishing({ ...BLOCK, readonly: second, targetPath: "/kubelet/pods/2/dev" });
      const failure = await failureOf(driver.publish(other));
      expect(failure?.code).toBe("FAILED_PRECONDITION");
      expect(failure?.message).toContain(TARGET);
      expect(deviceIs(host)).toEqual([first]);
    }
  });

  for (const beside of ["nobody", "a reader", "a writer"] as const) {
    test(`What ceph-csi has published read-only is published again beside ${beside}: only a writer keeps the device writable`, async () => {
      const second = publishing({ ...BLOCK, targetPath: "/kubelet/pods/2/dev", readonly: beside === "a reader" });
      const { host, driver } = await stagedNode(BLOCK);
      await driver.publish(readOnly);
      // ceph-csi leaves the device as it is.
      for (const mapping of host.mappings.values()) mapping.readOnly = false;
      if (beside !== "nobody") await driver.publish(second);
      await driver.publish(readOnly);
      expect(deviceIs(host)).toEqual([beside !== "a writer"]);
      expect(at(host, TARGET)).toHaveLength(1);
      expect(await codeOf(driver.publish(publishing(BLOCK)))).toBe("ALREADY_EXISTS");
    });
  }

  test("NodeStageVolume maps a raw volume read-only when its access mode says so", async () => {
    const volumeCapability = asBlock(Mode.SINGLE_NODE_READER_ONLY);
    const { host, driver } = await stagedNode({ volumeCapability });
    expect(host.dump().mapped).toEqual([`rbd/${IMAGE} ro`]);
    await driver.publish(publishing({ volumeCapability }));
    expect(await codeOf(driver.publish(publishing({ ...BLOCK, targetPath: "/kubelet/pods/2/dev" })))).toBe(
      "FAILED_PRECONDITION",
    );
  });

  test("A raw volume that ceph-csi has mapped writable and bound read-only is staged as its access mode says", async () => {
    const volumeCapability = asBlock(Mode.SINGLE_NODE_READER_ONLY);
    const { host, driver, staged } = await stagedNode({ volumeCapability });
    for (const mapping of host.mappings.values()) mapping.readOnly = false;
    await driver.stage(staging({ volumeCapability }));
    await driver.publish(publishing({ volumeCapability }));
    await driver.unpublish(unpublishing());
    expect(host.dump()).toEqual(staged);
  });
});

describe("NodeUnpublishVolume", () => {
  test("NodeUnpublishVolume removes the mount and the target, and a repeated call changes nothing", async () => {
    const { host, driver, staged } = await stagedNode();
    await driver.publish(publishing());
    await driver.unpublish(unpublishing());
    expect(host.dump()).toEqual(staged);
    await driver.unpublish(unpublishing());
    await driver.unpublish(unpublishing({ targetPath: "/never/was/there" }));
    expect(host.dump()).toEqual(staged);
  });

  test("NodeUnpublishVolume removes all mounts that are stacked at the target", async () => {
    const { host, driver, staged } = await stagedNode();
    await driver.publish(publishing());
    host.mounts.push(...at(host, TARGET), ...at(host, TARGET));
    await driver.unpublish(unpublishing());
    expect(host.dump()).toEqual(staged);
  });

  test("NodeUnpublishVolume never removes the content of a target that is not a mount", async () => {
    const { host, driver } = await stagedNode();
    host.addDirectory(TARGET);
    host.tree.set(`${TARGET}/precious`, { kind: "file", text: "data" });
    expect(await codeOf(driver.unpublish(unpublishing()))).toBe("FAILED_PRECONDITION");
    expect(host.tree.get(`${TARGET}/precious`)).toEqual({ kind: "file", text: "data" });
  });

  test("NodeUnpublishVolume never unmounts a mount that is not a volume's", async () => {
    const { host, driver } = await stagedNode();
    await driver.publish(publishing());
    const [entry] = at(host, TARGET);
    host.mounts.push({ ...entry!, point: "/home", source: "/dev/sda2", major: 8, minor: 2 });
    host.addDirectory("/home");
    expect(await codeOf(driver.unpublish(unpublishing({ targetPath: "/home" })))).toBe("FAILED_PRECONDITION");
    expect(at(host, "/home")).toHaveLength(1);
  });

  test("NodeUnpublishVolume of a filesystem that answers with EIO succeeds", async () => {
    const { host, driver, staged } = await stagedNode();
    await driver.publish(publishing());
    host.broken.add(TARGET);
    await driver.unpublish(unpublishing());
    expect(host.dump()).toEqual(staged);
  });
});

describe("NodeUnstageVolume", () => {
  const empty = async () => (await aNode()).host.dump();

  test("NodeUnstageVolume leaves nothing, and a repeated call changes nothing", async () => {
    const { host, driver } = await stagedNode();
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(await empty());
    await driver.unstage(unstaging());
    await driver.unstage(unstaging({ stagingTargetPath: "/never/was/there" }));
    expect(host.dump()).toEqual(await empty());
  });

  for (const [what, spoil] of [
    ["without its stash", (host: MemoryNode) => void host.tree.delete(STASH)],
    [
      "with a stash cut off by a power failure",
      (host: MemoryNode) => void host.tree.set(STASH, { kind: "file", text: "" }),
    ],
    [
      "when only mapping and broken stash are left",
      (host: MemoryNode) => {
        host.mounts.length = 0;
        host.tree.delete(PLACE);
        host.tree.set(STASH, { kind: "file", text: "{" });
      },
    ],
    [
      "with the stash of an old ceph-csi",
      (host: MemoryNode) =>
        void host.tree.set(STASH, {
          kind: "file",
          text: `{"Version":1,"pool":"rbd","image":"${IMAGE}","accessType":false}`,
        }),
    ],
    ["when its device is gone", (host: MemoryNode) => host.mappings.forEach((each) => host.drop(each))],
    ["from a filesystem that answers with EIO", (host: MemoryNode) => void host.broken.add(PLACE)],
  ] as const) {
    test(`NodeUnstageVolume ${what} finds the device by what is mounted, or by its image's name`, async () => {
      const { host, driver } = await stagedNode();
      spoil(host);
      await driver.unstage(unstaging());
      expect(host.dump()).toEqual(await empty());
    });
  }

  test("NodeUnstageVolume refuses a volume that is still published before it removes anything", async () => {
    const { host, driver } = await stagedNode();
    await driver.publish(publishing());
    const before = host.dump();
    const failure = await failureOf(driver.unstage(unstaging()));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain(TARGET);
    expect(host.dump()).toEqual(before);
  });

  test("NodeUnstageVolume does not touch other volumes, nor images of the same name in another cluster", async () => {
    const { host, driver } = await stagedNode();
    await seedVolume(host.cluster, OTHER_UUID);
    host.addDirectory("/kubelet/other");
    const other = { volumeId: volumeIdOf(OTHER_UUID), stagingTargetPath: "/kubelet/other" };
    await driver.stage(staging({ ...other, volumeContext: { clusterID: "east", pool: "rbd" } }));
    const [first] = host.mappings.values();
    const twin = { ...first!.device, path: "/dev/rbd9", minor: 144, fsid: "elsewhere", imageId: "elsewhere" };
    host.mappings.set("/dev/rbd9", { ...first!, device: twin });
    await driver.unstage(unstaging());
    expect([...host.mappings.keys()]).toEqual(["/dev/rbd1", "/dev/rbd9"]);
  });

  test("NodeUnstageVolume without a mount refuses to choose between the images of two clusters, and says so", async () => {
    const { host, driver } = await stagedNode();
    const [first] = host.mappings.values();
    const twin = { ...first!.device, path: "/dev/rbd9", minor: 144, fsid: "elsewhere", imageId: "elsewhere" };
    host.mappings.set("/dev/rbd9", { ...first!, device: twin });
    host.mounts.length = 0;
    const failure = await failureOf(driver.unstage(unstaging()));
    expect([failure?.code, failure?.message]).toEqual(["FAILED_PRECONDITION", expect.stringContaining("elsewhere")]);
    expect(host.mappings.size).toBe(2);
  });

  for (const more of [{ volumeId: "" }, { volumeId: "a/b" }, { stagingTargetPath: "" }, { stagingTargetPath: "x" }]) {
    test(`NodeUnstageVolume with ${JSON.stringify(more)} answers INVALID_ARGUMENT`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      expect(await codeOf(driver.unstage(unstaging(more)))).toBe("INVALID_ARGUMENT");
    });
  }
});

describe("NodeExpandVolume", () => {
  const grown = async (driver: Driver, more: Parameters<typeof expanding>[0]) => driver.expand(expanding(more));

  test("NodeExpandVolume grows the filesystem to the device, and answers its size", async () => {
    const { host, cluster, driver } = await stagedNode();
    await driver.publish(publishing());
    cluster.image("rbd", IMAGE).sizeBytes = 2n * GIB;
    expect(await grown(driver, { capacityRange: { requiredBytes: 2n * GIB } })).toEqual({ capacityBytes: 2n * GIB });
    expect(diskOf(host.cluster.image("rbd", IMAGE))).toMatchObject({ sizeBytes: 2n * GIB });
  });

  test("NodeExpandVolume finds the volume by its target when the request has no staging path", async () => {
    const { driver } = await stagedNode();
    await driver.publish(publishing());
    expect(await grown(driver, { stagingTargetPath: "" })).toEqual({ capacityBytes: GIB });
  });

  test("NodeExpandVolume of raw block has nothing to grow", async () => {
    const { cluster, driver } = await stagedNode(BLOCK);
    await driver.publish(publishing(BLOCK));
    cluster.image("rbd", IMAGE).sizeBytes = 2n * GIB;
    expect(await grown(driver, {})).toEqual({ capacityBytes: 2n * GIB });
  });

  test("NodeExpandVolume fails while the image is smaller than the request, or larger than its limit", async () => {
    const time = virtualTime();
    const { driver } = await stagedNode({}, { time });
    await driver.publish(publishing());
    const failure = await failureOf(time.until(grown(driver, { capacityRange: { requiredBytes: 2n * GIB } })));
    expect([failure?.code, failure?.message]).toEqual([
      "FAILED_PRECONDITION",
      expect.stringContaining("has to be grown"),
    ]);
    expect(await codeOf(grown(driver, { capacityRange: { limitBytes: GIB - 1n } }))).toBe("OUT_OF_RANGE");
  });

  for (const [what, more, code] of [
    ["no ID", { volumeId: "" }, "INVALID_ARGUMENT"],
    ["no path", { volumePath: "" }, "INVALID_ARGUMENT"],
    ["a missing path", { volumePath: "/nowhere", stagingTargetPath: "" }, "NOT_FOUND"],
    ["a relative path", { volumePath: "some/path", stagingTargetPath: "" }, "NOT_FOUND"],
    ["an unknown ID", { volumeId: "unknown", stagingTargetPath: "" }, "NOT_FOUND"],
    ["a range that contradicts itself", { capacityRange: { requiredBytes: 2n, limitBytes: 1n } }, "INVALID_ARGUMENT"],
    ["a negative size", { capacityRange: { requiredBytes: -1n } }, "INVALID_ARGUMENT"],
  ] as const) {
    test(`NodeExpandVolume with ${what} answers ${code}`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      expect(await codeOf(grown(driver, more))).toBe(code);
    });
  }
});

describe("NodeGetVolumeStats", () => {
  test("NodeGetVolumeStats counts bytes and inodes of a filesystem", async () => {
    const { driver } = await stagedNode();
    await driver.publish(publishing());
    const counted = {
      usage: [
        { unit: Unit.BYTES, total: GIB, used: 0n, available: GIB },
        { unit: Unit.INODES, total: 1_000n, used: 10n, available: 990n },
      ],
    };
    for (const request of [statistics(), statistics({ volumePath: `${STAGING}/${VOLUME}` })]) {
      const stats = await driver.stats(request);
      expect(stats).toMatchObject(counted);
      expect(conditionOf(stats)).toEqual({ abnormal: false, message: "volume is in a healthy condition" });
    }
  });

  test("NodeGetVolumeStats reports the size of a raw volume", async () => {
    const { driver } = await stagedNode(BLOCK);
    await driver.publish(publishing(BLOCK));
    expect(await driver.stats(statistics())).toMatchObject({ usage: [{ unit: Unit.BYTES, total: GIB }] });
  });

  for (const [what, harm] of [
    ["fails", (host: MemoryNode) => void host.broken.add(TARGET)],
    ["lost its device", (host: MemoryNode) => host.mappings.forEach((each) => host.drop(each))],
  ] as const) {
    test(`NodeGetVolumeStats of a volume that ${what} answers an abnormal condition, not a failure`, async () => {
      const { host, driver } = await stagedNode();
      await driver.publish(publishing());
      harm(host);
      expect(conditionOf(await driver.stats(statistics()))).toMatchObject({ abnormal: true });
    });
  }

  for (const [what, more, code] of [
    ["no ID", { volumeId: "" }, "INVALID_ARGUMENT"],
    ["no path", { volumePath: "" }, "INVALID_ARGUMENT"],
    ["a missing path", { volumePath: "/nowhere" }, "NOT_FOUND"],
    ["a relative path", { volumePath: "some/path" }, "NOT_FOUND"],
    ["a folder that is not a mount", { volumePath: "/kubelet" }, "NOT_FOUND"],
    ["another volume's path", { volumeId: volumeIdOf(OTHER_UUID) }, "NOT_FOUND"],
  ] as const) {
    test(`NodeGetVolumeStats with ${what} answers ${code}`, async () => {
      const { driver } = await stagedNode();
      await driver.publish(publishing());
      expect(await codeOf(driver.stats(statistics(more)))).toBe(code);
    });
  }
});

describe("NodeGetInfo and the clusters of a node", () => {
  test("NodeGetInfo answers the node's name, and its topology where the node has one", async () => {
    const { host } = await aNode();
    expect(await nodeOn(host).info()).toEqual({ nodeId: "node-1", accessibleTopology: { segments: {} } });
    const segments = { "topology.rbd/zone": "a" };
    const placement = Layer.succeed(Placement, Placement.of({ segments, mapOptions: () => Effect.succeed("") }));
    expect(await nodeOn(host, { placement }).info()).toEqual({ nodeId: "node-1", accessibleTopology: { segments } });
  });

  test("A node reaches the clusters that are configured, and names one that is not", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host, { clusters: [{ ...EAST, clusterId: "west" }] });
    const failure = await failureOf(driver.stage(staging()));
    expect([failure?.code, failure?.message]).toEqual(["INVALID_ARGUMENT", expect.stringContaining("west")]);
  });
});
