/**
 * Lists everything that either of two snapshots holds as their difference, for a librbd that cannot start at a snapshot
 * without a name. Pure except that it reads the two lists piece by piece.
 *
 * 1. It never lists less than what differs: where neither snapshot holds anything, both read as zeros.
 * 2. What the later snapshot holds exists; what only the earlier one held does not exist any more.
 * 3. An answer with fewer extents than the limit is complete.
 */
import { append, before, byOffset, endOf, without } from "../ranges.ts";
import type { Extent } from "../rbd.ts";

/** Lists what a snapshot (the later one: undefined) holds from an offset on, at most `limit` extents. */
type Read = (snapshot: bigint | undefined, offset: bigint) => DiffAnswer;

export const united = (
  { offset, limit }: { readonly offset: bigint; readonly limit: number },
  read: Read,
  earlier: bigint,
): DiffAnswer => {
  const all: Extent[] = [];
  for (let at = offset; ; ) {
    const later = read(undefined, at);
    const had = read(earlier, at);
    // a full list leaves open what is behind its last extent
    const ends = [later, had].flatMap(({ extents }) => {
      const last = extents.length < limit ? undefined : extents.at(-1);
      return last === undefined ? [] : [endOf(last)];
    });
    const end = ends.toSorted((a, b) => (a < b ? -1 : 1))[0];
    const gone = without(had.extents, later.extents).map((range) => ({ ...range, exists: false }));
    for (const extent of before(end, [...later.extents, ...gone].toSorted(byOffset))) append(all, extent);
    if (end === undefined || all.length > limit) return { extents: all.slice(0, limit), sizeBytes: later.sizeBytes };
    at = end;
  }
};

export interface DiffAnswer {
  readonly extents: readonly Extent[];
  readonly sizeBytes: bigint;
}
