/**
 * NodeStageVolume: maps a volume's image on this node, and makes it a filesystem or a raw block device at the staging
 * target. A later call repairs and completes what an earlier one left.
 *
 * Not here: what is on the node already (./staged-volume.ts, ./compare-with-request.ts), whether the image may be
 * mapped (./mappable.ts), and when a device is formatted (./prepare-filesystem.ts) and encrypted (./crypt-layer.ts), or a
 * folder in it (./crypt-folder.ts).
 *
 * 1. image-meta.json is written before the image is mapped, and removed after it is proven unmapped. So the next call
 *    always finds what a stage left on the node.
 * 2. A failure after which something stays is of unknown outcome: kubelet never unstages after any other.
 * 3. With --enable-fencing nothing is mapped under a boot that was fenced from the volume: it would be by the fenced client.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import { isOfFiles } from "../config/encryption.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import {
  type Conflict,
  InvalidRequest,
  type JournalCorrupt,
  type LockHeld,
  type NotReadyYet,
  type Precondition,
  VolumeNotFound,
} from "../csi/errors.ts";
import { SERVICE_ACCOUNTS } from "../csi/service-accounts.ts";
import type { HostError } from "../host/errors.ts";
import { bindOptions, mountOptions } from "../host/filesystem.ts";
import { Host } from "../host/host.ts";
import type { KeyNotFound, KmsError } from "../kms/errors.ts";
import type { Kms } from "../kms/kms.ts";
import type { Placement } from "../kube/placement.ts";
import { compensated, type Compensations, step } from "../operations/compensation.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { orSay, within } from "../operations/within.ts";
import { ClientRecord } from "./client-record.ts";
import { type Comparison, compareWithRequest, type WantedVolume } from "./compare-with-request.ts";
import { addLayer, growLayer, type LayerKey, layerKey, type LayerWanted } from "./crypt-layer.ts";
import { type FolderKey, folderKey, unlockFolder } from "./crypt-folder.ts";
import { healDevice } from "./heal.ts";
import { clearInTreeLocks, removeInTreeFiles } from "./in-tree.ts";
import type { ReadImage } from "./io-limits.ts";
import { imageMetaFor, mapImage, unmapOptionsOf } from "./map-image.ts";
import { devicesOfImage, type Mappable, proveOurs, waitUntilMappable } from "./mappable.ts";
import { mountFilesystem, proveMounted, unmountAll } from "./mounts.ts";
import { prepareFilesystem, proveServed } from "./prepare-filesystem.ts";
import { PublishedNodeRecord } from "./published-node-record.ts";
import { leftStaged, overLeftOvers, overWhatIsThere } from "./left-over.ts";
import { clearStaleState } from "./stale-state.ts";
import { type StagedDevice, stackOver } from "./staged-device.ts";
import {
  lookAtStagedVolume,
  removeImageMeta,
  type StagedPlace,
  type StagedVolume,
  writeImageMeta,
} from "./staged-volume.ts";
import { cookieOf, locateImage, type VolumeContext, type VolumeImage } from "./volume-context.ts";

export interface StageSpec extends StagedPlace, WantedVolume, LayerWanted {
  readonly context: VolumeContext;
  readonly credentials: Credentials;
  /** Whether other nodes may have the volume at the same time. */
  readonly shared: boolean;
}

export type StageError =
  | CephError
  | ConfigError
  | Conflict
  | HostError
  | InvalidRequest
  | JournalCorrupt
  | KeyNotFound
  | KmsError
  | LockHeld
  | NotReadyYet
  | Precondition
  | VolumeNotFound;

type Needs = Ceph | ClientRecord | ClusterMapping | Clusters | Host | Kms | Placement | PublishedNodeRecord;

/** -> what it has read of the image, unless the volume was staged already. */
export const stageVolume = Effect.fn("node.stageVolume")(function* (
  spec: StageSpec,
): Effect.fn.Return<ReadImage | undefined, StageError, Needs | Locks> {
  const { volumeId } = spec;
  const locks = yield* Locks;
  return yield* locks
    .with([LockKey.volume(volumeId)], stageLocked(spec))
    .pipe(
      Effect.catchTag("ImageNotFound", ({ message }) => Effect.fail(new VolumeNotFound({ volumeId, reason: message }))),
    );
});

const stageLocked = Effect.fnUntraced(function* (
  spec: StageSpec,
): Effect.fn.Return<ReadImage | undefined, StageError, Needs> {
  return yield* overLeftOvers("stage", spec.volumeId, leftStaged(spec))(stageOver(spec));
});

