/**
 * The driver's own removal of small images from the trash: some at a time, each tried once.
 *
 * Not here: who is asked when a removal fails, and what a crash leaves (./purge.ts).
 *
 * 1. A chain, of which each image is the child of the next, is removed in its order. After a failure, `failed` gets that
 *    image and all that come after it.
 * 2. It is bounded: `offer` refuses a chain when too many wait, and librbd removes few images at once.
 */
import * as Effect from "effect/Effect";
import * as Queue from "effect/Queue";
import type * as Scope from "effect/Scope";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { Metrics } from "../telemetry/metrics.ts";

export interface TrashedImage {
  readonly pool: PoolRef;
  readonly id: string;
}

export interface QuickPurge {
  /** Gives whether the chain was taken. */
  readonly offer: (chain: readonly TrashedImage[]) => Effect.Effect<boolean>;
  readonly pending: () => readonly string[];
}

/** Enough to keep up with DeleteVolume; more would only take CPU time from the calls that somebody waits for. */
const WORKERS = 4;
/** A crash leaves at most that many chains for a sweep; beyond it the manager remembers them better. */
const MOST_CHAINS = 1000;

export const makeQuickPurge = (
  trashRemove: (pool: PoolRef, id: string) => Effect.Effect<void, CephError>,
  failed: (image: TrashedImage, reason: string) => Effect.Effect<void>,
): Effect.Effect<QuickPurge, never, Scope.Scope> =>
  Effect.gen(function* () {
    const queue = yield* Queue.unbounded<readonly TrashedImage[]>();
    const pending = new Set<readonly TrashedImage[]>();
    yield* (yield* Metrics).add(() => [
      {
        name: "csi_rbd_background_images",
        help: "Images that this process still has to work on itself.",
        labels: { work: "quick removal from the trash" },
        value: pending.size,
      },
    ]);

    const removed = ({ pool, id }: TrashedImage): Effect.Effect<string | undefined> =>
      trashRemove(pool, id).pipe(
        Effect.as(undefined),
        Effect.catchTag("ImageNotFound", () => Effect.succeed(undefined)),
        Effect.catch(({ message }) => Effect.succeed(message)),
        // A bug in one removal must not end the queue.
        Effect.catchDefect((defect) => Effect.succeed(String(defect))),
      );

    const run = (chain: readonly TrashedImage[]) =>
      Effect.gen(function* () {
        let reason: string | undefined;
        for (const image of chain) {
          reason ??= yield* removed(image);
          if (reason !== undefined) yield* failed(image, reason);
        }
        pending.delete(chain);
      });

    const worker = Queue.take(queue).pipe(Effect.flatMap(run), Effect.forever);
    for (let i = 0; i < WORKERS; i++) yield* Effect.forkScoped(worker);

    return {
      offer: (chain) =>
        Effect.suspend(() => {
          if (pending.size >= MOST_CHAINS) return Effect.succeed(false);
          pending.add(chain);
          return Effect.as(Queue.offer(queue, chain), true);
        }),
      pending: () => [...pending].flatMap((chain) => chain.map(({ pool, id }) => imageLabel(pool, id))),
    };
  });
