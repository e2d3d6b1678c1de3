/** What a node says to be wrong with a volume, in the words of CSI 1.12 and of 1.13. */
import { describe, expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import {
  NodeGetVolumeHealthRequestSchema,
  StorageHealthErrorType as StorageStatus,
  VolumeCapability_AccessMode_Mode as Mode,
  VolumeHealthErrorType as Status,
} from "../../../lib/gen/csi_pb.ts";
import type { Cluster } from "../../../lib/config/clusters.ts";
import { HostFailed } from "../../../lib/host/errors.ts";
import type { MappedCluster } from "../../../lib/host/mapped-device.ts";
import { conditionOf } from "../../support/csi-1.12.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import {
  aNode,
  nodeOn,
  OTHER_UUID,
  publishing,
  STAGING,
  staging,
  statistics,
  TARGET,
  VOLUME,
  volumeIdOf,
} from "../../support/node-world.ts";
import type { DriverWorld } from "../../support/one-world.ts";
import { asBlock, codeOf, EAST, GIB } from "../../support/world.ts";

const DEVICE = "/dev/rbd0";

const asking = (more: { volumeId?: string; volumePublishPath?: string; stagingTargetPath?: string } = {}) =>
  create(NodeGetVolumeHealthRequestSchema, { volumeId: VOLUME, volumePublishPath: TARGET, ...more });

const published = async (more: Parameters<typeof staging>[0] = {}) => {
  const { host } = await aNode();
  const driver = nodeOn(host);
  await driver.stage(staging(more));
  await driver.publish(publishing(more));
  return { host, driver };
};

/** What both generations say. */
const faultsOf = async (host: MemoryNode, given: DriverWorld = {}) => {
  await using driver = nodeOn(host, given);
  const { volumeHealth } = await driver.volumeHealth(asking());
  const { abnormal, message } = conditionOf(await driver.stats(statistics())) ?? {};
  const statuses = volumeHealth?.healthStatuses ?? [];
  expect(volumeHealth?.volumeId).toBe(VOLUME);
  expect(abnormal).toBe(statuses.length > 0);
  if (statuses.length > 0) expect(message).toBe(statuses.map((each) => each.message).join("; "));
  return statuses.map(({ status, reason, message: text }) => [status, reason, text] as const);
};

const usage = (left: { availableBytes?: bigint; freeInodes?: bigint; totalInodes?: bigint }) => (host: MemoryNode) => ({
  ...hostMemoryService(host),
  usage: () =>
    Effect.succeed({
      totalBytes: GIB,
      usedBytes: 0n,
      availableBytes: GIB,
      totalInodes: 10n,
      freeInodes: 10n,
      ...left,
    }),
});

