/**
 * The CSI Node service: volumes on this machine, mapped by the kernel, as a filesystem or as a raw block device.
 *
 * Each mutating RPC is a recipe of named stages (lib/operations/pipeline.ts). Not here: how a stage talks to the kernel
 * (lib/host) or to Ceph (lib/ceph), and what is made of what it finds (lib/node/staged-volume.ts, lib/node/mappable.ts, lib/node/device.ts).
 *
 * 1. A device is formatted only if it was mapped here, nobody else has the image open, blkid finds nothing, it begins
 *    with zeros, and librbd says that no extent of the image is allocated; and never a static volume's.
 * 2. What a stage leaves on the node is always found again: the stash is written before the image is mapped, and
 *    removed after it is proven unmapped.
 * 3. What is mounted where is read from the kernel's mount table. Nothing is removed but empty folders and files.
 * 4. A path that is in use by something else than the request says is left as it is, with an error.
 */
import { resolve } from "node:path";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { type ImageStatus, Rbd } from "../lib/ceph/rbd.ts";
import type { Flags } from "../lib/config/flags.ts";
import { parseCredentials } from "../lib/config/secrets.ts";
import { readCapability } from "../lib/csi/capability.ts";
import { InvalidRequest, Precondition, VolumeNotFound } from "../lib/csi/errors.ts";
import { HEALTHY_MESSAGE } from "../lib/csi/messages.ts";
import { absolutePath, requiredText } from "../lib/csi/request-fields.ts";
import { SizeOutOfRange } from "../lib/csi/size.ts";
import {
  Node,
  type NodeExpandVolumeRequest,
  NodeExpandVolumeRequestSchema,
  type NodeGetVolumeStatsRequest,
  type NodePublishVolumeRequest,
  NodePublishVolumeRequestSchema,
  NodeServiceCapability_RPC_Type as Offered,
  type NodeStageVolumeRequest,
  NodeStageVolumeRequestSchema,
  type NodeUnpublishVolumeRequest,
  NodeUnpublishVolumeRequestSchema,
  type NodeUnstageVolumeRequest,
  NodeUnstageVolumeRequestSchema,
  VolumeCapability_AccessMode_Mode as Mode,
  VolumeUsage_Unit as Unit,
} from "../lib/gen/csi_pb.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { UnexpectedContent } from "../lib/host/errors.ts";
import { bindOptions, chooseFilesystem, FILESYSTEMS, mountOptions } from "../lib/host/filesystem.ts";
import { Host } from "../lib/host/host.ts";
import type { MappedDevice } from "../lib/host/mapped-device.ts";
import { mountsAt } from "../lib/host/mountinfo.ts";
import { Placement } from "../lib/kube/placement.ts";
import { guardDevice, proveGrown, sizedAtLeast } from "../lib/node/device.ts";
import { checkMappable, proveOurs, waitUntilFree } from "../lib/node/mappable.ts";
import { type Announcer, makeAnnouncer } from "../lib/node/published-node-record.ts";
import {
  type Found,
  halfStaged,
  inspect,
  notThere,
  proveMounted,
  provePublished,
  refuseForeign,
  symptom,
  takeDown,
  unmapLeftOver,
  volumeAt,
} from "../lib/node/staged-volume.ts";
import * as staging from "../lib/node/staging.ts";
import { readVolumeContext, resolveImage, type VolumeImage } from "../lib/node/volume-context.ts";
import { compensated, undoable } from "../lib/operations/compensation.ts";
import { Locks } from "../lib/operations/locks.ts";
import type { DomainError } from "../lib/operations/outcomes.ts";
import { stage } from "../lib/operations/pipeline.ts";
import { mutating, reading } from "../lib/operations/rpc.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";

export interface NodeOptions {
  readonly nodeId: string;
  /** Names the journal in which the node tells what it has staged; it tells nothing when absent. */
  readonly instanceId?: string;
}

