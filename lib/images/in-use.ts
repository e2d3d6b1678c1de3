/**
 * Whether an image is in use: the one definition, for mapping an image and for removing it. A removal waits for as long
 * as `inUsePatience` says (lib/config/settings.ts), mapping until the deadline of the call (lib/node/mappable.ts).
 *
 * Not here: who the watchers are (lib/ceph reads them from librbd).
 *
 * 1. Whoever has an image open uses it, except for the caller itself and, of a primary image, the mirror daemons.
 */
import * as Effect from "effect/Effect";
import { Busy, type CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import type { ImageStatus, Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { Precondition } from "../csi/errors.ts";
import { untilDeadline } from "../operations/until-deadline.ts";
import { statusIfThere } from "./races.ts";

export interface InUseOptions {
  /** How many mirror daemons of the cluster may have a primary image open. */
  readonly mirrorDaemons: number;
  /** The watchers that are the caller's own, as `client.4123`. */
  readonly own?: readonly string[];
}

/** Who else has an image open, by the address and client ID that Ceph shows. */
export const otherWatchers = (
  { watchers, mirror }: Pick<ImageStatus, "watchers" | "mirror">,
  { mirrorDaemons, own = [] }: InUseOptions,
): readonly string[] => {
  const others = watchers.filter((watcher) => !own.some((id) => watcher.split("/").includes(id)));
  return others.length <= (mirror === "primary" ? mirrorDaemons : 0) ? [] : others;
};

/** Fails if the image is the copy of a mirrored image: only its primary may be written or removed. */
export const provePrimary = (
  pool: PoolRef,
  imageName: string,
  { mirror }: Pick<ImageStatus, "mirror">,
): Effect.Effect<void, Precondition> =>
  mirror === "non-primary"
    ? Effect.fail(
        new Precondition({
          subject: `image ${imageLabel(pool, imageName)}`,
          problem: "is a mirror of another cluster's image",
          remedy: "Use the volume in the other cluster, or promote this image first",
        }),
      )
    : Effect.void;

/** Fails if the image is not the primary, or if somebody else has it open. */
export const proveUnused = (
  pool: PoolRef,
  imageName: string,
  image: ImageStatus,
  options: InUseOptions,
): Effect.Effect<void, Busy | Precondition> => {
  const watchers = otherWatchers(image, options);
  const subject = `image ${imageLabel(pool, imageName)}`;
  return Effect.andThen(
    provePrimary(pool, imageName, image),
    watchers.length === 0 ? Effect.void : Effect.fail(new Busy({ op: "open", subject, watchers })),
  );
};

/**
 * The image as soon as nobody uses it; `undefined`: it does not exist. Whoever purges a child of it, such as the
 * manager, has it open for a moment. So a removal waits a little before it sends its caller away.
 */
export const provenUnused = Effect.fn("images.provenUnused")(function* (
  pool: PoolRef,
  imageName: string,
  mirrorDaemons: number,
): Effect.fn.Return<ImageStatus | undefined, CephError | Precondition, Rbd | DriverSettings> {
  const { inUsePatience } = yield* DriverSettings;
  const look = Effect.tap(statusIfThere(pool, imageName), (image) =>
    image === undefined ? Effect.void : proveUnused(pool, imageName, image, { mirrorDaemons }),
  );
  return yield* untilDeadline(look, {
    while: ({ _tag }) => _tag === "Busy",
    first: "250 millis",
    patience: inUsePatience,
  });
});
