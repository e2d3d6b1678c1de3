/**
 * CreateVolume: an empty image, or a copy of a snapshot or volume, under a name that is given one UUID for ever.
 *
 * Not here: how a copy is made (./copy.ts), and the wire (services/controller.ts).
 *
 * 1. A name has at most one volume ID, whatever crashes: creation is finished with the UUID that the journal holds, and
 *    only a volume that was complete and is gone makes room for a new UUID.
 * 2. No reservation goes before its image is proven gone.
 * 3. A repeated request that asks for something else than there is, is a Conflict and changes nothing.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { imageLabel } from "../ceph/ceph.ts";
import { Raced } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { Clusters } from "../config/clusters.ts";
import { type ParameterMap, parseParameters, volumeContext } from "../config/parameters.ts";
import { parseCredentials } from "../config/secrets.ts";
import type { VolumeOptions } from "../config/settings.ts";
import { Conflict, InvalidRequest } from "../csi/errors.ts";
import { chooseSize, type SizeRequest } from "../csi/size.ts";
import { encodeVolumeId, UUID_LENGTH } from "../csi/volume-id.ts";
import { tempImage } from "../images/intermediate.ts";
import { cloneSpec, difference, imageSpec } from "../images/layout.ts";
import { ownerOf, volumeMetadata } from "../images/metadata.ts";
import { asRaced, orRaced, statusIfThere } from "../images/races.ts";
import { discardImage, finishRemoval } from "../images/removal.ts";
import * as journal from "../journal/journal.ts";
import { clusterAccess } from "../journal/locate.ts";
import { compensated, undoable } from "../operations/compensation.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import {
  copySource,
  discardCopy,
  findSource,
  keepSourceFit,
  NOTHING_DONE,
  readSource,
  removeTraces,
  resumeCopy,
  type Source,
  type SourceRequest,
} from "./copy.ts";
import { removeVolumeImages } from "./delete.ts";
import { choiceOf, choosePlace } from "./pool-choice.ts";
import type { Requirement, Segments } from "./topology.ts";

export interface CreateRequest {
  readonly requestName: string;
  readonly parameters: ParameterMap;
  readonly secrets: Readonly<Record<string, string>>;
  readonly size: SizeRequest;
  readonly source: SourceRequest | undefined;
  /** Absent: the caller does not ask for topology. */
  readonly topology: Requirement | undefined;
}

export interface CreatedVolume {
  readonly volumeId: string;
  readonly capacityBytes: bigint;
  readonly volumeContext: Record<string, string>;
  /** From where it can be reached; absent: from everywhere. */
  readonly segments: Segments | undefined;
}

const { VOLUMES } = journal;

/** Everything that the request says, or why it can't be served; asks no cluster. */
const readRequest = (request: CreateRequest) =>
  Effect.gen(function* () {
    const parameters = yield* Effect.fromResult(parseParameters(request.parameters));
    const refused = (name: string, reason: string) => new InvalidRequest({ field: `parameters.${name}`, reason });
    if (parameters.encryption !== undefined) {
      return yield* refused(
        "encrypted",
        "is true, and this driver does not encrypt yet; it never makes a plain volume instead",
      );
    }
    const choice = yield* Effect.fromResult(choiceOf(parameters, request.topology));
    const credentials = yield* Effect.fromResult(parseCredentials(request.secrets, { allowMigration: true }));
    const sizeBytes = yield* Effect.fromResult(chooseSize(request.size));
    const cluster = yield* (yield* Clusters).get(parameters.clusterId);
    const limitBytes = request.size.limitBytes ?? 0n;
    const access = clusterAccess(cluster, credentials);
    const { requestName, source } = request;
    if (source !== undefined) yield* readSource(source);
    const owner = ownerOf(request.parameters);
    const common = { requestName, size: { sizeBytes, limitBytes }, cluster, credentials, owner, source };
    const poolRef = (pool: string): PoolRef => ({ access, pool, namespace: cluster.radosNamespace });
    const places = choice.candidates.map(({ pool, dataPool, segments }) => ({
      ...common,
      pool: poolRef(pool),
      parameters: { ...parameters, dataPool: dataPool ?? parameters.dataPool },
      segments,
    }));
    return { requestName, clusterId: parameters.clusterId, places, others: choice.others.map(poolRef) };
  });

/** The request at one place where its volume may be. */
type Wanted = Effect.Success<ReturnType<typeof readRequest>>["places"][number];
type Reserved = Pick<Effect.Success<ReturnType<typeof reserved>>, "imageName" | "uuid">;