/** A volume's ID becomes the name of a folder. */
const volumeIdOf = (text: string) =>
  Effect.gen(function* () {
    const volumeId = yield* Effect.fromResult(requiredText("volume_id", text));
    if (volumeId.includes("/") || volumeId === "." || volumeId === "..") {
      return yield* new InvalidRequest({ field: "volume_id", reason: "is no name that a folder can have" });
    }
    return volumeId;
  });

const pathOf = (field: string, text: string) =>
  Effect.gen(function* () {
    const path = resolve(yield* Effect.fromResult(absolutePath(field, text)));
    return path === "/" ? yield* new InvalidRequest({ field, reason: "is the root of all files" }) : path;
  });

const withVolume = <A, E, R>(volumeId: string, body: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Locks, (locks) => stage("lock", locks.withLock(`volume ${volumeId}`, "exclusive", body)));

// ------------------------------------------------------------------------------------------- NodeStageVolume

const wantedStage = (request: NodeStageVolumeRequest) =>
  Effect.gen(function* () {
    const capability = yield* Effect.fromResult(readCapability("volume_capability", request.volumeCapability));
    const volumeId = yield* volumeIdOf(request.volumeId);
    const path = yield* pathOf("staging_target_path", request.stagingTargetPath);
    const credentials = yield* Effect.fromResult(parseCredentials(request.secrets, { allowMigration: true }));
    const context = yield* Effect.fromResult(readVolumeContext(volumeId, request.volumeContext));
    const { access, mode, readOnly } = capability;
    if (access.kind === "filesystem" && access.type !== "" && !FILESYSTEMS.includes(access.type)) {
      const reason = `asks for ${JSON.stringify(access.type)}: write one of ${FILESYSTEMS.join(", ")}`;
      return yield* new InvalidRequest({ field: "volume_capability.mount.fs_type", reason });
    }
    // A single reader's filesystem may have a journal to replay, so its device is writable.
    const mapReadOnly = mode === Mode.MULTI_NODE_READER_ONLY || (access.kind === "block" && readOnly);
    const shared = mode === Mode.MULTI_NODE_READER_ONLY || mode === Mode.MULTI_NODE_MULTI_WRITER;
    return { volumeId, path, credentials, context, access, readOnly, mapReadOnly, shared };
  });

type Wanted = Effect.Success<ReturnType<typeof wantedStage>>;

const stageVolume = (announcer: Announcer) => (request: NodeStageVolumeRequest) =>
  Effect.gen(function* () {
    const wanted = yield* stage("validate", wantedStage(request));
    const body = Effect.gen(function* () {
      const host = yield* Host;
      const rbd = yield* Rbd;
      const { volumeId, path, context, shared } = wanted;
      const now = yield* stage("look", staging.lookAtStaging(path, volumeId));
      const { place } = now;
      if (place === undefined)
        return yield* new InvalidRequest({ field: "staging_target_path", reason: "does not exist on this node" });
      yield* refuseForeign(volumeId, now);
      const staged = yield* stage("inspect", inspect(wanted, now));
      if (staged?.kind === "sound" && now.stash.kind === "read") return yield* completed(wanted, staged);
      const volume = yield* stage("find", resolveImage(context, wanted.credentials));
      const image = { pool: volume.pool.pool, namespace: volume.pool.namespace, image: volume.imageName };
      const announce = stage("announce", announcer.staged(volumeId, volume.journal, shared));
      if (staged?.kind === "sound") {
        yield* stage("record", staging.writeStash(path, image, context.unmapOptions));
        yield* announce;
        return yield* completed(wanted, staged);
      }
      const own = ({ id }: ImageStatus) =>
        now.devices.filter((device) => staging.sameImage(device, image) && device.imageId === id);
      const status = yield* stage(
        "wait until free",
        shared ? rbd.imageStatus(volume.pool, volume.imageName) : waitUntilFree(volume, own),
      );
      yield* checkMappable(volume, status, yield* stage("read kernel features", host.mapperFeatures("krbd")));
      if (staged?.kind === "broken") yield* stage("take down", takeDown(wanted, place, now, staged));
      for (const device of own(status)) yield* stage("unmap left-over", unmapLeftOver(place, now, device, context));
      yield* attach(wanted, place, volume, status);
      yield* announce;
      return {};
    }).pipe(
      Effect.catchTag("ImageNotFound", ({ message }) =>
        Effect.fail(new VolumeNotFound({ volumeId: wanted.volumeId, reason: message })),
      ),
    );
    return yield* withVolume(wanted.volumeId, body);
  });

