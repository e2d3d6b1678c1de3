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
 * 4. A snapshot that went to the trash with its image is removed first. Because that waits for the monitors, up to a second, it
 *    holds up no worker.
 * 5. It is bounded: `offer` refuses a chain when too many wait, and librbd removes few images at once.
 * 6. It begins when deletions have paused for a moment, because a removal takes as much of the machine as the deletions
 *    that somebody waits for. If they do not pause, one worker goes on beside them.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as Queue from "effect/Queue";
import type * as Scope from "effect/Scope";
import * as Semaphore from "effect/Semaphore";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { InTrash } from "./trashed-snapshots.ts";
import { Metrics } from "../telemetry/metrics.ts";

export interface TrashedImage extends InTrash {
  /** Went to the trash with the image, and has to be removed before it. It may be gone. */
  readonly snapshot?: string | undefined;
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
  /** Gives the images whose removal has not begun, and forgets them; not those that a snapshot keeps in the trash. */
  readonly leave: () => readonly TrashedImage[];
}

/** Enough to keep up with DeleteVolume; more would only take CPU time from the calls that somebody waits for. */
const WORKERS = 4;
const LATE_WORKERS = 2;
/** Snapshots that are removed at once: their removals wait together for one proposal of the monitors. */
const SNAPSHOTS_AT_ONCE = 16;
/** A crash leaves at most that many chains for a sweep; beyond it the manager remembers them better. */
const MOST_CHAINS = 1024;
/** So long nobody has deleted anything. */
const PAUSE_MS = 500;
/** A chain that has waited so long is removed beside the deletions. */
const LONGEST_WAIT_MS = 5_000;
/** After it nobody has an image open who has died: Ceph drops such a watch after 30 s (`osd_client_watch_timeout`). */
export const HELD_SECONDS = 35;
/** What was offered before may be its clones, which go in a moment: seconds before each try that is not counted. */
const WAITS_FOR_CLONES = [1, 2, 4, 8];
/** Seconds before the second try, the third, and so on. */
const WAITS = [HELD_SECONDS, 60, 120];

interface Chain {
  readonly images: readonly TrashedImage[];
  /** Tries that failed. */
  readonly failures: number;
  /** Tries that failed because of clones which may be about to go. */
  readonly waits: number;
  /** The order in which chains were offered. */
  readonly serial: number;
  /** Milliseconds since the epoch. */
  readonly offeredAt: number;
  /** See `OfferOptions`. */
  readonly giveUp: boolean;
}

export interface Removals {
  readonly trashRemove: (image: TrashedImage) => Effect.Effect<void, CephError>;
  readonly trashSnapshotRemove: (image: TrashedImage, snapshot: string) => Effect.Effect<void, CephError>;
}

