/**
 * Drivers that list, over a Ceph in memory: those of ./world.ts with credentials by file and the RPCs that only look.
 */
import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as ManagedRuntime from "effect/ManagedRuntime";
import * as Redacted from "effect/Redacted";
import * as Stream from "effect/Stream";
import { type CephCalls, cephLayer } from "../../lib/ceph/ceph.ts";
import { type ClusterSecret, ClusterSecrets } from "../../lib/config/cluster-secrets.ts";
import { type Cluster, Clusters } from "../../lib/config/clusters.ts";
import { ClusterMapping, NO_MAPPING } from "../../lib/config/mapping.ts";
import { DriverSettings } from "../../lib/config/settings.ts";
import {
  ControllerGetVolumeRequestSchema,
  CreateSnapshotRequestSchema,
  DeleteSnapshotRequestSchema,
  GetCapacityRequestSchema,
  GetMetadataAllocatedRequestSchema,
  GetMetadataDeltaRequestSchema,
  GetSnapshotRequestSchema,
  ListSnapshotsRequestSchema,
  ListVolumesRequestSchema,
} from "../../lib/gen/csi_pb.ts";
import type { RpcError } from "../../lib/grpc/status.ts";
import { Locks } from "../../lib/operations/locks.ts";
import { Operations } from "../../lib/operations/pipeline.ts";
import { controller, controllerLayer } from "../../services/controller.ts";
import { snapshotMetadata } from "../../services/snapshot-metadata.ts";
import { cephMemoryService, MEMORY_KEY, type MemoryCluster } from "./ceph-memory/memory.ts";
import { wholeCeph } from "./whole-ceph.ts";
import { EAST, OPTIONS, SECRETS } from "./world.ts";

export const ADMIN: ClusterSecret = {
  credentials: { user: "admin", key: Redacted.make(MEMORY_KEY) },
  pools: undefined,
};

export interface Settings {
  readonly ceph?: CephCalls;
  readonly clusters?: readonly Cluster[];
  readonly secrets?: Readonly<Record<string, ClusterSecret>>;
  readonly instanceId?: string;
}

/** Some fields of a message. */
type Fields<M extends DescMessage> = Exclude<MessageInitShape<M>, MessageShape<M>>;

