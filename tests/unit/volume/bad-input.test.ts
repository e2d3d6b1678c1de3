/**
 * Every field of every Controller request, with what must not be in it: the code, a message that names the field, and
 * that nothing was written. What is wrong in itself is found before any call of Ceph.
 */
import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { Controller, VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { served } from "../../../lib/grpc/service.ts";
import { controller } from "../../../services/controller.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aCluster,
  asBlock,
  type CreateInit,
  creation,
  deletion,
  expansion,
  failureOf,
  GIB,
  formatted,
  MOUNT,
  mounted,
  PARAMETERS,
  SECRETS,
  validation,
  modification,
} from "../../support/world.ts";

const MIN_INT64 = -(2n ** 63n);
const MAX_INT64 = 2n ** 63n - 1n;
// oxlint-disable typescript/no-unsafe-enum-assignment -- proto3 enums are open: any number comes off the wire
const LATER_MODE = 99 as Mode;
const NEGATIVE_MODE = -1 as Mode;
// oxlint-enable typescript/no-unsafe-enum-assignment

/** What is wrong, the request's call, and the field that the message must name. */
type Row<Fields> = readonly [what: string, fields: Fields, names: string, code?: string];

/** A cluster with a volume, `pvc-there`, and what a call of a driver there comes to. */
const outcome = async (call: (driver: Driver, volumeId: string, cluster: MemoryCluster) => Promise<unknown>) => {
  const cluster = aCluster();
  const { service, calls, forget } = recorded(cephMemoryService(cluster));
  await using driver = aDriver(cluster, { ceph: service });
  const { volume } = await driver.createVolume(creation({ name: "pvc-there" }));
  const before = cluster.dump();
  forget();
  const failure = await failureOf(call(driver, volume.volumeId, cluster));
  expect(cluster.dump()).toEqual(before);
  expect((await driver.locks()).table()).toEqual([]);
  return { failure, calls: calls().length };
};

const refused = async (
  call: (driver: Driver, volumeId: string) => Promise<unknown>,
  names: string,
  code = "INVALID_ARGUMENT",
) => {
  const { failure, calls } = await outcome(call);
  expect(failure?.code).toBe(code);
  expect(failure?.message).toContain(names);
  expect(failure?.message).not.toContain(SECRETS.userKey);
  // Only the cluster knows which pools there are.
  const asksCluster = names.startsWith("pool ");
  if (!asksCluster && (code === "INVALID_ARGUMENT" || code === "OUT_OF_RANGE")) expect(calls).toBe(0);
};

/** No ID or name may be any of these; a volume's ID may be longer than any other. */
const badTexts = (field: string, limit = field === "volume_id" ? 255 : 128): readonly Row<string>[] => [
  ["is missing", "", field],
  [`has ${limit + 1} bytes`, "x".repeat(limit + 1), `${field} has ${limit + 1} bytes`],
  ["has too many bytes in fewer characters", "ä".repeat(limit / 2 + 1), `${field} has `],
  ["has a megabyte", "x".repeat(1 << 20), `${field} has 1048576 bytes`],
  ["holds NUL", "a\0b", field],
  ["holds a line end", "a\nb", field],
  ["holds DEL", "a\u007f", field],
  ["holds half a character", "\ud800", field],
];

const badSecrets: readonly Row<Record<string, string>>[] = [
  ["are absent", {}, "userID"],
  ["have no key", { userID: "admin" }, "userKey"],
  ["have no user", { userKey: SECRETS.userKey }, "userID"],
  ["have an empty user", { ...SECRETS, userID: "" }, "userID"],
  ["have an empty key", { ...SECRETS, userKey: "" }, "userKey"],
  ["have a key of a line end", { ...SECRETS, userKey: "\n" }, "userKey"],
  ["have a user with NUL", { ...SECRETS, userID: "a\0b" }, "userID"],
  ["have a key with NUL", { ...SECRETS, userKey: `${SECRETS.userKey}\0` }, "userKey"],
  ["have other names", { user: "admin", password: SECRETS.userKey }, "userID"],
  ["have an empty in-tree key", { key: "", adminId: "admin" }, "userID"],
  ["have a wrong key", { ...SECRETS, userKey: "d3Jvbmc=" }, "client.admin", "PERMISSION_DENIED"],
  ["have an unknown user", { ...SECRETS, userID: "nobody" }, "client.nobody", "PERMISSION_DENIED"],
];

