/**
 * What may differ between two snapshots, from what each of them has: all of it. For a librbd that can't be told which
 * snapshot to start from, because it has no name. Pure but for the two lists, which it asks for piece by piece.
 *
 * 1. Never less than what differs: where neither snapshot has anything, both read as zeros.
 * 2. What the later one has exists; what the earlier one alone had does not any more.
 * 3. Fewer extents than the limit are all that there are.
 */
import { append, before, byOffset, endOf, without } from "../ranges.ts";
import type { Extent } from "../rbd.ts";
import type { DiffAnswer } from "./diff.ts";

/** What a snapshot (the later one: undefined) has from an offset on, at most `limit` extents. */
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
    // a full list says nothing of what is behind its last extent
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
