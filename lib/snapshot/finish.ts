/**
 * The image that holds a snapshot, from the moment that its data is safe: made ready for restores and recorded as
 * complete; and its reservation, undone while there is no image.
 *
 * Not here: how the image comes to its data (./create.ts, lib/group/create.ts), and its removal (./delete.ts).
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { VolumeOptions } from "../config/settings.ts";
import { Conflict } from "../csi/errors.ts";
import { Flatten } from "../images/flatten.ts";
import { snapshotMetadata } from "../images/metadata.ts";
import { orRaced } from "../images/races.ts";
import { SNAPSHOTS, storeImageId, unreserve } from "../journal/journal.ts";
import { stage } from "../operations/pipeline.ts";

export interface Holder {
  readonly pool: PoolRef;
  readonly uuid: string;
  readonly imageName: string;
}

/** The snapshot that restores clone from; then the image's ID in the journal, which is written last and means ready. */
export const makeReady = (
  options: VolumeOptions,
  { pool, uuid, imageName }: Holder,
  image: ImageStatus,
  parameters: Readonly<Record<string, string>>,
) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    // The holder is nobody's but this snapshot's: who takes it away deletes it, or begins anew.
    const ours = <A, R>(name: string, call: Effect.Effect<A, CephError, R>) => stage(name, orRaced(call));
    const own = rbd.snapshotCreate(pool, imageName, imageName, "unasked");
    yield* ours(
      "make ready",
      Effect.catchTag(own, "Exists", () => Effect.void),
    );
    yield* ours("commit", rbd.imageMetaSet(pool, imageName, snapshotMetadata(options, parameters)));
    yield* ours("commit", storeImageId(SNAPSHOTS, pool, uuid, image.id));
    const depth = yield* ours("limit chain", rbd.cloneDepth(pool, imageName));
    const { softDepth } = options.cloneDepth;
    if (depth >= Math.max(1, softDepth)) yield* ours("limit chain", (yield* Flatten).request(pool, imageName));
  });

export const undoReservation = (
  { instanceId }: VolumeOptions,
  { pool, uuid, imageName }: Holder,
  requestName: string,
) =>
  Effect.gen(function* () {
    const left = yield* (yield* Rbd).imageId(pool, imageName);
    if (left !== undefined) {
      return yield* new Conflict({ subject: "", problem: `image ${imageLabel(pool, imageName)} is still there` });
    }
    yield* unreserve(SNAPSHOTS, pool, instanceId, { uuid, entry: uuid, requestName });
  });