const badRanges: readonly Row<{ requiredBytes?: bigint; limitBytes?: bigint }>[] = [
  ["has a negative required size", { requiredBytes: -1n }, "required_bytes"],
  ["has the least required size", { requiredBytes: MIN_INT64 }, "required_bytes"],
  ["has a negative limit", { requiredBytes: GIB, limitBytes: -1n }, "limit_bytes"],
  ["has only a negative limit", { limitBytes: MIN_INT64 }, "limit_bytes"],
  ["has its limit below its required size", { requiredBytes: 2n, limitBytes: 1n }, "limit_bytes"],
  ["has the greatest required size", { requiredBytes: MAX_INT64 }, "required_bytes", "OUT_OF_RANGE"],
  ["has a limit below 1 MiB", { limitBytes: 1n }, "limit_bytes", "OUT_OF_RANGE"],
];

/** No capability may be any of these, wherever one is asked for. */
const badCapabilities: readonly Row<ReturnType<typeof mounted>>[] = [
  ["is empty", {}, "must ask for block or for mount"],
  ["has no access type", { accessMode: { mode: Mode.SINGLE_NODE_WRITER } }, "must ask for block or for mount"],
  ["has no access mode", { accessType: { case: "block", value: {} } }, "access_mode"],
  ["has an empty access mode", { accessType: { case: "block", value: {} }, accessMode: {} }, "access_mode"],
  ["has the unknown access mode", mounted(Mode.UNKNOWN), "access_mode"],
  ["has an access mode that CSI does not define", asBlock(LATER_MODE), "access_mode 99"],
  ["has a negative access mode", asBlock(NEGATIVE_MODE), "access_mode -1"],
  ["has many writers for a filesystem", mounted(Mode.MULTI_NODE_MULTI_WRITER), "MULTI_NODE_MULTI_WRITER"],
];

