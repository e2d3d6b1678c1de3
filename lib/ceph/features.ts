/**
 * RBD image features by name and mask, and the `imageFeatures` parameter. Pure.
 *
 * Not here: the features that a kernel or a cluster supports.
 *
 * Invariant: a mask from parseImageFeatures holds every feature that another of its features needs.
 */
import * as Result from "effect/Result";
import { oneLine } from "../text/printable.ts";
import { FEATURE_BITS } from "./feature-bits.ts";

export type FeatureName = keyof typeof FEATURE_BITS;

const isFeatureName = (text: string): text is FeatureName => Object.hasOwn(FEATURE_BITS, text);
const FEATURE_NAMES = Object.keys(FEATURE_BITS).filter(isFeatureName);

/** Features that a request can name. Striping and data-pool follow from other parameters; Ceph sets the rest. */
const REQUESTABLE = [
  "layering",
  "exclusive-lock",
  "object-map",
  "fast-diff",
  "journaling",
  "deep-flatten",
] as const satisfies ReadonlyArray<FeatureName>;
type Requestable = (typeof REQUESTABLE)[number];

const NEEDS: Partial<Record<Requestable, Requestable>> = {
  "object-map": "exclusive-lock",
  "fast-diff": "object-map",
  journaling: "exclusive-lock",
};

const isRequestable = (token: string): token is Requestable => REQUESTABLE.some((name) => name === token);

export interface ImageFeatures {
  readonly names: ReadonlyArray<FeatureName>;
  /** The bits of exactly these features. */
  readonly mask: bigint;
  /** The kernel does not map an image with one of these features: the volume needs `mounter: rbd-nbd`. */
  readonly needsNbd: boolean;
}

/** Reads a comma-separated list, with blanks and line ends around its words. The failure says what to write. */
export const parseImageFeatures = (text: string): Result.Result<ImageFeatures, string> => {
  if (text.trim() === "") return Result.fail(`is empty: leave it out, or write some of ${REQUESTABLE.join(",")}`);
  const names: Array<Requestable> = [];
  for (const word of text.split(",")) {
    const token = word.trim();
    if (!isRequestable(token)) {
      return Result.fail(`unknown feature ${oneLine(token)}: write some of ${REQUESTABLE.join(",")}`);
    }
    if (!names.includes(token)) names.push(token);
  }
  for (const name of names) {
    const needed = NEEDS[name];
    if (needed !== undefined && !names.includes(needed)) return Result.fail(`${name} needs ${needed}: add it`);
  }
  const mask = names.reduce((bits, name) => bits | FEATURE_BITS[name], 0n);
  return Result.succeed({ names, mask, needsNbd: names.includes("journaling") });
};

/** Splits a mask into the names of its bits and the bits without a name. */
export const featureNames = (
  mask: bigint,
): { readonly names: ReadonlyArray<FeatureName>; readonly unknown: bigint } => {
  const names = FEATURE_NAMES.filter((name) => (mask & FEATURE_BITS[name]) !== 0n);
  return { names, unknown: names.reduce((rest, name) => rest & ~FEATURE_BITS[name], mask) };
};
