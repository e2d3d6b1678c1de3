/**
 * The snapshots on an image that copies and snapshots of it go through: each is there until its clone is made, or what was
 * cut off is finished.
 *
 * Not here: the proof that one is a driver's, before anything is removed (lib/volume/leftover-snapshots.ts).
 */

/** A driver's name: prefix, UUID, and `-temp` on the snapshot that a copy goes through. */
export const TRANSIENT_NAME = /^.+([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(-temp)?$/;

/** Those of the names that are a driver's, as far as a name tells. */
export const transientAmong = (names: readonly string[]): readonly string[] =>
  names.filter((name) => TRANSIENT_NAME.test(name));
