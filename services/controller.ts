/**
 * The CSI Controller service: volumes from their name to their end, as far as the cluster goes.
 *
 * Each mutating RPC is a recipe of named stages (lib/pipeline.ts). Not here: how a stage talks to Ceph (lib/ceph), what
 * the journal looks like (lib/journal.ts).
 *
 * 1. A name has at most one volume ID, whatever crashes: creation is finished with the UUID that the journal holds, and
 *    only a volume that was complete and is gone makes room for a new UUID.
 * 2. No reservation goes before its image is proven gone; no image goes while somebody watches it.
 * 3. A repeated request that asks for something else than there is, is ALREADY_EXISTS and changes nothing.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import { Ceph, type ImageStatus, imageSubject, type PoolRef } from "../lib/ceph/ceph.ts";
import { Raced } from "../lib/ceph/errors.ts";
import { Clusters } from "../lib/config/clusters.ts";
import type { Flags } from "../lib/config/flags.ts";
import { parseParameters, volumeContext } from "../lib/config/parameters.ts";
import { parseCredentials } from "../lib/config/secrets.ts";
import { Conflict, InvalidRequest, isDefinite, VolumeNotFound } from "../lib/errors.ts";
import {
  type CapacityRange,
  Controller,
  ControllerExpandVolumeRequestSchema,
  type ControllerExpandVolumeRequest,
  ControllerServiceCapability_RPC_Type as Offered,
  type CreateVolumeRequest,
  CreateVolumeRequestSchema,
  type DeleteVolumeRequest,
  DeleteVolumeRequestSchema,
  Identity,
  type ValidateVolumeCapabilitiesRequest,
} from "../lib/gen/csi_pb.ts";
import { readCapabilities, readCapability } from "../lib/grpc/capability.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { difference, discardImage, finishRemoval, imageSpec, proveUnused } from "../lib/images.ts";
import * as journal from "../lib/journal.ts";
import { Locks } from "../lib/locks.ts";
import { compensated, stage, undoable } from "../lib/pipeline.ts";
import { driverLayer, runService, serveAll } from "../lib/platform.ts";
import { Purge } from "../lib/purge.ts";
import { requiredText } from "../lib/request.ts";
import { mutating, reading } from "../lib/rpc.ts";
import { chooseSize, SizeOutOfRange } from "../lib/size.ts";
import { encodeVolumeId } from "../lib/volume-id.ts";
import { clusterAccess, resolveVolume } from "../lib/volumes.ts";
import { identity } from "./identity.ts";

export interface ControllerOptions {
  /** Names the journal: `csi.volumes.<instanceId>`. */
  readonly instanceId: string;
  /** Whether images carry the names of their claim and volume as metadata. */
  readonly setMetadata: boolean;
  /** Written next to those names, if not "". */
  readonly clusterName: string;
}

// ---------------------------------------------------------------------------------------------- CreateVolume

const METADATA_KEYS = ["pvc/name", "pvc/namespace", "pv/name"].map((key) => `csi.storage.k8s.io/${key}`);
const OWNER_KEY = "csi.storage.k8s.io/pvc/namespace";

const imageMetadata = (options: ControllerOptions, parameters: Readonly<Record<string, string>>) => ({
  ...Object.fromEntries(METADATA_KEYS.flatMap((key) => (parameters[key] ? [[key, parameters[key]]] : []))),
  ...(options.clusterName && { "csi.ceph.com/cluster/name": options.clusterName }),
});

