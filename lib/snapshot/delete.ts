/**
 * DeleteSnapshot: the image that holds the point in time goes to the trash, then its name is free again. Volumes made of
 * it stay: their parent waits in the trash until the last of them is deleted or flattened.
 *
 * 1. What does not exist is deleted; "could not tell" is an error.
 * 2. A restore that runs is waited for.
 * 3. A member of a group snapshot goes with its group (CSI allows to refuse it alone). One whose group is gone is a
 *    snapshot like any other.
 */
import * as Effect from "effect/Effect";
import { Rbd } from "../ceph/rbd.ts";
import type { Credentials } from "../config/secrets.ts";
import type { VolumeOptions } from "../config/settings.ts";
import { InvalidRequest } from "../csi/errors.ts";
import { removeImages } from "../images/removal.ts";
import { SNAPSHOTS, unreserve } from "../journal/journal.ts";
import { locateGroup } from "../journal/locate-group.ts";
import { locateSnapshot } from "../journal/locate.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";

const proveAlone = (snapshotId: string, groupId: string, credentials: Credentials) =>
  locateGroup(groupId, credentials).pipe(
    Effect.flatMap(({ entry }) => {
      if (!entry.members.includes(snapshotId)) return Effect.void;
      const reason = `is a member of group snapshot ${groupId}: delete that one`;
      return Effect.fail(new InvalidRequest({ field: "snapshot_id", reason }));
    }),
    Effect.catchTag("GroupSnapshotNotFound", () => Effect.void),
  );

/** `ofGroup`: the group snapshot that is being deleted. */
export const deleteSnapshot = (
  { instanceId }: VolumeOptions,
  snapshotId: string,
  credentials: Credentials,
  ofGroup?: string,
) =>
  Effect.gen(function* () {
    const locks = yield* Locks;
    const rbd = yield* Rbd;
    const body = Effect.gen(function* () {
      const { pool, uuid, imageName, attributes } = yield* stage("find", locateSnapshot(snapshotId, credentials));
      const requestName = attributes?.requestName;
      const groupId = attributes?.groupId;
      if (groupId !== undefined && groupId !== ofGroup) {
        yield* stage("find", proveAlone(snapshotId, groupId, credentials));
      }
      const remove = Effect.gen(function* () {
        const { imageId, source } = attributes ?? {};
        if (imageId === undefined && source !== undefined) {
          // It was never ready: the transient snapshot may still be on its source.
          yield* stage(
            "clear source",
            rbd.snapshotRemove(pool, source, imageName).pipe(Effect.catchTag("ImageNotFound", () => Effect.void)),
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
