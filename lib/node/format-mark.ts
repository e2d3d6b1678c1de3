/**
 * The mark on an image that this driver formats: in its metadata from before mkfs begins until it has ended. A machine that
 * loses its power, or a container that is killed with all its processes, leaves an image with some of mkfs's writes and no
 * filesystem. By the mark the next stage knows that they are mkfs's, and formats it anew.
 *
 * 1. The mark is set only on an image that was proven empty, while it was mapped here and had no other user.
 * 2. It is gone before anybody is given the volume: before it is mounted or, as raw block, bound.
 * 3. A mark formats nothing by itself: what blkid finds on the device is never formatted.
 * 4. A clone does not inherit it, because its key begins with `.rbd`.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { stage } from "../operations/pipeline.ts";
import type { VolumeImage } from "./volume-context.ts";

/** The value is the type of the filesystem. */
export const FORMATTING = ".rbd.csi.ceph.com/formatting";

export const hasFormatMark = ({ metadata }: Pick<ImageStatus, "metadata">): boolean =>
  (metadata.get(FORMATTING) ?? "") !== "";

const set = ({ pool, imageName }: VolumeImage, value: string | undefined): Effect.Effect<void, CephError, Rbd> =>
  Effect.flatMap(Rbd, (rbd) => rbd.imageMetaSet(pool, imageName, { [FORMATTING]: value }));

export const setFormatMark = (image: VolumeImage, type: string): Effect.Effect<void, CephError, Rbd> =>
  stage("mark format", set(image, type));

export const removeFormatMark = (image: VolumeImage): Effect.Effect<void, CephError, Rbd> =>
  stage("unmark format", set(image, undefined));