/** A crash may have come between mount and growth. */
const completed = ({ access, readOnly }: Wanted, { device, entry }: Found & { kind: "sound" }) =>
  Effect.gen(function* () {
    if (access.kind === "block" || readOnly) return {};
    yield* stage("grow", (yield* Host).growFilesystem({ device: device.path, type: entry.fsType }, entry.point));
    return {};
  });

/** From nothing to a staged volume, or back to nothing. */
const attach = (wanted: Wanted, place: string, volume: VolumeImage, status: ImageStatus) =>
  Effect.suspend(() => {
    // Left behind after a failure: a stash, for the node is not as it was.
    let recorded = false;
    const { cluster, pool, imageName } = volume;
    const { path, context, access, readOnly, mapReadOnly } = wanted;
    const image = { pool: pool.pool, namespace: pool.namespace, image: imageName };
    const body = Effect.gen(function* () {
      const host = yield* Host;
      yield* undoable(
        "record",
        // from here on: a write that fails may have written all the same
        Effect.suspend(() => ((recorded = true), staging.writeStash(path, image, context.unmapOptions))),
        () =>
          Effect.tap(Effect.andThen(host.removePath(place), host.removeText(staging.stashPath(path))), () =>
            Effect.sync(() => (recorded = false)),
          ),
      );
      const { monitors, user, key } = pool.access;
      const netNamespace = cluster.netNamespaceFilePath || undefined;
      const near = yield* (yield* Placement).mapOptions(cluster);
      const device = yield* undoable(
        "map",
        host.map({
          mapper: "krbd",
          ...image,
          monitors,
          user,
          key,
          readOnly: mapReadOnly,
          options: [context.mapOptions, near].filter(Boolean).join(","),
          netNamespace,
        }),
        (made) => host.unmap(made, context.unmapOptions),
      );
      yield* stage("prove ours", proveOurs(wanted.shared, volume, status, device));
      if (access.kind === "block") {
        yield* stage("make target", host.makeFile(place));
        const options = bindOptions([], readOnly);
        yield* undoable("bind", host.mount({ source: device.path, target: place, options }), () =>
          staging.unmountAll(place),
        );
        return;
      }
      const type = yield* prepareFilesystem(wanted, volume, device, access.type);
      yield* stage("make target", host.makeDirectory(place));
      const options = mountOptions(type, access.mountFlags, readOnly);
      yield* undoable("mount", host.mount({ source: device.path, target: place, type, options }), () =>
        staging.unmountAll(place),
      );
      yield* stage("verify mount", proveMounted(place, device, readOnly));
      if (!readOnly) yield* stage("grow", host.growFilesystem({ device: device.path, type }, place));
    });
    return compensated(body).pipe(
      Effect.mapError((error): DomainError => (recorded ? halfStaged(wanted.volumeId, error) : error)),
    );
  });

