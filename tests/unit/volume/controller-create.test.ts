/** CreateVolume where nothing fails: what is made, what is answered, and what a repeated request finds. */
import { describe, expect, test } from "bun:test";
import { FEATURE_BITS } from "../../../lib/ceph/feature-bits.ts";
import {
  ControllerServiceCapability_RPC_Type as Offered,
  VolumeCapability_AccessMode_Mode as Mode,
} from "../../../lib/gen/csi_pb.ts";
import { aVolume, cloneOf } from "../../support/copies-world.ts";
import { aDriver, type DriverWorld } from "../../support/one-world.ts";
import {
  aCluster,
  asBlock,
  codeOf,
  type CreateInit,
  creation,
  EAST,
  failureOf,
  formatted,
  GIB,
  MIB,
  MOUNT,
  mounted,
  PARAMETERS,
  poolDump,
  uuidOf,
} from "../../support/world.ts";

const { layering } = FEATURE_BITS;
const FILES = { ...PARAMETERS, encrypted: "true", encryptionType: "file" };
const WITH_INTEGRITY = {
  ...PARAMETERS,
  encrypted: "true",
  encryptionCipher: "aes-xts-plain64",
  integrityMode: "hmac-sha256",
};
const KUBERNETES = {
  "csi.storage.k8s.io/pvc/name": "data",
  "csi.storage.k8s.io/pvc/namespace": "team-a",
  "csi.storage.k8s.io/pv/name": "pvc-1",
};

/** One CreateVolume in a cluster of its own. */
const created = async (more: CreateInit = {}, settings: DriverWorld = {}) => {
  const cluster = aCluster();
  await using driver = aDriver(cluster, settings);
  const { volume } = await driver.createVolume(creation(more));
  const uuid = uuidOf(volume.volumeId);
  return { cluster, volume, uuid };
};

/** With parameters besides the usual ones; -> the image of the volume. */
const imageFor = async (parameters: Record<string, string>) => {
  const { cluster, volume, uuid } = await created({ parameters: { ...PARAMETERS, ...parameters } });
  const prefix = parameters["volumeNamePrefix"] ?? "csi-vol-";
  return { image: cluster.image("rbd", prefix + uuid), volume, uuid };
};

