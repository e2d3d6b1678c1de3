/**
 * Takes cephx keys out of texts, for all tools and libraries in one place: the output of a tool where it is read, and every
 * text that leaves the process, which is the status of a call, a line of the log, and the error of a span. Pure.
 *
 * Not here: requests in the log, whose secret fields the contract marks (lib/grpc/mask.ts).
 *
 * 1. A key is known by its form: base64 of a type (1 or 2, 16 bits), the time at which it was made, a length, and the
 *    secret. One that was cut short or has more at its end is masked as well.
 * 2. A text that Ceph quotes as a key is masked in any form, because Ceph quotes those that it cannot read.
 */

const HIDDEN = "***";
const KEY = /A[Qg][A-D][A-Za-z0-9+/]{21,}={0,2}/g;
const QUOTED_KEY = /\bkey '[^']*'/g;

/** `known` are keys that the text may hold in whatever form they have. */
export const maskKeys = (text: string, ...known: readonly string[]): string =>
  known
    .filter((key) => key !== "")
    .reduce((masked, key) => masked.replaceAll(key, HIDDEN), text)
    .replaceAll(KEY, HIDDEN)
    .replaceAll(QUOTED_KEY, `key '${HIDDEN}'`);
