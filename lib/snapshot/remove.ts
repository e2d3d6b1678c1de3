/**
 * DeleteSnapshot: the image that holds the point in time goes to the trash, then its name is free again. Volumes made of
 * it stay: their parent waits in the trash until the last of them is deleted or flattened.
 *
 * 1. What does not exist is deleted; "could not tell" is an error.
 * 2. A restore that runs is waited for.
 */
import * as Effect from "effect/Effect";
import { Ceph } from "../ceph/ceph.ts";
import type { Credentials } from "../config/secrets.ts";
import { resolveSnapshot } from "../handles.ts";
import { removeImages } from "../images.ts";
import { SNAPSHOTS, unreserve } from "../journal.ts";
import { Locks } from "../locks.ts";
import { stage } from "../pipeline.ts";
import type { VolumeOptions } from "../volume/options.ts";

export const deleteSnapshot = ({ instanceId }: VolumeOptions, snapshotId: string, credentials: Credentials) =>
  Effect.gen(function* () {
    const locks = yield* Locks;
    const ceph = yield* Ceph;
    const body = Effect.gen(function* () {
      const { pool, uuid, imageName, attributes } = yield* stage("find", resolveSnapshot(snapshotId, credentials));
      const requestName = attributes?.requestName;
      const remove = Effect.gen(function* () {
        const { imageId, source } = attributes ?? {};
        if (imageId === undefined && source !== undefined) {
          // It was never ready: the transient snapshot may still be on its source.
          yield* stage(
            "clear source",
            ceph.snapshotRemove(pool, source, imageName).pipe(Effect.catchTag("ImageNotFound", () => Effect.void)),
          );
        }
        yield* stage("remove image", removeImages([{ pool, imageName, imageId, snapshots: [imageName] }], 0));
        if (attributes === undefined) return;
        yield* stage("free name", unreserve(SNAPSHOTS, pool, instanceId, { uuid, entry: uuid, requestName }));
      });
      return yield* requestName === undefined
        ? remove
        : stage("lock", locks.withLock(`snapshot name ${requestName}`, "exclusive", remove));
    });
    yield* stage("lock", locks.withLock(`snapshot ${snapshotId}`, "exclusive", body)).pipe(
      // CSI: what does not exist is deleted.
      Effect.catchTag("SnapshotNotFound", ({ message }) => Effect.logInfo(`nothing to delete: ${message}`)),
    );
  });