/** Everything that the request says, or why it can't be served; asks no cluster. */
const wantedVolume = (request: CreateVolumeRequest) =>
  Effect.gen(function* () {
    const requestName = yield* Effect.fromResult(requiredText("name", request.name));
    const capabilities = yield* Effect.fromResult(readCapabilities("volume_capabilities", request.volumeCapabilities));
    if (capabilities.some(({ readOnly }) => readOnly) && request.volumeContentSource === undefined) {
      const reason = "asks for a read-only volume without a content source: it would stay empty for ever";
      return yield* new InvalidRequest({ field: "volume_capabilities", reason });
    }
    if (request.volumeContentSource !== undefined) {
      const reason = "is given, but this driver does not advertise snapshots and clones yet";
      return yield* new InvalidRequest({ field: "volume_content_source", reason });
    }
    if (Object.keys(request.mutableParameters).length > 0) {
      const reason = "is given, but no parameter of a volume can be modified";
      return yield* new InvalidRequest({ field: "mutable_parameters", reason });
    }
    const parameters = yield* Effect.fromResult(parseParameters(request.parameters));
    const refused = (name: string, reason: string) => new InvalidRequest({ field: `parameters.${name}`, reason });
    if (parameters.encryption !== undefined) {
      return yield* refused(
        "encrypted",
        "is true, and this driver does not encrypt yet; it never makes a plain volume instead",
      );
    }
    if (parameters.pool === undefined) {
      return yield* refused(
        "topologyConstrainedPools",
        "needs topology, which this driver does not know yet; set pool",
      );
    }
    const credentials = yield* Effect.fromResult(parseCredentials(request.secrets, { allowMigration: true }));
    const sizeBytes = yield* Effect.fromResult(chooseSize(request.capacityRange ?? {}));
    const cluster = yield* (yield* Clusters).get(parameters.clusterId);
    const limitBytes = request.capacityRange?.limitBytes ?? 0n;
    const access = clusterAccess(cluster, credentials);
    const pool: PoolRef = { access, pool: parameters.pool, namespace: cluster.radosNamespace };
    const owner = request.parameters[OWNER_KEY] || undefined;
    return { requestName, parameters, size: { sizeBytes, limitBytes }, cluster, pool, owner };
  });

type Wanted = Effect.Success<ReturnType<typeof wantedVolume>>;

/** What the journal and the pool hold for the name. `reservation` without `image`: creation is to be finished. */
const findVolume = (options: ControllerOptions, { pool, requestName }: Wanted) =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const reservation = yield* journal.lookUp(pool, options.instanceId, requestName);
    if (reservation === undefined) return { reservation, image: undefined };
    const imagePool = yield* poolOf(pool, reservation.imagePoolId);
    const imageName = reservation.attributes.imageName ?? journal.DEFAULT_PREFIX + reservation.uuid;
    const { imageId } = reservation.attributes;
    if (imagePool !== undefined) {
      // Without an image ID in the journal the creation may have been cut off anywhere.
      if (imageId === undefined) yield* ceph.imageMend(imagePool, imageName);
      const image = yield* ceph
        .imageStatus(imagePool, imageName)
        .pipe(Effect.catchTag("ImageNotFound", () => Effect.succeed(undefined)));
      if (image !== undefined) return { reservation, image };
      // Also for a creation: what undid an earlier try may have been cut off in turn.
      yield* finishRemoval(imagePool, imageName, imageId);
      if (imageId === undefined) return { reservation, image };
    }
    yield* journal.unreserve(pool, options.instanceId, { ...reservation, requestName });
    return { reservation: undefined, image: undefined };
  });

/** The image's own pool, where an old journal entry names one; `undefined` when that pool is gone. */
const poolOf = (pool: PoolRef, id: bigint | undefined) =>
  id === undefined
    ? Effect.succeed(pool)
    : Effect.flatMap(Ceph, (ceph) => ceph.poolName(pool.access, id)).pipe(
        Effect.map((name): PoolRef | undefined => ({ ...pool, pool: name })),
        Effect.catchTag("PoolNotFound", () => Effect.succeed(undefined)),
      );

const proveFits = (wanted: Wanted, reservation: journal.Reservation, image: ImageStatus) => {
  const { attributes } = reservation;
  const reason =
    attributes.encryptKms === undefined ? difference(image, wanted.parameters, wanted.size) : "it is encrypted";
  return reason === undefined
    ? Effect.void
    : Effect.fail(new Conflict({ message: `volume ${wanted.requestName} exists already, and ${reason}` }));
};

