/** Differences put together from what two snapshots have, against a plain picture of both. */
import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { united } from "../../../lib/ceph/cell/diff-without-start.ts";
import type { Extent } from "../../../lib/ceph/rbd.ts";

const UNITS = 24;
const picture = fc.array(fc.boolean(), { minLength: UNITS, maxLength: UNITS });

const extentsOf = (units: readonly boolean[], from: number): Extent[] => {
  const found: Extent[] = [];
  units.forEach((has, i) => {
    if (!has || i < from) return;
    const last = found.at(-1);
    if (last !== undefined && last.offset + last.length === BigInt(i)) {
      found[found.length - 1] = { ...last, length: last.length + 1n };
    } else {
      found.push({ offset: BigInt(i), length: 1n, exists: true });
    }
  });
  return found;
};

test("Pages of any size make up the whole union of differences, omit no unit, and tell whether each unit still exists", () => {
  fc.assert(
    fc.property(picture, picture, fc.integer({ min: 1, max: 6 }), (later, earlier, limit) => {
      const read = (snapshot: bigint | undefined, offset: bigint) => ({
        extents: extentsOf(snapshot === undefined ? later : earlier, Number(offset)).slice(0, limit),
        sizeBytes: BigInt(UNITS),
      });
      const seen: ("later" | "earlier" | undefined)[] = Array.from({ length: UNITS }, () => undefined);
      for (let offset = 0n; ; ) {
        const { extents } = united({ offset, limit }, read, 1n);
        expect(extents.length).toBeLessThanOrEqual(limit);
        for (const extent of extents) {
          expect(extent.offset).toBeGreaterThanOrEqual(offset);
          offset = extent.offset + extent.length;
          for (let i = extent.offset; i < offset; i++) seen[Number(i)] = extent.exists ? "later" : "earlier";
        }
        if (extents.length < limit) break;
      }
      expect(seen).toEqual(later.map((has, i) => (has ? "later" : earlier[i] === true ? "earlier" : undefined)));
    }),
    { numRuns: 500 },
  );
});
