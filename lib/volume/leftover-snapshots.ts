/**
 * What copies and snapshots that were cut off have left on the volume that they were made of: the snapshot that marks
 * how far they had come, and behind it an image that may be half made.
 *
 * Not here: finishing them (./copy.ts, lib/snapshot/create.ts). This is for a volume that is deleted, and with it they
 * can't be; while such a snapshot is there, the trash gives no space back.
 *
 * 1. Only what the journal, or ceph-csi's own name, proves to be a driver's. What a person made stays.
 * 2. What the journal calls complete keeps its image.
 * 3. The image goes first, the mark after it: a half-made image without its mark would be taken for whole.
 */
import * as Effect from "effect/Effect";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { orRaced } from "../images/races.ts";
import { discardUnfinished } from "../images/removal.ts";
import { readAttributes, SNAPSHOTS, unreserve, VOLUMES } from "../journal/journal.ts";

const NAME = /^.+([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(-temp)?$/;

export const dropMarks = (instanceId: string, pool: PoolRef, imageName: string, image: ImageStatus) =>
  Effect.gen(function* () {
    if (image.snapshotCount === 0) return;
    const rbd = yield* Rbd;
    for (const { kind, name } of yield* orRaced(rbd.snapshots(pool, imageName))) {
      const [, uuid, temp] = NAME.exec(name) ?? [];
      if (kind !== "user" || uuid === undefined) continue;
      const dropMark = orRaced(rbd.snapshotRemove(pool, imageName, name));
      if (temp !== undefined) {
        const copy = yield* readAttributes(VOLUMES, pool, uuid);
        if (copy === undefined && !name.startsWith(VOLUMES.defaultImagePrefix)) continue;
        if (copy?.imageId === undefined) yield* discardUnfinished(pool, name, [name.slice(0, -temp.length)]);
        yield* dropMark;
        continue;
      }
      const snapshot = yield* readAttributes(SNAPSHOTS, pool, uuid);
      if (snapshot?.source !== imageName || snapshot.imageName !== name) continue;
      const { imageId, requestName } = snapshot;
      if (imageId === undefined) yield* discardUnfinished(pool, name, [name]);
      yield* dropMark;
      if (imageId === undefined) yield* unreserve(SNAPSHOTS, pool, instanceId, { uuid, entry: uuid, requestName });
    }
  });