describe("new volumes", () => {
  test("a new volume is an image with the cluster's defaults, and its ID names cluster, pool and UUID", async () => {
    const { cluster, volume, uuid } = await created();
    expect(volume.volumeId).toBe(`0001-0004-east-0000000000000002-${uuid}`);
    expect(uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(volume.capacityBytes).toBe(GIB);
    expect(volume.volumeContext).toEqual({
      clusterID: "east",
      pool: "rbd",
      journalPool: "rbd",
      imageName: `csi-vol-${uuid}`,
    });
    expect(Object.keys(poolDump(cluster).images)).toEqual([`csi-vol-${uuid}`]);
    expect(cluster.image("rbd", `csi-vol-${uuid}`)).toMatchObject({
      sizeBytes: GIB,
      features: cluster.defaultFeatures,
      objectSize: 4n * MIB,
      dataPool: undefined,
    });
    expect(cluster.image("rbd", `csi-vol-${uuid}`).meta.size).toBe(0);
  });

  test("the volume context keeps the parameters, but neither the sidecars' keys nor the topology", async () => {
    const parameters = {
      ...PARAMETERS,
      ...KUBERNETES,
      dataPool: "ec",
      mounter: "rbd",
      unknownToUs: "kept",
      topologyConstrainedPools: "[]",
      imageName: "of the class",
    };
    const { volume } = await created({ parameters });
    expect(volume.volumeContext).toEqual({
      clusterID: "east",
      pool: "rbd",
      journalPool: "rbd",
      dataPool: "ec",
      mounter: "rbd",
      unknownToUs: "kept",
      imageName: "of the class",
    });
  });

  test("CreateVolume makes the image in the RADOS namespace that config.json names", async () => {
    const { cluster, volume, uuid } = await created({}, { clusters: [{ ...EAST, radosNamespace: "tenant" }] });
    expect(poolDump(cluster)).toEqual({ objects: {}, images: {}, bareNames: {}, trash: {} });
    const inside = poolDump(cluster, "rbd", "tenant");
    expect(Object.keys(inside.images)).toEqual([`csi-vol-${uuid}`]);
    expect(Object.keys(inside.objects)).toEqual([`csi.volume.${uuid}`, "csi.volumes.default"]);
    expect(volume.volumeContext["radosNamespace"]).toBe("tenant");
  });

  test("a new volume has the name, the features and the layout that the class asks for", async () => {
    const prefixed = await imageFor({ volumeNamePrefix: "team-" });
    expect(prefixed.volume.volumeContext["imageName"]).toBe(`team-${prefixed.uuid}`);
    expect((await imageFor({ imageFeatures: "layering" })).image.features).toBe(layering);
    const exact = (await imageFor({ imageFeatures: "exclusive-lock,layering" })).image;
    expect(exact.features).toBe(layering | FEATURE_BITS["exclusive-lock"]);
    expect((await imageFor({ objectSize: "1048576" })).image.objectSize).toBe(MIB);
    const striped = (await imageFor({ stripeUnit: "65536", stripeCount: "4" })).image;
    expect([striped.stripeUnit, striped.stripeCount]).toEqual([65536n, 4n]);
    expect((await imageFor({ stripeUnit: "65536", stripeCount: "0" })).image.stripeCount).toBe(1n);
    expect((await imageFor({ dataPool: "ec" })).image.dataPool).toBe("ec");
  });

  for (const [what, capability] of [
    ["block, written on many nodes", asBlock(Mode.MULTI_NODE_MULTI_WRITER)],
    ["block, written on one of many nodes", asBlock(Mode.MULTI_NODE_SINGLE_WRITER)],
    ["a filesystem with one writer", mounted(Mode.SINGLE_NODE_SINGLE_WRITER)],
    ["a filesystem with many writers on a node", mounted(Mode.SINGLE_NODE_MULTI_WRITER)],
  ] as const) {
    test(`CreateVolume makes a volume for ${what}`, async () => {
      await created({ volumeCapabilities: [capability] });
    });
  }

  test("CreateVolume accepts the secret of an in-tree volume", async () => {
    const { key, ...rest } = { key: creation().secrets["userKey"] ?? "", userID: "nobody" };
    await created({ secrets: { key, ...rest } });
  });
});

describe("size of a new volume", () => {
  const sizes: readonly (readonly [required: bigint, limit: bigint, size: bigint | string])[] = [
    [0n, 0n, GIB],
    [1n, 0n, MIB],
    [MIB, 0n, MIB],
    [MIB + 1n, 0n, 2n * MIB],
    [GIB - 1n, 0n, GIB],
    [GIB, GIB, GIB],
    [GIB + 1n, 0n, 2n * GIB],
    [(3n * GIB) / 2n, 0n, 2n * GIB],
    [(3n * GIB) / 2n, (3n * GIB) / 2n, (3n * GIB) / 2n],
    [GIB + 1n, 2n * GIB - 1n, GIB + MIB],
    [0n, 512n * MIB + 7n, 512n * MIB],
    [0n, 5n * GIB, GIB],
    [MIB + 1n, MIB + 2n, "OUT_OF_RANGE"],
    [0n, MIB - 1n, "OUT_OF_RANGE"],
    [(1n << 60n) + 1n, 0n, "OUT_OF_RANGE"],
    [2n * GIB, GIB, "INVALID_ARGUMENT"],
  ];
  for (const [requiredBytes, limitBytes, size] of sizes) {
    test(`CreateVolume answers ${typeof size === "bigint" ? `with ${size} bytes` : size} to a request for at least ${requiredBytes} and at most ${limitBytes || "any number of"} bytes`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const request = creation({ capacityRange: { requiredBytes, limitBytes } });
      if (typeof size === "string") {
        expect(await codeOf(driver.createVolume(request))).toBe(size);
        expect(cluster.dump()).toEqual(aCluster().dump());
        return;
      }
      const { volume } = await driver.createVolume(request);
      expect(volume.capacityBytes).toBe(size);
      expect(cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`).sizeBytes).toBe(size);
    });
  }

  test("CreateVolume makes a volume of 1 GiB when the request names no size", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { capacityRange: _none, ...rest } = creation();
    const { volume } = await driver.createVolume({ ...rest });
    expect(volume.capacityBytes).toBe(GIB);
  });
});

describe("image metadata", () => {
  const metaOf = async (flags: DriverWorld["flags"] & {}, parameters: Record<string, string>) => {
    const { cluster, uuid } = await created({ parameters: { ...PARAMETERS, ...parameters } }, { flags });
    return Object.fromEntries(cluster.image("rbd", `csi-vol-${uuid}`).meta);
  };

  test("the image metadata names claim and volume, and the Kubernetes cluster where a flag names it", async () => {
    const flags = { clustername: "prod" };
    expect(await metaOf(flags, { ...KUBERNETES, "csi.storage.k8s.io/fstype": "xfs" })).toEqual({
      ...KUBERNETES,
      "csi.ceph.com/cluster/name": "prod",
    });
    expect(await metaOf({}, KUBERNETES)).toEqual(KUBERNETES);
    expect(await metaOf({ clustername: "prod" }, {})).toEqual({
      "csi.ceph.com/cluster/name": "prod",
    });
    expect(await metaOf({}, {})).toEqual({});
  });

  test("a repeated CreateVolume sets the image metadata that the first call did not set", async () => {
    const cluster = aCluster();
    await using without = aDriver(cluster);
    await using driver = aDriver(cluster, { flags: { clustername: "prod" } });
    const request = creation({ parameters: { ...PARAMETERS, ...KUBERNETES } });
    const { volume } = await without.createVolume(request);
    await driver.createVolume(request);
    const { meta } = cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`);
    expect(Object.fromEntries(meta)).toEqual({ ...KUBERNETES, "csi.ceph.com/cluster/name": "prod" });
  });
});

describe("repeated requests", () => {
  test("a repeated request gets the same answer from any driver, and changes nothing", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    await using restarted = aDriver(cluster);
    const first = await driver.createVolume(creation());
    const before = cluster.dump();
    expect(await driver.createVolume(creation())).toEqual(first);
    expect(await restarted.createVolume(creation())).toEqual(first);
    expect(cluster.dump()).toEqual(before);
  });

  test("a repeated request gets the size of the volume, when that is within the requested range", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation({ capacityRange: { requiredBytes: 3n * GIB } }));
    for (const capacityRange of [{ requiredBytes: GIB }, { requiredBytes: GIB, limitBytes: 3n * GIB }]) {
      const again = await driver.createVolume(creation({ capacityRange }));
      expect(again.volume).toMatchObject({ volumeId: volume.volumeId, capacityBytes: 3n * GIB });
    }
  });

  test("a request with another name, instance or cluster makes another volume", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { clusters: [EAST, { ...EAST, clusterId: "west", radosNamespace: "w" }] });
    await using other = aDriver(cluster, { flags: { instanceid: "second" } });
    const ids = [
      await driver.createVolume(creation()),
      await driver.createVolume(creation({ name: "pvc-2" })),
      await driver.createVolume(creation({ parameters: { ...PARAMETERS, clusterID: "west" } })),
      await other.createVolume(creation()),
    ].map(({ volume }) => uuidOf(volume.volumeId));
    expect(new Set(ids).size).toBe(4);
    expect(poolDump(cluster).objects["csi.volumes.second"]).toEqual({ "csi.volume.pvc-1": ids[3] ?? "" });
  });

  const layout = { stripeUnit: "65536", stripeCount: "4", objectSize: "1048576", imageFeatures: "layering" };
  const conflicts: readonly (readonly [what: string, more: CreateInit, says: RegExp])[] = [
    [
      "a larger size",
      { capacityRange: { requiredBytes: 3n * GIB } },
      /it has 2147483648 bytes, and the request asks for 3221225472/,
    ],
    ["a limit below its size", { capacityRange: { requiredBytes: 1n, limitBytes: GIB } }, /at most 1073741824/],
    ["other features", { parameters: { ...PARAMETERS, imageFeatures: "layering,exclusive-lock" } }, /its features/],
    ["fewer features", { parameters: { ...PARAMETERS, imageFeatures: "exclusive-lock" } }, /its features/],
    [
      "a data pool",
      { parameters: { ...PARAMETERS, dataPool: "ec" } },
      /its data is in its own pool, and the request asks for ec/,
    ],
    ["another object size", { parameters: { ...PARAMETERS, objectSize: "4194304" } }, /its objects have 1048576 bytes/],
    [
      "another striping",
      { parameters: { ...PARAMETERS, ...layout, stripeCount: "8" } },
      /its striping is 4 x 65536 bytes, and the request asks for 8 x 65536/,
    ],
  ];
  for (const [what, more, says] of conflicts) {
    test(`a repeated request that asks for ${what} answers ALREADY_EXISTS and changes nothing`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      await driver.createVolume(
        creation({ capacityRange: { requiredBytes: 2n * GIB }, parameters: { ...PARAMETERS, ...layout } }),
      );
      const before = cluster.dump();
      const failure = await failureOf(driver.createVolume(creation(more)));
      expect(failure?.code).toBe("ALREADY_EXISTS");
      expect(failure?.message).toMatch(/^volume pvc-1 exists already, but /);
      expect(failure?.message).toMatch(says);
      expect(cluster.dump()).toEqual(before);
    });
  }

  test("a repeated request that names no layout gets a volume of any layout", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(
      creation({ parameters: { ...PARAMETERS, ...layout, dataPool: "ec" }, volumeCapabilities: [MOUNT] }),
    );
    expect((await driver.createVolume(creation())).volume.volumeId).toBe(volume.volumeId);
  });

  test("a repeated request gets the volume to whose features Ceph added fast-diff, because object-map brings it along", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const request = creation({ parameters: { ...PARAMETERS, imageFeatures: "layering,exclusive-lock,object-map" } });
    const first = await driver.createVolume(request);
    const { features } = cluster.image("rbd", `csi-vol-${uuidOf(first.volume.volumeId)}`);
    expect(features & FEATURE_BITS["fast-diff"]).toBe(FEATURE_BITS["fast-diff"]);
    expect(await driver.createVolume(request)).toEqual(first);
  });

  test("a plain request for the name of an encrypted volume of another driver answers ALREADY_EXISTS", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    const omap = cluster.namespace("rbd", "")?.objects.get(`csi.volume.${uuidOf(volume.volumeId)}`);
    omap?.set("csi.volume.encryptKMS", "default");
    expect(await failureOf(driver.createVolume(creation()))).toMatchObject({
      code: "ALREADY_EXISTS",
      message: expect.stringContaining("it is encrypted"),
    });
  });
});

