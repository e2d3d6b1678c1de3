/**
 * Drivers that take group snapshots, over a Ceph in memory, and what one looks at of those.
 *
 * 1. A driver has both controllers' RPCs and locks of its own, as a process has; two of them share the cluster only.
 */
import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as ManagedRuntime from "effect/ManagedRuntime";
import * as Redacted from "effect/Redacted";
import { type CephCalls, cephLayer } from "../../lib/ceph/ceph.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import { ClusterSecrets } from "../../lib/config/cluster-secrets.ts";
import { type Cluster, Clusters } from "../../lib/config/clusters.ts";
import { ClusterMapping, NO_MAPPING } from "../../lib/config/mapping.ts";
import { DriverSettings, type Settings as ProductSettings } from "../../lib/config/settings.ts";
import {
  CreateVolumeGroupSnapshotRequestSchema,
  DeleteSnapshotRequestSchema,
  DeleteVolumeGroupSnapshotRequestSchema,
  GetSnapshotRequestSchema,
  GetVolumeGroupSnapshotRequestSchema,
} from "../../lib/gen/csi_pb.ts";
import { CallInfo } from "../../lib/grpc/call.ts";
import type { RpcError } from "../../lib/grpc/status.ts";
import { Locks } from "../../lib/operations/locks.ts";
import { Operations } from "../../lib/operations/pipeline.ts";
import { controller, controllerLayer } from "../../services/controller.ts";
import { groupController } from "../../services/group-controller.ts";
import { cephMemoryService, MEMORY_KEY, memoryAccess, type MemoryCluster } from "./ceph-memory/memory.ts";
import { type CreateInit, creation, deletion, EAST, GIB, OPTIONS, PARAMETERS, SECRETS, uuidOf } from "./world.ts";

type Fields<M extends DescMessage> = Exclude<MessageInitShape<M>, MessageShape<M>>;

export const POOL: PoolRef = { access: memoryAccess, pool: "rbd", namespace: "" };
export const DIRECTORY = "csi.groups.default";
export const BLOCK = 4n << 20n;

export interface Settings {
  readonly ceph?: CephCalls;
  readonly clusters?: readonly Cluster[];
  readonly options?: Partial<ProductSettings>;
  /** Whether the administrator has given credentials for `east`. */
  readonly secrets?: boolean;
}

export const groupDriverOn = (cluster: MemoryCluster, settings: Settings = {}) => {
  const log: string[] = [];
  const recorder = Logger.make<unknown, void>(({ message }) => void log.push([message].flat().map(String).join(" ")));
  const admin = { credentials: { user: "admin", key: Redacted.make(MEMORY_KEY) }, pools: undefined };
  const runtime = ManagedRuntime.make(
    controllerLayer.pipe(
      Layer.provideMerge(
        Layer.mergeAll(
          cephLayer(settings.ceph ?? cephMemoryService(cluster)),
          Clusters.layerOf(settings.clusters ?? [EAST]),
          ClusterMapping.layerOf(NO_MAPPING),
          ClusterSecrets.layerOf(settings.secrets === true ? { east: admin } : {}),
          Operations.layer,
          Locks.layer,
          DriverSettings.layerOf({ ...OPTIONS, ...settings.options }),
          Logger.layer([recorder]),
        ),
      ),
    ),
  );
  const single = controller();
  const group = groupController();
  type Needs = ManagedRuntime.ManagedRuntime.Services<typeof runtime>;
  const call =
    <Q, A>(handler: (request: Q) => Effect.Effect<A, RpcError, Needs>) =>
    (request: Q): Promise<A> =>
      runtime.runPromise(
        handler(request).pipe(
          Effect.provideService(CallInfo, {
            rpc: "-",
            method: "-",
            deadline: undefined,
            id: "-",
            header: () => undefined,
          }),
        ),
      );
  return {
    log,
    createVolume: call(single.createVolume),
    deleteVolume: call(single.deleteVolume),
    deleteSnapshot: (snapshotId: string) =>
      call(single.deleteSnapshot)(create(DeleteSnapshotRequestSchema, { snapshotId, secrets: SECRETS })),
    getSnapshot: (snapshotId: string) =>
      call(single.getSnapshot)(create(GetSnapshotRequestSchema, { snapshotId, secrets: SECRETS })),
    createGroup: call(group.createVolumeGroupSnapshot),
    deleteGroup: call(group.deleteVolumeGroupSnapshot),
    getGroup: call(group.getVolumeGroupSnapshot),
    capabilities: () => call(group.groupControllerGetCapabilities)({}),
    locks: () => runtime.runPromise(Effect.map(Locks, (locks) => locks)),
    operations: () => runtime.runPromise(Effect.map(Operations, (operations) => operations)),
    [Symbol.asyncDispose]: () => runtime.dispose(),
  };
};