describe("NodeGetVolumeHealth and the condition of NodeGetVolumeStats", () => {
  test("A volume that works has no fault, where it is published, where it is staged, and anywhere", async () => {
    const { host, driver } = await published();
    expect(await faultsOf(host)).toEqual([]);
    const staged = await driver.volumeHealth(asking({ volumePublishPath: "", stagingTargetPath: STAGING }));
    expect(staged.volumeHealth).toMatchObject({ volumeId: VOLUME, healthStatuses: [] });
    const anywhere = await driver.volumeHealth(asking({ volumePublishPath: "" }));
    expect(anywhere.volumeHealth).toMatchObject({ volumeId: VOLUME, healthStatuses: [] });
  });

  for (const [what, trouble, status, reason, words] of [
    ["a fenced client", { blocklisted: true, unwatched: 108 }, Status.INACCESSIBLE, "ClientBlocklisted", DEVICE],
    ["an image that is gone", { imageGone: true, unwatched: 2 }, Status.DATA_LOSS, "ImageGone", DEVICE],
    ["an image without its watch", { unwatched: 107 }, Status.DEGRADED, "Unwatched", "errno 107"],
    [
      "I/O errors",
      { ioErrors: 3, lastError: "rbd: rbd0: write at objno 1" },
      Status.DEGRADED,
      "IoErrors",
      "3 I/O errors",
    ],
    ["one I/O error", { ioErrors: 1, lastError: "a line" }, Status.DEGRADED, "IoErrors", "an I/O error"],
    ["errors that ext4 recorded", { filesystemErrors: 2 }, Status.DEGRADED, "FilesystemErrors", "2 errors"],
  ] as const) {
    for (const [kind, more] of [
      ["a filesystem", {}],
      ["a raw volume", { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) }],
    ] as const) {
      test(`${what} is a fault of ${kind}`, async () => {
        const { host } = await published(more);
        host.troubles.set(DEVICE, trouble);
        expect(await faultsOf(host)).toEqual([[status, reason, expect.stringContaining(words)]]);
      });
    }
  }

  test("All faults are told, and the usage besides", async () => {
    const { host, driver } = await published();
    host.troubles.set(DEVICE, { unwatched: 107, ioErrors: 2, lastError: "a line", filesystemErrors: 1 });
    expect((await faultsOf(host)).map(([, reason]) => reason)).toEqual(["Unwatched", "IoErrors", "FilesystemErrors"]);
    expect((await driver.stats(statistics())).usage).toHaveLength(2);
  });

  for (const [what, left, reasons] of [
    ["no bytes", { availableBytes: 0n }, ["NoSpaceLeft"]],
    ["no inodes", { freeInodes: 0n }, ["NoInodesLeft"]],
    ["no table of inodes", { freeInodes: 0n, totalInodes: 0n }, []],
  ] as const) {
    test(`a filesystem with ${what} left has the faults [${reasons.join()}]`, async () => {
      const { host } = await published();
      const found = await faultsOf(host, { host: usage(left)(host) });
      expect(found.map(([status, reason]) => [status, reason])).toEqual(reasons.map((each) => [Status.DEGRADED, each]));
    });
  }

  test("A filesystem that the kernel made read-only, or shut down, is a fault", async () => {
    for (const [superOptions, fault] of [
      [["ro"], [Status.DEGRADED, "FilesystemReadOnly", expect.stringContaining("read-only")]],
      [
        ["rw", "shutdown"],
        [Status.INACCESSIBLE, "FilesystemShutDown", expect.stringContaining("shut")],
      ],
    ] as const) {
      const { host } = await published();
      host.mounts.forEach((entry, at) => void (host.mounts[at] = { ...entry, superOptions }));
      expect(await faultsOf(host)).toEqual([fault]);
    }
  });

  test("A filesystem that fails and a device that is gone are inaccessible", async () => {
    const { host } = await published();
    host.broken.add(TARGET);
    expect(await faultsOf(host)).toEqual([[Status.INACCESSIBLE, "FilesystemFails", expect.stringContaining("statfs")]]);
    host.mappings.forEach((each) => host.drop(each));
    expect(await faultsOf(host)).toEqual([[Status.INACCESSIBLE, "NotMapped", expect.stringContaining("not mapped")]]);
  });

  test("Where the kernel's log cannot be read nothing is wrong", async () => {
    const { host } = await published();
    const failed = new HostFailed({ op: "trouble", subject: DEVICE, errno: 1, reason: "not permitted" });
    expect(await faultsOf(host, { host: { ...hostMemoryService(host), trouble: () => Effect.fail(failed) } })).toEqual(
      [],
    );
  });

  describe("NodeGetStorageHealth", () => {
    const greeting = (words: string) =>
      Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { open: (socket) => void socket.write(words), data() {} } });
    /** What a node says whose kernel shows these monitors, and whose config.json has those. */
    const storageFaults = async (shown: Partial<MappedCluster>, configured?: Partial<Cluster>, goesOn = false) => {
      const { host } = await aNode();
      const cluster = { fsid: "f00d", mappedBy: [], monitors: undefined, completed: 5n, ...shown };
      host.clusters = [cluster];
      const service = hostMemoryService(host);
      const clusters = configured && { clusters: [{ ...EAST, ...configured }] };
      // what is seen first, and later
      const looks = [[cluster], [{ ...cluster, completed: goesOn ? 6n : 5n }]];
      const mappedClusters = Effect.sync(() => looks.shift() ?? []);
      await using driver = nodeOn(host, { host: { ...service, mappedClusters }, ...clusters });
      const { backendHealth } = await driver.storageHealth({});
      return backendHealth.map(({ status, reason, message }) => [status, reason, message]);
    };
    const missing = (words: string) => [
      StorageStatus.STORAGE_DEGRADED,
      "MonitorsMissing",
      expect.stringContaining(`${words} is not a Ceph monitor`),
    ];
    const unreachable = (words: string, status = StorageStatus.STORAGE_UNREACHABLE) => [
      status,
      "MonitorsUnreachable",
      expect.stringContaining(`${words} is not a Ceph monitor`),
    ];

    test("A cluster is reached if its monitors greet, and the words name those that do not", async () => {
      using monitor = greeting("ceph v027");
      using other = greeting("SSH-2.0-x");
      const [there, strange] = [`127.0.0.1:${monitor.port}`, `127.0.0.1:${other.port}`];
      const { driver } = await published();
      expect((await driver.storageHealth({})).backendHealth).toEqual([]);
      for (const shown of [{ monitors: [there] }, { mappedBy: [there] }])
        expect(await storageFaults(shown)).toEqual([]);
      expect(await storageFaults({ monitors: [there, strange] })).toEqual([missing(strange)]);
      expect(await storageFaults({ monitors: [strange] })).toEqual([unreachable(strange)]);
      const byName = { clusterId: "f00d", monitors: [strange] };
      expect(await storageFaults({ mappedBy: [strange] }, byName)).toEqual([unreachable(strange)]);
      expect(await storageFaults({ mappedBy: [strange] }, { monitors: [strange] })).toEqual([unreachable(strange)]);
    });

    test("A monitor by which an image was mapped once is not missed, and one that answers counts", async () => {
      using monitor = greeting("ceph v2\n");
      using other = greeting("SSH-2.0-x");
      const [there, strange] = [`127.0.0.1:${monitor.port}`, `127.0.0.1:${other.port}`];
      // nobody knows today's
      for (const mappedBy of [[strange], [strange, there]]) expect(await storageFaults({ mappedBy })).toEqual([]);
      expect(await storageFaults({ mappedBy: [strange], monitors: [there] })).toEqual([]);
      expect(await storageFaults({ mappedBy: [strange] }, { clusterId: "f00d", monitors: [there] })).toEqual([]);
      const moved = { clusterId: "f00d", monitors: [strange] };
      expect(await storageFaults({ monitors: [there], mappedBy: [] }, moved)).toEqual([]);
      expect(await storageFaults({ mappedBy: [there] }, moved)).toEqual([missing(strange)]);
      // another cluster's entry says nothing of this one
      expect(await storageFaults({ mappedBy: ["10.255.0.1:6789"] }, { monitors: [strange] })).toEqual([]);
    });

    test("A cluster whose I/O goes on is not unreachable, and one in another network namespace is not looked at", async () => {
      using other = greeting("SSH-2.0-x");
      const strange = `127.0.0.1:${other.port}`;
      expect(await storageFaults({ monitors: [strange] }, undefined, true)).toEqual([
        unreachable(strange, StorageStatus.STORAGE_DEGRADED),
      ]);
      const inOther = { monitors: [strange], netNamespaceFilePath: "/run/netns/ceph" };
      expect(await storageFaults({ monitors: [strange] }, inOther)).toEqual([]);
    });
  });

  for (const [what, more, code] of [
    ["no ID", { volumeId: "" }, "INVALID_ARGUMENT"],
    [
      "no path, of a volume that is not on this node",
      { volumeId: volumeIdOf(OTHER_UUID), volumePublishPath: "" },
      "NOT_FOUND",
    ],
    ["a path where nothing is", { volumePublishPath: "/nowhere" }, "NOT_FOUND"],
    ["a staging path where nothing is", { volumePublishPath: "", stagingTargetPath: "/nowhere" }, "NOT_FOUND"],
  ] as const) {
    test(`NodeGetVolumeHealth with ${what} answers ${code}`, async () => {
      const { driver } = await published();
      expect(await codeOf(driver.volumeHealth(asking(more)))).toBe(code);
    });
  }
});