const createVolume = (options: ControllerOptions) => (request: CreateVolumeRequest) =>
  Effect.gen(function* () {
    const wanted = yield* stage("validate", wantedVolume(request));
    const { requestName, parameters, pool, cluster } = wanted;
    const { instanceId } = options;
    const ceph = yield* Ceph;
    const locks = yield* Locks;
    const body = Effect.gen(function* () {
      const poolId = yield* stage("find", ceph.poolId(pool.access, pool.pool));
      const found = yield* stage("find", findVolume(options, wanted));
      const reserve = journal.reserve(
        pool,
        instanceId,
        { requestName, prefix: parameters.volumeNamePrefix, owner: wanted.owner },
        found.reservation,
      );
      const reservation =
        found.reservation === undefined
          ? yield* undoable("reserve", reserve, ({ uuid, entry, imageName }) =>
              Effect.gen(function* () {
                const left = yield* ceph.imageId(pool, imageName);
                if (left !== undefined)
                  return yield* new Conflict({ message: `image ${imageSubject(pool, imageName)} is still there` });
                yield* journal.unreserve(pool, instanceId, { uuid, entry, requestName });
              }),
            )
          : yield* stage("reserve", reserve);
      const { imageName, uuid } = reservation;
      const imagePoolId = reservation.imagePoolId ?? poolId;
      const imagePool = (yield* poolOf(pool, reservation.imagePoolId)) ?? pool;

      let image = found.image;
      let imageId = reservation.attributes.imageId;
      if (image === undefined) {
        const create = ceph.imageCreate(imagePool, imageName, imageSpec(parameters, wanted.size.sizeBytes));
        const made = yield* undoable("create image", Effect.result(create), (result) =>
          Result.isFailure(result)
            ? Effect.void
            : Effect.flatMap(ceph.imageId(imagePool, imageName), (id) =>
                id === undefined ? Effect.void : discardImage(imagePool, imageName, id),
              ),
        );
        if (Result.isFailure(made)) {
          // Another driver, or an earlier call of ours that had timed out, was faster: then its image is the one.
          if (made.failure._tag !== "Exists") return yield* made.failure;
          image = yield* stage("create image", ceph.imageStatus(imagePool, imageName));
        }
      }
      if (image !== undefined) yield* stage("compare", proveFits(wanted, reservation, image));
      if (imageId === undefined) {
        imageId = image?.id ?? (yield* stage("commit", ceph.imageId(imagePool, imageName)));
        if (imageId === undefined) {
          return yield* new Raced({ op: "rbd_open", subject: imageSubject(imagePool, imageName) });
        }
        yield* stage("commit", journal.storeImageId(pool, uuid, imageId));
      }
      if (options.setMetadata) {
        const entries = imageMetadata(options, request.parameters);
        if (Object.keys(entries).length > 0) yield* stage("commit", ceph.imageMetaSet(imagePool, imageName, entries));
      }
      const volumeId = yield* Effect.fromResult(
        Result.mapError(
          encodeVolumeId({ clusterId: parameters.clusterId, poolId: imagePoolId, uuid }),
          ({ message }) => new InvalidRequest({ field: "parameters.clusterID", reason: message }),
        ),
      );
      return {
        volume: {
          volumeId,
          capacityBytes: image?.sizeBytes ?? wanted.size.sizeBytes,
          volumeContext: volumeContext(request.parameters, {
            pool: imagePool.pool,
            journalPool: pool.pool,
            imageName,
            radosNamespace: cluster.radosNamespace,
            dataPool: parameters.dataPool,
          }),
        },
      };
    });
    const owned = compensated(isDefinite, body).pipe(
      // Another driver removes what this one has just found; NOT_FOUND would be about the source of a copy.
      Effect.catchTag(["ImageNotFound", "ObjectNotFound"], ({ op, subject }) =>
        Effect.fail(new Raced({ op, subject })),
      ),
    );
    return yield* stage("lock", locks.withLock(`name ${parameters.clusterId}/${requestName}`, "exclusive", owned));
  });

