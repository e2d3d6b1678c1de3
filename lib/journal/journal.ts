/**
 * The journal in RADOS omap (format of ceph-csi): which name was given which UUID, and what belongs to it. It is the
 * only truth that the driver keeps; it holds no state of its own.
 *
 * Not here: images, and whether an image that the journal names exists (lib/volume, lib/snapshot).
 *
 * 1. A name is taken by one compare-and-set on the directory object; two drivers can't give one name two UUIDs.
 * 2. The name's key is written before the object of its UUID and removed before it. So whatever a crash leaves is
 *    found again: a half-made reservation by its name, a half-removed one by its volume ID.
 * 3. A half-made reservation, by whichever driver, is completed with the UUID that it has, never abandoned.
 * 4. Reads are keyed: their cost does not grow with the number of volumes.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { JournalCorrupt } from "../csi/errors.ts";
import { isUuid, UUID_LENGTH } from "../csi/volume-id.ts";

/** Volumes, snapshots and group snapshots have journals of one form under names of their own. */
export interface Kind {
  readonly noun: "volume" | "snapshot" | "group snapshot";
  /** Its object is `<directory>.<instance>`. */
  readonly directory: string;
  /** Begins a name's key there, and the name of a UUID's own object. */
  readonly prefix: string;
  readonly requestNameKey: string;
  /** Of the image, or of the RBD group. */
  readonly imageNameKey: string;
  readonly defaultImagePrefix: string;
}

export const VOLUMES: Kind = {
  noun: "volume",
  directory: "csi.volumes",
  prefix: "csi.volume.",
  requestNameKey: "csi.volname",
  imageNameKey: "csi.imagename",
  defaultImagePrefix: "csi-vol-",
};

export const SNAPSHOTS: Kind = {
  noun: "snapshot",
  directory: "csi.snaps",
  prefix: "csi.snap.",
  requestNameKey: "csi.snapname",
  imageNameKey: "csi.imagename",
  defaultImagePrefix: "csi-snap-",
};

/** What else belongs to a group snapshot: lib/journal/group-snapshots.ts. */
export const GROUPS: Kind = {
  noun: "group snapshot",
  directory: "csi.groups",
  prefix: "csi.volume.group.",
  requestNameKey: "csi.volname",
  imageNameKey: "csi.groupname",
  defaultImagePrefix: "csi-vol-group-",
};

