/**
 * NodeStageVolume: maps a volume's image on this node, and makes it a filesystem or a raw block device at the staging
 * target. A later call repairs and completes what an earlier one left.
 *
 * Not here: what is on the node already (./staged-volume.ts, ./compare-with-request.ts), whether the image may be
 * mapped (./mappable.ts), and when a device is formatted (./prepare-filesystem.ts).
 *
 * 1. image-meta.json is written before the image is mapped, and removed after it is proven unmapped. So the next call
 *    always finds what a stage left on the node.
 * 2. A failure after which something stays is of unknown outcome: kubelet never unstages after any other.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import { joinMapOptions } from "../config/krbd-options.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { type Conflict, InvalidRequest, type LockHeld, type Precondition, VolumeNotFound } from "../csi/errors.ts";
import { type HostError, HostStuck } from "../host/errors.ts";
import { bindOptions, mountOptions } from "../host/filesystem.ts";
import { Host, type MapRequest } from "../host/host.ts";
import { Placement } from "../kube/placement.ts";
import { compensated, type Compensations, step } from "../operations/compensation.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { type Comparison, compareWithRequest, type WantedVolume } from "./compare-with-request.ts";
import { devicesOfImage, proveOurs, waitUntilMappable } from "./mappable.ts";
import { mountFilesystem, proveMounted, unmountAll } from "./mounts.ts";
import { prepareFilesystem } from "./prepare-filesystem.ts";
import { PublishedNodeRecord } from "./published-node-record.ts";
import { clearStaleState } from "./stale-state.ts";
import { stackOver } from "./staged-device.ts";
import {
  lookAtStagedVolume,
  proveSupported,
  removeImageMeta,
  type StagedVolume,
  writeImageMeta,
} from "./staged-volume.ts";
import { locateImage, toImageName, type VolumeImage } from "./volume-context.ts";

export interface StageSpec extends WantedVolume {
  /** The request's staging_target_path. */
  readonly stagingPath: string;
  readonly credentials: Credentials;
  /** Whether nobody can write to the device itself. */
  readonly mapReadOnly: boolean;
  /** Whether other nodes may have the volume at the same time. */
  readonly shared: boolean;
}

export type StageError =
  | CephError
  | ConfigError
  | Conflict
  | HostError
  | InvalidRequest
  | LockHeld
  | Precondition
  | VolumeNotFound;

type Needs = Ceph | ClusterMapping | Clusters | Host | Placement | PublishedNodeRecord;

export const stageVolume = Effect.fn("node.stageVolume")(function* (
  spec: StageSpec,
): Effect.fn.Return<void, StageError, Needs | Locks> {
  const { volumeId } = spec;
  const locks = yield* Locks;
  yield* locks
    .with([LockKey.volume(volumeId)], stageLocked(spec))
    .pipe(
      Effect.catchTag("ImageNotFound", ({ message }) => Effect.fail(new VolumeNotFound({ volumeId, reason: message }))),
    );
});

const stageLocked = Effect.fnUntraced(function* (spec: StageSpec): Effect.fn.Return<void, StageError, Needs> {
  const { context, credentials, stagingPath, volumeId } = spec;
  const now = yield* stage("look at node", lookAtStagedVolume(volumeId, stagingPath));
  const target = yield* existingTarget(now);
  yield* proveSupported(now);
  const found = yield* stage("compare with request", compareWithRequest(spec, now));
  if (found.state === "as requested") return yield* completeStaged(spec, now, found);
  const image = yield* stage("locate image", locateImage(context, credentials));
  const status = yield* waitUntilMappable(image, spec, now.devices);
  yield* clearStaleState(now, found, devicesOfImage(now.devices, image, status), context.unmapOptions);
  yield* compensated(mapFormatMount(spec, target, image, status), (left, error) => halfStaged(volumeId, left, error));
  yield* recordPublishedNode(spec, image);
});

