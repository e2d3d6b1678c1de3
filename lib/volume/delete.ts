/**
 * DeleteVolume: an image that nobody uses to the trash, then its name free again.
 *
 * 1. No image goes while somebody watches it, and no reservation before its image.
 * 2. What does not exist is deleted; "could not tell" is an error.
 */
import * as Effect from "effect/Effect";
import type { PoolRef } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { Credentials } from "../config/secrets.ts";
import type { VolumeOptions } from "../config/settings.ts";
import { tempImage } from "../images/intermediate.ts";
import { removeImages } from "../images/removal.ts";
import { unreserve, VOLUMES } from "../journal/journal.ts";
import { locateVolume } from "../journal/locate.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { dropMarks } from "./leftover-snapshots.ts";

/** The image, and the one that it was copied through: without the volume that has nothing that anybody could miss. */
export const removeVolumeImages = (
  instanceId: string,
  pool: PoolRef,
  imageName: string,
  imageId: string | undefined,
  mirrorDaemons: number,
) =>
  Effect.gen(function* () {
    const temp = tempImage(imageName);
    const copied = (yield* (yield* Rbd).imageId(pool, temp)) !== undefined;
    const prepare = (image: ImageStatus) => dropMarks(instanceId, pool, imageName, image);
    yield* removeImages(
      [
        { pool, imageName, imageId, prepare, followers: [temp] },
        ...(copied ? [{ pool, imageName: temp, snapshots: [imageName] }] : []),
      ],
      mirrorDaemons,
    );
  });

export const deleteVolume = ({ instanceId }: VolumeOptions, volumeId: string, credentials: Credentials) =>
  Effect.gen(function* () {
    const locks = yield* Locks;
    const body = Effect.gen(function* () {
      const { pool, uuid, imageName, attributes, cluster } = yield* stage("find", locateVolume(volumeId, credentials));
      const requestName = attributes?.requestName;
      const remove = Effect.gen(function* () {
        const images = removeVolumeImages(instanceId, pool, imageName, attributes?.imageId, cluster.mirrorDaemonCount);
        yield* stage("remove image", images);
        if (attributes === undefined) return;
        yield* stage("free name", unreserve(VOLUMES, pool, instanceId, { uuid, entry: uuid, requestName }));
      });
      return yield* requestName === undefined
        ? remove
        : stage("lock", locks.withLock(`name ${cluster.clusterId}/${requestName}`, "exclusive", remove));
    });
    yield* stage("lock", locks.withLock(`volume ${volumeId}`, "exclusive", body)).pipe(
      // CSI: what does not exist is deleted.
      Effect.catchTag("VolumeNotFound", ({ message }) => Effect.logInfo(`nothing to delete: ${message}`)),
    );
  });
