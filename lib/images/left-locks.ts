/**
 * Advisory locks that were left on images. The in-tree plugin of Kubernetes up to 1.8 took one before it mapped an image,
 * and a node that died, or was emptied by a newer kubelet, leaves it. On an image with the feature exclusive-lock such a lock
 * keeps everybody from writing: librbd waits for it without an end, and so does the kernel.
 *
 * Not here: who uses an image (./in-use.ts).
 *
 * 1. A lock is taken away only if it is the in-tree plugin's, and nobody used the image in two looks with a pause between:
 *    the plugin takes its lock just before it maps the image, and waits for the device for ten seconds.
 * 2. A lock that has come since the first look is that of a kubelet that lives: nothing is taken away.
 * 3. A lock of anybody else is never taken away. It stands in the way only where the image could not be written to.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { FEATURE_BITS } from "../ceph/feature-bits.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { type AdvisoryLock, type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";
import { type InUseOptions, proveUnused } from "./in-use.ts";

/** Followed by the name of the node. */
const IN_TREE = "kubelet_lock_magic_";
const PAUSE = Duration.seconds(15);

const isInTree = ({ id }: AdvisoryLock): boolean => id.startsWith(IN_TREE);
const isSame = (a: AdvisoryLock, b: AdvisoryLock): boolean => a.id === b.id && a.client === b.client;

/** `rbd lock ls` in one line. */
const shown = ({ id, client, address }: AdvisoryLock): string => `${id} of ${client} (${address})`;

/**
 * Takes away the locks that in-tree plugins left, and fails if one remains that keeps the image from being written to.
 * `first` is the caller's own look, in which it has proven that nobody uses the image.
 */
export const clearLeftLocks = Effect.fn("images.clearLeftLocks")(function* (
  pool: PoolRef,
  imageName: string,
  first: ImageStatus,
  options: InUseOptions,
): Effect.fn.Return<void, CephError | Precondition, Rbd> {
  const left = first.locks.filter(isInTree);
  if (left.length > 0) {
    const rbd = yield* Rbd;
    yield* Effect.sleep(PAUSE);
    const now = yield* rbd.imageStatus(pool, imageName);
    yield* proveUnused(pool, imageName, now, options);
    const come = now.locks.filter((lock) => !first.locks.some((before) => isSame(lock, before)));
    if (come.length > 0) return yield* aboutToUse(pool, imageName, come);
    for (const lock of now.locks.filter(isInTree)) {
      yield* rbd.imageUnlock(pool, imageName, lock);
      yield* Effect.logWarning(
        `lock ${shown(lock)} of image ${imageLabel(pool, imageName)} was left by the in-tree plugin and is taken away: nobody uses the image`,
      );
    }
  }
  yield* proveWritable(pool, imageName, { ...first, locks: first.locks.filter((lock) => !isInTree(lock)) });
});

/** Fails if a lock keeps everybody from writing to the image. */
export const proveWritable = (
  pool: PoolRef,
  imageName: string,
  { features, locks }: Pick<ImageStatus, "features" | "locks">,
): Effect.Effect<void, Precondition> => {
  const [lock] = locks;
  if (lock === undefined || (features & FEATURE_BITS["exclusive-lock"]) === 0n) return Effect.void;
  const image = imageLabel(pool, imageName);
  return Effect.fail(
    new Precondition({
      subject: `image ${image}`,
      problem: `has the lock ${locks.map(shown).join(", ")}, so nobody can write to it`,
      remedy: `If nobody needs the lock any more, remove it with "rbd lock remove ${image} ${lock.id} ${lock.client}"`,
      holders: locks.map(shown),
    }),
  );
};

const aboutToUse = (pool: PoolRef, imageName: string, locks: readonly AdvisoryLock[]): Precondition =>
  new Precondition({
    subject: `image ${imageLabel(pool, imageName)}`,
    problem: `was locked a moment ago: ${locks.map(shown).join(", ")}`,
    remedy: "Another node is about to use it. The automatic retry finds out",
    holders: locks.map(shown),
  });