describe("CreateVolume", () => {
  const check = (what: string, more: CreateInit, names: string, code?: string) =>
    test(`CreateVolume refuses a request in which ${what}`, () =>
      refused((driver) => driver.createVolume(creation(more)), names, code));

  for (const [what, name, names] of badTexts("name")) check(`name ${what}`, { name }, names);
  for (const [what, capacityRange, names, code] of badRanges) {
    check(`capacity_range ${what}`, { capacityRange }, names, code);
  }
  for (const [what, secrets, names, code] of badSecrets) check(`secrets ${what}`, { secrets }, names, code);
  check("volume_capabilities is missing", { volumeCapabilities: [] }, "volume_capabilities");
  for (const [what, capability, names] of badCapabilities) {
    check(`volume_capabilities[0] ${what}`, { volumeCapabilities: [capability] }, names);
    check(`volume_capabilities[1] ${what}`, { volumeCapabilities: [MOUNT, capability] }, "volume_capabilities[1]");
  }
  for (const mode of [Mode.SINGLE_NODE_READER_ONLY, Mode.MULTI_NODE_READER_ONLY]) {
    check(
      `volume_capabilities[0] is ${Mode[mode]} without a source`,
      { volumeCapabilities: [mounted(mode)] },
      "volume_capabilities",
    );
  }
  for (const fsType of ["XFS", "ext2", "zfs", "ntfs", "ext4 "]) {
    check(
      `volume_capabilities[1] asks for the filesystem ${JSON.stringify(fsType)}, which no node mounts`,
      { volumeCapabilities: [MOUNT, formatted(fsType)] },
      `volume_capabilities[1].mount.fs_type must be one of ext4, xfs, ext3, btrfs, and not ${JSON.stringify(fsType)}`,
    );
  }
  check(
    "capacity_range is below the smallest xfs",
    { capacityRange: { requiredBytes: 299n << 20n }, volumeCapabilities: [formatted("xfs")] },
    "volume_capabilities asks for xfs on 313524224 bytes, and mkfs.xfs makes none below 300 MiB",
  );
  check(
    "capacity_range is below the smallest btrfs",
    { capacityRange: { requiredBytes: 108n << 20n }, volumeCapabilities: [formatted("btrfs")] },
    "volume_capabilities asks for btrfs on 113246208 bytes, and mkfs.btrfs makes none below 109 MiB",
  );
  check(
    "mutable_parameters has an unknown key",
    { mutableParameters: { a: "b" } },
    'mutable_parameters has the key "a"',
  );
  check("mutable_parameters has a bad value", { mutableParameters: { maxReadIops: "x" } }, "maxReadIops");

  const { clusterID, pool } = PARAMETERS;
  const nbd = { clusterID, pool, mounter: "rbd-nbd" };
  const bad: readonly Row<Record<string, string>>[] = [
    ["is empty", {}, "clusterID"],
    ["has a limit of rbd-nbd that is negative", { ...nbd, baseIops: "-1" }, "baseIops"],
    ["has a limit of rbd-nbd that is max", { ...nbd, baseIops: "max" }, "baseIops"],
    ["has an older limit of rbd-nbd that is no number", { ...nbd, BaseWriteBytesPerSecond: "1.0" }, "BaseWriteBytes"],
    ["has no clusterID", { pool }, "clusterID"],
    ["has an empty clusterID", { pool, clusterID: "" }, "clusterID"],
    ["has an unknown clusterID", { pool, clusterID: "west" }, "west"],
    ["has a long clusterID", { pool, clusterID: "x".repeat(65) }, "clusterID"],
    ["has a clusterID with a line end", { pool, clusterID: "ea\nst" }, "clusterID"],
    ["has a clusterID that objects inherit", { pool, clusterID: "__proto__" }, "__proto__"],
    ["has no pool", { clusterID }, "pool"],
    ["has an empty pool", { clusterID, pool: "" }, "pool"],
    ["has a pool with NUL", { clusterID, pool: "rbd\0" }, "pool"],
    ["has an unknown pool", { clusterID, pool: "nowhere" }, "pool nowhere"],
    ...Object.entries({
      dataPool: ["", "a\0"],
      radosNamespace: [""],
      volumeNamePrefix: ["", "a/b", "a@b", "a\0", "x".repeat(201)],
      imageFeatures: [
        "",
        "layering exclusive-lock",
        "striping",
        "object-map",
        "fast-diff,exclusive-lock",
        "journaling",
      ],
      objectSize: ["0", "-1", "3000", "4097", "67108864", "4 MiB", "1e6", "0x1000"],
      encrypted: ["yes", "2", " true"],
      topologyConstrainedPools: [],
      mapOptions: ["fuse:x", "a\u0001b", "ro", "krbd:noshare,ro"],
      cephLogDir: ["/var/\0"],
      unmapOptions: ["fuse:x", "a\u0001b"],
      mkfsOptions: ["-L\0"],
      tryOtherMounters: ["perhaps"],
      maxReadBps: ["-1", "1k", "1.0"],
    }).flatMap(([key, values]) =>
      values.map(
        (value): Row<Record<string, string>> => [
          `has ${key}=${JSON.stringify(value).slice(0, 40)}`,
          { ...PARAMETERS, [key]: value },
          key,
        ],
      ),
    ),
    ["has journaling for the kernel", { ...PARAMETERS, imageFeatures: "exclusive-lock,journaling" }, "imageFeatures"],
    ["has stripeUnit alone", { ...PARAMETERS, stripeUnit: "4096" }, "stripeCount"],
    ["has stripeCount alone", { ...PARAMETERS, stripeCount: "4" }, "stripeUnit"],
    ["has a stripeUnit of 0", { ...PARAMETERS, stripeUnit: "0", stripeCount: "4" }, "stripeUnit"],
    ["has a stripeUnit that is not a number", { ...PARAMETERS, stripeUnit: "4k", stripeCount: "4" }, "stripeUnit"],
    [
      "has a stripeUnit that does not divide the object",
      { ...PARAMETERS, stripeUnit: "5000", stripeCount: "4", objectSize: "8192" },
      "stripeUnit",
    ],
    ["has topology alone", { clusterID, topologyConstrainedPools: "[]" }, "topologyConstrainedPools"],
    ["has an unknown data pool", { ...PARAMETERS, dataPool: "nowhere" }, "pool nowhere"],
  ];
  for (const [what, parameters, names, code] of bad) check(`parameters ${what}`, { parameters }, names, code);

  const source = (type: NonNullable<CreateInit["volumeContentSource"]>["type"]) => ({
    volumeContentSource: { type: type ?? { case: undefined } },
  });
  check("volume_content_source has no type", { volumeContentSource: {} }, "volume_content_source");
  for (const [what, snapshotId, names] of badTexts("snapshot_id")) {
    const snapshot = source({ case: "snapshot", value: { snapshotId } });
    check(`volume_content_source.snapshot.snapshot_id ${what}`, snapshot, `snapshot.${names}`);
  }
  for (const [what, volumeId, names] of badTexts("volume_id")) {
    const volume = source({ case: "volume", value: { volumeId } });
    check(`volume_content_source.volume.volume_id ${what}`, volume, `volume.${names}`);
  }
  const absent = "0001-0004-east-0000000000000002-b0285c97-a0ce-41eb-8c66-0242ac110002";
  for (const id of ["nonsense", absent]) {
    const snapshot = source({ case: "snapshot", value: { snapshotId: id } });
    check(`volume_content_source.snapshot.snapshot_id is ${id}`, snapshot, id.slice(-36), "NOT_FOUND");
    const volume = source({ case: "volume", value: { volumeId: id } });
    check(`volume_content_source.volume.volume_id is ${id}`, volume, id.slice(-36), "NOT_FOUND");
  }
});

