/**
 * The journal in RADOS omap (format of ceph-csi): which name was given which UUID, and what belongs to it. It is the
 * only truth that the driver keeps; it holds no state of its own.
 *
 * Not here: images, and whether an image that the journal names exists (services/controller.ts).
 *
 * 1. A name is taken by one compare-and-set on the directory object; two drivers can't give one name two UUIDs.
 * 2. The name's key is written before the object of its UUID and removed before it. So whatever a crash leaves is
 *    found again: a half-made reservation by its name, a half-removed one by its volume ID.
 * 3. A half-made reservation, by whichever driver, is completed with the UUID that it has, never abandoned.
 * 4. Reads are keyed: their cost does not grow with the number of volumes.
 */
import * as Effect from "effect/Effect";
import { Ceph, type PoolRef } from "./ceph/ceph.ts";
import type { CephError } from "./ceph/errors.ts";
import { JournalCorrupt } from "./errors.ts";
import { isUuid } from "./volume-id.ts";

/** What `csi.volume.<uuid>` says. Fields that are absent were never written, or not yet. */
export interface Attributes {
  readonly requestName: string | undefined;
  readonly imageName: string | undefined;
  /** librbd's id; written once the image exists, so its absence means "creation may not have finished". */
  readonly imageId: string | undefined;
  /** Kubernetes namespace of the claim. */
  readonly owner: string | undefined;
  readonly encryptKms: string | undefined;
  readonly encryptionType: string | undefined;
}

export interface Reservation {
  readonly uuid: string;
  /** The value of the name's key, byte for byte: the UUID, or `<16 hex pool id>/<uuid>` of older drivers. */
  readonly entry: string;
  /** Set when the entry names the image's pool, which then is not the journal's. */
  readonly imagePoolId: bigint | undefined;
  readonly attributes: Attributes;
}

const KEY = {
  requestName: "csi.volname",
  imageName: "csi.imagename",
  imageId: "csi.imageid",
  owner: "csi.volume.owner",
  encryptKms: "csi.volume.encryptKMS",
  encryptionType: "csi.volume.encryptionType",
} as const;

export const DEFAULT_PREFIX = "csi-vol-";

const directoryObject = (instance: string) => `csi.volumes.${instance}`;
const nameKey = (requestName: string) => `csi.volume.${requestName}`;
const volumeObject = (uuid: string) => `csi.volume.${uuid}`;

/** The reservation of a name, as far as it goes; `undefined` when the name is free. */
export const lookUp = (
  pool: PoolRef,
  instance: string,
  requestName: string,
): Effect.Effect<Reservation | undefined, CephError | JournalCorrupt, Ceph> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const key = nameKey(requestName);
    const directory = yield* ceph.omapGet(pool, directoryObject(instance), [key]);
    const entry = directory?.get(key);
    if (entry === undefined) return undefined;
    const place = parseEntry(entry);
    if (place === undefined) {
      return yield* new JournalCorrupt({
        message: `${directoryObject(instance)} in pool ${pool.pool} maps ${requestName} to ${JSON.stringify(entry)}, which is no volume UUID; if no volume of that name is needed, remove the key with "rados rmomapkey"`,
      });
    }
    const attributes = (yield* readAttributes(pool, place.uuid)) ?? NOTHING;
    if (attributes.requestName !== undefined && attributes.requestName !== requestName) {
      return yield* new JournalCorrupt({
        message: `${volumeObject(place.uuid)} in pool ${pool.pool} belongs to ${attributes.requestName}, but ${directoryObject(instance)} gives it to ${requestName}; compare both with "rados listomapvals" before removing either`,
      });
    }
    return { ...place, entry, attributes };
  });