export const makeQuickPurge = (
  { trashRemove, trashSnapshotRemove }: Removals,
  /** `kept`: it has snapshots. */
  giveUp: (image: TrashedImage, kept: boolean) => Effect.Effect<void>,
): Effect.Effect<QuickPurge, never, Scope.Scope> =>
  Effect.gen(function* () {
    const scope = yield* Effect.scope;
    const soon = yield* Queue.unbounded<Chain>();
    const late = yield* Queue.unbounded<Chain>();
    const pending = new Set<Chain>();
    const running = new Set<Chain>();
    const snapshots = Semaphore.makeUnsafe(SNAPSHOTS_AT_ONCE);
    let lastOffer = 0;
    let serial = 0;
    /** Of the images of all chains. */
    const labels = new Set<string>();
    const forget = ({ pool, id }: InTrash) => void labels.delete(imageLabel(pool, id));
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

    const givenUp = Effect.fnUntraced(function* ({ images }: Chain, firstIsKept = false) {
      for (const [at, image] of images.entries()) {
        yield* giveUp(image, firstIsKept && at === 0);
        forget(image);
      }
    });

    /** `chain` begins with the image that could not be removed. */
    const failed = Effect.fnUntraced(function* (chain: Chain, failure: Failure) {
      const { images, failures, waits } = chain;
      const [first] = images;
      const forClones = failure.clones && hasEarlier(chain) ? WAITS_FOR_CLONES[waits] : undefined;
      if (forClones !== undefined) {
        const again = { ...chain, failures: failures - 1, waits: waits + 1 };
        pending.add(again);
        return yield* later(again, forClones);
      }
      const wait = failure.clones ? undefined : WAITS[failures - 1];
      const next = wait === undefined ? "left to others" : `tried again in ${wait} s`;
      const label = first === undefined ? "" : imageLabel(first.pool, first.id);
      yield* Effect.logInfo(`removal from the trash of image ${label} is ${next}: ${failure.reason}`);
      if (wait === undefined) return yield* givenUp(chain, failure.clones);
      pending.add(chain);
      yield* later(chain, wait);
    });

    const run = Effect.fnUntraced(function* (chain: Chain, queue: Queue.Queue<Chain>) {
      if (!pending.has(chain)) return;
      running.add(chain);
      if (chain.giveUp) yield* givenUp(chain);
      else yield* removed(chain, queue);
      running.delete(chain);
      pending.delete(chain);
    });

    const hasEarlier = ({ serial: own }: Chain) => [...pending].some((other) => other.serial < own);

    /** Goes on with the chain in `queue` once the snapshot of its first image is gone. */
    const withoutSnapshot = Effect.fnUntraced(function* (
      chain: Chain,
      image: TrashedImage,
      snapshot: string,
      queue: Queue.Queue<Chain>,
    ) {
      const failure = yield* tryOnce(snapshots.withPermits(1)(trashSnapshotRemove(image, snapshot)));
      if (failure === undefined) {
        const rest = { ...chain, images: [{ ...image, snapshot: undefined }, ...chain.images.slice(1)] };
        pending.add(rest);
        yield* Queue.offer(queue, rest);
      } else yield* failed({ ...chain, failures: chain.failures + 1 }, failure);
      pending.delete(chain);
    });

    const removed = Effect.fnUntraced(function* (chain: Chain, queue: Queue.Queue<Chain>) {
      for (const [at, image] of chain.images.entries()) {
        const rest = { ...chain, images: chain.images.slice(at) };
        if (image.snapshot !== undefined) {
          pending.add(rest);
          yield* Effect.forkIn(withoutSnapshot(rest, image, image.snapshot, queue), scope);
          break;
        }
        const failure = yield* tryOnce(trashRemove(image));
        if (failure !== undefined) {
          yield* failed({ ...rest, failures: chain.failures + 1 }, failure);
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
        Effect.flatMap((chain) => run(chain, soon)),
        Effect.forever,
      );
    for (let i = 0; i < WORKERS; i++) yield* Effect.forkScoped(worker(i === 0 ? LONGEST_WAIT_MS : Infinity));
    const lateWorker = Queue.take(late).pipe(
      Effect.flatMap((chain) => run(chain, late)),
      Effect.forever,
    );
    for (let i = 0; i < LATE_WORKERS; i++) yield* Effect.forkScoped(lateWorker);

    return {
      offer: (offered, { after, always = false, giveUp: isGivenUp = false } = {}) =>
        Effect.flatMap(Clock.currentTimeMillis, (offeredAt) => {
          const images = offered.filter(({ pool, id }) => !labels.has(imageLabel(pool, id)));
          if (images.length === 0) return Effect.succeed(true);
          if (pending.size >= MOST_CHAINS && !always) return Effect.succeed(false);
          serial += 1;
          const chain = { images, failures: 0, waits: 0, serial, offeredAt, giveUp: isGivenUp };
          pending.add(chain);
          for (const { pool, id } of images) labels.add(imageLabel(pool, id));
          // It waits for no worker, because giving an image up is short.
          if (isGivenUp)
            return run(chain, late).pipe(Effect.delay(`${after ?? 0} seconds`), Effect.forkIn(scope), Effect.as(true));
          lastOffer = offeredAt;
          return Effect.as(after === undefined ? Queue.offer(soon, chain) : later(chain, after), true);
        }),
      pending: () => [...labels],
      leave: () => {
        const waiting = [...pending].filter(
          (chain) => !running.has(chain) && chain.images.every(({ snapshot }) => snapshot === undefined),
        );
        const images = waiting.flatMap((chain) => chain.images);
        for (const chain of waiting) pending.delete(chain);
        for (const image of images) forget(image);
        return images;
      },
    };
  });

interface Failure {
  readonly reason: string;
  /** It has clones, which may live for years: no later try of the driver will do better. */
  readonly clones: boolean;
}

/** Gives `undefined` once the image is gone, whoever removed it. */
const tryOnce = (removal: Effect.Effect<void, CephError>): Effect.Effect<Failure | undefined> =>
  removal.pipe(
    Effect.as(undefined),
    Effect.catchTag("ImageNotFound", () => Effect.succeed(undefined)),
    Effect.catch(({ _tag, message }) => Effect.succeed({ reason: message, clones: _tag === "HasSnapshots" })),
    // A bug in one removal must not end the queue.
    Effect.catchDefect((defect) => Effect.succeed({ reason: String(defect), clones: false })),
  );
