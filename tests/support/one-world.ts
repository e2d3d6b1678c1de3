/**
 * A driver in a test: the product's own roles (services/driver.ts), with the settings that its flags give to a user, over
 * a cluster in memory that outlives it. Its RPCs are called as functions.
 *
 * Not here: gRPC, requests (./world.ts and its neighbours) and faults (./ceph-faults.ts, ./host-faults.ts).
 *
 * 1. A driver has locks, operations and queues of its own, as a process has; two of them share the cluster and the node.
 * 2. Only Ceph, the host, the administrator's files, the node's place, the clock and the log are not the product's.
 * 3. A driver prints nothing: what it logs is in its `log`.
 */
import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as ManagedRuntime from "effect/ManagedRuntime";
import * as Result from "effect/Result";
import * as Stream from "effect/Stream";
import { type CephCalls, cephLayer } from "../../lib/ceph/ceph.ts";
import { type ClusterSecret, ClusterSecrets } from "../../lib/config/cluster-secrets.ts";
import { type Cluster, Clusters } from "../../lib/config/clusters.ts";
import type { FLAGS } from "../../lib/config/flag-table.ts";
import { type Flags, parseFlags } from "../../lib/config/flags.ts";
import { ClusterMapping, type MappingTable, NO_MAPPING } from "../../lib/config/mapping.ts";
import { DriverSettings } from "../../lib/config/settings.ts";
import {
  ControllerExpandVolumeRequestSchema,
  ControllerGetVolumeHealthRequestSchema,
  ControllerGetVolumeRequestSchema,
  ControllerListVolumeHealthRequestSchema,
  ControllerModifyVolumeRequestSchema,
  ControllerPublishVolumeRequestSchema,
  ControllerUnpublishVolumeRequestSchema,
  CreateSnapshotRequestSchema,
  CreateVolumeGroupSnapshotRequestSchema,
  CreateVolumeRequestSchema,
  DeleteSnapshotRequestSchema,
  DeleteVolumeGroupSnapshotRequestSchema,
  DeleteVolumeRequestSchema,
  GetCapacityRequestSchema,
  GetMetadataAllocatedRequestSchema,
  GetMetadataDeltaRequestSchema,
  GetSnapshotRequestSchema,
  GetVolumeGroupSnapshotRequestSchema,
  ListSnapshotsRequestSchema,
  ListVolumesRequestSchema,
  NodeExpandVolumeRequestSchema,
  NodeGetStorageHealthRequestSchema,
  NodeGetVolumeHealthRequestSchema,
  NodeGetVolumeStatsRequestSchema,
  NodePublishVolumeRequestSchema,
  NodeStageVolumeRequestSchema,
  NodeUnpublishVolumeRequestSchema,
  NodeUnstageVolumeRequestSchema,
  ValidateVolumeCapabilitiesRequestSchema,
} from "../../lib/gen/csi_pb.ts";
import {
  ControllerReclaimSpaceRequestSchema,
  NodeReclaimSpaceRequestSchema,
} from "../../lib/gen/csi_addons_reclaimspace_pb.ts";
import { EncryptionKeyRotateRequestSchema } from "../../lib/gen/csi_addons_encryptionkeyrotation_pb.ts";
import {
  FenceClusterNetworkRequestSchema,
  GetFenceClientsRequestSchema,
  ListClusterFenceRequestSchema,
  UnfenceClusterNetworkRequestSchema,
} from "../../lib/gen/csi_addons_fence_pb.ts";
import { CallInfo } from "../../lib/grpc/call.ts";
import type { RpcError } from "../../lib/grpc/status.ts";
import { Host, type HostService } from "../../lib/host/host.ts";
import { Purge } from "../../lib/images/purge.ts";
import { SparsifyTurns } from "../../lib/images/sparsify.ts";
import { Placement } from "../../lib/kube/placement.ts";
import { Locks } from "../../lib/operations/locks.ts";
import { Operations } from "../../lib/operations/pipeline.ts";
import type { KeyStore } from "../../lib/kms/key-store.ts";
import { Kms } from "../../lib/kms/kms.ts";
import { layerOf } from "../../lib/process/role.ts";
import type { World } from "../../lib/process/world.ts";
import { controller } from "../../services/controller.ts";
import { driverRoles } from "../../services/driver.ts";
import { groupController } from "../../services/group-controller.ts";
import { node, nodeParts, withRecords } from "../../services/node.ts";
import { keyRotationOfNode } from "../../services/key-rotation.ts";
import { networkFenceController } from "../../services/network-fence.ts";
import { reclaimSpaceOfController, reclaimSpaceOfNode } from "../../services/reclaim-space.ts";
import { snapshotMetadata } from "../../services/snapshot-metadata.ts";
import { cephMemoryService, type MemoryCluster } from "./ceph-memory/memory.ts";
import { hostMemoryService, MemoryNode } from "./host-memory.ts";
import { KubeMemory, kubeMemoryLayer } from "./kube-memory.ts";
import type { VirtualTime } from "./virtual-time.ts";
import { wholeCeph } from "./whole-ceph.ts";
import { EAST } from "./world.ts";