export type GroupDriver = ReturnType<typeof groupDriverOn>;

// -------------------------------------------------------------------------------------------------- requests

export type GroupInit = Fields<typeof CreateVolumeGroupSnapshotRequestSchema>;

/** A request for a group snapshot as `group-1`, but for what `more` says. */
export const grouping = (sourceVolumeIds: string[], more: GroupInit = {}) =>
  create(CreateVolumeGroupSnapshotRequestSchema, {
    name: "group-1",
    sourceVolumeIds,
    secrets: SECRETS,
    parameters: { clusterID: "east" },
    ...more,
  });

export const ungrouping = (groupSnapshotId: string, more: Fields<typeof DeleteVolumeGroupSnapshotRequestSchema> = {}) =>
  create(DeleteVolumeGroupSnapshotRequestSchema, { groupSnapshotId, secrets: SECRETS, ...more });

export const asking = (groupSnapshotId: string, more: Fields<typeof GetVolumeGroupSnapshotRequestSchema> = {}) =>
  create(GetVolumeGroupSnapshotRequestSchema, { groupSnapshotId, secrets: SECRETS, ...more });

/** A volume with data, made by the driver -> its ID. */
export const aVolume = async (
  driver: GroupDriver,
  cluster: MemoryCluster,
  name: string,
  more: CreateInit = {},
): Promise<string> => {
  const { volume } = await driver.createVolume(creation({ name, ...more }));
  cluster.image(more.parameters?.["pool"] ?? "rbd", imageOf(volume.volumeId)).write(0n, BLOCK);
  return volume.volumeId;
};

/** Two volumes in the pool `rbd`. */
export const twoVolumes = async (driver: GroupDriver, cluster: MemoryCluster): Promise<[string, string]> => [
  await aVolume(driver, cluster, "pvc-a"),
  await aVolume(driver, cluster, "pvc-b"),
];

/** Asks until the group snapshot is ready, as the sidecar does. */
export const readyGroup = async (driver: GroupDriver, request: ReturnType<typeof grouping>) => {
  for (let tries = 1; ; tries++) {
    const { groupSnapshot } = await driver.createGroup(request);
    if (groupSnapshot.readyToUse) return groupSnapshot;
    if (tries > 5) throw new Error("the group snapshot never becomes ready");
  }
};

export const restored = async (driver: GroupDriver, name: string, snapshotId: string): Promise<string> => {
  const { volume } = await driver.createVolume(
    creation({
      name,
      parameters: PARAMETERS,
      capacityRange: { requiredBytes: GIB },
      volumeContentSource: { type: { case: "snapshot", value: { snapshotId } } },
    }),
  );
  return volume.volumeId;
};

/** Deletes the volumes, whatever is made of them. */
export const dropVolumes = async (driver: GroupDriver, ids: readonly string[]): Promise<void> => {
  for (const id of ids) await driver.deleteVolume(deletion(id));
};

// ------------------------------------------------------------------------------------------------------ looks

export const imageOf = (volumeId: string): string => `csi-vol-${uuidOf(volumeId)}`;
export const holderOf = (snapshotId: string): string => `csi-snap-${uuidOf(snapshotId)}`;

/** What one reads of the image, as stamps of the writes. */
export const read = (cluster: MemoryCluster, image: string, pool = "rbd"): readonly string[] =>
  cluster
    .image(pool, image)
    .holds()
    .map(({ offset, end, stamp }) => `${offset}+${end - offset} ${stamp}`);