// ---------------------------------------------------------------------------------------------- DeleteVolume

const deleteVolume = (options: ControllerOptions) => (request: DeleteVolumeRequest) =>
  Effect.gen(function* () {
    const volumeId = yield* stage("validate", Effect.fromResult(requiredText("volume_id", request.volumeId)));
    const credentials = yield* stage(
      "validate",
      Effect.fromResult(parseCredentials(request.secrets, { allowMigration: true })),
    );
    const locks = yield* Locks;
    const ceph = yield* Ceph;
    const body = Effect.gen(function* () {
      const { pool, uuid, imageName, attributes, cluster } = yield* stage("find", resolveVolume(volumeId, credentials));
      const requestName = attributes?.requestName;
      const remove = Effect.gen(function* () {
        const image = yield* stage(
          "prove unused",
          ceph.imageStatus(pool, imageName).pipe(
            Effect.tap((status) => proveUnused(pool, imageName, status, cluster.mirrorDaemonCount)),
            Effect.catchTag("ImageNotFound", () => Effect.succeed(undefined)),
          ),
        );
        if (image === undefined) {
          yield* stage("purge", ceph.imageMend(pool, imageName));
          yield* stage("purge", finishRemoval(pool, imageName, attributes?.imageId));
        } else {
          yield* stage("move to trash", discardImage(pool, imageName, image.id));
        }
        if (attributes === undefined) return;
        yield* stage("free name", journal.unreserve(pool, options.instanceId, { uuid, entry: uuid, requestName }));
      });
      return yield* requestName === undefined
        ? remove
        : stage("lock", locks.withLock(`name ${cluster.clusterId}/${requestName}`, "exclusive", remove));
    });
    yield* stage("lock", locks.withLock(`volume ${volumeId}`, "exclusive", body)).pipe(
      // CSI: what does not exist is deleted.
      Effect.catchTag("VolumeNotFound", ({ message }) => Effect.logInfo(`nothing to delete: ${message}`)),
    );
    return {};
  });

// ------------------------------------------------------------------------------------ ControllerExpandVolume

const expandVolume = (request: ControllerExpandVolumeRequest) =>
  Effect.gen(function* () {
    const wanted = yield* stage(
      "validate",
      Effect.gen(function* () {
        const volumeId = yield* Effect.fromResult(requiredText("volume_id", request.volumeId));
        if (request.capacityRange === undefined) {
          return yield* new InvalidRequest({ field: "capacity_range", reason: "is missing" });
        }
        const block =
          request.volumeCapability !== undefined &&
          (yield* Effect.fromResult(readCapability("volume_capability", request.volumeCapability))).access.kind ===
            "block";
        const credentials = yield* Effect.fromResult(parseCredentials(request.secrets, { allowMigration: true }));
        return { volumeId, block, credentials, sizeBytes: yield* growTo(request.capacityRange) };
      }),
    );
    const ceph = yield* Ceph;
    const body = Effect.gen(function* () {
      const { pool, imageName, attributes } = yield* stage("find", resolveVolume(wanted.volumeId, wanted.credentials));
      const limit = request.capacityRange?.limitBytes ?? 0n;
      if (limit > 0n) {
        const { sizeBytes } = yield* stage("compare", ceph.imageStatus(pool, imageName));
        if (sizeBytes > limit) {
          return yield* new SizeOutOfRange({
            reason: `the volume has ${sizeBytes} bytes already, limit_bytes is ${limit}, and no volume shrinks`,
          });
        }
      }
      const capacityBytes = yield* stage("grow image", ceph.imageGrow(pool, imageName, wanted.sizeBytes));
      const luks = attributes?.encryptKms !== undefined && attributes.encryptionType !== "file";
      return { capacityBytes, nodeExpansionRequired: !wanted.block || luks };
    }).pipe(
      Effect.catchTag("ImageNotFound", ({ message }) =>
        Effect.fail(new VolumeNotFound({ volumeId: wanted.volumeId, reason: message })),
      ),
    );
    return yield* stage("lock", (yield* Locks).withLock(`volume ${wanted.volumeId}`, "exclusive", body));
  });