/** What the journal and the pool hold for the name. `reservation` without `image`: creation is to be finished. */
const findVolume = (instanceId: string, { pool, requestName, source }: Wanted) =>
  Effect.gen(function* () {
    const reservation = yield* journal.lookUp(VOLUMES, pool, instanceId, requestName);
    if (reservation === undefined) return { reservation, image: undefined };
    const imagePool = yield* poolOf(pool, reservation.imagePoolId);
    const imageName = reservation.attributes.imageName ?? VOLUMES.defaultImagePrefix + reservation.uuid;
    const { imageId } = reservation.attributes;
    if (imagePool !== undefined) {
      // Without an image ID in the journal, making it may have been cut off anywhere; copies are made again.
      if (imageId === undefined && source !== undefined) return { reservation, image: undefined };
      if (imageId === undefined) yield* (yield* Rbd).imageMend(imagePool, imageName);
      const image = yield* statusIfThere(imagePool, imageName);
      if (image !== undefined) return { reservation, image };
      if (imageId === undefined) {
        // What undid an earlier try may have been cut off in turn.
        yield* finishRemoval(imagePool, imageName, imageId);
        return { reservation, image };
      }
      yield* removeVolumeImages(instanceId, imagePool, imageName, imageId, 0);
    }
    yield* journal.unreserve(VOLUMES, pool, instanceId, { ...reservation, requestName });
    return { reservation: undefined, image: undefined };
  });

/** The image's own pool, where an old journal entry names one; `undefined` when that pool is gone. */
const poolOf = (pool: PoolRef, id: bigint | undefined) =>
  id === undefined
    ? Effect.succeed(pool)
    : Effect.flatMap(Rados, (rados) => rados.poolName(pool.access, id)).pipe(
        Effect.map((name): PoolRef | undefined => ({ ...pool, pool: name })),
        Effect.catchTag("PoolNotFound", () => Effect.succeed(undefined)),
      );

const proveFits = (wanted: Wanted, reservation: journal.Reservation, image: ImageStatus) => {
  const { encryptKms, imageName } = reservation.attributes;
  const reason =
    encryptKms === undefined
      ? (otherSource(wanted.source, image, imageName) ?? difference(image, wanted.parameters, wanted.size))
      : "it is encrypted";
  return reason === undefined
    ? Effect.void
    : Effect.fail(new Conflict({ subject: "", problem: `volume ${wanted.requestName} exists already, and ${reason}` }));
};

/** As far as the image still tells: one that was flattened since has no parent any more. */
const otherSource = (source: SourceRequest | undefined, { parent }: ImageStatus, imageName: string | undefined) => {
  if (parent === undefined) return undefined;
  if (source === undefined) return `it is a copy of ${parent.image}, an empty one is asked for`;
  const same =
    source.kind === "snapshot"
      ? parent.image.endsWith(source.id.slice(-UUID_LENGTH))
      : imageName === undefined || parent.image === tempImage(imageName);
  return same ? undefined : `it is a copy of ${parent.image}, one of ${source.kind} ${source.id} is asked for`;
};

/** The reservation of the name, made or completed; a new one goes again if what follows fails and left no image. */
const reserved = (instanceId: string, wanted: Wanted, found: journal.Reservation | undefined) => {
  const { pool, requestName, parameters, owner } = wanted;
  const entry = { requestName, prefix: parameters.volumeNamePrefix, owner };
  const reserve = journal.reserve(VOLUMES, pool, instanceId, entry, found);
  if (found !== undefined) return stage("reserve", reserve);
  return undoable("reserve", reserve, (made) =>
    Effect.gen(function* () {
      const left = yield* (yield* Rbd).imageId(pool, made.imageName);
      if (left !== undefined) {
        return yield* new Conflict({
          subject: "",
          problem: `image ${imageLabel(pool, made.imageName)} is still there`,
        });
      }
      yield* journal.unreserve(VOLUMES, pool, instanceId, { ...made, requestName });
    }),
  );
};

/** Makes the image; -> its status if somebody else was faster and made it. */
const madeEmpty = (wanted: Wanted, pool: PoolRef, { imageName, uuid }: Reserved) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const create = rbd.imageCreate(pool, imageName, imageSpec(wanted.parameters, wanted.size.sizeBytes));
    const made = yield* undoable("create image", Effect.result(create), (result) =>
      Result.isFailure(result) ? Effect.void : discardNew(wanted, pool, { imageName, uuid }),
    );
    if (Result.isSuccess(made)) return undefined;
    // Another driver, or an earlier call of ours that had timed out, was faster: then its image is the one.
    if (made.failure._tag !== "Exists") return yield* made.failure;
    return yield* stage("create image", orRaced(rbd.imageStatus(pool, imageName)));
  });

/** Not once the journal says that the volume is complete: another driver has finished it, and told its caller. */
const discardNew = (wanted: Wanted, pool: PoolRef, { imageName, uuid }: Reserved) =>
  Effect.gen(function* () {
    const now = yield* journal.readAttributes(VOLUMES, wanted.pool, uuid);
    if (now?.imageId !== undefined) {
      return yield* new Conflict({
        subject: "",
        problem: `another driver has finished volume ${wanted.requestName} meanwhile`,
      });
    }
    const id = yield* (yield* Rbd).imageId(pool, imageName);
    if (id !== undefined) yield* discardImage(pool, imageName, id);
  });

