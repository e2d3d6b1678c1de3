/** ControllerExpandVolume and ValidateVolumeCapabilities. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { describe, expect, test } from "bun:test";
import { MEMORY_KEY, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { VolumeCapability_AccessMode_Mode as Mode, type VolumeCapabilitySchema } from "../../../lib/gen/csi_pb.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aCluster,
  asBlock,
  codeOf,
  creation,
  EAST,
  expansion,
  failureOf,
  formatted,
  GIB,
  MIB,
  MOUNT,
  mounted,
  PARAMETERS,
  seedImage,
  uuidOf,
  validation,
} from "../../support/world.ts";

const BLOCK = asBlock(Mode.SINGLE_NODE_WRITER);

/** A driver with a volume of 2 GiB. */
const world = async () => {
  const cluster = aCluster();
  const driver = aDriver(cluster);
  const { volume } = await driver.createVolume(creation({ capacityRange: { requiredBytes: 2n * GIB } }));
  const uuid = uuidOf(volume.volumeId);
  const image = cluster.image("rbd", `csi-vol-${uuid}`);
  const attributes = cluster.namespace("rbd", "")?.objects.get(`csi.volume.${uuid}`);
  return {
    cluster,
    driver,
    image,
    attributes,
    volumeId: volume.volumeId,
    [Symbol.asyncDispose]: () => driver[Symbol.asyncDispose](),
  };
};

describe("ControllerExpandVolume", () => {
  const ranges: readonly (readonly [what: string, required: bigint, limit: bigint, result: bigint | string])[] = [
    ["grows a volume", 4n * GIB, 0n, 4n * GIB],
    ["grows a volume to the limit", 4n * GIB, 4n * GIB, 4n * GIB],
    ["rounds the size up to the next GiB", 4n * GIB + 1n, 0n, 5n * GIB],
    [
      "rounds the size to MiB where the limit does not permit the next GiB",
      4n * GIB + 1n,
      5n * GIB - 1n,
      4n * GIB + MIB,
    ],
    ["changes nothing when the volume has the requested size", 2n * GIB, 0n, 2n * GIB],
    ["never shrinks a volume, and answers with its size", GIB, 0n, 2n * GIB],
    ["answers with the size of the volume when the request has only a limit", 0n, 2n * GIB, 2n * GIB],
    ["answers OUT_OF_RANGE when the volume is above the limit", GIB, 2n * GIB - 1n, "OUT_OF_RANGE"],
    ["answers OUT_OF_RANGE when the volume is above the limit, and no size is required", 0n, GIB, "OUT_OF_RANGE"],
    ["answers OUT_OF_RANGE to a size above the largest size of an image", (1n << 60n) + 1n, 0n, "OUT_OF_RANGE"],
    ["answers OUT_OF_RANGE when no whole MiB lies in the range", 4n * GIB + 1n, 4n * GIB + 2n, "OUT_OF_RANGE"],
    ["answers INVALID_ARGUMENT when the limit is below the required size", 4n * GIB, 3n * GIB, "INVALID_ARGUMENT"],
    ["answers INVALID_ARGUMENT when the range has neither size nor limit", 0n, 0n, "INVALID_ARGUMENT"],
    ["answers INVALID_ARGUMENT when the required size is negative", -1n, 0n, "INVALID_ARGUMENT"],
    ["answers INVALID_ARGUMENT when the limit is negative", 4n * GIB, -1n, "INVALID_ARGUMENT"],
    ["answers INVALID_ARGUMENT when the limit is alone and is negative", 0n, -1n, "INVALID_ARGUMENT"],
  ];
  for (const [what, requiredBytes, limitBytes, result] of ranges) {
    test(`ControllerExpandVolume ${what} (required ${requiredBytes}, limit ${limitBytes})`, async () => {
      await using at = await world();
      const before = at.cluster.dump();
      const call = at.driver.expandVolume(expansion(at.volumeId, { capacityRange: { requiredBytes, limitBytes } }));
      if (typeof result === "string") {
        expect(await codeOf(call)).toBe(result);
        expect(at.cluster.dump()).toEqual(before);
      } else {
        expect(await call).toEqual({ capacityBytes: result, nodeExpansionRequired: true });
        expect(at.image.sizeBytes).toBe(result);
      }
    });
  }

  test("a repeated ControllerExpandVolume gets the same answer", async () => {
    await using at = await world();
    const first = await at.driver.expandVolume(expansion(at.volumeId));
    const before = at.cluster.dump();
    expect(await at.driver.expandVolume(expansion(at.volumeId))).toEqual(first);
    expect(at.cluster.dump()).toEqual(before);
  });

  test("ControllerExpandVolume grows a volume that is in use", async () => {
    await using at = await world();
    at.cluster.watch("rbd", `csi-vol-${uuidOf(at.volumeId)}`);
    const range = { capacityRange: { requiredBytes: 3n * GIB } };
    expect((await at.driver.expandVolume(expansion(at.volumeId, range))).capacityBytes).toBe(3n * GIB);
  });

  const luks = "csi.volume.encryptKMS";
  const type = "csi.volume.encryptionType";
  const node: readonly (readonly [
    what: string,
    capability: typeof BLOCK | undefined,
    attributes: Record<string, string>,
    required: boolean,
  ])[] = [
    ["when the request names no volume capability", undefined, {}, true],
    ["for a filesystem", MOUNT, {}, true],
    ["for a block volume", BLOCK, {}, false],
    ["for a LUKS block volume", BLOCK, { [luks]: "default", [type]: "block" }, true],
    ["for a LUKS block volume whose entry has no encryption type", BLOCK, { [luks]: "default" }, true],
    ["for a block volume whose files are encrypted", BLOCK, { [luks]: "default", [type]: "file" }, false],
    ["for an encrypted filesystem", MOUNT, { [luks]: "default", [type]: "file" }, true],
  ];
  for (const [what, volumeCapability, attributes, required] of node) {
    test(`ControllerExpandVolume ${required ? "asks for" : "asks for no"} node expansion ${what}`, async () => {
      await using at = await world();
      for (const [key, value] of Object.entries(attributes)) at.attributes?.set(key, value);
      const more = volumeCapability === undefined ? {} : { volumeCapability };
      const answer = await at.driver.expandVolume(expansion(at.volumeId, more));
      expect(answer.nodeExpansionRequired).toBe(required);
    });
  }
});