/** Takes the name, or completes what an earlier call left half-made. Afterwards both objects are written. */
export const reserve = (
  pool: PoolRef,
  instance: string,
  wanted: { readonly requestName: string; readonly prefix: string; readonly owner: string | undefined },
  found: Reservation | undefined,
): Effect.Effect<Reservation & { readonly imageName: string }, CephError, Ceph> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const uuid = found?.uuid ?? crypto.randomUUID();
    const entry = found?.entry ?? uuid;
    if (found === undefined) {
      const key = nameKey(wanted.requestName);
      yield* ceph.omapWrite(pool, directoryObject(instance), {
        object: "ensure",
        compare: { [key]: "" },
        set: { [key]: entry },
      });
    }
    const known = found?.attributes ?? NOTHING;
    const imageName = known.imageName ?? wanted.prefix + uuid;
    const attributes: Attributes = {
      ...known,
      requestName: wanted.requestName,
      imageName,
      owner: known.owner ?? wanted.owner,
    };
    if (known.requestName === undefined) {
      yield* ceph.omapWrite(pool, volumeObject(uuid), {
        object: "ensure",
        compare: { [KEY.requestName]: "" },
        set: {
          [KEY.requestName]: wanted.requestName,
          [KEY.imageName]: imageName,
          ...(attributes.owner === undefined ? {} : { [KEY.owner]: attributes.owner }),
        },
      });
    }
    return { uuid, entry, imagePoolId: found?.imagePoolId, attributes, imageName };
  });

/** `undefined`: the journal has nothing under that UUID. */
export const readAttributes = (pool: PoolRef, uuid: string): Effect.Effect<Attributes | undefined, CephError, Ceph> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const values = yield* ceph.omapGet(pool, volumeObject(uuid), Object.values(KEY));
    if (values === undefined) return undefined;
    return {
      requestName: values.get(KEY.requestName),
      imageName: values.get(KEY.imageName),
      imageId: values.get(KEY.imageId),
      owner: values.get(KEY.owner),
      encryptKms: values.get(KEY.encryptKms),
      encryptionType: values.get(KEY.encryptionType),
    };
  });

/** Records that the image is complete. */
export const storeImageId = (pool: PoolRef, uuid: string, imageId: string): Effect.Effect<void, CephError, Ceph> =>
  Effect.flatMap(Ceph, (ceph) =>
    ceph.omapWrite(pool, volumeObject(uuid), { object: "require", set: { [KEY.imageId]: imageId } }),
  );

/** Frees the name, then forgets the UUID. Only for callers that have proven the image gone. */
export const unreserve = (
  pool: PoolRef,
  instance: string,
  reservation: { readonly uuid: string; readonly entry: string; readonly requestName: string | undefined },
): Effect.Effect<void, CephError, Ceph> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const { requestName, uuid, entry } = reservation;
    if (requestName !== undefined) {
      const key = nameKey(requestName);
      yield* ceph
        .omapWrite(pool, directoryObject(instance), { object: "require", compare: { [key]: entry }, remove: [key] })
        // The name is free already, or has since been given to another volume: both are none of ours.
        .pipe(Effect.catchTag(["Raced", "ObjectNotFound"], () => Effect.void));
    }
    yield* ceph.objectRemove(pool, volumeObject(uuid));
  });

const NOTHING: Attributes = {
  requestName: undefined,
  imageName: undefined,
  imageId: undefined,
  owner: undefined,
  encryptKms: undefined,
  encryptionType: undefined,
};

/** A pool id is an int64 that is not negative. */
const POOL_ID = /^[0-7][0-9a-f]{15}$/i;

/** What is no UUID must not pass: no volume ID could be made of it, so its image could never be deleted. */
const parseEntry = (entry: string): { uuid: string; imagePoolId: bigint | undefined } | undefined => {
  if (isUuid(entry)) return { uuid: entry, imagePoolId: undefined };
  const [pool, uuid, ...rest] = entry.split("/");
  if (pool === undefined || uuid === undefined || rest.length > 0) return undefined;
  return POOL_ID.test(pool) && isUuid(uuid) ? { uuid, imagePoolId: BigInt(`0x${pool}`) } : undefined;
};
