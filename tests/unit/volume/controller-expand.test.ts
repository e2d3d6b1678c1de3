/** ControllerExpandVolume and ValidateVolumeCapabilities. */
import { describe, expect, test } from "bun:test";
import { MEMORY_KEY, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aCluster,
  asBlock,
  codeOf,
  creation,
  EAST,
  expansion,
  failureOf,
  GIB,
  MIB,
  MOUNT,
  mounted,
  PARAMETERS,
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
    ["grows", 4n * GIB, 0n, 4n * GIB],
    ["grows to its limit", 4n * GIB, 4n * GIB, 4n * GIB],
    ["rounds up to the next GiB", 4n * GIB + 1n, 0n, 5n * GIB],
    ["rounds to MiB where a limit is in the way", 4n * GIB + 1n, 5n * GIB - 1n, 4n * GIB + MIB],
    ["changes nothing when it is that size", 2n * GIB, 0n, 2n * GIB],
    ["never shrinks: tells the size that there is", GIB, 0n, 2n * GIB],
    ["tells the size when only a limit is said", 0n, 2n * GIB, 2n * GIB],
    ["is OUT_OF_RANGE when the volume is above the limit", GIB, 2n * GIB - 1n, "OUT_OF_RANGE"],
    ["is OUT_OF_RANGE when the volume is above the only limit", 0n, GIB, "OUT_OF_RANGE"],
    ["is OUT_OF_RANGE above what an image can be", (1n << 60n) + 1n, 0n, "OUT_OF_RANGE"],
    ["is OUT_OF_RANGE when no size lies in the range", 4n * GIB + 1n, 4n * GIB + 2n, "OUT_OF_RANGE"],
    ["is INVALID_ARGUMENT when the range is empty", 4n * GIB, 3n * GIB, "INVALID_ARGUMENT"],
    ["is INVALID_ARGUMENT when nothing is said", 0n, 0n, "INVALID_ARGUMENT"],
    ["is INVALID_ARGUMENT when a size is negative", -1n, 0n, "INVALID_ARGUMENT"],
    ["is INVALID_ARGUMENT when a limit is negative", 4n * GIB, -1n, "INVALID_ARGUMENT"],
    ["is INVALID_ARGUMENT when the only limit is negative", 0n, -1n, "INVALID_ARGUMENT"],
  ];
  for (const [what, requiredBytes, limitBytes, result] of ranges) {
    test(`${what} (required ${requiredBytes}, limit ${limitBytes})`, async () => {
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

  test("gives the same answer again", async () => {
    await using at = await world();
    const first = await at.driver.expandVolume(expansion(at.volumeId));
    const before = at.cluster.dump();
    expect(await at.driver.expandVolume(expansion(at.volumeId))).toEqual(first);
    expect(at.cluster.dump()).toEqual(before);
  });

  test("grows a volume that is in use", async () => {
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
    ["when nothing is said of its use", undefined, {}, true],
    ["for a filesystem", MOUNT, {}, true],
    ["for a block volume", BLOCK, {}, false],
    ["for a LUKS block volume", BLOCK, { [luks]: "default", [type]: "block" }, true],
    ["for a LUKS block volume from before there were types", BLOCK, { [luks]: "default" }, true],
    ["for a block volume whose files are encrypted", BLOCK, { [luks]: "default", [type]: "file" }, false],
    ["for an encrypted filesystem", MOUNT, { [luks]: "default", [type]: "file" }, true],
  ];
  for (const [what, volumeCapability, attributes, required] of node) {
    test(`${required ? "needs" : "does not need"} the node's part ${what}`, async () => {
      await using at = await world();
      for (const [key, value] of Object.entries(attributes)) at.attributes?.set(key, value);
      const more = volumeCapability === undefined ? {} : { volumeCapability };
      const answer = await at.driver.expandVolume(expansion(at.volumeId, more));
      expect(answer.nodeExpansionRequired).toBe(required);
    });
  }
});

describe("of what is not there", () => {
  const absent: readonly (readonly [what: string, of: (id: string, cluster: MemoryCluster) => string])[] = [
    ["an unknown UUID", (id) => id.replace(uuidOf(id), "b0285c97-a0ce-41eb-8c66-0242ac110002")],
    ["no ID of ours", () => "my-image"],
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
      test(`${rpc} is NOT_FOUND: ${what}`, async () => {
        await using at = await world();
        const id = of(at.volumeId, at.cluster);
        const before = at.cluster.dump();
        const failure = await failureOf(call(at.driver, id));
        expect(failure?.code).toBe("NOT_FOUND");
        expect(failure?.message).toStartWith(`volume ${id} does not exist: `);
        expect(at.cluster.dump()).toEqual(before);
      });
    }

    test(`${rpc} is not NOT_FOUND when that is open`, async () => {
      await using at = await world();
      at.cluster.reachable = false;
      expect(await codeOf(call(at.driver, at.volumeId))).toBe("UNAVAILABLE");
      at.cluster.reachable = true;
      expect(await codeOf(call(at.driver, at.volumeId.replace("east", "west")))).toBe("INVALID_ARGUMENT");
    });
  }
});

describe("ValidateVolumeCapabilities", () => {
  test("confirms what it was asked, word for word, and writes nothing", async () => {
    await using at = await world();
    const before = at.cluster.dump();
    const request = validation(at.volumeId, {
      volumeContext: { pool: "rbd", anything: "else" },
      parameters: PARAMETERS,
      mutableParameters: { some: "thing" },
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

  for (const mode of [
    Mode.SINGLE_NODE_WRITER,
    Mode.SINGLE_NODE_READER_ONLY,
    Mode.MULTI_NODE_READER_ONLY,
    Mode.MULTI_NODE_SINGLE_WRITER,
    Mode.MULTI_NODE_MULTI_WRITER,
    Mode.SINGLE_NODE_SINGLE_WRITER,
    Mode.SINGLE_NODE_MULTI_WRITER,
  ]) {
    const manyWrite = mode === Mode.MULTI_NODE_SINGLE_WRITER || mode === Mode.MULTI_NODE_MULTI_WRITER;
    test(`confirms ${Mode[mode]} for block${manyWrite ? " only" : " and filesystems"}`, async () => {
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

  test("confirms none when one of several can't be had", async () => {
    await using at = await world();
    const volumeCapabilities = [MOUNT, mounted(Mode.MULTI_NODE_MULTI_WRITER)];
    const answer = await at.driver.validate(validation(at.volumeId, { volumeCapabilities }));
    expect(answer).toEqual({ message: expect.stringContaining("volume_capabilities[1]") });
  });

  test("looks in the namespace of the cluster", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { clusters: [{ ...EAST, radosNamespace: "tenant" }] });
    await using outside = aDriver(cluster);
    const { volume } = await driver.createVolume(creation());
    expect(await driver.validate(validation(volume.volumeId))).toHaveProperty("confirmed");
    expect(await codeOf(outside.validate(validation(volume.volumeId)))).toBe("NOT_FOUND");
  });

  test("is PERMISSION_DENIED for a wrong key", async () => {
    await using at = await world();
    const secrets = { userID: "nobody", userKey: MEMORY_KEY };
    expect(await codeOf(at.driver.validate(validation(at.volumeId, { secrets })))).toBe("PERMISSION_DENIED");
  });
});