/** 0 asks for no size: the size that there is will do. A range without any size is no request to grow. */
const growTo = (range: CapacityRange) =>
  range.requiredBytes === 0n && range.limitBytes === 0n
    ? Effect.fail(
        new InvalidRequest({ field: "capacity_range", reason: "says neither required_bytes nor limit_bytes" }),
      )
    : Effect.map(Effect.fromResult(chooseSize(range)), (size) => (range.requiredBytes === 0n ? 0n : size));

// -------------------------------------------------------------------------------- ValidateVolumeCapabilities

const validateCapabilities = (request: ValidateVolumeCapabilitiesRequest) =>
  Effect.gen(function* () {
    const volumeId = yield* Effect.fromResult(requiredText("volume_id", request.volumeId));
    if (request.volumeCapabilities.length === 0) {
      return yield* new InvalidRequest({ field: "volume_capabilities", reason: "is missing" });
    }
    const credentials = yield* Effect.fromResult(parseCredentials(request.secrets, { allowMigration: true }));
    const { pool, imageName } = yield* resolveVolume(volumeId, credentials);
    const image = yield* (yield* Ceph).imageId(pool, imageName);
    if (image === undefined) {
      return yield* new VolumeNotFound({ volumeId, reason: `image ${imageSubject(pool, imageName)} is gone` });
    }
    const read = readCapabilities("volume_capabilities", request.volumeCapabilities);
    if (Result.isFailure(read)) return { message: read.failure.message };
    const { volumeContext: context, volumeCapabilities, parameters, mutableParameters } = request;
    return { confirmed: { volumeContext: context, volumeCapabilities, parameters, mutableParameters } };
  });

// ---------------------------------------------------------------------------------------------- the service

const OFFERED = [Offered.CREATE_DELETE_VOLUME, Offered.EXPAND_VOLUME, Offered.SINGLE_NODE_MULTI_WRITER];

export const controller = (options: ControllerOptions) =>
  ({
    createVolume: mutating("CreateVolume", CreateVolumeRequestSchema, ({ name }) => name, createVolume(options)),
    deleteVolume: mutating(
      "DeleteVolume",
      DeleteVolumeRequestSchema,
      ({ volumeId }) => volumeId,
      deleteVolume(options),
    ),
    controllerExpandVolume: mutating(
      "ControllerExpandVolume",
      ControllerExpandVolumeRequestSchema,
      ({ volumeId }) => volumeId,
      expandVolume,
    ),
    validateVolumeCapabilities: reading(validateCapabilities),
    controllerGetCapabilities: () =>
      Effect.succeed({ capabilities: OFFERED.map((type) => ({ type: { case: "rpc" as const, value: { type } } })) }),
  }) satisfies ServiceImpl<typeof Controller, unknown>;

/** What the recipes need besides Ceph, locks, operations and the configuration. */
export const controllerLayer = Purge.layer;

/** Alone: a controller plugin without a node. */
const controllerService = (flags: Flags) =>
  serveAll(flags, controllerLayer.pipe(Layer.provideMerge(driverLayer(flags))), [
    served(Identity, identity({ name: flags.driverName, controller: true, ready: Effect.succeed(true) })),
    served(Controller, controller(flags)),
  ]);

if (import.meta.main) runService(["--type=rbd", ...process.argv.slice(2)], controllerService);