/** Stages the volume over what is there of it already. */
const stageOver = Effect.fnUntraced(function* (
  spec: StageSpec,
): Effect.fn.Return<ReadImage | undefined, StageError, Needs> {
  const { context, credentials, stagingPath, volumeId } = spec;
  const now = yield* stage("look at node", lookAtStagedVolume(spec));
  const target = yield* existingTarget(now);
  const found = yield* stage("compare with request", compareWithRequest(spec, now));
  if (found.state === "as requested") return yield* Effect.as(completeStaged(spec, now, found), undefined);
  if (spec.access.kind === "filesystem") yield* proveServed(spec.access.type);
  const image = yield* stage("locate image", locateImage(context, credentials));
  const keys = yield* stage("get key", Effect.all({ layer: layerKey(spec, image), folder: folderKey(spec, image) }));
  const mappable = yield* waitUntilMappable(image, spec, now.devices);
  const leftOver = devicesOfImage(now.devices, image, mappable.status, cookieOf(context));
  yield* clearStaleState(now, found, leftOver, context);
  const status = yield* clearInTreeLocks(image, leftOver, spec, mappable.status);
  yield* compensated(mapFormatMount({ ...spec, ...keys }, target, image, { ...mappable, status }), (left, error) =>
    overWhatIsThere("stage", volumeId, left, error),
  );
  // A record that fails fails the call, and the retry finds the volume staged.
  yield* removeInTreeFiles(stagingPath, context);
  yield* recordPublishedNode(spec, image);
  const { id, metadata } = status;
  return { image, id, metadata };
});

const existingTarget = ({ stagingTarget }: StagedVolume): Effect.Effect<string, InvalidRequest> =>
  stagingTarget === undefined
    ? Effect.fail(new InvalidRequest({ field: "staging_target_path", reason: "does not exist on this node" }))
    : Effect.succeed(stagingTarget);

/**
 * Completes what is staged already: it may lack its rbd-nbd process, its image-meta.json or, because a crash may have
 * come between mount and growth, the size of its filesystem and of the layer below it.
 */
const completeStaged = Effect.fnUntraced(function* (
  spec: StageSpec,
  now: StagedVolume,
  { device, entry }: Comparison & { state: "as requested" },
): Effect.fn.Return<void, StageError, Needs> {
  const { context, credentials, stagingPath } = spec;
  const { mapper, path, served } = device.mapped;
  const known = now.imageMeta.kind === "read";
  yield* removeInTreeFiles(stagingPath, context);
  if (!known || !served) {
    const image = yield* stage("locate image", locateImage(context, credentials));
    if (!served) yield* healDevice(spec, image, device);
    if (!known) {
      const encrypted = device.mapped.crypt !== undefined;
      const serviceAccounts = yield* accountsOf(image);
      const marks = { encrypted, serviceAccounts, encryptedFiles: isOfFiles(image.encryption) };
      const meta = imageMetaFor(context, image, mapper, marks);
      yield* stage("write image-meta", writeImageMeta(stagingPath, meta.nbd ? { ...meta, device: path } : meta));
      yield* recordPublishedNode(spec, image);
    }
  }
  if (served) {
    yield* renewClientRecord(spec, device);
    yield* completeNodeRecord(spec);
  }
  if (isOfFiles(context.encryption)) yield* unlockStaged(spec, entry.point);
  if (spec.readOnly) return;
  // One with integrity cannot grow, and is staged all the same.
  if (device.mapped.crypt?.integrity !== true) {
    yield* Effect.catchTag(growLayer(device, device.mapped.sizeBytes), "HostRefused", ({ message }) =>
      Effect.logWarning(message),
    );
  }
  if (spec.access.kind === "block") return;
  const filesystem = { device: device.top.path, type: entry.fsType };
  yield* stage("grow filesystem", (yield* Host).growFilesystem(filesystem, entry.point));
});

/** A crash may have come between the mount and the folder. */
const unlockStaged = Effect.fnUntraced(function* (
  spec: StageSpec,
  point: string,
): Effect.fn.Return<void, StageError, Needs> {
  const found = yield* stage("look at encrypted folder", (yield* Host).cryptFolder(point));
  if (found.kind === "unlocked") return;
  const image = yield* stage("locate image", locateImage(spec.context, spec.credentials));
  const folder = yield* stage("get key", folderKey(spec, image));
  if (folder !== undefined) yield* unlockFolder(point, spec, image, folder);
});