const existingTarget = ({ stagingTarget }: StagedVolume): Effect.Effect<string, InvalidRequest> =>
  stagingTarget === undefined
    ? Effect.fail(new InvalidRequest({ field: "staging_target_path", reason: "does not exist on this node" }))
    : Effect.succeed(stagingTarget);

/** Repairs image-meta.json, and grows the filesystem: a crash may have come between its mount and its growth. */
const completeStaged = Effect.fnUntraced(function* (
  spec: StageSpec,
  now: StagedVolume,
  { device, entry }: Comparison & { state: "as requested" },
): Effect.fn.Return<void, StageError, Needs> {
  if (now.imageMeta.kind !== "read") {
    const image = yield* stage("locate image", locateImage(spec.context, spec.credentials));
    const write = writeImageMeta(spec.stagingPath, toImageName(image), spec.context.unmapOptions);
    yield* stage("write image-meta", write);
    yield* recordPublishedNode(spec, image);
  }
  if (spec.access.kind === "block" || spec.readOnly) return;
  const filesystem = { device: device.top.path, type: entry.fsType };
  yield* stage("grow filesystem", (yield* Host).growFilesystem(filesystem, entry.point));
});

const mapFormatMount = Effect.fnUntraced(function* (
  spec: StageSpec,
  target: string,
  image: VolumeImage,
  before: ImageStatus,
): Effect.fn.Return<void, CephError | HostError | Precondition, Compensations | Host | Placement | Rbd> {
  const host = yield* Host;
  const { access, context, readOnly, shared, stagingPath } = spec;
  yield* step("write image-meta", writeImageMeta(stagingPath, toImageName(image), context.unmapOptions), {
    when: "started",
    undo: Effect.andThen(host.removePath(target), removeImageMeta(stagingPath)),
    leaves: "image-meta.json",
  });
  const device = yield* step("map", Effect.map(host.map(yield* mapRequest(spec, image)), stackOver), {
    undo: ({ mapped }) => host.unmap(mapped, context.unmapOptions),
  });
  yield* stage("prove ours", proveOurs(image, shared, before, device));
  const source = device.top.path;
  const unmount = { undo: () => unmountAll(target) };
  if (access.kind === "block") {
    yield* stage("make target", host.makeFile(target));
    const options = bindOptions({ flags: [], readOnly }, []);
    yield* step("bind", host.mount({ source, target, options }), unmount);
    return;
  }
  const type = yield* prepareFilesystem({ type: access.type, readOnly, context }, image, device);
  const options = mountOptions(type, { flags: access.mountFlags, readOnly });
  yield* stage("make target", host.makeDirectory(target));
  yield* step("mount", mountFilesystem(device, { target, type, options }), unmount);
  yield* stage("verify mount", proveMounted(target, device, readOnly, options));
  if (!readOnly) yield* stage("grow filesystem", host.growFilesystem({ device: source, type }, target));
});

const mapRequest = Effect.fnUntraced(function* (
  { context, mapReadOnly }: StageSpec,
  image: VolumeImage,
): Effect.fn.Return<MapRequest, never, Placement> {
  const { access } = image.pool;
  const nearReads = yield* (yield* Placement).mapOptions(image.cluster);
  return {
    ...toImageName(image),
    mapper: context.mapper,
    monitors: access.monitors,
    user: access.user,
    key: access.key,
    readOnly: mapReadOnly,
    options: joinMapOptions(context.mapOptions, nearReads),
    netNamespace: image.cluster.netNamespaceFilePath || undefined,
  };
});

const recordPublishedNode = ({ volumeId, shared }: StageSpec, { journal }: VolumeImage) =>
  Effect.flatMap(PublishedNodeRecord, (record) =>
    stage("record published node", record.staged(volumeId, journal, shared)),
  );

const halfStaged = (volumeId: string, left: readonly string[], { message }: { readonly message: string }): HostStuck =>
  new HostStuck({
    op: "stage",
    subject: `volume ${volumeId}`,
    reason: `${message}. Volume ${volumeId} is half-staged (${left.join(", ")} is left): a retry completes it, NodeUnstageVolume removes it`,
  });