describe("volumes with integrity", () => {
  const luks = { "csi.volume.encryptKMS": "default", "csi.volume.encryptionType": "block" };
  const encryptedVolume = async (meta: Record<string, string>) => {
    const at = await world();
    for (const [key, value] of Object.entries(luks)) at.attributes?.set(key, value);
    const image = at.cluster.image("rbd", `csi-vol-${uuidOf(at.volumeId)}`);
    for (const [key, value] of Object.entries(meta)) image.meta.set(key, value);
    return at;
  };

  test("After ControllerExpandVolume no node has anything to grow where the layer never grows", async () => {
    const now = { capacityRange: { requiredBytes: 2n * GIB } };
    for (const [meta, required] of [
      [{ "rbd.csi.ceph.com/luks2Integrity": "true" }, false],
      [{}, true],
    ] as const) {
      await using at = await encryptedVolume(meta);
      expect((await at.driver.expandVolume(expansion(at.volumeId, now))).nodeExpansionRequired).toBe(required);
    }
  });

  test.each([
    ["with integrity", { "rbd.csi.ceph.com/luks2Integrity": "true" }, "OUT_OF_RANGE"],
    ["whose layer is being wiped", { ".rbd.csi.ceph.com/wiping": "{}" }, "FAILED_PRECONDITION"],
  ])("ControllerExpandVolume refuses to grow a volume %s, and grows nothing", async (_, meta, code) => {
    await using at = await encryptedVolume(meta);
    const before = at.cluster.dump();
    const more = { capacityRange: { requiredBytes: 3n * GIB } };
    const failure = await failureOf(at.driver.expandVolume(expansion(at.volumeId, more)));
    expect(failure).toMatchObject({ code, message: expect.stringContaining("integrityMode") });
    expect(at.cluster.dump()).toEqual(before);
    const now = { capacityRange: { requiredBytes: 2n * GIB } };
    expect((await at.driver.expandVolume(expansion(at.volumeId, now))).capacityBytes).toBe(2n * GIB);
  });

  test("ControllerExpandVolume grows an encrypted volume without integrity", async () => {
    await using at = await encryptedVolume({ "rbd.csi.ceph.com/luks2HeaderSize": "16777216" });
    const more = { capacityRange: { requiredBytes: 3n * GIB } };
    expect((await at.driver.expandVolume(expansion(at.volumeId, more))).capacityBytes).toBe(3n * GIB);
  });
});

