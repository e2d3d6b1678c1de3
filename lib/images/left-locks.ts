/**
 * Advisory locks that were left on images. The in-tree plugin of Kubernetes up to 1.8 took one before it mapped an image,
 * and a node that died, or was emptied by a newer kubelet, leaves it. On an image with the feature exclusive-lock such a lock
 * keeps everybody from writing: librbd waits for it without an end, and so does the kernel.
 *
 * Not here: who uses an image (./in-use.ts).
 *
 * 1. Without the feature exclusive-lock a lock keeps nobody from anything: it stays, and nothing waits for it.
 * 2. A lock is taken away only if it is the in-tree plugin's, and nobody watched the image in two looks with a pause between:
 *    the plugin takes its lock just before it maps the image, and waits for the device for ten seconds. A mirror daemon
 *    counts here: which watcher is one is not known.
 * 3. A lock that has come since the first look, or is there after the last one was taken away, is that of a kubelet that
 *    lives: nothing more is done.
 * 4. A lock of anybody else is never taken away.
 * 5. What comes after goes by the last look.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { FEATURE_BITS } from "../ceph/feature-bits.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type AdvisoryLock, type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";
import { type OwnClient, proveUnused } from "./in-use.ts";

/** Followed by the name of the node. */
const IN_TREE = "kubelet_lock_magic_";
const PAUSE = Duration.seconds(15);

const isInTree = ({ id }: AdvisoryLock): boolean => id.startsWith(IN_TREE);
const isSame = (a: AdvisoryLock, b: AdvisoryLock): boolean => a.id === b.id && a.client === b.client;

/** `rbd lock ls` in one line. */
const shown = ({ id, client, address }: AdvisoryLock): string => `${id} of ${client} (${address})`;

/** Nobody who has the image open counts as the caller's own, or as a mirror daemon. */
const NOBODY = { mirrorDaemons: 0 };

const hasExclusiveLock = ({ features }: Pick<ImageStatus, "features">): boolean =>
  (features & FEATURE_BITS["exclusive-lock"]) !== 0n;

/** Whether a lock that somebody put on the image keeps everybody from writing to it. */
export const isLocked = (image: Pick<ImageStatus, "features" | "locks">): boolean =>
  hasExclusiveLock(image) && image.locks.length > 0;

/** Whether a lock that in-tree plugins left is in the way. */
export const hasLeftLocks = (image: Pick<ImageStatus, "features" | "locks">): boolean =>
  hasExclusiveLock(image) && image.locks.some(isInTree);

/**
 * Takes away the locks that in-tree plugins left, and fails if one remains that keeps the image from being written to.
 * `first` is the caller's own look, and `gone` are the caller's clients of then, which it has ended since. -> the last look,
 * with the metadata of the first.
 */
export const clearLeftLocks = Effect.fn("images.clearLeftLocks")(function* (
  pool: PoolRef,
  imageName: string,
  first: ImageStatus,
  gone: readonly OwnClient[] = [],
): Effect.fn.Return<ImageStatus, CephError | Precondition, Rbd> {
  const last = hasLeftLocks(first) ? yield* takeAway(pool, imageName, first, gone) : first;
  yield* proveWritable(pool, imageName, last);
  return last;
});

const takeAway = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  first: ImageStatus,
  gone: readonly OwnClient[],
): Effect.fn.Return<ImageStatus, CephError | Precondition, Rbd> {
  const rbd = yield* Rbd;
  const look = Effect.tap(rbd.imageStatus(pool, imageName), (now) => proveUnused(pool, imageName, now, NOBODY));
  yield* proveUnused(pool, imageName, first, { ...NOBODY, own: gone });
  yield* Effect.logInfo(
    `image ${imageLabel(pool, imageName)} has a lock of the in-tree plugin, and nobody uses it: it is looked at once more in ${Duration.toSeconds(PAUSE)} s`,
  );
  yield* Effect.sleep(PAUSE);
  const now = yield* look;
  const come = now.locks.filter((lock) => !first.locks.some((before) => isSame(lock, before)));
  if (come.length > 0) return yield* aboutToUse(pool, imageName, come);
  for (const lock of now.locks.filter(isInTree)) {
    yield* rbd.imageUnlock(pool, imageName, lock);
    yield* Effect.logWarning(
      `lock ${shown(lock)} of image ${imageLabel(pool, imageName)} was left by the in-tree plugin and is taken away: nobody uses the image`,
    );
  }
  const last = yield* look;
  const anew = last.locks.filter(isInTree);
  if (anew.length > 0) return yield* aboutToUse(pool, imageName, anew);
  return { ...last, metadata: first.metadata };
});

/** Fails if a lock keeps everybody from writing to the image. */
export const proveWritable = (
  pool: PoolRef,
  imageName: string,
  image: Pick<ImageStatus, "features" | "locks">,
): Effect.Effect<void, Precondition> => {
  const { locks } = image;
  const [lock] = locks;
  if (lock === undefined || !isLocked(image)) return Effect.void;
  const label = imageLabel(pool, imageName);
  return Effect.fail(
    new Precondition({
      subject: `image ${label}`,
      problem: `has the lock ${locks.map(shown).join(", ")}, so nobody can write to it`,
      remedy: `If nobody needs the lock any more, remove it with: rbd lock remove ${label} ${quoted(lock.id)} ${lock.client}`,
      holders: locks.map(shown),
    }),
  );
};

/** A name that anybody chose, as one word of a shell. */
const quoted = (name: string): string => `'${name.replaceAll("'", String.raw`'\''`)}'`;

const aboutToUse = (pool: PoolRef, imageName: string, locks: readonly AdvisoryLock[]): Precondition =>
  new Precondition({
    subject: `image ${imageLabel(pool, imageName)}`,
    problem: `was locked a moment ago: ${locks.map(shown).join(", ")}`,
    remedy: "Another node is about to use it. The automatic retry finds out",
    holders: locks.map(shown),
  });
