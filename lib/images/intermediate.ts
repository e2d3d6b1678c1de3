/**
 * The image that a volume's copy goes through: its name (`<image>-temp`, as in ceph-csi), and its end.
 */
import * as Effect from "effect/Effect";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { LocatedVolume } from "../journal/locate.ts";
import { removeImages } from "./removal.ts";

export const tempImage = (imageName: string): string => `${imageName}-temp`;

/**
 * The image in between stays as long as the volume reads from it. A volume that was flattened does not: then the image
 * only keeps the source's old data, and goes as soon as somebody looks at the volume.
 */
export const dropLeftOver = (found: LocatedVolume, status: ImageStatus) =>
  Effect.gen(function* () {
    if (status.parent !== undefined || found.attributes?.imageId === undefined) return;
    const { pool, imageName } = found;
    const temp = tempImage(imageName);
    if ((yield* (yield* Rbd).imageId(pool, temp)) === undefined) return;
    yield* removeImages([{ pool, imageName: temp, snapshots: [imageName] }], 0);
  }).pipe(Effect.catch(({ message }) => Effect.logInfo(`the left-over image of a copy stays for now: ${message}`)));
