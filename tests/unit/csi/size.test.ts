// Sizes: the rounding table of ceph-csi, the limits it ignored, and fuzz for the invariants.
import { describe, expect, test } from "bun:test";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import { chooseSize, DEFAULT_SIZE, GIB, MAX_SIZE, MIB, roundUp } from "../../../lib/csi/size.ts";

test.each([
  [0n, 0n],
  [1n, MIB],
  [MIB, MIB],
  [MIB + 1n, 2n * MIB],
  [GIB - 1n, GIB],
  [GIB, GIB],
  [GIB + 1n, 2n * GIB],
  [GIB + GIB / 2n, 2n * GIB],
  [5n * GIB, 5n * GIB],
])("A size of %p bytes is rounded up to %p", (bytes, rounded) => {
  expect(roundUp(bytes)).toBe(rounded);
});

const KIB = 1024n;
describe("the capacity range", () => {
  test.each<[string, bigint | undefined, bigint | undefined, bigint | string]>([
    ["nothing said", undefined, undefined, GIB],
    ["zeroes", 0n, 0n, GIB],
    ["required only", GIB + 1n, undefined, 2n * GIB],
    ["limit only, above the default", 0n, 5n * GIB, GIB],
    ["limit only, the default itself", 0n, GIB, GIB],
    ["limit only, below the default", 0n, 10n * MIB + 5n, 10n * MIB],
    ["limit only, the smallest", 0n, MIB, MIB],
    ["limit below the smallest", 0n, MIB - 1n, "SizeOutOfRange"],
    ["both, the rounded fits", GIB + 1n, 2n * GIB, 2n * GIB],
    ["both, only MiB fit", GIB + 1n, GIB + MIB, GIB + MIB],
    ["both equal, whole MiB", GIB + 512n * MIB, GIB + 512n * MIB, GIB + 512n * MIB],
    ["both equal, no whole MiB", GIB + KIB, GIB + KIB, "SizeOutOfRange"],
    ["both, no whole MiB between", 5n * MIB + 1n, 6n * MIB - 1n, "SizeOutOfRange"],
    ["limit below required", 2n * GIB, GIB, "InvalidSize"],
    ["negative required", -1n, 0n, "InvalidSize"],
    ["negative limit", 0n, -1n, "InvalidSize"],
    ["the largest", MAX_SIZE, 0n, MAX_SIZE],
    ["above the largest", MAX_SIZE + 1n, 0n, "SizeOutOfRange"],
    ["the end of int64", 2n ** 63n - 1n, 2n ** 63n - 1n, "SizeOutOfRange"],
    ["any limit above", GIB, 2n ** 63n - 1n, GIB],
  ])("A size is chosen or refused for a capacity range: %s", (_, requiredBytes, limitBytes, expected) => {
    const chosen = chooseSize({ requiredBytes, limitBytes });
    const outcome: bigint | string = Result.isSuccess(chosen) ? chosen.success : chosen.failure._tag;
    expect(outcome).toBe(expected);
  });

  test("The refusal of a capacity range shows both numbers", () => {
    const chosen = chooseSize({ requiredBytes: 2n * GIB, limitBytes: GIB });
    expect(Result.isFailure(chosen) ? chosen.failure.message : "").toBe(
      "invalid capacity range: limit_bytes 1073741824 is below required_bytes 2147483648",
    );
  });

  test("Any chosen size is in the range and a whole number of MiB, and follows ceph-csi's rounding without a limit", () => {
    const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
    const modest = fc.bigInt({ min: 0n, max: 4n * GIB });
    const bytes = fc.oneof(int64, modest, fc.constant(0n));
    fc.assert(
      fc.property(bytes, bytes, (requiredBytes, limitBytes) => {
        const chosen = chooseSize({ requiredBytes, limitBytes });
        if (Result.isFailure(chosen)) return;
        const size = chosen.success;
        expect(size % MIB).toBe(0n);
        expect(size >= MIB && size >= requiredBytes && size <= MAX_SIZE).toBe(true);
        if (limitBytes > 0n) expect(size <= limitBytes).toBe(true);
        else expect(size).toBe(requiredBytes === 0n ? DEFAULT_SIZE : roundUp(requiredBytes));
      }),
      { numRuns: 2000 },
    );
  });
});
