/**
 * Looks after the images in the trash that the manager was given to remove. It tries a task that fails again for ever, and says
 * so to nobody who does not ask; and it may take tasks and do none, for example when its thread for them has died.
 *
 * Not here: what is given to it, and when (./purge.ts); which tasks there are (./trash-sweep.ts).
 *
 * 1. An image whose task fails is looked at: snapshots of drivers are removed, and those of persons are named. Which ones
 *    says ./trashed-snapshots.ts.
 * 2. An image with a driver's mark whose task has waited, or failed, for `PATIENCE_MS` the driver removes itself, unless
 *    snapshots keep it. That the manager does so, too, is harmless.
 * 3. One image is looked at once in `PATIENCE_MS`, and few at one time.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel, poolLabel } from "../ceph/label.ts";
import type { ManagerTask } from "../ceph/manager.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { unattended } from "../operations/unattended.ts";
import { type InTrash, type Keeping, notSeen } from "./trashed-snapshots.ts";

const PATIENCE_MS = 3_600_000;
const LOOKS_AT_ONCE = 64;

/** An image that the manager has a task for. */
export interface Given extends InTrash {
  readonly task: ManagerTask;
}

interface Known {
  /** Milliseconds since the epoch: the first time that the task was seen, and the last look at the image. */
  readonly since: number;
  lookedAt: number;
}

/** `clear` removes drivers' snapshots and says what is left of others; `own` has the driver remove the image. */
export const makeTending = (
  clear: (image: InTrash) => Effect.Effect<Keeping | undefined, CephError>,
  own: (image: InTrash) => Effect.Effect<void>,
) => {
  const pools = new Map<string, Map<string, Known>>();

  const look = Effect.fnUntraced(function* (image: Given, waited: number) {
    const keeping = yield* clear(image);
    if (keeping === undefined || keeping.forNow || keeping.persons.length > 0) return;
    if (image.mark === undefined || waited < PATIENCE_MS) return;
    const { failure } = image.task;
    const reason = failure === undefined ? "it has not begun for an hour" : `it fails: ${failure}`;
    yield* Effect.logWarning(
      `the driver removes image ${imageLabel(image.pool, image.id)} (${image.name}) from the trash itself: the manager has the task ${image.task.id} for it, and ${reason}`,
    );
    yield* own(image);
  });

  /** `given`: all that the manager has of the pool. */
  return Effect.fnUntraced(function* (pool: PoolRef, given: readonly Given[]): Effect.fn.Return<void> {
    const now = yield* Clock.currentTimeMillis;
    const key = `${pool.access.monitors.join(",")} ${poolLabel(pool)}`;
    const before = pools.get(key);
    const known = new Map(given.map(({ id }) => [id, before?.get(id) ?? { since: now, lookedAt: -Infinity }]));
    if (known.size === 0) pools.delete(key);
    else pools.set(key, known);
    const due = given.flatMap((image) => {
      const seen = known.get(image.id);
      if (seen === undefined || now - seen.lookedAt < PATIENCE_MS) return [];
      const { failure, progress } = image.task;
      const isStuck = failure !== undefined || (progress === undefined && now - seen.since >= PATIENCE_MS);
      return isStuck && progress === undefined ? [{ image, seen }] : [];
    });
    for (const { image, seen } of due.toSorted((a, b) => a.seen.lookedAt - b.seen.lookedAt).slice(0, LOOKS_AT_ONCE)) {
      seen.lookedAt = now;
      yield* unattended(look(image, now - seen.since), (reason) => Effect.logInfo(notSeen(image, reason)));
    }
  });
};
