/**
 * How many snapshots an image takes, and which clones are flattened so that it takes more.
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/ceph.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { VolumeOptions } from "../config/settings.ts";
import { TooMany } from "../csi/errors.ts";
import type { LocatedVolume } from "../journal/locate.ts";
import { Flatten } from "./flatten.ts";

/**
 * An image takes only so many snapshots. Those that are only there for clones go when the clones are flattened: images
 * that hold a point in time of this very image, the oldest first, as many as there are too many. No volume is.
 */
export const limitSnapshots = (
  { maxSnapshots, minSnapshots }: VolumeOptions,
  { pool, imageName }: LocatedVolume,
  { snapshotCount }: ImageStatus,
) =>
  Effect.gen(function* () {
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
      subject: "",
      problem: `image ${imageLabel(pool, imageName)} has ${snapshotCount} snapshots, at most ${maxSnapshots} are allowed; ${kept.length} of them are kept by clones, which are being flattened: retry later, or delete snapshots`,
    });
  });
