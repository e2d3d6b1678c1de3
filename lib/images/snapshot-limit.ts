/**
 * The limit of snapshots on one image, and the flattening that makes room below it.
 *
 * 1. Only images that hold a point in time of this very image are flattened, the oldest first. No volume is.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
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
  { snapshotCount }: ImageStatus,
): Effect.fn.Return<void, CephError | TooMany, Ceph | DriverSettings | Flatten> {
  const { maxSnapshots, minSnapshots } = yield* DriverSettings;
  if (snapshotCount <= minSnapshots) return;
  const flatten = yield* Flatten;
  const kept = (yield* (yield* Rbd).snapshots(pool, imageName)).filter(({ kind }) => kind === "trash");
  let tooMany = snapshotCount - minSnapshots;
  for (const { originalName } of kept) {
    if (tooMany === 0 || originalName === undefined) continue;
    tooMany -= yield* flatten.request(pool, originalName).pipe(
      Effect.as(1),
      // Deleted, and kept itself by a volume that was made of it; or in another pool.
      Effect.catchTag("ImageNotFound", () => Effect.succeed(0)),
    );
  }
  if (snapshotCount <= maxSnapshots) return;
  return yield* new TooMany({
    subject: `image ${imageLabel(pool, imageName)}`,
    problem: `has ${snapshotCount} snapshots, and at most ${maxSnapshots} are allowed. Clones keep ${kept.length} of them, and are being flattened`,
    remedy: "Retry later, or delete snapshots",
  });
});
