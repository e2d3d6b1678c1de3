/**
 * The methods of `Rbd` on snapshots, clones and differences, each one call in a cell.
 *
 * Not here: groups of images (./groups.ts), the calls themselves (lib/ceph/cell/snapshots.ts, clones.ts, diff.ts).
 *
 * 1. Calls that wait for the monitors are made where many can wait, calls that take as long as an image is big where they
 *    hold up no others.
 * 2. Clones, which take ten times as long as most calls, occupy half of the quick cells at most. Those into one pool do not
 *    wait for those into another.
 * 3. Differences occupy half of the slow cells at most, and those of one pool a quarter: a pool that does not answer leaves
 *    turns to the others. One that nobody waits for any more ends as soon as librbd lets it (lib/ceph/cell/diff.ts 6).
 */
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Semaphore from "effect/Semaphore";
import { imageLabel } from "../label.ts";
import type { PoolRef } from "../rados.ts";
import type { SnapshotCalls, SnapshotRef } from "../rbd.ts";
import { type About, type Calls, placeOf } from "./call.ts";

export const snapshotCalls = (
  { call, change, inPool }: Calls,
  longLimit: Duration.Duration,
  clonesAtOnce: number,
  diffsAtOnce: number,
): SnapshotCalls => {
  const clonePermit = permitsByPool(clonesAtOnce);
  const diffPermit = permitsByPool(Math.ceil(diffsAtOnce / 2));
  const anyDiff = Semaphore.makeUnsafe(diffsAtOnce);
  const snapshotKeep = change("snapshotKeep", ["image", "snapshot"], named);
  return {
    snapshotCreate: change("snapshotCreate", ["image", "snapshot", "clients"], waiting),
    snapshotKeep,
    snapshotRemove: removal(snapshotKeep, change("snapshotRemove", ["image", "snapshot"], waiting)),
    trashSnapshotRemove: change("trashSnapshotRemove", ["id", "snapshot", "onlyMarked"], waiting),
    trashSnapshots: call("trashSnapshots", ["id", "onlyMarked"]),
    snapshotChildren: call("snapshotChildren", ["image", "snapshot"], (pool, image, snapshot) => ({
      snapshot: snapshotLabel({ pool, image, snapshot }),
    })),
    snapshots: call("snapshots", ["image"]),
    imageClone: (source, pool, image, spec) =>
      clonePermit(pool).withPermits(1)(
        inPool(
          pool,
          "imageClone",
          image,
          { image, source: { ...source, pool: source.pool.pool, namespace: source.pool.namespace }, spec },
          {
            key: `image ${imageLabel(pool, image)}`,
            changes: true,
            dataPool: spec.dataPool,
            sourcePool: source.pool.pool,
            snapshot: snapshotLabel(source),
          },
        ),
      ),
    cloneDepth: call("cloneDepth", ["image"]),
    imageFlatten: change("imageFlatten", ["image"], { limit: longLimit, pace: "slow" }),
    diff: (source, from, offset, limit) =>
      Effect.suspend(() => {
        const left = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
        const made = inPool(
          source.pool,
          "diff",
          source.image,
          { image: source.image, to: source.snapshot, from, offset, limit, left },
          {
            key: undefined,
            limit: longLimit,
            pace: "slow",
            snapshot: snapshotLabel(source),
            start: from === undefined ? undefined : snapshotLabel({ ...source, snapshot: from }),
            onLeave: () => void Atomics.store(new Int32Array(left), 0, 1),
          },
        );
        return diffPermit(source.pool).withPermits(1)(anyDiff.withPermits(1)(made));
      }),
  };
};

/** So many permits for each pool. */
const permitsByPool = (many: number): ((pool: PoolRef) => Semaphore.Semaphore) => {
  const permits = new Map<string, Semaphore.Semaphore>();
  return ({ access, pool }) => {
    const place = placeOf(access, pool);
    const known = permits.get(place);
    if (known !== undefined) return known;
    const made = Semaphore.makeUnsafe(many);
    permits.set(place, made);
    return made;
  };
};

const named = (pool: PoolRef, image: string, snapshot: string): Partial<About> => ({
  subject: `${imageLabel(pool, image)}@${snapshot}`,
});

const waiting = (pool: PoolRef, image: string, snapshot: string): Partial<About> => ({
  ...named(pool, image, snapshot),
  pace: "waiting",
});

/** Few removals wait for the monitors: not those of snapshots that stay for their clones. */
const removal =
  (keep: SnapshotCalls["snapshotKeep"], remove: SnapshotCalls["snapshotRemove"]): typeof remove =>
  (...of) =>
    Effect.flatMap(keep(...of), (kept) => (kept ? Effect.void : remove(...of)));

const snapshotLabel = ({ pool, image, snapshot }: SnapshotRef): string =>
  `${imageLabel(pool, image)}@${typeof snapshot === "bigint" ? `#${snapshot}` : snapshot}`;
