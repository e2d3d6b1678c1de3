/**
 * Ranges of bytes, and lists of them that ascend and do not overlap. Pure; cells load this: it imports only types.
 */
import type { Extent } from "./rbd.ts";

export interface Range {
  readonly offset: bigint;
  readonly length: bigint;
}

export const endOf = ({ offset, length }: Range): bigint => offset + length;

export const byOffset = (a: Range, b: Range): number => (a.offset < b.offset ? -1 : 1);

/** Cuts ranges at `end`, if there is one. */
export const before = <R extends Range>(end: bigint | undefined, ranges: readonly R[]): readonly R[] =>
  end === undefined
    ? ranges
    : ranges.flatMap((range) => {
        if (range.offset >= end) return [];
        return [endOf(range) <= end ? range : { ...range, length: end - range.offset }];
      });

/** Joins ranges that touch or overlap; they come in the order of their offsets. */
export const joined = (sorted: readonly Range[]): readonly Range[] => {
  const all: Range[] = [];
  for (const { offset, length } of sorted) {
    const last = all.at(-1);
    const end = offset + length;
    if (last === undefined || endOf(last) < offset) all.push({ offset, length });
    else if (endOf(last) < end) all[all.length - 1] = { offset: last.offset, length: end - last.offset };
  }
  return all;
};

/** Adds an extent at the end; joins it with the last one if that ends there and both exist or both do not. */
export const append = (all: Extent[], extent: Extent): void => {
  const last = all.at(-1);
  if (last !== undefined && last.exists === extent.exists && endOf(last) === extent.offset) {
    all[all.length - 1] = { ...last, length: last.length + extent.length };
  } else {
    all.push(extent);
  }
};

/** Cuts the others out of the ranges. */
export const without = (ranges: readonly Range[], others: readonly Range[]): readonly Range[] => {
  const left: Range[] = [];
  const add = (offset: bigint, end: bigint): void => {
    if (offset < end) left.push({ offset, length: end - offset });
  };
  let first = 0;
  for (const range of ranges) {
    let at = range.offset;
    for (let other = others[first]; other !== undefined && endOf(other) <= at; other = others[first]) first += 1;
    for (const other of others.slice(first)) {
      if (other.offset >= endOf(range)) break;
      add(at, other.offset);
      at = endOf(other);
    }
    add(at, endOf(range));
  }
  return left;
};