const madeFrom = (source: Source, wanted: Wanted, pool: PoolRef, reservation: Reserved, fresh: boolean) =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const { imageName } = reservation;
    const target = { pool, image: imageName, spec: cloneSpec(wanted.parameters), snapshots: [] };
    // The source was there: the next call clears up where it does not come back.
    // Not undone when it fails: what it looks at may be another driver's work.
    const resumed = Effect.catchTag(resumeCopy(source, target), "ImageNotFound", asRaced);
    const done = fresh ? NOTHING_DONE : yield* stage("clear", resumed);
    const copy = Effect.catchTag(copySource(source, target, done), "ImageNotFound", asRaced);
    const copied = yield* undoable("clone", Effect.exit(copy), () =>
      Effect.andThen(discardNew(wanted, pool, reservation), removeTraces(source, pool, imageName)),
    );
    yield* copied;
    if (wanted.size.sizeBytes > source.sizeBytes) {
      yield* stage("grow image", orRaced(rbd.imageGrow(pool, imageName, wanted.size.sizeBytes)));
    }
  });

/** Without its source a half-made copy can't be finished: what is left of it goes. */
const sourceOrNothing = (
  instanceId: string,
  { pool, requestName, credentials, size }: Wanted,
  request: SourceRequest,
  begun: journal.Reservation | undefined,
) =>
  findSource(request, credentials, size.sizeBytes, pool).pipe(
    Effect.tapErrorTag(["ImageNotFound", "SnapshotNotFound", "VolumeNotFound"], () =>
      Effect.gen(function* () {
        if (begun === undefined) return;
        const imageName = begun.attributes.imageName ?? VOLUMES.defaultImagePrefix + begun.uuid;
        yield* discardCopy(pool, imageName);
        yield* journal.unreserve(VOLUMES, pool, instanceId, { ...begun, requestName });
      }),
    ),
  );

const sourceKey = ({ kind, id }: SourceRequest): string => `${kind} ${id}`;

export const createVolume = (options: VolumeOptions, request: CreateRequest) =>
  Effect.gen(function* () {
    const { requestName, clusterId, places, others } = yield* stage("validate", readRequest(request));
    const { instanceId } = options;
    const rados = yield* Rados;
    const rbd = yield* Rbd;
    const locks = yield* Locks;
    const body = Effect.gen(function* () {
      const wanted = yield* stage("choose place", choosePlace(instanceId, places, others));
      const { parameters, pool, cluster, segments } = wanted;
      const poolId = yield* stage("find", rados.poolId(pool.access, pool.pool));
      const found = yield* stage("find", findVolume(instanceId, wanted));
      const missing = found.image === undefined;
      const source =
        missing && wanted.source !== undefined
          ? yield* stage("find source", sourceOrNothing(instanceId, wanted, wanted.source, found.reservation))
          : undefined;
      if (source !== undefined) yield* stage("limit chain", keepSourceFit(source, options));
      const reservation = yield* reserved(instanceId, wanted, found.reservation);
      const { imageName, uuid } = reservation;
      const imagePool = (yield* poolOf(pool, reservation.imagePoolId)) ?? pool;

      let image = found.image;
      if (source !== undefined) {
        yield* madeFrom(source, wanted, imagePool, reservation, found.reservation === undefined);
      } else if (missing) {
        image = yield* madeEmpty(wanted, imagePool, reservation);
      }
      if (image !== undefined) yield* stage("compare", proveFits(wanted, reservation, image));
      const entries = volumeMetadata(options, request.parameters, source !== undefined);
      if (Object.keys(entries).length > 0) {
        yield* stage("commit", orRaced(rbd.imageMetaSet(imagePool, imageName, entries)));
      }
      if (reservation.attributes.imageId === undefined) {
        const imageId = image?.id ?? (yield* stage("commit", rbd.imageId(imagePool, imageName)));
        if (imageId === undefined) {
          return yield* new Raced({ op: "rbd_create4", subject: imageLabel(imagePool, imageName) });
        }
        yield* stage("commit", orRaced(journal.storeImageId(VOLUMES, pool, uuid, imageId)));
      }
      const handle = encodeVolumeId({ clusterId, poolId: reservation.imagePoolId ?? poolId, uuid });
      const volume: CreatedVolume = {
        volumeId: yield* Effect.fromResult(
          Result.mapError(
            handle,
            ({ message }) => new InvalidRequest({ field: "parameters.clusterID", reason: message }),
          ),
        ),
        capacityBytes: image?.sizeBytes ?? wanted.size.sizeBytes,
        volumeContext: volumeContext(request.parameters, {
          pool: imagePool.pool,
          journalPool: pool.pool,
          imageName,
          radosNamespace: cluster.radosNamespace,
          dataPool: parameters.dataPool,
        }),
        segments,
      };
      return volume;
    });
    const owned = compensated(body);
    const named = stage("lock", locks.withLock(`name ${clusterId}/${requestName}`, "exclusive", owned));
    // IDs before names, as whoever deletes does: no two wait for each other.
    return yield* request.source === undefined
      ? named
      : stage("lock", locks.withLock(sourceKey(request.source), "shared", named));
  });
