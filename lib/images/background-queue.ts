/**
 * A queue of long work on images that this process does itself, one at a time, because the manager can't.
 *
 * Not here: what the work is (./purge.ts, ./flatten.ts).
 *
 * 1. Work on one image is queued once, however often it is asked for.
 * 2. What fails is tried again, later each time, up to five minutes apart, as the manager does; but not where the image, or
 *    its whole pool, is gone.
 */
import * as Effect from "effect/Effect";
import * as Queue from "effect/Queue";
import type * as Scope from "effect/Scope";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { Metrics } from "../telemetry/metrics.ts";

export interface Background {
  /** `image` is a name or an id. `work` is done until it succeeds. */
  readonly offer: (pool: PoolRef, image: string, work: Effect.Effect<void, CephError>) => Effect.Effect<void>;
  readonly pending: () => readonly string[];
}

interface Item {
  readonly pool: PoolRef;
  readonly image: string;
  readonly work: Effect.Effect<void, CephError>;
  readonly attempt: number;
}

const FIRST_WAIT_S = 30;
const LONGEST_WAIT_S = 300;

export const makeBackground = (verb: string): Effect.Effect<Background, never, Scope.Scope> =>
  Effect.gen(function* () {
    const queue = yield* Queue.unbounded<Item>();
    const queued = new Set<string>();
    const scope = yield* Effect.scope;
    yield* (yield* Metrics).add(() => [
      {
        name: "csi_rbd_background_images",
        help: "Images that this process still has to work on itself, because the manager can't.",
        labels: { work: verb },
        value: queued.size,
      },
    ]);

    const put = (item: Item) => Effect.asVoid(Queue.offer(queue, item));

    const run = (item: Item) =>
      Effect.gen(function* () {
        const subject = imageLabel(item.pool, item.image);
        const failure = yield* item.work.pipe(
          Effect.as(undefined),
          Effect.catchTag(["ImageNotFound", "PoolNotFound"], () => Effect.succeed(undefined)),
          Effect.catch(({ message }) => Effect.succeed(message)),
          // A bug in one piece of work must not end the queue.
          Effect.catchDefect((defect) => Effect.succeed(String(defect))),
        );
        if (failure === undefined) {
          queued.delete(subject);
          return yield* Effect.logInfo(`${verb} of image ${subject} is over`);
        }
        const wait = Math.min(FIRST_WAIT_S * item.attempt, LONGEST_WAIT_S);
        yield* Effect.logWarning(`${verb} of image ${subject} is tried again in ${wait} s: ${failure}`);
        yield* put({ ...item, attempt: item.attempt + 1 }).pipe(Effect.delay(`${wait} seconds`), Effect.forkIn(scope));
      });

    yield* Queue.take(queue).pipe(Effect.flatMap(run), Effect.forever, Effect.forkScoped);

    return {
      offer: (pool, image, work) =>
        Effect.suspend(() => {
          const subject = imageLabel(pool, image);
          if (queued.has(subject)) return Effect.void;
          queued.add(subject);
          return put({ pool, image, work, attempt: 1 });
        }),
      pending: () => [...queued],
    };
  });