describe("parameters that the driver does not support", () => {
  const refused: readonly (readonly [what: string, more: CreateInit, says: RegExp])[] = [
    [
      "a raw block volume whose files are to be encrypted",
      { parameters: FILES, volumeCapabilities: [asBlock(Mode.SINGLE_NODE_WRITER)] },
      /volume_capabilities\[0\] asks for raw block, and encryptionType is file.*encryptionType: block/,
    ],
    ...[Mode.MULTI_NODE_MULTI_WRITER, Mode.MULTI_NODE_SINGLE_WRITER].map((mode): (typeof refused)[number] => [
      `integrity with ${Mode[mode]}`,
      { parameters: WITH_INTEGRITY, volumeCapabilities: [asBlock(mode)] },
      new RegExp(`volume_capabilities\\[0\\] asks for ${Mode[mode]}, and the volume has integrity.*ReadWriteOnce`),
    ]),
    [
      "encrypted files in xfs",
      { parameters: FILES, volumeCapabilities: [formatted("xfs")] },
      /asks for xfs, and encryptionType is file.*ext4/,
    ],
    [
      "topology",
      { parameters: { clusterID: "east", topologyConstrainedPools: '[{"poolName":"rbd"}]' } },
      /topologyConstrainedPools/,
    ],
  ];
  for (const [what, more, says] of refused) {
    test(`CreateVolume refuses ${what} before it writes anything`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const failure = await failureOf(driver.createVolume(creation(more)));
      expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringMatching(says) });
      expect(cluster.dump()).toEqual(aCluster().dump());
    });
  }
});

