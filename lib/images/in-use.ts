/**
 * Whether an image is in use: the one definition, for whoever maps an image and for whoever removes it.
 *
 * Not here: who the watchers are (lib/ceph reads them from librbd).
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Schedule from "effect/Schedule";
import { imageLabel } from "../ceph/ceph.ts";
import { Busy } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import type { ImageStatus } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";
import { statusIfThere } from "./races.ts";

/** Fails unless nobody but mirror daemons has the image open, and it is ours to remove. */
export const proveUnused = (
  pool: PoolRef,
  imageName: string,
  image: ImageStatus,
  mirrorDaemons: number,
): Effect.Effect<void, Busy | Precondition> => {
  const subject = imageLabel(pool, imageName);
  if (image.mirror === "non-primary") {
    const message = `image ${subject} is a mirror of another cluster's image: delete the volume there, or promote the image first`;
    return Effect.fail(new Precondition({ subject: "", problem: message }));
  }
  const allowed = image.mirror === "primary" ? mirrorDaemons : 0;
  if (image.watchers.length <= allowed) return Effect.void;
  return Effect.fail(new Busy({ op: `watched by ${image.watchers.join(", ")}`, subject: `image ${subject}` }));
};

/**
 * Milliseconds that a removal waits for an image to fall out of use. Whoever purges a child of it, the manager say, has
 * it open for a moment: no reason to send the caller away.
 */
export const InUsePatience = Context.Reference<number>("csi-rbd/InUsePatience", { defaultValue: () => 0 });

const LOOK_AGAIN_MS = 250;

/** The image once nobody uses it; `undefined` when it is not there. */
export const provenUnused = (pool: PoolRef, imageName: string, mirrorDaemons: number) =>
  Effect.gen(function* () {
    const patience = yield* InUsePatience;
    const look = Effect.tap(statusIfThere(pool, imageName), (image) =>
      image === undefined ? Effect.void : proveUnused(pool, imageName, image, mirrorDaemons),
    );
    return yield* Effect.retry(look, {
      times: Math.floor(patience / LOOK_AGAIN_MS),
      schedule: Schedule.spaced(LOOK_AGAIN_MS),
      while: (error) => error._tag === "Busy",
    });
  });
