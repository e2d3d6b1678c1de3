// The codec of CSI handles: golden handles, every rule that refuses one, and fuzz for its three invariants.
import { describe, expect, test } from "bun:test";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import { encodeVolumeId, MAX_CLUSTER_ID_BYTES, parseVolumeId, volumeKind } from "../../../lib/csi/volume-id.ts";
import golden from "../../golden/config/volume-ids.json";

const UUID = "8f2b1c44-5d0e-4c1a-9a57-3d2f6e0b7a11";
const GOOD = `0001-0004-east-0000000000000007-${UUID}`;
const refusal = (text: string): string | undefined => {
  const parsed = parseVolumeId(text);
  return Result.isFailure(parsed) ? parsed.failure.reason : undefined;
};

describe("golden handles", () => {
  for (const { id, bytes, clusterId, poolId, uuid } of golden) {
    test(`The golden handle ${id} is encoded and parsed`, () => {
      const parts = { clusterId, poolId: BigInt(poolId), uuid };
      expect(encodeVolumeId(parts)).toEqual(Result.succeed(id));
      expect(parseVolumeId(id)).toEqual(Result.succeed(parts));
      expect(Buffer.byteLength(id)).toBe(bytes);
      expect(volumeKind(id)).toBe("dynamic");
    });
  }
});

describe("handles of other drivers", () => {
  test.each([
    ["another version", GOOD.replace("0001", "00ff")],
    ["upper-case hex and uuid", `0001-0004-east-000000000000000A-${UUID.toUpperCase()}`],
    ["a clusterID with separators and a uuid in it", `0001-0024-${UUID}-0000000000000007-${UUID}`],
    ["the longest clusterID", `0001-0040-${"c".repeat(64)}-0000000000000007-${UUID}`],
    ["a clusterID whose length counts bytes", `0001-0006-Zürich-0000000000000007-${UUID}`.replace("0006", "0007")],
    ["the greatest pool", `0001-0004-east-7fffffffffffffff-${UUID}`],
  ])("The parser reads a handle with %s", (_, id) => {
    expect(refusal(id)).toBeUndefined();
  });

  test("The parser keeps the letter case of the uuid, because the uuid names objects", () => {
    const parsed = Result.getOrThrow(parseVolumeId(GOOD.replace(UUID, UUID.toUpperCase())));
    expect(parsed.uuid).toBe(UUID.toUpperCase());
  });
});

describe("invalid handles", () => {
  test.each([
    ["", "shorter"],
    ["pvc-static-image", "shorter"],
    [GOOD.slice(0, 63), "shorter"],
    [`${GOOD}x`, "does not fit"],
    [GOOD.slice(0, -1), "does not fit"],
    [`0001-0041-${"c".repeat(65)}-0000000000000007-${UUID}`, "longer"],
    ["x".repeat(1_000_000), "longer"],
    ["ü".repeat(70), "longer"],
    [GOOD.replace("0001", "000g"), "version"],
    [GOOD.replace("0004", "+004"), "length of the clusterID"],
    // A length that wraps in 16 bits once ended in a panic.
    [GOOD.replace("0004", "ffff"), "does not fit"],
    [GOOD.replace("0004", "fff5"), "does not fit"],
    [`0001-0000--0000000000000007-${UUID}`, "empty"],
    [GOOD.replace("0001-", "0001_"), "separated"],
    [GOOD.replace("0004-", "0004_"), "separated"],
    [GOOD.replace("east-", "east_"), "separated"],
    [GOOD.replace("7-8f", "7_8f"), "separated"],
    [GOOD.replace("0000000000000007", "000000000000000x"), "pool id is not"],
    [GOOD.replace("0000000000000007", "ffffffffffffffff"), "out of range"],
    [GOOD.replace("8f2b1c44", "8f2b1c4z"), "uuid"],
    [GOOD.replace("8f2b1c44-5d0e", "8f2b1c445-d0e"), "uuid"],
    // A length that ends within the two-byte letter.
    [`0001-0001-ü0000000000000007-${UUID}`, "separated"],
    ["\ud800".repeat(80), "Unicode"],
  ])("The parser refuses the handle %p", (id, reason) => {
    expect(refusal(id)).toContain(reason);
  });

  test.each([
    ["", 1n, UUID, "empty"],
    ["c".repeat(MAX_CLUSTER_ID_BYTES + 1), 1n, UUID, "65 bytes"],
    ["ü".repeat(33), 1n, UUID, "66 bytes"],
    ["\ud800", 1n, UUID, "Unicode"],
    ["east", -1n, UUID, "pool"],
    ["east", 2n ** 63n, UUID, "pool"],
    ["east", 1n, "not-a-uuid", "uuid"],
    ["east", 1n, `${UUID}\n`, "uuid"],
  ])("The encoder refuses cluster %p, pool %p, uuid %p", (clusterId, poolId, uuid, reason) => {
    const encoded = encodeVolumeId({ clusterId, poolId, uuid });
    expect(Result.isFailure(encoded) ? encoded.failure.message : "").toContain(reason);
  });
});

describe("kinds of volume IDs", () => {
  const pool = Buffer.from("rbd_pool").toString("hex");
  test.each([
    [GOOD, "dynamic"],
    [`mig_mons-b7f67366bb43f32e07d8a261a7840da9_image-${UUID}_${pool}`, "migrated"],
    ["image-of-mons-and-mig", "migrated"],
    ["mig_image-x", "other"],
    ["static-image", "other"],
    ["", "other"],
    [`0001-000e-mig-image-mons-0000000000000007-${UUID}`, "dynamic"],
  ])(`The kind of volume ID "%s" is %s`, (id, kind) => {
    expect(volumeKind(id)).toBe(kind as ReturnType<typeof volumeKind>);
  });
});

describe("any text as a handle", () => {
  const anyText = fc.oneof(fc.string({ maxLength: 200, unit: "binary" }), fc.string({ maxLength: 200 }));
  const nearly = fc
    .tuple(fc.nat(GOOD.length), fc.nat(8), fc.string({ maxLength: 12, unit: "binary" }))
    .map(([at, cut, put]) => GOOD.slice(0, at) + put + GOOD.slice(at + cut));

  test("No text makes the parser throw, and a parsed handle is encoded to the same text", () => {
    fc.assert(
      fc.property(fc.oneof(anyText, nearly), (text) => {
        volumeKind(text);
        const parsed = parseVolumeId(text);
        if (Result.isFailure(parsed)) return typeof parsed.failure.message === "string";
        const again = Result.getOrThrow(encodeVolumeId(parsed.success));
        return again.slice(5).toLowerCase() === text.slice(5).toLowerCase();
      }),
      { numRuns: 3000 },
    );
  });

  test("An encoded handle is parsed to the same parts", () => {
    const clusterId = fc
      .string({ minLength: 1, maxLength: 64, unit: "grapheme" })
      .filter((text) => Buffer.byteLength(text) <= MAX_CLUSTER_ID_BYTES);
    const poolId = fc.bigInt({ min: 0n, max: 2n ** 63n - 1n });
    fc.assert(
      fc.property(clusterId, poolId, fc.uuid(), (...[cluster, pool, uuid]) => {
        const parts = { clusterId: cluster, poolId: pool, uuid };
        const text = Result.getOrThrow(encodeVolumeId(parts));
        expect(parseVolumeId(text)).toEqual(Result.succeed(parts));
      }),
      { numRuns: 1000 },
    );
  });
});