describe("volumes that do not exist", () => {
  const absent: readonly (readonly [what: string, of: (id: string, cluster: MemoryCluster) => string])[] = [
    ["an unknown UUID", (id) => id.replace(uuidOf(id), "b0285c97-a0ce-41eb-8c66-0242ac110002")],
    ["an ID that is not of this driver's form", () => "my-image"],
    ["a pool that is gone", (id) => id.replace("0000000000000002", "0000000000000063")],
    [
      "an image that is gone",
      (id, cluster) => {
        cluster.namespace("rbd", "")?.images.clear();
        return id;
      },
    ],
  ];
  const calls: readonly (readonly [string, (driver: Driver, id: string) => Promise<unknown>])[] = [
    ["ControllerExpandVolume", (driver, id) => driver.expandVolume(expansion(id))],
    [
      "ControllerExpandVolume with a limit",
      (driver, id) =>
        driver.expandVolume(expansion(id, { capacityRange: { requiredBytes: GIB, limitBytes: 9n * GIB } })),
    ],
    ["ValidateVolumeCapabilities", (driver, id) => driver.validate(validation(id))],
  ];
  for (const [rpc, call] of calls) {
    for (const [what, of] of absent) {
      test(`${rpc} answers NOT_FOUND for ${what}`, async () => {
        await using at = await world();
        const id = of(at.volumeId, at.cluster);
        const before = at.cluster.dump();
        const failure = await failureOf(call(at.driver, id));
        expect(failure?.code).toBe("NOT_FOUND");
        expect(failure?.message).toStartWith(`volume ${id} does not exist: `);
        expect(at.cluster.dump()).toEqual(before);
      });
    }

    test(`${rpc} does not answer NOT_FOUND when it can't tell whether the volume exists`, async () => {
      await using at = await world();
      at.cluster.reachable = false;
      expect(await codeOf(call(at.driver, at.volumeId))).toBe("UNAVAILABLE");
      at.cluster.reachable = true;
      expect(await codeOf(call(at.driver, at.volumeId.replace("east", "west")))).toBe("INVALID_ARGUMENT");
    });
  }
});