type FlagValues = Readonly<Partial<Record<keyof typeof FLAGS, string | number | boolean>>>;

/** Thousands of drivers start in a run; there are a few command lines. */
const parsed = new Map<string, Flags>();

/** The flags of a driver of this node, as the command line gives them: what is not stated has the product's default. */
export const flagsOf = (values: FlagValues = {}): Flags => {
  const key = JSON.stringify(values);
  const known = parsed.get(key);
  if (known !== undefined) return known;
  const argv = Object.entries({ type: "rbd", nodeid: "node-1", ...values }).map(
    ([name, value]) => `--${name}=${value}`,
  );
  const flags = Result.getOrThrowWith(parseFlags(argv), (line) => new Error(line));
  parsed.set(key, flags);
  return flags;
};

export interface DriverWorld {
  readonly flags?: FlagValues;
  /** Its way to the cluster; the memory's own service when absent. */
  readonly ceph?: CephCalls;
  /** Its way to this machine; an empty one of its own when absent. */
  readonly host?: HostService;
  readonly clusters?: readonly Cluster[];
  readonly mapping?: MappingTable;
  /** The administrator's credentials per cluster; none when absent. */
  readonly secrets?: Readonly<Record<string, ClusterSecret>>;
  readonly placement?: Layer.Layer<Placement>;
  /** Its key stores by KMS ID; `default` alone when absent. */
  readonly stores?: Readonly<Record<string, KeyStore>>;
  readonly kube?: KubeMemory;
  /** The clock that the test moves; the machine's own when absent. */
  readonly time?: VirtualTime;
}

/** What a process asks of the outside, in memory. */
export const memoryWorld = (cluster: MemoryCluster, flags: Flags, given: DriverWorld): World => ({
  configuration: Layer.mergeAll(
    Clusters.layerOf(given.clusters ?? [EAST]),
    ClusterMapping.layerOf(given.mapping ?? NO_MAPPING),
    ClusterSecrets.layerOf(given.secrets ?? {}),
    DriverSettings.layer(flags),
  ),
  ceph: cephLayer(given.ceph ?? cephMemoryService(cluster)),
  host: Layer.sync(Host, () => given.host ?? hostMemoryService(new MemoryNode(cluster))),
  placement: given.placement ?? Placement.none,
  kms: Kms.layerOf(given.stores ?? {}),
  kube: kubeMemoryLayer(given.kube ?? new KubeMemory()),
});