/** -> the type of the filesystem that is on the device then. */
const prepareFilesystem = (wanted: Wanted, volume: VolumeImage, device: MappedDevice, requested: string) =>
  Effect.gen(function* () {
    const host = yield* Host;
    const found = yield* stage("probe", host.probe(device.path));
    const { type, blank } = yield* chooseFilesystem(device.path, found, requested);
    if (!blank) {
      if (wanted.readOnly) return type;
      const said = yield* stage("check", host.fsck({ device: device.path, type }));
      if (said !== "") yield* Effect.logWarning(`fsck of ${device.path}: ${said}`);
      return type;
    }
    const refuse = (reason: string) => new UnexpectedContent({ op: "format", subject: device.path, reason });
    if (wanted.context.fixed !== undefined)
      return yield* refuse("it is blank, and a static volume is never formatted; make its filesystem by hand");
    if (wanted.readOnly) return yield* refuse("it is blank, and staged read-only: there is nothing to read");
    const empty =
      found.kind === "blank" &&
      found.zeroed &&
      !(yield* stage("prove empty", (yield* Rbd).imageHasData(volume.pool, volume.imageName, "any")));
    if (!empty)
      return yield* refuse(
        'it has no filesystem, but the image holds data; look at it with "rbd export" before you format it by hand',
      );
    yield* stage("format", host.mkfs({ device: device.path, type, options: wanted.context.mkfsOptions }));
    return type;
  });

// ----------------------------------------------------------------------------------------- NodeUnstageVolume

const unstageVolume = (announcer: Announcer) => (request: NodeUnstageVolumeRequest) =>
  Effect.gen(function* () {
    const volumeId = yield* volumeIdOf(request.volumeId);
    const path = yield* pathOf("staging_target_path", request.stagingTargetPath);
    const body = Effect.gen(function* () {
      const host = yield* Host;
      const now = yield* stage("look", staging.lookAtStaging(path, volumeId));
      yield* refuseForeign(volumeId, now);
      const devices = yield* staging.devicesOf(volumeId, now);
      const { place, stash } = now;
      for (const device of devices) {
        const users = staging.otherMounts(now.table, device, place === undefined ? [] : [place]);
        if (users.length > 0) {
          return yield* new Precondition({
            subject: "",
            problem: `volume ${volumeId} is still in use at ${users.join(", ")}; unpublish it there first`,
          });
        }
      }
      if (place !== undefined) {
        yield* stage("unmount", staging.unmountAll(place));
        yield* stage("remove target", host.removePath(place));
      }
      const options = stash.kind === "read" ? stash.stash.unmapOptions : "";
      for (const device of devices) yield* stage("unmap", host.unmap(device, options));
      if (place !== undefined && stash.kind !== "absent")
        yield* stage("forget", host.removeText(staging.stashPath(path)));
      yield* stage("announce", announcer.unstaged(volumeId));
      return {};
    });
    return yield* withVolume(volumeId, body);
  });

// ----------------------------------------------------------------------------------------- NodePublishVolume

const wantedPublish = (request: NodePublishVolumeRequest) =>
  Effect.gen(function* () {
    const capability = yield* Effect.fromResult(readCapability("volume_capability", request.volumeCapability));
    const volumeId = yield* volumeIdOf(request.volumeId);
    const target = yield* pathOf("target_path", request.targetPath);
    const path = yield* pathOf("staging_target_path", request.stagingTargetPath);
    return { volumeId, target, path, capability, readOnly: request.readonly || capability.readOnly };
  });

