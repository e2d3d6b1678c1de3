/**
 * Whose a snapshot is, on an image that is to be removed.
 *
 * | snapshot | whose | when the image goes |
 * | --- | --- | --- |
 * | kind `user`, with the name that the remover gives: `csi-snap-U@csi-snap-U`, `V-temp@V` | a driver's | removed with it |
 * | kind `user`, transient, proven by the journal: `S@csi-snap-U`, `S@V-temp` | a driver's | cleared before it |
 * | kind `user`, `.rbd-mirror.…`: what a mirror daemon copies a new image from | the daemon's | as librbd does |
 * | kind `user`, any other | a person's | the image stays |
 * | kind `trash`: removed, and kept by its clones | nobody's | goes with the last of them |
 * | kind `group`: a part of the snapshot of an RBD group | its group's | the image stays |
 * | other kinds: of mirroring | librbd's own | as librbd does |
 *
 * A group snapshot is cloned from such parts, so the image stays until all its members are made. Ceph before 20 would move it
 * to the trash, where it can neither be cloned nor removed.
 *
 * Not here: how the journal proves a transient one (lib/volume/leftover-snapshots.ts).
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import type { ImageStatus } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";

const MIRROR_DAEMON = ".rbd-mirror.";

/** A message names so many snapshots, and counts the others. */
const NAMED = 5;

/** Those of kind `user` that are not in `drivers`. */
export const personsSnapshots = (
  { namedSnapshots }: Pick<ImageStatus, "namedSnapshots">,
  drivers: readonly string[],
): readonly string[] => namedSnapshots.filter((name) => !drivers.includes(name) && !name.startsWith(MIRROR_DAEMON));

/** Fails if there is one. */
export const refusePersonsSnapshots = (
  pool: PoolRef,
  imageName: string,
  persons: readonly string[],
): Effect.Effect<void, Precondition> => {
  if (persons.length === 0) return Effect.void;
  const label = imageLabel(pool, imageName);
  const more = persons.length > NAMED ? ` and ${persons.length - NAMED} more` : "";
  return Effect.fail(
    new Precondition({
      subject: `image ${label}`,
      problem: `has ${persons.length === 1 ? "a snapshot" : "snapshots"} that no driver took: ${persons.slice(0, NAMED).join(", ")}${more}`,
      remedy: `Copy what is needed from there, remove ${persons.length === 1 ? "it" : "them"} with "rbd snap rm ${label}@NAME", then retry`,
    }),
  );
};

/** Fails if the image has a part of the snapshot of an RBD group. */
export const refuseGroupSnapshots = (
  pool: PoolRef,
  imageName: string,
  { groupSnapshotCount }: Pick<ImageStatus, "groupSnapshotCount">,
): Effect.Effect<void, Precondition> => {
  if (groupSnapshotCount === 0) return Effect.void;
  const label = imageLabel(pool, imageName);
  return Effect.fail(
    new Precondition({
      subject: `image ${label}`,
      problem: "has a part of the snapshot of an RBD group, as long as a group snapshot is being made of it",
      remedy: `Retry once the group snapshot is ready, or deleted. If there is none, "rbd snap ls --all ${label}" names the group's snapshot: remove it with "rbd group snap remove"`,
    }),
  );
};
