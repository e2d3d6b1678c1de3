/**
 * Snapshots that copies and snapshots which were cut off have left on a volume: each marks how far its maker had come,
 * and behind it there may be an image that is half made.
 *
 * Not here: finishing them (./copy.ts, lib/snapshot/create.ts). This is for a volume that is deleted, with which they
 * can't be finished; while such a snapshot is there, the trash gives no space back.
 *
 * 1. Only a snapshot that the journal, or ceph-csi's own name, proves to be a driver's goes. A person's stays.
 * 2. An image that the journal calls complete stays.
 * 3. The image goes first, its snapshot after it: a half-made image without that mark would be taken for whole.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import type { Precondition } from "../csi/errors.ts";
import type { Purge } from "../images/purge.ts";
import { orRaced } from "../images/races.ts";
import { discardUnfinished } from "../images/removal.ts";
import { readAttributes, SNAPSHOTS, unreserve, VOLUMES } from "../journal/journal.ts";

/** A driver's name: prefix, UUID, and `-temp` on the snapshot that a copy goes through. */
const NAME = /^.+([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(-temp)?$/;

type Needs = DriverSettings | Purge | Rados | Rbd;

export const removeLeftoverSnapshots = Effect.fn("volume.removeLeftoverSnapshots")(function* (
  pool: PoolRef,
  imageName: string,
  image: ImageStatus,
): Effect.fn.Return<void, CephError | Precondition, Needs> {
  if (image.snapshotCount === 0) return;
  const rbd = yield* Rbd;
  for (const { kind, name } of yield* orRaced(rbd.snapshots(pool, imageName))) {
    const [, uuid, temp] = NAME.exec(name) ?? [];
    if (kind !== "user" || uuid === undefined) continue;
    yield* temp === undefined
      ? removeOfSnapshot(pool, imageName, name, uuid)
      : removeOfCopy(pool, imageName, name, uuid, name.slice(0, -temp.length));
  }
});

const removeOfCopy = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  name: string,
  uuid: string,
  copyName: string,
) {
  const copy = yield* readAttributes(VOLUMES, pool, uuid);
  if (copy === undefined && !name.startsWith(VOLUMES.defaultImagePrefix)) return;
  if (copy?.imageId === undefined) yield* discardUnfinished(pool, name, [copyName]);
  yield* orRaced((yield* Rbd).snapshotRemove(pool, imageName, name));
});

const removeOfSnapshot = Effect.fnUntraced(function* (pool: PoolRef, imageName: string, name: string, uuid: string) {
  const snapshot = yield* readAttributes(SNAPSHOTS, pool, uuid);
  if (snapshot?.source !== imageName || snapshot.imageName !== name) return;
  const { imageId, requestName } = snapshot;
  if (imageId === undefined) yield* discardUnfinished(pool, name, [name]);
  yield* orRaced((yield* Rbd).snapshotRemove(pool, imageName, name));
  if (imageId !== undefined) return;
  const { instanceId } = yield* DriverSettings;
  yield* unreserve(SNAPSHOTS, pool, instanceId, { uuid, entry: uuid, requestName });
});