const mapFormatMount = Effect.fnUntraced(function* (
  spec: StageSpec & { readonly layer: LayerKey | undefined; readonly folder: FolderKey | undefined },
  target: string,
  image: VolumeImage,
  { mapper, status }: Mappable,
): Effect.fn.Return<
  void,
  CephError | HostError | InvalidRequest | JournalCorrupt | KeyNotFound | KmsError | NotReadyYet | Precondition,
  Ceph | ClientRecord | Compensations | Host | Placement
> {
  const host = yield* Host;
  const { access, context, folder, layer, readOnly, shared, stagingPath } = spec;
  const { enabled, proveNotFenced, staged } = yield* ClientRecord;
  if (enabled) yield* stage("prove not fenced", proveNotFenced(context, image, false));
  const serviceAccounts = status.metadata.get(SERVICE_ACCOUNTS) ?? "";
  const marks = { encrypted: layer !== undefined, encryptedFiles: folder !== undefined, serviceAccounts };
  yield* step("write image-meta", writeImageMeta(stagingPath, imageMetaFor(context, image, mapper, marks)), {
    when: "started",
    undo: Effect.andThen(host.removePath(target), removeImageMeta(stagingPath)),
    leaves: "image-meta.json",
  });
  const bare = yield* step("map", Effect.map(mapImage({ ...spec, image, marks }, mapper), stackOver), {
    undo: ({ mapped }) => host.unmap(mapped, unmapOptionsOf(context, mapped.mapper)),
  });
  const watcher = yield* stage("prove ours", proveOurs(image, shared, status, bare));
  if (enabled) {
    yield* stage("record client", staged(context, image, bare.mapped, watcher));
    // Whoever was given the volume before the record was there has not seen it. So this node looks for them once more.
    if (!shared) yield* stage("prove ours", proveOurs(image, shared, status, bare));
  }
  const { device, ...neverWritten } =
    layer === undefined
      ? { device: bare, from: 0n, wiped: false }
      : yield* addLayer(spec, image, bare, layer, status, watcher);
  const source = device.top.path;
  const unmount = { undo: () => unmountAll(target) };
  if (access.kind === "block") {
    yield* stage("make target", host.makeFile(target));
    const options = bindOptions({ flags: [], readOnly }, []);
    yield* step("bind", host.mount({ source, target, options }), unmount);
    return;
  }
  const { type, mountType } = yield* prepareFilesystem(
    { type: access.type, readOnly, context, encryptsFiles: folder !== undefined },
    image,
    device,
    neverWritten,
  );
  const options = mountOptions(mountType, { flags: access.mountFlags, readOnly });
  yield* stage("make target", host.makeDirectory(target));
  yield* step("mount", mountFilesystem(device, { target, type: mountType, options }), unmount);
  yield* stage("verify mount", proveMounted(target, device, readOnly, options));
  if (folder !== undefined) yield* unlockFolder(target, spec, image, folder);
  if (!readOnly) yield* stage("grow filesystem", host.growFilesystem({ device: source, type }, target));
});

const accountsOf = Effect.fnUntraced(function* ({
  pool,
  imageName,
}: VolumeImage): Effect.fn.Return<string, CephError, Ceph> {
  const [brief] = yield* stage("read metadata", (yield* Rbd).imageBriefs(pool, [imageName], [SERVICE_ACCOUNTS]));
  return brief?.metadata.get(SERVICE_ACCOUNTS) ?? "";
});

/**
 * For a volume that was staged before fencing was turned on. Pods use it already, so a failure is no reason to fail, unless it
 * was taken from this node since: pods would read what the kernel still has of it.
 */
const renewClientRecord = Effect.fnUntraced(function* (
  { context, credentials, volumeId, mapReadOnly: readOnly }: StageSpec,
  { mapped }: StagedDevice,
): Effect.fn.Return<void, Precondition, Needs> {
  const { enabled, renewed } = yield* ClientRecord;
  if (!enabled) return;
  const done = Effect.flatMap(stage("locate image", locateImage(context, credentials)), (image) =>
    stage("record client", renewed(context, image, { ...mapped, readOnly })),
  );
  const fenced = yield* Effect.catch(done, ({ message }) =>
    Effect.as(
      Effect.logWarning(`whether volume ${volumeId} can be fenced on this node is not known: ${message}`),
      undefined,
    ),
  );
  if (fenced !== undefined) return yield* fenced;
});

const recordPublishedNode = ({ volumeId, shared }: StageSpec, { journal }: VolumeImage) =>
  Effect.flatMap(PublishedNodeRecord, (record) =>
    stage("record published node", record.staged(volumeId, journal, shared)),
  );

const RECORD_LIMIT = "5 seconds";

/**
 * The call that staged the volume may have been cut off before its record. Of a device without a process, the record as it is
 * proves that the volume was not elsewhere.
 */
const completeNodeRecord = (spec: StageSpec) => {
  const waits = (why: string) => Effect.logDebug(`the record of the node of ${spec.volumeId} waits: ${why}`);
  const completed = Effect.gen(function* () {
    const { context, credentials } = spec;
    // a static volume has none
    if (context.fixed !== undefined || (yield* PublishedNodeRecord).isRecorded(context.volumeId)) return;
    yield* recordPublishedNode(spec, yield* stage("locate image", locateImage(context, credentials)));
  });
  return orSay(RECORD_LIMIT, waits, (limit) => within(completed, limit));
};
