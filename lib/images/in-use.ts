/**
 * Whether an image is in use: the one definition, for whoever maps an image and for whoever removes it.
 *
 * Not here: who the watchers are (lib/ceph reads them from librbd).
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/ceph.ts";
import { Busy, type CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import type { ImageStatus, Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { Precondition } from "../csi/errors.ts";
import { untilDeadline } from "../operations/until-deadline.ts";
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
 * The image once nobody uses it; `undefined` when it is not there. Whoever purges a child of it, the manager say, has it
 * open for a moment: the removal waits for that instead of sending its caller away.
 */
export const provenUnused = Effect.fn("images.provenUnused")(function* (
  pool: PoolRef,
  imageName: string,
  mirrorDaemons: number,
): Effect.fn.Return<ImageStatus | undefined, CephError | Precondition, Rbd | DriverSettings> {
  const { inUsePatience } = yield* DriverSettings;
  const look = Effect.tap(statusIfThere(pool, imageName), (image) =>
    image === undefined ? Effect.void : proveUnused(pool, imageName, image, mirrorDaemons),
  );
  return yield* untilDeadline(look, {
    while: ({ _tag }) => _tag === "Busy",
    first: "250 millis",
    patience: inUsePatience,
  });
});
