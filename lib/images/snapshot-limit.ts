/**
 * The limit of snapshots on one image, and the flattening that makes room below it.
 *
 * 1. Only images that hold a point in time of this very image are flattened, the oldest first. No volume is: the snapshot
 *    that a direct copy was made of has the name of an image that is not there (lib/volume/copy.ts).
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type ImageHeader, Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { TooMany } from "../csi/errors.ts";
import type { LocatedVolume } from "../journal/locate.ts";
import { Flatten } from "./flatten.ts";

/**
 * Has as many clones flattened as there are snapshots above the lower limit: the snapshots that are only there for them
 * go with that. Fails above the upper limit.
 */
export const limitSnapshots = Effect.fn("images.limitSnapshots")(function* (
  { pool, imageName }: LocatedVolume,
  { snapshotCount }: ImageHeader,
): Effect.fn.Return<void, CephError | TooMany, Ceph | DriverSettings | Flatten> {
  const { maxSnapshots, minSnapshots } = yield* DriverSettings;
  if (snapshotCount <= minSnapshots) return;
  const flatten = yield* Flatten;
  const rbd = yield* Rbd;
  const kept = (yield* rbd.snapshots(pool, imageName)).flatMap(({ originalName }) => originalName ?? []);
  // The others: a copy that is a clone of the volume itself; an image in another pool; one that is deleted, and is kept
  // itself by a volume that was made of it.
  const there = yield* rbd.imageBriefs(pool, kept, []);
  const holders = kept.filter((_, i) => there[i] !== undefined);
  let tooMany = snapshotCount - minSnapshots;
  for (const holder of holders) {
    if (tooMany === 0) break;
    tooMany -= yield* flatten.request(pool, holder).pipe(
      Effect.as(1),
      Effect.catchTag("ImageNotFound", () => Effect.succeed(0)),
    );
  }
  if (snapshotCount <= maxSnapshots) return;
  return yield* new TooMany({
    subject: `image ${imageLabel(pool, imageName)}`,
    problem: `has ${snapshotCount} snapshots, and at most ${maxSnapshots} are allowed. Clones keep ${kept.length} of them, and ${holders.length} of these clones can be flattened, which is under way`,
    remedy: "Retry later, or delete snapshots and clones",
  });
});