/** A driver with all of its roles; `await using` ends it. */
export const aDriver = (cluster: MemoryCluster, given: DriverWorld = {}) => {
  const log: string[] = [];
  const recorder = Logger.make<unknown, void>(({ message }) => void log.push([message].flat().map(String).join(" ")));
  const flags = flagsOf(given.flags);
  const world = memoryWorld(cluster, flags, given);
  const parts = nodeParts(flags, world);
  // The add-ons' layers too: their roles are typed as those of any role.
  const roles = Layer.merge(layerOf(driverRoles(flags, world)), SparsifyTurns.layer);
  const environment = Layer.merge(Logger.layer([recorder]), given.time?.layer ?? Layer.empty);
  const runtime = ManagedRuntime.make(Layer.provideMerge(roles, environment));
  type Needs = ManagedRuntime.ManagedRuntime.Services<typeof runtime>;

  const recorded = withRecords(parts);
  /** The caller leaves after `patience`; without it only the driver ends the wait. */
  const called = <A>(answer: Effect.Effect<A, RpcError, Needs>, patience?: Duration.Input): Promise<A> =>
    runtime.runPromise(
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const deadline = patience === undefined ? undefined : now + Duration.toMillis(patience);
        const info = { rpc: "-", method: "-", deadline, id: "-", header: () => undefined };
        return Effect.provideService(answer, CallInfo, info);
      }),
    );
  const rpc =
    <Q extends DescMessage, A>(schema: Q, handler: (request: MessageShape<Q>) => Effect.Effect<A, RpcError, Needs>) =>
    (request?: MessageInitShape<Q>, patience?: Duration.Input): Promise<A> =>
      called(handler(create(schema, request)), patience);
  const streaming =
    <Q extends DescMessage, A>(schema: Q, handler: (request: MessageShape<Q>) => Stream.Stream<A, RpcError, Needs>) =>
    (request?: MessageInitShape<Q>, messages = Number.POSITIVE_INFINITY): Promise<readonly A[]> =>
      called(Stream.runCollect(Stream.take(handler(create(schema, request)), messages)));

  const volumes = controller();
  const groups = groupController();
  const blocks = snapshotMetadata();
  const here = node(parts);
  const networks = networkFenceController();
  const [freeing, trimming] = [reclaimSpaceOfController(), reclaimSpaceOfNode()];
  return {
    log,
    createVolume: rpc(CreateVolumeRequestSchema, volumes.createVolume),
    deleteVolume: rpc(DeleteVolumeRequestSchema, volumes.deleteVolume),
    expandVolume: rpc(ControllerExpandVolumeRequestSchema, volumes.controllerExpandVolume),
    modifyVolume: rpc(ControllerModifyVolumeRequestSchema, volumes.controllerModifyVolume),
    createSnapshot: rpc(CreateSnapshotRequestSchema, volumes.createSnapshot),
    deleteSnapshot: rpc(DeleteSnapshotRequestSchema, volumes.deleteSnapshot),
    validate: rpc(ValidateVolumeCapabilitiesRequestSchema, volumes.validateVolumeCapabilities),
    listVolumes: rpc(ListVolumesRequestSchema, volumes.listVolumes),
    listSnapshots: rpc(ListSnapshotsRequestSchema, volumes.listSnapshots),
    getVolume: rpc(ControllerGetVolumeRequestSchema, volumes.controllerGetVolume),
    listHealth: rpc(ControllerListVolumeHealthRequestSchema, volumes.controllerListVolumeHealth),
    getHealth: rpc(ControllerGetVolumeHealthRequestSchema, volumes.controllerGetVolumeHealth),
    getSnapshot: rpc(GetSnapshotRequestSchema, volumes.getSnapshot),
    attach: rpc(ControllerPublishVolumeRequestSchema, volumes.controllerPublishVolume),
    detach: rpc(ControllerUnpublishVolumeRequestSchema, volumes.controllerUnpublishVolume),
    getCapacity: rpc(GetCapacityRequestSchema, volumes.getCapacity),
    capabilities: () => called(volumes.controllerGetCapabilities()),

    createGroup: rpc(CreateVolumeGroupSnapshotRequestSchema, groups.createVolumeGroupSnapshot),
    deleteGroup: rpc(DeleteVolumeGroupSnapshotRequestSchema, groups.deleteVolumeGroupSnapshot),
    getGroup: rpc(GetVolumeGroupSnapshotRequestSchema, groups.getVolumeGroupSnapshot),
    groupCapabilities: () => called(groups.groupControllerGetCapabilities()),

    /** All messages, or the first so many and no further. */
    allocated: streaming(GetMetadataAllocatedRequestSchema, blocks.getMetadataAllocated),
    delta: streaming(GetMetadataDeltaRequestSchema, blocks.getMetadataDelta),

    stage: rpc(NodeStageVolumeRequestSchema, here.nodeStageVolume),
    unstage: rpc(NodeUnstageVolumeRequestSchema, here.nodeUnstageVolume),
    publish: rpc(NodePublishVolumeRequestSchema, here.nodePublishVolume),
    unpublish: rpc(NodeUnpublishVolumeRequestSchema, here.nodeUnpublishVolume),
    expand: rpc(NodeExpandVolumeRequestSchema, here.nodeExpandVolume),
    stats: rpc(NodeGetVolumeStatsRequestSchema, here.nodeGetVolumeStats),
    storageHealth: rpc(NodeGetStorageHealthRequestSchema, here.nodeGetStorageHealth),
    volumeHealth: rpc(NodeGetVolumeHealthRequestSchema, here.nodeGetVolumeHealth),
    fenceNetwork: rpc(FenceClusterNetworkRequestSchema, networks.fenceClusterNetwork),
    unfenceNetwork: rpc(UnfenceClusterNetworkRequestSchema, networks.unfenceClusterNetwork),
    listFences: rpc(ListClusterFenceRequestSchema, networks.listClusterFence),
    fenceClients: rpc(GetFenceClientsRequestSchema, networks.getFenceClients),
    reclaim: rpc(ControllerReclaimSpaceRequestSchema, freeing.controllerReclaimSpace),
    trim: rpc(NodeReclaimSpaceRequestSchema, trimming.nodeReclaimSpace),
    rotateKey: rpc(EncryptionKeyRotateRequestSchema, keyRotationOfNode().encryptionKeyRotate),
    info: () => called(here.nodeGetInfo()),
    nodeCapabilities: () => called(here.nodeGetCapabilities()),

    /** What the driver does by itself every few seconds. */
    lookAfterProcesses: () => runtime.runPromise(recorded(parts.healing.look)),
    lookAfterLimits: () => runtime.runPromise(parts.limits.look),
    watchLimits: () => void runtime.runFork(parts.limits.watch),
    /** Begins to do so, again and again; the driver's end ends it. */
    watchProcesses: () => void runtime.runFork(recorded(parts.healing.watch)),
    locks: () => runtime.runPromise(Effect.map(Locks, (locks) => locks)),
    operations: () => runtime.runPromise(Effect.map(Operations, (operations) => operations)),
    purge: () => runtime.runPromise(Effect.map(Purge, (purge) => purge)),
    ceph: <A, E>(use: (ceph: CephCalls) => Effect.Effect<A, E>): Promise<A> =>
      runtime.runPromise(Effect.flatMap(wholeCeph, use)),
    [Symbol.asyncDispose]: () => runtime.dispose(),
  };
};

export type Driver = ReturnType<typeof aDriver>;
