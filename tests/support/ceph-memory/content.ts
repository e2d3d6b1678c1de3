/**
 * The content of an image in memory: for each range, the write that made it, in place of bytes. Two ranges hold the same
 * bytes exactly if the same write made them. So a test sees whose data a clone has, and a diff needs no data.
 *
 * 1. Ranges are disjoint, not empty, and in the order of their offsets; a content is never changed, only replaced.
 * 2. A range without a stamp was discarded: it hides what a parent has there.
 */
import { append } from "../../../lib/ceph/ranges.ts";
import type { Extent } from "../../../lib/ceph/rbd.ts";

export interface Range {
  readonly offset: bigint;
  readonly end: bigint;
  /** Names the write that made it; "" where it was discarded. */
  readonly stamp: string;
}

export type Content = readonly Range[];

/** Stands for bytes that are all zero and take space. */
export const ZEROS = "zeros";

/** Cuts `offset` to `end` out of the content. */
const without = (content: Content, offset: bigint, end: bigint): Content =>
  content.flatMap((range) => {
    if (range.end <= offset || range.offset >= end) return [range];
    const left = range.offset < offset ? [{ ...range, end: offset }] : [];
    return range.end > end ? [...left, { ...range, offset: end }] : left;
  });

export const put = (content: Content, range: Range): Content =>
  range.offset >= range.end
    ? content
    : [...without(content, range.offset, range.end), range].toSorted((a, b) => (a.offset < b.offset ? -1 : 1));

/** The content that is read through `upper` from `lower`, without discarded ranges. */
export const overlay = (upper: Content, lower: Content): Content =>
  (lower.length === 0 ? upper : upper.reduce(put, lower)).filter(({ stamp }) => stamp !== "");

/**
 * Lists where `to` differs from `from`, from `offset` on, neighbours joined. Both have no discarded ranges.
 */
export const difference = (from: Content, to: Content, offset: bigint): readonly Extent[] => {
  const ends = [...from, ...to].flatMap((range) => [range.offset, range.end]);
  const points = [...new Set([offset, ...ends])].filter((at) => at >= offset).toSorted((a, b) => (a < b ? -1 : 1));
  const stampIn = (content: Content) => {
    let next = 0;
    return (at: bigint): string => {
      while ((content[next]?.end ?? at + 1n) <= at) next += 1;
      const range = content[next];
      return range !== undefined && range.offset <= at ? range.stamp : "";
    };
  };
  const before = stampIn(from);
  const after = stampIn(to);
  const extents: Extent[] = [];
  for (const [i, at] of points.entries()) {
    const end = points[i + 1];
    const stamp = after(at);
    if (before(at) === stamp || end === undefined) continue;
    append(extents, { offset: at, length: end - at, exists: stamp !== "" });
  }
  return extents;
};

/** The content without its ranges of zeros, as far as they fill whole objects. Where it hides a parent they stay hidden. */
export const sparsified = (content: Content, objectSize: bigint, hides: boolean): Content =>
  content
    .filter(({ stamp }) => stamp === ZEROS)
    .reduce((left, { offset, end }) => {
      const first = ((offset + objectSize - 1n) / objectSize) * objectSize;
      const last = (end / objectSize) * objectSize;
      if (first >= last) return left;
      return hides ? put(left, { offset: first, end: last, stamp: "" }) : without(left, first, last);
    }, content);

export const bytesOf = (content: Content): bigint =>
  content.reduce((sum, { offset, end, stamp }) => (stamp === "" ? sum : sum + end - offset), 0n);

/** As a dump shows it: `offset+length stamp`. */
export const showContent = (content: Content): readonly string[] =>
  content.map(({ offset, end, stamp }) => `${offset}+${end - offset} ${stamp === "" ? "discarded" : stamp}`);