test("ControllerGetCapabilities names the capabilities of the RPCs that the driver offers", async () => {
  await using driver = aDriver(aCluster());
  const { capabilities } = await driver.capabilities();
  expect(capabilities.map(({ type }) => Offered[type.value.type])).toEqual([
    "CREATE_DELETE_VOLUME",
    "CREATE_DELETE_SNAPSHOT",
    "CLONE_VOLUME",
    "EXPAND_VOLUME",
    "MODIFY_VOLUME",
    "SINGLE_NODE_MULTI_WRITER",
    "PUBLISH_UNPUBLISH_VOLUME",
    "GET_SNAPSHOT",
  ]);
});

describe("CreateVolume takes capabilities that a node can serve:", () => {
  const XFS_MIB_16 = { capacityRange: { requiredBytes: 16n << 20n }, volumeCapabilities: [formatted("xfs")] };
  const taken: readonly (readonly [what: string, more: CreateInit])[] = [
    ["a reader beside a writer", { volumeCapabilities: [mounted(Mode.MULTI_NODE_READER_ONLY), MOUNT] }],
    ["a writer beside a reader of blocks", { volumeCapabilities: [MOUNT, asBlock(Mode.SINGLE_NODE_READER_ONLY)] }],
    ["no type of filesystem", { volumeCapabilities: [formatted("")] }],
    ["ext3", { volumeCapabilities: [formatted("ext3")] }],
    [
      "xfs of its smallest size",
      { capacityRange: { requiredBytes: 300n << 20n }, volumeCapabilities: [formatted("xfs")] },
    ],
    [
      "a smaller xfs that mkfsOptions ask for",
      { ...XFS_MIB_16, parameters: { ...PARAMETERS, mkfsOptions: "--unsupported" } },
    ],
    [
      "blocks of a device that is mapped read-only",
      { volumeCapabilities: [asBlock(Mode.SINGLE_NODE_WRITER)], parameters: { ...PARAMETERS, mapOptions: "ro" } },
    ],
    ["a filesystem where rw follows ro", { parameters: { ...PARAMETERS, mapOptions: "ro,rw" } }],
  ];
  for (const [what, more] of taken) {
    test(what, async () => {
      await using driver = aDriver(aCluster());
      expect((await driver.createVolume(creation(more))).volume.volumeId).not.toBe("");
    });
  }

  test("a copy with xfs on fewer bytes than a new one would need, because its filesystem is there already", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const capacityRange = { requiredBytes: 16n << 20n };
    const volumeId = await aVolume(driver, cluster, { capacityRange });
    const copy = cloneOf(volumeId, { capacityRange, volumeCapabilities: [formatted("xfs")] });
    expect((await driver.createVolume(copy)).volume.capacityBytes).toBe(16n << 20n);
  });

  test("a copy that is mapped read-only, because its filesystem is there already", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const copy = cloneOf(await aVolume(driver, cluster), { parameters: { ...PARAMETERS, mapOptions: "ro" } });
    expect((await driver.createVolume(copy)).volume.volumeId).not.toBe("");
  });
});