describe("DeleteVolume", () => {
  for (const [what, volumeId, names] of badTexts("volume_id")) {
    test(`DeleteVolume refuses a request in which volume_id ${what}`, () =>
      refused((driver) => driver.deleteVolume(deletion(volumeId)), names));
  }
  for (const [what, secrets, names, code] of badSecrets) {
    test(`DeleteVolume refuses a request in which secrets ${what}`, () =>
      refused((driver, id) => driver.deleteVolume(deletion(id, { secrets })), names, code));
  }
});

describe("ControllerModifyVolume", () => {
  const MODIFIED = { secrets: SECRETS, mutableParameters: { maxReadIops: "1" } };
  for (const [what, volumeId, names] of badTexts("volume_id")) {
    test(`ControllerModifyVolume refuses a request in which volume_id ${what}`, () =>
      refused((driver) => driver.modifyVolume({ ...MODIFIED, volumeId }), names));
  }
  for (const [what, secrets, names, code] of badSecrets) {
    test(`ControllerModifyVolume refuses a request in which secrets ${what}`, () =>
      refused((driver, volumeId) => driver.modifyVolume({ ...MODIFIED, volumeId, secrets }), names, code));
  }
  for (const [mutableParameters, names] of [
    [{ pool: "ssd" }, 'the key "pool"'],
    [{ maxIops: "-1" }, "maxIops"],
  ] as const) {
    test(`ControllerModifyVolume refuses ${JSON.stringify(mutableParameters)}`, () =>
      refused((driver, volumeId) => driver.modifyVolume(modification(volumeId, mutableParameters)), names));
  }
});

describe("ControllerExpandVolume", () => {
  for (const [what, volumeId, names] of badTexts("volume_id")) {
    test(`ControllerExpandVolume refuses a request in which volume_id ${what}`, () =>
      refused((driver) => driver.expandVolume(expansion(volumeId)), names));
  }
  test("ControllerExpandVolume refuses a request in which capacity_range is missing", () =>
    refused((driver, id) => {
      const { capacityRange: _none, ...rest } = expansion(id);
      return driver.expandVolume({ ...rest });
    }, "capacity_range is missing"));
  test("ControllerExpandVolume refuses a request in which capacity_range has neither size nor limit", () =>
    refused((driver, id) => driver.expandVolume(expansion(id, { capacityRange: {} })), "capacity_range"));
  for (const [what, capacityRange, names, code] of badRanges) {
    test(`ControllerExpandVolume refuses a request in which capacity_range ${what}`, () =>
      refused((driver, id) => driver.expandVolume(expansion(id, { capacityRange })), names, code));
  }
  for (const [what, secrets, names, code] of badSecrets) {
    test(`ControllerExpandVolume refuses a request in which secrets ${what}`, () =>
      refused((driver, id) => driver.expandVolume(expansion(id, { secrets })), names, code));
  }
  for (const [what, volumeCapability, names] of badCapabilities) {
    test(`ControllerExpandVolume refuses a request in which volume_capability ${what}`, () =>
      refused((driver, id) => driver.expandVolume(expansion(id, { volumeCapability })), names));
  }
});

