/**
 * The driver's own removal of small images from the trash, some at a time; and large ones until they are given to others.
 *
 * Not here: which images are small, and who else removes images (./purge.ts).
 *
 * 1. A chain, of which each image is the child of the next, is removed in its order. What cannot be removed yet is tried
 *    again later, with what comes after it in its chain.
 * 2. An image whose snapshot has clones, and one that could not be removed for some minutes, goes to `giveUp`.
 * 3. What may be held by a driver that has died waits until Ceph has dropped that one's watch: before, librbd waits half
 *    a minute for the dead one. Such images, and all later tries, have workers of their own, so that new ones do not wait
 *    for them.
 * 4. It is bounded: `offer` refuses a chain when too many wait, and librbd removes few images at once.
 * 5. It begins when deletions have paused for a moment, because a removal takes as much of the machine as the deletions
 *    that somebody waits for. If they do not pause, one worker goes on beside them.
 */
import * as Clock from "effect/Clock";
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

export interface OfferOptions {
  /** Seconds until the first try, of images that a driver may have open that has died; absent: no other has them. */
  readonly after?: number;
  /** Takes the chain also if too many wait. */
  readonly always?: boolean;
  /** Does not try to remove the images, but gives them up at once when their time has come. */
  readonly giveUp?: boolean;
}

export interface QuickPurge {
  /** Gives whether the chain was taken. An image that waits already is not taken twice. */
  readonly offer: (chain: readonly TrashedImage[], options?: OfferOptions) => Effect.Effect<boolean>;
  readonly pending: () => readonly string[];
  /** Gives the images whose removal has not begun, and forgets them. */
  readonly leave: () => readonly TrashedImage[];
}

/** Enough to keep up with DeleteVolume; more would only take CPU time from the calls that somebody waits for. */
const WORKERS = 4;
const LATE_WORKERS = 2;
/** A crash leaves at most that many chains for a sweep; beyond it the manager remembers them better. */
const MOST_CHAINS = 1024;
/** So long nobody has deleted anything. */
const PAUSE_MS = 500;
/** A chain that has waited so long is removed beside the deletions. */
const LONGEST_WAIT_MS = 5_000;
/** After it nobody has an image open who has died: Ceph drops such a watch after 30 s (`osd_client_watch_timeout`). */
export const HELD_SECONDS = 35;
/** Seconds before the second try, the third, and so on. */
const WAITS = [HELD_SECONDS, 60, 120];

interface Chain {
  readonly images: readonly TrashedImage[];
  /** Tries that failed. */
  readonly failures: number;
  /** Milliseconds since the epoch. */
  readonly offeredAt: number;
  /** See `OfferOptions`. */
  readonly giveUp: boolean;
}

