/**
 * Snapshots that copies and snapshots which were cut off have left on a volume: each marks how far its maker had come,
 * and behind it there may be an image that is half made.
 *
 * Not here: finishing them (./copy.ts, lib/snapshot/create.ts). This is for a volume that is deleted, with which they
 * can't be finished; while such a snapshot is there, the trash gives no space back.
 *
 * 1. Only a snapshot that the journal, or ceph-csi's own name, proves to be a driver's goes. Any other one is a person's,
 *    and keeps the volume (lib/images/persons-snapshots.ts).
 * 2. An image that the journal calls complete stays.
 * 3. The image goes first, its snapshot after it: a half-made image without that mark would be taken for whole.
 * 4. No snapshot goes from which an image that stays would lose its data. ceph-csi takes any image of a copy's name for
 *    complete, also one that was cut off before the snapshot knew of it.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { Manager } from "../ceph/manager.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { Precondition } from "../csi/errors.ts";
import type { Purge } from "../images/purge.ts";
import { orRaced, statusIfThere } from "../images/races.ts";
import { removeTemp } from "../images/intermediate.ts";
import { discardUnfinished, type Leftover } from "../images/removal.ts";
import { TRANSIENT_NAME } from "../images/transient-snapshots.ts";
import {
  type Attributes,
  GIVEN_UP,
  giveUp,
  readAttributes,
  release,
  SNAPSHOTS,
  takeOver,
  unreserve,
  VOLUMES,
} from "../journal/journal.ts";

type Needs = DriverSettings | Purge | Manager | Rados | Rbd;

/** Those of the snapshots that a driver left, each with the way to clear it. Changes nothing itself. */
export const leftoverSnapshots = Effect.fn("volume.leftoverSnapshots")(function* (
  pool: PoolRef,
  imageName: string,
  snapshots: readonly string[],
): Effect.fn.Return<readonly Leftover[], CephError, Rados> {
  const left: Leftover[] = [];
  for (const snapshot of snapshots) {
    const [, uuid, temp] = TRANSIENT_NAME.exec(snapshot) ?? [];
    if (uuid === undefined) continue;
    const clear =
      temp === undefined
        ? yield* ofSnapshot(pool, imageName, snapshot, uuid)
        : yield* ofCopy(pool, imageName, snapshot, uuid, snapshot.slice(0, -temp.length));
    if (clear !== undefined) left.push({ snapshot, clear });
  }
  return left;
});

const ofCopy = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  name: string,
  uuid: string,
  copyName: string,
): Effect.fn.Return<Leftover["clear"] | undefined, CephError, Rados> {
  const copy = yield* readAttributes(VOLUMES, pool, uuid);
  if (copy === undefined && !name.startsWith(VOLUMES.defaultImagePrefix)) return undefined;
  return clearOfCopy(pool, imageName, name, { uuid, copyName, copy });
});

const clearOfCopy = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  name: string,
  { uuid, copyName, copy }: { uuid: string; copyName: string; copy: Attributes | undefined },
): Effect.fn.Return<void, CephError | Precondition, Needs> {
  if (copy?.imageId === undefined) {
    // The copy itself, where it is a clone of the volume: only the journal's own word tells that it was never finished.
    if (copy !== undefined && copy.maker !== GIVEN_UP) yield* orRaced(takeOver(VOLUMES, pool, uuid, copy));
    if (copy?.imageName === copyName) yield* discardUnfinished(pool, copyName, Effect.void);
    yield* removeTemp(pool, copyName);
  } else yield* proveKnown(pool, imageName, name, [copyName, name]);
  yield* orRaced((yield* Rbd).snapshotRemove(pool, imageName, name));
});

/** Fails if one of the images reads from the snapshot, and the snapshot, which therefore would be removed, does not know of it. */
const proveKnown = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  snapshot: string,
  clones: readonly string[],
): Effect.fn.Return<void, CephError | Precondition, Rbd> {
  for (const clone of clones) {
    const status = yield* statusIfThere(pool, clone);
    if (status?.parent?.image !== imageName || status.parent.snapshot !== snapshot) continue;
    const known = yield* orRaced((yield* Rbd).snapshotChildren(pool, imageName, snapshot));
    if (known.includes(status.id)) continue;
    const at = imageLabel(pool, clone);
    return yield* new Precondition({
      subject: `image ${imageLabel(pool, imageName)}`,
      problem: `has the snapshot ${snapshot}, from which image ${at} reads without being listed as its clone: it was cut off when it was made, and would lose its data`,
      remedy: `Make ${at} independent ("rbd flatten ${at}"), then delete again`,
    });
  }
});

const ofSnapshot = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  name: string,
  uuid: string,
): Effect.fn.Return<Leftover["clear"] | undefined, CephError, Rados> {
  const snapshot = yield* readAttributes(SNAPSHOTS, pool, uuid);
  if (snapshot?.source !== imageName || snapshot.imageName !== name) return undefined;
  return clearOfSnapshot(pool, imageName, name, uuid, snapshot);
});

const clearOfSnapshot = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  name: string,
  uuid: string,
  { imageId, requestName, maker }: Attributes,
): Effect.fn.Return<void, CephError | Precondition, Needs> {
  if (imageId === undefined) {
    yield* orRaced(giveUp(SNAPSHOTS, pool, uuid, { maker }, false));
    const { namedSnapshots } = yield* orRaced((yield* Rbd).imageStatus(pool, imageName));
    if (!namedSnapshots.includes(name)) {
      // The clone was made meanwhile, and a caller may have been told of it.
      yield* orRaced(release(SNAPSHOTS, pool, uuid));
      return;
    }
    yield* discardUnfinished(pool, name, Effect.void, [name]);
  }
  yield* orRaced((yield* Rbd).snapshotRemove(pool, imageName, name));
  if (imageId !== undefined) return;
  const { instanceId } = yield* DriverSettings;
  yield* unreserve(SNAPSHOTS, pool, instanceId, { uuid, entry: uuid, requestName });
});
