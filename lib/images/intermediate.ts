/**
 * The image that a volume's copy goes through: its name (`<image>-temp`, as in ceph-csi), and its end.
 *
 * Not here: making it (lib/volume/copy.ts).
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { Manager } from "../ceph/manager.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { type ImageHeader, Rbd } from "../ceph/rbd.ts";
import type { CephError } from "../ceph/errors.ts";
import type { Precondition } from "../csi/errors.ts";
import type { DriverSettings } from "../config/settings.ts";
import type { LocatedVolume } from "../journal/locate.ts";
import type { Purge } from "./purge.ts";
import { removeImages } from "./removal.ts";
import { TEMP_SUFFIX } from "./temp-suffix.ts";

export const tempImage = (imageName: string): string => imageName + TEMP_SUFFIX;

/**
 * Removes the image in between of a volume that was never finished, and is gone. It holds nothing but old data of the source, of
 * its own if it was flattened meanwhile.
 */
export const removeTemp = (
  pool: PoolRef,
  imageName: string,
  mirrorDaemons = 0,
): Effect.Effect<void, CephError | Precondition, DriverSettings | Manager | Purge | Rados | Rbd> =>
  removeImages([{ pool, imageName: tempImage(imageName), snapshots: [imageName] }], mirrorDaemons);

/**
 * Removes the image in between of a volume that does not read from it any more because it was flattened: that image only
 * keeps old data of the source. A failure is logged, because the next copy of the volume tries again.
 */
export const removeLeftOverTemp = Effect.fn("images.removeLeftOverTemp")(
  function* (
    { pool, imageName, attributes }: LocatedVolume,
    { parent }: ImageHeader,
  ): Effect.fn.Return<void, CephError | Precondition, Ceph | DriverSettings | Purge> {
    if (parent !== undefined || attributes?.imageId === undefined) return;
    if ((yield* (yield* Rbd).imageId(pool, tempImage(imageName))) === undefined) return;
    yield* removeTemp(pool, imageName);
  },
  Effect.catch(({ message }) => Effect.logInfo(`the left-over image of a copy stays for now: ${message}`)),
);
