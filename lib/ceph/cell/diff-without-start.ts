/**
 * What may differ between two snapshots, from what each of them has: all of it. For a librbd that can't be told which
 * snapshot to start from, because it has no name. Pure but for the two lists, which it asks for piece by piece.
 *
 * 1. Never less than what differs: where neither snapshot has anything, both read as zeros.
 * 2. What the later one has exists; what the earlier one alone had does not any more.
 * 3. Fewer extents than the limit are all that there are.
 */
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
    const before = read(earlier, at);
    // a full list says nothing of what is behind its last extent
    const ends = [later, before].flatMap(({ extents }) => (extents.length < limit ? [] : [endOf(extents.at(-1))]));
    const end = ends.reduce<bigint | undefined>(
      (least, one) => (least === undefined || one < least ? one : least),
      undefined,
    );
    for (const extent of [...later.extents, ...without(before.extents, later.extents)].toSorted(byOffset)) {
      append(all, cutAt(extent, end));
    }
    if (end === undefined || all.length > limit) return { extents: all.slice(0, limit), sizeBytes: later.sizeBytes };
    at = end;
  }
};

const endOf = (extent: Extent | undefined): bigint => (extent === undefined ? 0n : extent.offset + extent.length);

const byOffset = (a: Extent, b: Extent): number => (a.offset < b.offset ? -1 : 1);

const cutAt = (extent: Extent, end: bigint | undefined): Extent =>
  end === undefined || endOf(extent) <= end ? extent : { ...extent, length: end - extent.offset };

const append = (all: Extent[], extent: Extent): void => {
  if (extent.length <= 0n) return;
  const last = all.at(-1);
  if (last !== undefined && last.exists === extent.exists && endOf(last) === extent.offset) {
    all[all.length - 1] = { ...last, length: last.length + extent.length };
  } else {
    all.push(extent);
  }
};

/** The parts of extents that lie outside of all others; both are in order. */
const without = (extents: readonly Extent[], others: readonly Extent[]): readonly Extent[] => {
  const left: Extent[] = [];
  let first = 0;
  for (const extent of extents) {
    let at = extent.offset;
    while (first < others.length && endOf(others[first]) <= at) first += 1;
    for (let i = first; i < others.length; i++) {
      const other = others[i];
      if (other === undefined || other.offset >= endOf(extent)) break;
      if (other.offset > at) left.push({ offset: at, length: other.offset - at, exists: false });
      at = endOf(other);
    }
    if (at < endOf(extent)) left.push({ offset: at, length: endOf(extent) - at, exists: false });
  }
  return left;
};