const publishVolume = (request: NodePublishVolumeRequest) =>
  Effect.gen(function* () {
    const { volumeId, target, path, capability, readOnly } = yield* stage("validate", wantedPublish(request));
    const body = Effect.gen(function* () {
      const host = yield* Host;
      const now = yield* stage("look", staging.lookAtStaging(path, volumeId));
      const staged = now.stack.at(-1);
      const found = staged && staging.deviceOf(now.devices, staged);
      if (staged === undefined || found === undefined) {
        return yield* new Precondition({ subject: "", problem: `volume ${volumeId} is not staged at ${path}` });
      }
      const { device, kind } = found;
      if (kind !== capability.access.kind) {
        return yield* new Precondition({
          subject: "",
          problem: `volume ${volumeId} is staged as ${kind}, not as ${capability.access.kind}`,
        });
      }
      const seen = yield* host.resolvePath(target);
      const there = seen === undefined ? undefined : mountsAt(now.table, seen).at(-1);
      if (there !== undefined) return yield* provePublished(device, there, readOnly);
      const elsewhere = staging.otherMounts(now.table, device, [staged.point]);
      if (capability.mode === Mode.SINGLE_NODE_SINGLE_WRITER && elsewhere.length > 0) {
        return yield* new Precondition({
          subject: "",
          problem: `volume ${volumeId} has a single writer, at ${elsewhere.join(", ")}`,
        });
      }
      if (kind === "block") yield* stage("guard", guardDevice(device, readOnly, elsewhere));
      const make = kind === "block" ? host.makeFile(target) : host.makeDirectory(target);
      const bind = Effect.gen(function* () {
        yield* undoable("make target", make, (made) => (made ? host.removePath(target) : Effect.void));
        const point = (yield* host.resolvePath(target)) ?? target;
        const flags = capability.access.kind === "filesystem" ? capability.access.mountFlags : [];
        const options = bindOptions(flags, readOnly);
        yield* undoable("bind", host.mount({ source: staged.point, target: point, options }), () =>
          staging.unmountAll(point),
        );
        if (kind === "filesystem") yield* stage("verify mount", proveMounted(point, device, readOnly));
      });
      yield* compensated(bind);
      return {};
    });
    return yield* withVolume(volumeId, withTarget(target, body));
  });

const withTarget = <A, E, R>(target: string, body: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Locks, (locks) => locks.withLock(`target ${target}`, "exclusive", body));

// --------------------------------------------------------------------------------------- NodeUnpublishVolume

const unpublishVolume = (request: NodeUnpublishVolumeRequest) =>
  Effect.gen(function* () {
    const volumeId = yield* volumeIdOf(request.volumeId);
    const target = yield* pathOf("target_path", request.targetPath);
    const body = Effect.gen(function* () {
      const host = yield* Host;
      const point = yield* stage("look", host.resolvePath(target));
      if (point === undefined) return {};
      yield* stage("unmount", staging.unmountAll(point));
      yield* stage("remove target", host.removePath(point));
      return {};
    });
    return yield* withVolume(volumeId, withTarget(target, body));
  });

// ------------------------------------------------------------------------------------------ NodeExpandVolume

/** A path at which CSI wants NOT_FOUND rather than INVALID_ARGUMENT when no volume can be there. */
const volumePathOf = (volumeId: string, text: string) =>
  Effect.gen(function* () {
    if (text === "") return yield* new InvalidRequest({ field: "volume_path", reason: "is missing" });
    if (!text.startsWith("/")) return yield* notThere(volumeId, text);
    return yield* pathOf("volume_path", text);
  });

const expandVolume = (request: NodeExpandVolumeRequest) =>
  Effect.gen(function* () {
    const { requiredBytes = 0n, limitBytes = 0n } = request.capacityRange ?? {};
    const { volumeId, path } = yield* stage(
      "validate",
      Effect.gen(function* () {
        const id = yield* volumeIdOf(request.volumeId);
        const visible = yield* volumePathOf(id, request.volumePath);
        if (requiredBytes < 0n || limitBytes < 0n || (limitBytes > 0n && limitBytes < requiredBytes)) {
          return yield* new InvalidRequest({ field: "capacity_range", reason: "contradicts itself" });
        }
        const staged =
          request.stagingTargetPath === ""
            ? undefined
            : yield* pathOf("staging_target_path", request.stagingTargetPath);
        return { volumeId: id, path: staged === undefined ? visible : `${staged}/${id}` };
      }),
    );
    const body = Effect.gen(function* () {
      const host = yield* Host;
      const { entry, found } = yield* stage("look", volumeAt(volumeId, path));
      if (found === undefined) {
        return yield* new Precondition({
          subject: "",
          problem: `volume ${volumeId} is mounted, but ${entry.source} is mapped no more`,
        });
      }
      const { device, kind } = found;
      const { sizeBytes } = yield* stage("wait for size", sizedAtLeast(device, requiredBytes));
      if (limitBytes > 0n && sizeBytes > limitBytes) {
        return yield* new SizeOutOfRange({ reason: `the volume has ${sizeBytes} bytes, limit_bytes is ${limitBytes}` });
      }
      if (kind === "filesystem") {
        const grown = yield* stage(
          "grow",
          host.growFilesystem({ device: device.path, type: entry.fsType }, entry.point),
        );
        yield* proveGrown(device, grown, sizeBytes);
      }
      return { capacityBytes: sizeBytes };
    });
    return yield* withVolume(volumeId, body);
  });