export const makeQuickPurge = (
  trashRemove: (pool: PoolRef, id: string) => Effect.Effect<void, CephError>,
  giveUp: (image: TrashedImage) => Effect.Effect<void>,
): Effect.Effect<QuickPurge, never, Scope.Scope> =>
  Effect.gen(function* () {
    const scope = yield* Effect.scope;
    const soon = yield* Queue.unbounded<Chain>();
    const late = yield* Queue.unbounded<Chain>();
    const pending = new Set<Chain>();
    const running = new Set<Chain>();
    let lastOffer = 0;
    /** Of the images of all chains. */
    const labels = new Set<string>();
    const forget = ({ pool, id }: TrashedImage) => void labels.delete(imageLabel(pool, id));
    yield* (yield* Metrics).add(() => [
      {
        name: "csi_rbd_background_images",
        help: "Images that this process still has to work on itself.",
        labels: { work: "quick removal from the trash" },
        value: labels.size,
      },
    ]);

    const later = (chain: Chain, seconds: number) =>
      Queue.offer(late, chain).pipe(Effect.delay(`${seconds} seconds`), Effect.forkIn(scope), Effect.asVoid);

    const givenUp = Effect.fnUntraced(function* ({ images }: Chain) {
      for (const image of images) {
        yield* giveUp(image);
        forget(image);
      }
    });

    /** `chain` begins with the image that could not be removed. */
    const failed = Effect.fnUntraced(function* (chain: Chain, failure: Failure) {
      const { images, failures } = chain;
      const [first] = images;
      const wait = failure.forGood ? undefined : WAITS[failures - 1];
      const next = wait === undefined ? "left to the manager" : `tried again in ${wait} s`;
      const label = first === undefined ? "" : imageLabel(first.pool, first.id);
      yield* Effect.logInfo(`removal from the trash of image ${label} is ${next}: ${failure.reason}`);
      if (wait === undefined) return yield* givenUp(chain);
      pending.add(chain);
      yield* later(chain, wait);
    });

    const run = Effect.fnUntraced(function* (chain: Chain) {
      if (!pending.has(chain)) return;
      running.add(chain);
      if (chain.giveUp) yield* givenUp(chain);
      else yield* removed(chain);
      running.delete(chain);
      pending.delete(chain);
    });

    const removed = Effect.fnUntraced(function* (chain: Chain) {
      for (const [at, image] of chain.images.entries()) {
        const failure = yield* tryOnce(trashRemove(image.pool, image.id));
        if (failure !== undefined) {
          yield* failed({ ...chain, images: chain.images.slice(at), failures: chain.failures + 1 }, failure);
          break;
        }
        forget(image);
      }
    });

    const untilPause = Effect.fnUntraced(function* ({ offeredAt }: Chain, longestWaitMs: number) {
      for (;;) {
        const now = yield* Clock.currentTimeMillis;
        const begin = Math.min(lastOffer + PAUSE_MS, offeredAt + longestWaitMs);
        if (now >= begin) return;
        yield* Effect.sleep(begin - now);
      }
    });
    const worker = (longestWaitMs: number) =>
      Queue.take(soon).pipe(
        Effect.tap((chain) => untilPause(chain, longestWaitMs)),
        Effect.flatMap(run),
        Effect.forever,
      );
    for (let i = 0; i < WORKERS; i++) yield* Effect.forkScoped(worker(i === 0 ? LONGEST_WAIT_MS : Infinity));
    const lateWorker = Queue.take(late).pipe(Effect.flatMap(run), Effect.forever);
    for (let i = 0; i < LATE_WORKERS; i++) yield* Effect.forkScoped(lateWorker);

    return {
      offer: (offered, { after, always = false, giveUp: isGivenUp = false } = {}) =>
        Effect.flatMap(Clock.currentTimeMillis, (offeredAt) => {
          const images = offered.filter(({ pool, id }) => !labels.has(imageLabel(pool, id)));
          if (images.length === 0) return Effect.succeed(true);
          if (pending.size >= MOST_CHAINS && !always) return Effect.succeed(false);
          const chain = { images, failures: 0, offeredAt, giveUp: isGivenUp };
          pending.add(chain);
          for (const { pool, id } of images) labels.add(imageLabel(pool, id));
          // It waits for no worker, because giving an image up is short.
          if (isGivenUp)
            return run(chain).pipe(Effect.delay(`${after ?? 0} seconds`), Effect.forkIn(scope), Effect.as(true));
          lastOffer = offeredAt;
          return Effect.as(after === undefined ? Queue.offer(soon, chain) : later(chain, after), true);
        }),
      pending: () => [...labels],
      leave: () => {
        const waiting = [...pending].filter((chain) => !running.has(chain));
        const images = waiting.flatMap((chain) => chain.images);
        for (const chain of waiting) pending.delete(chain);
        for (const image of images) forget(image);
        return images;
      },
    };
  });

interface Failure {
  readonly reason: string;
  /** No later try of the driver will do better. */
  readonly forGood: boolean;
}

/** Gives `undefined` once the image is gone, whoever removed it. */
const tryOnce = (removal: Effect.Effect<void, CephError>): Effect.Effect<Failure | undefined> =>
  removal.pipe(
    Effect.as(undefined),
    Effect.catchTag("ImageNotFound", () => Effect.succeed(undefined)),
    // a clone may live for years
    Effect.catch(({ _tag, message }) => Effect.succeed({ reason: message, forGood: _tag === "HasSnapshots" })),
    // A bug in one removal must not end the queue.
    Effect.catchDefect((defect) => Effect.succeed({ reason: String(defect), forGood: false })),
  );