/** What the object of a UUID says. Fields that are absent were never written, or not yet. */
export interface Attributes {
  readonly requestName: string | undefined;
  readonly imageName: string | undefined;
  /** librbd's id; written once the image is complete, so its absence means "making it may not have finished". */
  readonly imageId: string | undefined;
  /** Of a snapshot: the image that it was taken of. */
  readonly source: string | undefined;
  /** Of a member of a group snapshot: the group snapshot's ID. */
  readonly groupId: string | undefined;
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

export interface Wanted {
  readonly requestName: string;
  /** First part of the image's name; the UUID follows. */
  readonly prefix: string;
  readonly owner: string | undefined;
  readonly source?: string;
  readonly groupId?: string;
  /** For a name that is free; one that nothing else has. Absent: a random one. */
  readonly uuid?: string;
  /** Further keys, written with the others. */
  readonly more?: Readonly<Record<string, string>>;
}

const FIELDS = {
  imageId: "csi.imageid",
  source: "csi.source",
  groupId: "csi.groupid",
  owner: "csi.volume.owner",
  encryptKms: "csi.volume.encryptKMS",
  encryptionType: "csi.volume.encryptionType",
} as const;

export const directoryObject = (kind: Kind, instance: string) => `${kind.directory}.${instance}`;
const nameKey = (kind: Kind, requestName: string) => kind.prefix + requestName;
/** Beside a volume's name: the nodes that have it (lib/journal/published-nodes.ts). ceph-csi looks at keys in `csi.` only. */
export const nodesKey = (requestName: string) => `csi-rbd.nodes.${requestName}`;
export const uuidObject = (kind: Kind, uuid: string) => kind.prefix + uuid;

/** The reservation of a name, as far as it goes; `undefined` when the name is free. */
export const lookUp = (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  requestName: string,
): Effect.Effect<Reservation | undefined, CephError | JournalCorrupt, Rados> =>
  Effect.gen(function* () {
    const rados = yield* Rados;
    const key = nameKey(kind, requestName);
    const directory = directoryObject(kind, instance);
    const link = { prefix: kind.prefix, tail: UUID_LENGTH, keys: attributeKeys(kind) };
    const followed = yield* rados.omapFollow(pool, directory, key, link);
    if (followed === undefined) return undefined;
    const { value: entry, found } = followed;
    const place = parseEntry(entry);
    if (place === undefined) {
      return yield* new JournalCorrupt({
        subject: "",
        problem: `${directory} in pool ${pool.pool} maps ${requestName} to ${JSON.stringify(entry)}, which is no ${kind.noun} UUID; if no ${kind.noun} of that name is needed, remove the key with "rados rmomapkey"`,
      });
    }
    const attributes = found === undefined ? NOTHING : attributesFrom(kind, found);
    if (attributes.requestName !== undefined && attributes.requestName !== requestName) {
      return yield* new JournalCorrupt({
        subject: "",
        problem: `${uuidObject(kind, place.uuid)} in pool ${pool.pool} belongs to ${attributes.requestName}, but ${directory} gives it to ${requestName}; compare both with "rados listomapvals" before removing either`,
      });
    }
    return { ...place, entry, attributes };
  });

/** Takes the name, or completes what an earlier call left half-made. Afterwards both objects are written. */
export const reserve = (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  wanted: Wanted,
  found: Reservation | undefined,
): Effect.Effect<Reservation & { readonly imageName: string }, CephError, Rados> =>
  Effect.gen(function* () {
    const rados = yield* Rados;
    const uuid = found?.uuid ?? wanted.uuid ?? crypto.randomUUID();
    const entry = found?.entry ?? uuid;
    if (found === undefined) {
      const key = nameKey(kind, wanted.requestName);
      yield* rados.omapWrite(pool, directoryObject(kind, instance), {
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
      source: known.source ?? wanted.source,
      groupId: known.groupId ?? wanted.groupId,
      owner: known.owner ?? wanted.owner,
    };
    if (known.requestName === undefined) {
      yield* rados.omapWrite(pool, uuidObject(kind, uuid), {
        object: "ensure",
        compare: { [kind.requestNameKey]: "" },
        set: {
          [kind.requestNameKey]: wanted.requestName,
          [kind.imageNameKey]: imageName,
          ...(attributes.source !== undefined && { [FIELDS.source]: attributes.source }),
          ...(attributes.groupId !== undefined && { [FIELDS.groupId]: attributes.groupId }),
          ...(attributes.owner !== undefined && { [FIELDS.owner]: attributes.owner }),
          ...wanted.more,
        },
      });
    }
    return { uuid, entry, imagePoolId: found?.imagePoolId, attributes, imageName };
  });

/** The name of the image (or RBD group) behind a UUID: as the journal has it, else the one that drivers give by default. */
export const imageNameOf = (kind: Kind, uuid: string, attributes: Attributes | undefined): string =>
  attributes?.imageName ?? kind.defaultImagePrefix + uuid;

/** `undefined`: the journal has nothing under that UUID. */
export const readAttributes = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
): Effect.Effect<Attributes | undefined, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) =>
    Effect.map(rados.omapGet(pool, uuidObject(kind, uuid), attributeKeys(kind)), (values) =>
      values === undefined ? undefined : attributesFrom(kind, values),
    ),
  );

const attributeKeys = (kind: Kind): readonly string[] => [
  kind.requestNameKey,
  kind.imageNameKey,
  ...Object.values(FIELDS),
];

const attributesFrom = (kind: Kind, values: ReadonlyMap<string, string>): Attributes => ({
  requestName: values.get(kind.requestNameKey),
  imageName: values.get(kind.imageNameKey),
  imageId: values.get(FIELDS.imageId),
  source: values.get(FIELDS.source),
  groupId: values.get(FIELDS.groupId),
  owner: values.get(FIELDS.owner),
  encryptKms: values.get(FIELDS.encryptKms),
  encryptionType: values.get(FIELDS.encryptionType),
});