describe("ValidateVolumeCapabilities", () => {
  for (const [what, volumeId, names] of badTexts("volume_id")) {
    test(`ValidateVolumeCapabilities refuses a request in which volume_id ${what}`, () =>
      refused((driver) => driver.validate(validation(volumeId)), names));
  }
  test("ValidateVolumeCapabilities refuses a request in which volume_capabilities is missing", () =>
    refused((driver, id) => driver.validate(validation(id, { volumeCapabilities: [] })), "volume_capabilities"));
  for (const [what, secrets, names, code] of badSecrets) {
    test(`ValidateVolumeCapabilities refuses a request in which secrets ${what}`, () =>
      refused((driver, id) => driver.validate(validation(id, { secrets })), names, code));
  }
  for (const [what, capability, names] of badCapabilities) {
    test(`ValidateVolumeCapabilities does not confirm a request in which volume_capabilities[0] ${what}`, async () => {
      const { failure } = await outcome(async (driver, id) => {
        const answer = await driver.validate(validation(id, { volumeCapabilities: [capability] }));
        expect(answer).toEqual({ message: expect.stringContaining(names) });
      });
      expect(failure).toBeUndefined();
    });
  }
});

test("the Controller service handles exactly the RPCs that the driver offers, those of fencing included", () => {
  const service = served(Controller, controller());
  const there = Controller.methods.filter((method) => service.handler(method) !== undefined).map(({ name }) => name);
  expect(there.toSorted()).toEqual([
    "ControllerExpandVolume",
    "ControllerGetCapabilities",
    "ControllerGetVolume",
    "ControllerGetVolumeHealth",
    "ControllerListVolumeHealth",
    "ControllerModifyVolume",
    "ControllerPublishVolume",
    "ControllerUnpublishVolume",
    "CreateSnapshot",
    "CreateVolume",
    "DeleteSnapshot",
    "DeleteVolume",
    "GetCapacity",
    "GetSnapshot",
    "ListSnapshots",
    "ListVolumes",
    "ValidateVolumeCapabilities",
  ]);
});

test("no content of a volume ID makes a call fail as a defect, and none changes the cluster", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const { volume } = await driver.createVolume(creation());
  const before = cluster.dump();
  const nearly = fc
    .tuple(fc.nat(volume.volumeId.length), fc.string({ unit: "binary", maxLength: 3 }), fc.nat(3))
    .map(([at, text, cut]) => volume.volumeId.slice(0, at) + text + volume.volumeId.slice(at + cut))
    // any version is read
    .filter((id) => !id.endsWith(volume.volumeId.slice(4)));
  await fc.assert(
    fc.asyncProperty(fc.oneof(fc.string({ unit: "binary", maxLength: 140 }), nearly), async (id) => {
      const codes = [
        await failureOf(driver.deleteVolume(deletion(id))),
        await failureOf(driver.expandVolume(expansion(id))),
        await failureOf(driver.validate(validation(id))),
        await failureOf(driver.modifyVolume(modification(id, { maxReadIops: "1" }))),
      ].map((failure) => failure?.code ?? "OK");
      expect(["OK", "INVALID_ARGUMENT"]).toContain(codes[0] ?? "");
      expect(["NOT_FOUND", "INVALID_ARGUMENT"]).toContain(codes[1] ?? "");
      expect(codes[2]).toBe(codes[1] ?? "");
      expect(codes[3]).toBe(codes[1] ?? "");
      expect(cluster.dump()).toEqual(before);
    }),
    { numRuns: 300 },
  );
}, 60_000);
