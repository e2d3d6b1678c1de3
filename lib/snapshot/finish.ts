/**
 * The image that holds a snapshot, from the moment that its data is safe: makes it ready for restores and records it as
 * complete. Also the undo of a snapshot's reservation.
 *
 * Not here: how the image gets its data (./create.ts, lib/group/create.ts), and its removal (./delete.ts).
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { Conflict } from "../csi/errors.ts";
import { Flatten } from "../images/flatten.ts";
import { snapshotMetadata } from "../images/metadata.ts";
import type { Purge } from "../images/purge.ts";
import { orRaced } from "../images/races.ts";
import { SNAPSHOTS, unreserve } from "../journal/journal.ts";
import { stage } from "../operations/pipeline.ts";

/** The image that holds a snapshot: a clone of the source volume's image. */
export interface SnapshotImage {
  readonly pool: PoolRef;
  readonly uuid: string;
  readonly imageName: string;
}

/**
 * Makes the snapshot on the image that restores clone from; then writes the image's ID into the journal, which comes
 * last because it means "ready".
 */
export const makeReady = Effect.fn("snapshot.makeReady")(function* (
  { pool, imageName }: SnapshotImage,
  { complete }: { readonly complete: (imageId: string) => Effect.Effect<void, CephError, Purge | Rados | Rbd> },
  imageId: string,
  parameters: Readonly<Record<string, string>>,
): Effect.fn.Return<void, CephError, Rbd | Rados | Flatten | DriverSettings | Purge> {
  const rbd = yield* Rbd;
  const settings = yield* DriverSettings;
  // Only this snapshot uses the image: another driver that removes it deletes the snapshot, or begins anew.
  const own = <A, R>(name: string, call: Effect.Effect<A, CephError, R>) => stage(name, orRaced(call));
  const snapshot = rbd.snapshotCreate(pool, imageName, imageName, "unasked");
  yield* own(
    "make ready",
    Effect.catchTag(snapshot, "Exists", () => Effect.void),
  );
  yield* own("commit", rbd.imageMetaSet(pool, imageName, snapshotMetadata(settings, parameters)));
  yield* own("commit", complete(imageId));
  const depth = yield* own("limit chain", rbd.cloneDepth(pool, imageName));
  if (depth < Math.max(1, settings.cloneDepth.softDepth)) return;
  yield* own("limit chain", (yield* Flatten).request(pool, imageName));
});

/** Undoes the reservation of a snapshot whose image does not exist; fails while it does. */
export const undoReservation = Effect.fn("snapshot.undoReservation")(function* (
  { pool, uuid, imageName }: SnapshotImage,
  requestName: string,
): Effect.fn.Return<void, CephError | Conflict, Rbd | Rados | DriverSettings> {
  const { instanceId } = yield* DriverSettings;
  if ((yield* (yield* Rbd).imageId(pool, imageName)) !== undefined) {
    return yield* new Conflict({ subject: `image ${imageLabel(pool, imageName)}`, problem: "still exists" });
  }
  yield* unreserve(SNAPSHOTS, pool, instanceId, { uuid, entry: uuid, requestName });
});