describe("ValidateVolumeCapabilities", () => {
  test("ValidateVolumeCapabilities confirms the request word for word, and writes nothing", async () => {
    await using at = await world();
    const before = at.cluster.dump();
    const request = validation(at.volumeId, {
      volumeContext: { pool: "rbd", anything: "else" },
      parameters: PARAMETERS,
      mutableParameters: { maxReadIops: "100" },
      volumeCapabilities: [MOUNT, BLOCK, mounted(Mode.SINGLE_NODE_READER_ONLY)],
    });
    expect(await at.driver.validate(request)).toEqual({
      confirmed: {
        volumeContext: request.volumeContext,
        volumeCapabilities: request.volumeCapabilities,
        parameters: request.parameters,
        mutableParameters: request.mutableParameters,
      },
    });
    expect(at.cluster.dump()).toEqual(before);
  });

  test("ValidateVolumeCapabilities confirms no mutable parameter that a volume cannot have", async () => {
    await using at = await world();
    const answer = await at.driver.validate(validation(at.volumeId, { mutableParameters: { some: "thing" } }));
    expect(answer).toEqual({ message: expect.stringContaining('mutable_parameters has the key "some"') });
  });

  for (const mode of [
    Mode.SINGLE_NODE_WRITER,
    Mode.SINGLE_NODE_READER_ONLY,
    Mode.MULTI_NODE_READER_ONLY,
    Mode.MULTI_NODE_SINGLE_WRITER,
    Mode.MULTI_NODE_MULTI_WRITER,
    Mode.SINGLE_NODE_SINGLE_WRITER,
    Mode.SINGLE_NODE_MULTI_WRITER,
  ]) {
    const manyWrite = mode === Mode.MULTI_NODE_MULTI_WRITER;
    test(`ValidateVolumeCapabilities confirms ${Mode[mode]} for block${manyWrite ? " only" : " and filesystems"}`, async () => {
      await using at = await world();
      const block = await at.driver.validate(validation(at.volumeId, { volumeCapabilities: [asBlock(mode)] }));
      expect(block).toHaveProperty("confirmed");
      const files = await at.driver.validate(validation(at.volumeId, { volumeCapabilities: [mounted(mode)] }));
      if (manyWrite) {
        const message = `volume_capabilities[0] asks for ${Mode[mode]} on a filesystem, which several nodes cannot write to at the same time. Use volumeMode Block`;
        expect(files).toEqual({ message });
      } else {
        expect(files).toHaveProperty("confirmed");
      }
    });
  }

  test("ValidateVolumeCapabilities confirms no writers on several nodes of a volume with integrity", async () => {
    await using at = await world();
    const integrity = { encrypted: "true", encryptionCipher: "aes-xts-plain64", integrityMode: "hmac-sha256" };
    const asks = (mode: Mode, more: object = integrity) =>
      at.driver.validate(
        validation(at.volumeId, { volumeContext: { pool: "rbd", ...more }, volumeCapabilities: [asBlock(mode)] }),
      );
    for (const mode of [Mode.MULTI_NODE_MULTI_WRITER, Mode.MULTI_NODE_SINGLE_WRITER]) {
      expect(await asks(mode)).toEqual({
        message: expect.stringContaining(`asks for ${Mode[mode]}, and the volume has`),
      });
      for (const more of [{ integrityMode: "none" }, { encrypted: "false" }, { mapOptions: "krbd:ro" }]) {
        expect(await asks(mode, { ...integrity, ...more })).toHaveProperty("confirmed");
      }
    }
    for (const mode of [Mode.MULTI_NODE_READER_ONLY, Mode.SINGLE_NODE_MULTI_WRITER]) {
      expect(await asks(mode)).toHaveProperty("confirmed");
    }
  });

  test("ValidateVolumeCapabilities confirms no capability when one of several is impossible", async () => {
    await using at = await world();
    const volumeCapabilities = [MOUNT, mounted(Mode.MULTI_NODE_MULTI_WRITER)];
    const answer = await at.driver.validate(validation(at.volumeId, { volumeCapabilities }));
    expect(answer).toEqual({ message: expect.stringContaining("volume_capabilities[1]") });
  });

  test("ValidateVolumeCapabilities looks in the RADOS namespace of the cluster", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { clusters: [{ ...EAST, radosNamespace: "tenant" }] });
    await using outside = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    expect(await driver.validate(validation(volume.volumeId))).toHaveProperty("confirmed");
    expect(await codeOf(outside.validate(validation(volume.volumeId)))).toBe("NOT_FOUND");
  });

  test("ValidateVolumeCapabilities confirms no filesystem that no node mounts", async () => {
    await using at = await world();
    const answer = (capability: MessageInitShape<typeof VolumeCapabilitySchema>) =>
      at.driver.validate(validation(at.volumeId, { volumeCapabilities: [capability] }));
    expect(await answer(formatted("squashfs"))).toEqual({
      message:
        'volume_capabilities[0].mount.fs_type must be one of ext4, xfs, ext3, btrfs, and not "squashfs", which a node mounts for readers only (access mode ReadOnlyMany, or ro in mountOptions)',
    });
    const accessMode = { mode: Mode.MULTI_NODE_READER_ONLY };
    expect(await answer({ ...formatted("squashfs"), accessMode })).toHaveProperty("confirmed");
    expect(await answer({ ...formatted("XFS"), accessMode })).toEqual({
      message: 'volume_capabilities[0].mount.fs_type must be one of ext4, xfs, ext3, btrfs, and not "XFS"',
    });
  });

  test("ValidateVolumeCapabilities confirms xfs on a small image only where data is there already", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(creation({ capacityRange: { requiredBytes: 16n << 20n } }));
    const request = validation(volume.volumeId, { volumeCapabilities: [formatted("xfs")] });
    const message = expect.stringContaining("volume_capabilities asks for xfs on 16777216 bytes");
    expect(await driver.validate(request)).toEqual({ message });
    cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`).write(0n, 4096n);
    expect(await driver.validate(request)).toHaveProperty("confirmed");
  });

  test("ValidateVolumeCapabilities confirms no volume_context that no node takes", async () => {
    await using at = await world();
    const answer = await at.driver.validate(validation(at.volumeId, { volumeContext: { mapOptions: "fuse:x" } }));
    expect(answer).toEqual({ message: expect.stringContaining("volume_context.mapOptions") });
  });

  test("ValidateVolumeCapabilities answers PERMISSION_DENIED to an unknown user", async () => {
    await using at = await world();
    const secrets = { userID: "nobody", userKey: MEMORY_KEY };
    expect(await codeOf(at.driver.validate(validation(at.volumeId, { secrets })))).toBe("PERMISSION_DENIED");
  });
});

describe("ValidateVolumeCapabilities of a static volume", () => {
  const CONTEXT = { clusterID: "east", pool: "rbd", staticVolume: "true", imageFeatures: "layering" };

  test("A static volume is confirmed by the image that its volume_context leads to, and nothing is written", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    await seedImage(cluster, "my-image");
    const before = cluster.dump();
    const request = validation("my-image", { volumeContext: CONTEXT });
    expect((await driver.validate(request)).confirmed?.volumeContext).toEqual(CONTEXT);
    const migrated = { ...CONTEXT, migration: "true", imageName: "my-image" };
    expect(await driver.validate(validation("mig_x", { volumeContext: migrated }))).toHaveProperty("confirmed");
    expect(cluster.dump()).toEqual(before);
  });

  for (const [what, volumeId, context] of [
    ["image is not there", "another-image", CONTEXT],
    ["pool is not there", "my-image", { ...CONTEXT, pool: "nowhere" }],
    ["context does not call it static", "my-image", { ...CONTEXT, staticVolume: "false" }],
    ["context names no pool", "my-image", { clusterID: "east", staticVolume: "true" }],
  ] as const) {
    test(`A static volume whose ${what} does not exist`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      await seedImage(cluster, "my-image");
      expect(await codeOf(driver.validate(validation(volumeId, { volumeContext: context })))).toBe("NOT_FOUND");
    });
  }

  test("A static volume is found in the cluster that stands in for its own", async () => {
    const cluster = aCluster();
    const mapping = {
      elements: [{ clusters: [["gone", "east"]], pools: [] }],
      problems: new Map(),
      remarks: [],
    } as const;
    await using driver = aDriver(cluster, { mapping });
    await seedImage(cluster, "my-image");
    const volumeContext = { ...CONTEXT, clusterID: "gone" };
    expect(await driver.validate(validation("my-image", { volumeContext }))).toHaveProperty("confirmed");
  });
});
