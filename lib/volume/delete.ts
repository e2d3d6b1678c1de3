/**
 * DeleteVolume: moves an image that nobody uses to the trash, removes its key, then frees its name.
 *
 * Not here: how long it waits for a watcher (lib/images/in-use.ts).
 *
 * 1. No image goes while somebody watches it, and no reservation goes before its image.
 * 2. A volume with a snapshot that a person took stays as it is, and so does the source of a group snapshot whose members
 *    are not all made.
 * 3. A volume that does not exist is deleted; "could not tell" is an error.
 * 4. An empty entry is no proof that a volume does not exist: its journal may be in another pool, and is looked for.
 * 5. Of a volume that another cluster mirrors to this one only the name goes: image and key are that cluster's. So does
 *    ceph-csi.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Requester } from "../config/secrets.ts";
import { DriverSettings } from "../config/settings.ts";
import { type LockHeld, Precondition, type VolumeNotFound } from "../csi/errors.ts";
import { tempImage } from "../images/intermediate.ts";
import { removeKey } from "../images/key-removal.ts";
import type { Purge } from "../images/purge.ts";
import { type Removal, removeImages } from "../images/removal.ts";
import { forget, imageNameOf, unreserve, VOLUMES } from "../journal/journal.ts";
import { type LocatedVolume, locateVolume } from "../journal/locate.ts";
import { findSplitEntry, type SplitEntry } from "../journal/split-entry.ts";
import type { Kms } from "../kms/kms.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { leftoverSnapshots } from "./leftover-snapshots.ts";

export type DeleteVolumeError = CephError | ConfigError | LockHeld | Precondition;

type Needs = Ceph | ClusterMapping | Clusters | DriverSettings | Kms | Locks | Purge;

export const deleteVolume = Effect.fn("volume.deleteVolume")(function* (
  volumeId: string,
  requester: Requester,
): Effect.fn.Return<void, DeleteVolumeError, Needs> {
  const locks = yield* Locks;
  yield* locks.with([LockKey.volume(volumeId)], deleteLocked(volumeId, requester)).pipe(
    // CSI: what does not exist is deleted.
    Effect.catchTag("VolumeNotFound", ({ message }) => Effect.logInfo(`nothing to delete: ${message}`)),
  );
});

const deleteLocked = Effect.fnUntraced(function* (
  volumeId: string,
  { credentials, secrets }: Requester,
): Effect.fn.Return<void, DeleteVolumeError | VolumeNotFound, Needs> {
  const { instanceId } = yield* DriverSettings;
  const found = yield* stage("find", locateVolume(volumeId, credentials));
  const split = yield* stage("find journal", findSplitEntry(found));
  const located = split === undefined ? found : atSplit(found, split);
  const { pool, uuid, imageName, attributes, cluster } = located;
  const requestName = attributes?.requestName;
  const name = requestName === undefined ? undefined : LockKey.volumeName(cluster.clusterId, requestName);
  const remove = Effect.gen(function* () {
    const images = removeVolumeImages(pool, imageName, attributes?.imageId, cluster.mirrorDaemonCount);
    const removed = Effect.as(images, true).pipe(
      Effect.catchTag("Precondition", (refusal) => replicaStays(located, refusal)),
    );
    if (yield* stage("remove image", removed)) yield* removeKey(located, secrets);
    if (attributes === undefined) return;
    const { journalPool = pool, entry = uuid } = split ?? {};
    yield* stage("free name", unreserve(VOLUMES, journalPool, instanceId, { uuid, entry, requestName }));
    // by its object in the image's pool a deletion that was cut off finds the rest
    if (split !== undefined) yield* stage("forget", forget(VOLUMES, pool, uuid));
  });
  yield* (yield* Locks).with([name], remove);
});

const atSplit = (located: LocatedVolume, { attributes }: SplitEntry): LocatedVolume => ({
  ...located,
  attributes,
  imageName: imageNameOf(VOLUMES, located.uuid, attributes),
});

/** -> false, if the volume's own image follows the one of another cluster. */
const replicaStays = (
  { pool, imageName }: LocatedVolume,
  refusal: Precondition,
): Effect.Effect<false, Precondition> => {
  const { replica } = refusal;
  if (replica?.imageName !== imageName) return Effect.fail(refusal);
  const subject = `image ${imageLabel(pool, imageName)}`;
  if (replica.replayed) {
    return Effect.as(
      Effect.logInfo(`${subject} stays: it follows the volume of another cluster, which has to delete it`),
      false,
    );
  }
  return Effect.fail(
    new Precondition({
      subject,
      problem: "is a mirror of another cluster's image, but no mirror daemon replays that one here",
      remedy:
        'Delete the volume in the other cluster. Here it is deleted as soon as "rbd mirror image status" says up+replaying, or once the image is gone',
    }),
  );
};

/** Removes the image, and the one that it was copied through, which without the volume holds nothing that is missed. */
export const removeVolumeImages = Effect.fn("volume.removeVolumeImages")(function* (
  pool: PoolRef,
  imageName: string,
  imageId: string | undefined,
  mirrorDaemons: number,
  { onlyMarked }: Pick<Removal, "onlyMarked"> = {},
): Effect.fn.Return<void, CephError | Precondition, Ceph | DriverSettings | Purge> {
  const temp = tempImage(imageName);
  const copied = (yield* (yield* Rbd).imageId(pool, temp)) !== undefined;
  const leftovers = (snapshots: readonly string[]) => leftoverSnapshots(pool, imageName, snapshots);
  yield* removeImages(
    [
      { pool, imageName, imageId, leftovers, followers: [temp], onlyMarked },
      ...(copied ? [{ pool, imageName: temp, snapshots: [imageName] }] : []),
    ],
    mirrorDaemons,
  );
});