// --------------------------------------------------------------------------------------- NodeGetVolumeStats

const condition = (symptom: string | undefined) => ({
  abnormal: symptom !== undefined,
  message: symptom ?? HEALTHY_MESSAGE,
});

const volumeStats = (request: NodeGetVolumeStatsRequest) =>
  Effect.gen(function* () {
    const host = yield* Host;
    const volumeId = yield* volumeIdOf(request.volumeId);
    const { entry, found } = yield* volumeAt(volumeId, yield* volumePathOf(volumeId, request.volumePath));
    const abnormal = (message: string) => ({ volumeCondition: condition(message) });
    if (found === undefined) return abnormal(`${entry.source} is mapped no more`);
    if (found.kind === "block") {
      const total = found.device.sizeBytes;
      return { usage: [{ unit: Unit.BYTES, total }], volumeCondition: condition(undefined) };
    }
    return yield* host.usage(entry.point).pipe(
      Effect.map((usage) => ({
        usage: [
          { unit: Unit.BYTES, total: usage.totalBytes, used: usage.usedBytes, available: usage.availableBytes },
          {
            unit: Unit.INODES,
            total: usage.totalInodes,
            used: usage.totalInodes - usage.freeInodes,
            available: usage.freeInodes,
          },
        ],
        volumeCondition: condition(symptom(entry)),
      })),
      // An answer that says so is of more use than none: a filesystem that fails, or does not answer.
      Effect.catch(({ message }) => Effect.succeed(abnormal(message))),
    );
  });

// ---------------------------------------------------------------------------------------------- the service

const OFFERED = [
  Offered.STAGE_UNSTAGE_VOLUME,
  Offered.GET_VOLUME_STATS,
  Offered.VOLUME_CONDITION,
  Offered.EXPAND_VOLUME,
  Offered.SINGLE_NODE_MULTI_WRITER,
];

const subject = ({ volumeId }: { readonly volumeId: string }) => volumeId;

export const node = ({ nodeId, instanceId }: NodeOptions) => {
  const announcer = makeAnnouncer(nodeId, instanceId);
  return {
    nodeStageVolume: mutating("NodeStageVolume", NodeStageVolumeRequestSchema, subject, stageVolume(announcer)),
    nodeUnstageVolume: mutating("NodeUnstageVolume", NodeUnstageVolumeRequestSchema, subject, unstageVolume(announcer)),
    nodePublishVolume: mutating("NodePublishVolume", NodePublishVolumeRequestSchema, subject, publishVolume),
    nodeUnpublishVolume: mutating("NodeUnpublishVolume", NodeUnpublishVolumeRequestSchema, subject, unpublishVolume),
    nodeExpandVolume: mutating("NodeExpandVolume", NodeExpandVolumeRequestSchema, subject, expandVolume),
    nodeGetVolumeStats: reading(volumeStats),
    nodeGetCapabilities: () =>
      Effect.succeed({ capabilities: OFFERED.map((type) => ({ type: { case: "rpc" as const, value: { type } } })) }),
    nodeGetInfo: () =>
      Effect.map(Placement, ({ segments }) => ({ nodeId, accessibleTopology: { segments: { ...segments } } })),
  } satisfies ServiceImpl<typeof Node, unknown>;
};

export const nodeOptions = ({ nodeId, instanceId }: Flags): NodeOptions => ({ nodeId, instanceId });

export const nodeRole = (flags: Flags, world: World) =>
  role({
    name: "node",
    layer: Layer.mergeAll(volumesLayer(world), world.host, world.placement),
    serves: [served(Node, node(nodeOptions(flags)))],
  });