/** A name in the directory. `place` is absent for an entry that no driver of today writes: it leads nowhere. */
export interface ListedName {
  readonly requestName: string;
  readonly place: { readonly uuid: string; readonly imagePoolId: bigint | undefined } | undefined;
}

/** Names after `after` ("": all), in the order of their bytes, at most `limit`. `undefined`: the pool has no journal. */
export const listNames = (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  after: string,
  limit: number,
): Effect.Effect<readonly ListedName[] | undefined, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) =>
    Effect.map(
      rados.omapList(pool, directoryObject(kind, instance), {
        prefix: kind.prefix,
        after: nameKey(kind, after),
        limit,
      }),
      (page) =>
        page &&
        Array.from(page, ([key, entry]) => ({
          requestName: key.slice(kind.prefix.length),
          place: parseEntry(entry),
        })),
    ),
  );

/** `readAttributes` of many in one call; in the order asked for. */
export const readManyAttributes = (
  kind: Kind,
  pool: PoolRef,
  uuids: readonly string[],
): Effect.Effect<readonly (Attributes | undefined)[], CephError, Rados> =>
  Effect.flatMap(Rados, (rados) => {
    const keys = attributeKeys(kind);
    const wanted = uuids.map((uuid) => ({ object: uuidObject(kind, uuid), keys }));
    return Effect.map(rados.omapGetMany(pool, wanted), (found) =>
      found.map((values) => values && attributesFrom(kind, values)),
    );
  });

/** Records that the image is complete. */
export const storeImageId = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  imageId: string,
): Effect.Effect<void, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) =>
    rados.omapWrite(pool, uuidObject(kind, uuid), { object: "require", set: { [FIELDS.imageId]: imageId } }),
  );

/** Fails with `Raced` when somebody has recorded the image as complete: then it is no longer ours to make anew. */
export const proveIncomplete = (kind: Kind, pool: PoolRef, uuid: string): Effect.Effect<void, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) =>
    // A write of what holds already: the compare is what it is for.
    rados.omapWrite(pool, uuidObject(kind, uuid), {
      object: "require",
      compare: { [FIELDS.imageId]: "" },
      remove: [FIELDS.imageId],
    }),
  );

export interface Taken {
  readonly uuid: string;
  readonly entry: string;
  readonly requestName: string | undefined;
}

/** Frees the name, then forgets the UUID. Only for callers that have proven the image gone. */
export const unreserve = (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  reservation: Taken,
): Effect.Effect<void, CephError, Rados> =>
  Effect.andThen(freeName(kind, pool, instance, reservation), forget(kind, pool, reservation.uuid));

/** The UUID keeps what belongs to it: for what is removed in parts, and found by its ID until the last is gone. */
export const freeName = (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  { requestName, entry }: Taken,
): Effect.Effect<void, CephError, Rados> =>
  Effect.gen(function* () {
    if (requestName === undefined) return;
    const key = nameKey(kind, requestName);
    yield* (yield* Rados)
      .omapWrite(pool, directoryObject(kind, instance), {
        object: "require",
        compare: { [key]: entry },
        remove: kind === VOLUMES ? [key, nodesKey(requestName)] : [key],
      })
      // The name is free already, or has since been given to another: both are none of ours.
      .pipe(Effect.catchTag(["Raced", "ObjectNotFound"], () => Effect.void));
  });

/** After `freeName`, as the last step of a removal. */
export const forget = (kind: Kind, pool: PoolRef, uuid: string): Effect.Effect<void, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) => rados.objectRemove(pool, uuidObject(kind, uuid)));

const NOTHING: Attributes = attributesFrom(VOLUMES, new Map());

/** A pool id is an int64 that is not negative. */
const POOL_ID = /^[0-7][0-9a-f]{15}$/i;

/** What is no UUID must not pass: no volume ID could be made of it, so its image could never be deleted. */
const parseEntry = (entry: string): { uuid: string; imagePoolId: bigint | undefined } | undefined => {
  if (isUuid(entry)) return { uuid: entry, imagePoolId: undefined };
  const [pool, uuid, ...rest] = entry.split("/");
  if (pool === undefined || uuid === undefined || rest.length > 0) return undefined;
  return POOL_ID.test(pool) && isUuid(uuid) ? { uuid, imagePoolId: BigInt(`0x${pool}`) } : undefined;
};