export const listerOn = (cluster: MemoryCluster, settings: Settings = {}) => {
  const log: string[] = [];
  const recorder = Logger.make<unknown, void>(({ message }) => void log.push([message].flat().map(String).join(" ")));
  const runtime = ManagedRuntime.make(
    controllerLayer.pipe(
      Layer.provideMerge(
        Layer.mergeAll(
          cephLayer(settings.ceph ?? cephMemoryService(cluster)),
          Clusters.layerOf(settings.clusters ?? [EAST]),
          ClusterMapping.layerOf(NO_MAPPING),
          ClusterSecrets.layerOf(settings.secrets ?? { east: ADMIN }),
          Operations.layer,
          Locks.layer,
          DriverSettings.layerOf({ ...OPTIONS, instanceId: settings.instanceId ?? OPTIONS.instanceId }),
          Logger.layer([recorder]),
        ),
      ),
    ),
  );
  type Needs = ManagedRuntime.ManagedRuntime.Services<typeof runtime>;
  const run = <A>(effect: Effect.Effect<A, RpcError, Needs>): Promise<A> => runtime.runPromise(effect);
  const collect = <A>(stream: Stream.Stream<A, RpcError, Needs>): Promise<readonly A[]> =>
    run(Stream.runCollect(stream));
  const service = controller();
  const blocks = snapshotMetadata();

  const listVolumes = (init: Fields<typeof ListVolumesRequestSchema> = {}) =>
    run(service.listVolumes(create(ListVolumesRequestSchema, init)));
  const listSnapshots = (init: Fields<typeof ListSnapshotsRequestSchema> = {}) =>
    run(service.listSnapshots(create(ListSnapshotsRequestSchema, init)));

  return {
    log,
    listVolumes,
    listSnapshots,
    /** All pages of `size`, one after the other; `between` runs after each with its IDs. */
    allVolumes: async (size: number, between: (ids: readonly string[]) => Promise<void> = async () => {}) => {
      const pages: string[][] = [];
      for (let startingToken = ""; ; ) {
        const { entries, nextToken } = await listVolumes({ maxEntries: size, startingToken });
        const ids = entries.map(({ volume }) => volume.volumeId);
        pages.push(ids);
        if (nextToken === "") return pages;
        await between(ids);
        startingToken = nextToken;
      }
    },
    getVolume: (volumeId: string) =>
      run(service.controllerGetVolume(create(ControllerGetVolumeRequestSchema, { volumeId }))),
    getSnapshot: (snapshotId: string, secrets: Record<string, string> = {}) =>
      run(service.getSnapshot(create(GetSnapshotRequestSchema, { snapshotId, secrets }))),
    getCapacity: (init: Fields<typeof GetCapacityRequestSchema> = {}) =>
      run(service.getCapacity(create(GetCapacityRequestSchema, init))),
    capabilities: async (): Promise<readonly number[]> =>
      (await run(service.controllerGetCapabilities())).capabilities.map(({ type }) => type.value.type),
    allocated: (snapshotId: string, more: BlockInit = {}) =>
      collect(blocks.getMetadataAllocated(create(GetMetadataAllocatedRequestSchema, { snapshotId, ...more }))),
    /** The first message, and no further. */
    firstAllocated: (snapshotId: string) => {
      const request = create(GetMetadataAllocatedRequestSchema, { snapshotId });
      return collect(Stream.take(blocks.getMetadataAllocated(request), 1));
    },
    delta: (baseSnapshotId: string, targetSnapshotId: string, more: BlockInit = {}) =>
      collect(
        blocks.getMetadataDelta(create(GetMetadataDeltaRequestSchema, { baseSnapshotId, targetSnapshotId, ...more })),
      ),
    createVolume: (request: Parameters<typeof service.createVolume>[0]) => run(service.createVolume(request)),
    deleteVolume: (request: Parameters<typeof service.deleteVolume>[0]) => run(service.deleteVolume(request)),
    /** Taken and ready. */
    snapshot: async (name: string, sourceVolumeId: string): Promise<string> => {
      const request = create(CreateSnapshotRequestSchema, { name, sourceVolumeId, secrets: SECRETS });
      for (;;) {
        const { snapshot } = await run(service.createSnapshot(request));
        if (snapshot.readyToUse) return snapshot.snapshotId;
      }
    },
    deleteSnapshot: (snapshotId: string) =>
      run(service.deleteSnapshot(create(DeleteSnapshotRequestSchema, { snapshotId, secrets: SECRETS }))),
    ceph: <A, E>(use: (ceph: CephCalls) => Effect.Effect<A, E>): Promise<A> =>
      runtime.runPromise(Effect.flatMap(wholeCeph, use)),
    [Symbol.asyncDispose]: () => runtime.dispose(),
  };
};

interface BlockInit {
  readonly startingOffset?: bigint;
  readonly maxResults?: number;
  readonly secrets?: Record<string, string>;
}

export type Lister = ReturnType<typeof listerOn>;

/** Puts volumes as a driver leaves them, without going through one: `pvc-000000` and on. -> their UUIDs. */
export const seedVolumes = (
  cluster: MemoryCluster,
  count: number,
  { pool = "rbd", prefix = "csi-vol-", from = 0 }: { pool?: string; prefix?: string; from?: number } = {},
): Promise<readonly string[]> => {
  const service = cephMemoryService(cluster);
  const ref = { access: { monitors: ["-"], user: "admin", key: Redacted.make(MEMORY_KEY) }, pool, namespace: "" };
  const space = cluster.namespace(pool, "");
  const directory = space?.objects.get("csi.volumes.default") ?? new Map<string, string>();
  space?.objects.set("csi.volumes.default", directory);
  const one = (i: number) =>
    Effect.gen(function* () {
      const uuid = `00000000-0000-4000-8000-${(from + i).toString(16).padStart(12, "0")}`;
      const requestName = `pvc-${String(from + i).padStart(6, "0")}`;
      const image = prefix + uuid;
      yield* service.imageCreate(ref, image, { sizeBytes: BigInt(i + 1) << 20n });
      directory.set(`csi.volume.${requestName}`, uuid);
      space?.objects.set(
        `csi.volume.${uuid}`,
        new Map([
          ["csi.volname", requestName],
          ["csi.imagename", image],
          ["csi.imageid", cluster.image(pool, image).id],
        ]),
      );
      return uuid;
    });
  return Effect.runPromise(
    Effect.forEach(
      Array.from({ length: count }, (_, i) => i),
      one,
    ),
  );
};
