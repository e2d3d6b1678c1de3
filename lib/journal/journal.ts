/**
 * The journal in RADOS omap (format of ceph-csi): it gives each name a UUID, and keeps the attributes of each UUID. It is
 * the only truth about volumes and snapshots; the driver keeps no state of its own.
 *
 * Not here: images, and whether an image that the journal names exists (lib/volume, lib/snapshot).
 *
 * 1. A name is reserved by one compare-and-set on the directory object: two drivers can't give one name two UUIDs.
 * 2. The key of the name is written before the object of its UUID, and removed before it. So whatever a crash leaves is
 *    found again: a half-made reservation by its name, a half-removed one by its volume ID. An image may be made before
 *    the object is written only if the UUID alone tells its name (`namedByUuid`).
 * 3. A half-made reservation, whichever driver began it, is completed with the UUID that it has, never abandoned.
 * 4. Reads are keyed: their cost does not grow with the number of volumes.
 * 5. The names of volumes and of snapshots may be split over a directory and eleven parts of it: so ceph-csi is to write
 *    them (its pull request 6353). A name is found in any of them and freed where it is. This driver writes the directory
 *    alone, which that ceph-csi reads, too.
 */
import * as Effect from "effect/Effect";
import { type CephError, Raced } from "../ceph/errors.ts";
import { type OmapWrite, type PoolRef, Rados } from "../ceph/rados.ts";
import type { Encryption } from "../config/encryption.ts";
import { JournalCorrupt } from "../csi/errors.ts";
import { isUuid, UUID_LENGTH } from "../csi/volume-id.ts";

/** The names in a journal: those of volumes, snapshots and group snapshots have one form. */
export interface Kind {
  readonly noun: "volume" | "snapshot" | "group snapshot";
  /** Its object is `<directory>.<instance>`. */
  readonly directory: string;
  /** Begins the key of a name there, and the name of the object of a UUID. */
  readonly prefix: string;
  readonly requestNameKey: string;
  /** The key under which the object of a UUID keeps the name of the image, or of the RBD group. */
  readonly imageNameKey: string;
  readonly defaultImagePrefix: string;
  /** Into how many parts the directory may be split, besides itself: `<directory>.<instance>.<number>`. */
  readonly parts: number;
}

const PARTS = 11;

export const VOLUMES: Kind = {
  noun: "volume",
  directory: "csi.volumes",
  prefix: "csi.volume.",
  requestNameKey: "csi.volname",
  imageNameKey: "csi.imagename",
  defaultImagePrefix: "csi-vol-",
  parts: PARTS,
};

export const SNAPSHOTS: Kind = {
  noun: "snapshot",
  directory: "csi.snaps",
  prefix: "csi.snap.",
  requestNameKey: "csi.snapname",
  imageNameKey: "csi.imagename",
  defaultImagePrefix: "csi-snap-",
  parts: PARTS,
};

/** Further keys of group snapshots are in ./group-snapshots.ts. */
export const GROUPS: Kind = {
  noun: "group snapshot",
  directory: "csi.groups",
  prefix: "csi.volume.group.",
  requestNameKey: "csi.volname",
  imageNameKey: "csi.groupname",
  defaultImagePrefix: "csi-vol-group-",
  parts: 0,
};

/** The attributes that the object of a UUID keeps. Those that are absent were never written, or not yet. */
export interface Attributes {
  readonly requestName: string | undefined;
  readonly imageName: string | undefined;
  /** librbd's id. It is written once the image is complete, so without it making the image may not have finished. */
  readonly imageId: string | undefined;
  /** The image that a snapshot was taken of. */
  readonly source: string | undefined;
  /** The ID of the group snapshot that a snapshot is a member of. */
  readonly groupId: string | undefined;
  /** Kubernetes namespace of the claim. */
  readonly owner: string | undefined;
  readonly encryptKms: string | undefined;
  readonly encryptionType: string | undefined;
  /**
   * Who has taken over the making of the image (`takeOver`), or `GIVEN_UP`; absent: whoever reserved the name makes it.
   */
  readonly maker: string | undefined;
}

export interface Reservation {
  readonly uuid: string;
  /** The value of the name's key, byte for byte: the UUID, or `<16 hex pool id>/<uuid>` of older drivers. */
  readonly entry: string;
  /** Set when the entry names the image's pool, which then is not the journal's. */
  readonly imagePoolId: bigint | undefined;
  readonly attributes: Attributes;
}

/** A name to reserve, and the attributes that its object gets. */
export interface ReservationRequest {
  readonly requestName: string;
  /** First part of the image's name; the UUID follows. */
  readonly prefix: string;
  readonly owner: string | undefined;
  readonly source?: string;
  readonly groupId?: string;
  /** Absent: the volume is plain. */
  readonly encryption?: Encryption | undefined;
  /** Set when the image is in another pool than the journal: as drivers before ceph-csi 3.11 wrote names (`imagePoolId`). */
  readonly split?: { readonly imagePoolId: bigint; readonly journalPoolId: bigint };
  /** A UUID for a free name, which nothing else has. Absent: a random one. */
  readonly uuid?: string;
  /** What has no attributes yet of a name that is found gets a maker with them (`takeOver`). */
  readonly takesOver?: true;
  /** Further keys, written with the others. */
  readonly more?: Readonly<Record<string, string>>;
}

/** The maker of a reservation that is being undone: nobody goes on with it, and whoever finds it finishes the undo. */
export const GIVEN_UP = "given up";

const FIELDS = {
  imageId: "csi.imageid",
  source: "csi.source",
  groupId: "csi.groupid",
  owner: "csi.volume.owner",
  encryptKms: "csi.volume.encryptKMS",
  encryptionType: "csi.volume.encryptionType",
  // ceph-csi looks at keys in `csi.` only
  maker: "csi-rbd.maker",
} as const;

/** Written where the image is in another pool; nobody reads it. */
const JOURNAL_POOL = "csi.journalpool";
const poolHex = (id: bigint): string => id.toString(16).padStart(16, "0");
/** The value of a name's key where the image is in another pool than the journal. */
export const splitEntry = (imagePoolId: bigint, uuid: string): string => `${poolHex(imagePoolId)}/${uuid}`;

export const directoryObject = (kind: Kind, instance: string) => `${kind.directory}.${instance}`;
const directoryParts = (kind: Kind, instance: string): readonly string[] =>
  Array.from({ length: kind.parts }, (_, number) => `${directoryObject(kind, instance)}.${number}`);
const nameKey = (kind: Kind, requestName: string) => kind.prefix + requestName;
/** The key beside a volume's name that lists the nodes which have it (lib/journal/published-nodes.ts). ceph-csi looks at keys in `csi.` only. */
export const nodesKey = (requestName: string) => `csi-rbd.nodes.${requestName}`;
export const uuidObject = (kind: Kind, uuid: string) => kind.prefix + uuid;

/** The reservation of a name, as far as it was written; `undefined` if the name is free. */
export const lookUp = Effect.fnUntraced(function* (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  requestName: string,
): Effect.fn.Return<Reservation | undefined, CephError | JournalCorrupt, Rados> {
  const rados = yield* Rados;
  const key = nameKey(kind, requestName);
  const link = { prefix: kind.prefix, tail: UUID_LENGTH, keys: attributeKeys(kind) };
  const parts = directoryParts(kind, instance);
  const followed = yield* rados.omapFollow(pool, directoryObject(kind, instance), key, link, parts);
  if (followed === undefined) return undefined;
  const { object: directory, value: entry, found } = followed;
  const place = parseEntry(entry);
  if (place === undefined) {
    return yield* new JournalCorrupt({
      subject: `journal object ${directory} in pool ${pool.pool}`,
      problem: `maps ${requestName} to ${JSON.stringify(entry)}, which is not a ${kind.noun} UUID`,
      remedy: `If nobody needs a ${kind.noun} of that name, remove the key with "rados -p ${pool.pool}${pool.namespace === "" ? "" : ` -N ${pool.namespace}`} rmomapkey ${directory} ${key}"`,
    });
  }
  const attributes = found === undefined ? NOTHING : attributesFrom(kind, found);
  if (attributes.requestName !== undefined && attributes.requestName !== requestName) {
    return yield* new JournalCorrupt({
      subject: `journal object ${uuidObject(kind, place.uuid)} in pool ${pool.pool}`,
      problem: `belongs to ${attributes.requestName}, but ${directory} gives it to ${requestName}`,
      remedy: 'Compare both with "rados listomapvals" before you remove either',
    });
  }
  return { ...place, entry, attributes };
});

/** A name that has its UUID, with the attributes that belong to it. */
export interface Claim extends Reservation {
  readonly imageName: string;
  /** The keys that the object of the UUID does not have yet (`writeAttributes`); absent: it has them. */
  readonly unwritten: Readonly<Record<string, string>> | undefined;
}

/** Reserves the name, or completes what an earlier call left half-made. Afterwards both objects are written. */
export const reserve = (
  ...of: Parameters<typeof claim>
): Effect.Effect<Reservation & { readonly imageName: string }, CephError, Rados> =>
  Effect.tap(claim(...of), (claimed) => writeAttributes(of[0], of[1], claimed));

/** Gives the name its UUID, or goes on with the one that it has. */
export const claim = Effect.fnUntraced(function* (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  wanted: ReservationRequest,
  found: Reservation | undefined,
): Effect.fn.Return<Claim, CephError, Rados> {
  const rados = yield* Rados;
  const uuid = found?.uuid ?? wanted.uuid ?? crypto.randomUUID();
  const { split } = wanted;
  const entry = found?.entry ?? (split === undefined ? uuid : splitEntry(split.imagePoolId, uuid));
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
  const takesOver = found !== undefined && known.requestName === undefined && wanted.takesOver === true;
  const attributes: Attributes = {
    ...known,
    ...(takesOver && { maker: crypto.randomUUID() }),
    requestName: wanted.requestName,
    imageName,
    source: known.source ?? wanted.source,
    groupId: known.groupId ?? wanted.groupId,
    owner: known.owner ?? wanted.owner,
    ...(known.requestName === undefined && encryptionAttributes(wanted.encryption)),
  };
  const unwritten = known.requestName === undefined ? valuesOf(kind, attributes, wanted) : undefined;
  const imagePoolId = found === undefined ? split?.imagePoolId : found.imagePoolId;
  return { uuid, entry, imagePoolId, attributes, imageName, unwritten };
});

const encryptionAttributes = (encryption: Encryption | undefined) => ({
  encryptKms: encryption?.kmsId,
  encryptionType: encryption?.type,
});

const valuesOf = (
  kind: Kind,
  { imageName = "", source, groupId, owner, encryptKms, encryptionType, maker }: Attributes,
  { requestName, split, more }: ReservationRequest,
): Readonly<Record<string, string>> => ({
  [kind.requestNameKey]: requestName,
  [kind.imageNameKey]: imageName,
  ...(source !== undefined && { [FIELDS.source]: source }),
  ...(groupId !== undefined && { [FIELDS.groupId]: groupId }),
  ...(owner !== undefined && { [FIELDS.owner]: owner }),
  ...(encryptKms !== undefined && { [FIELDS.encryptKms]: encryptKms }),
  ...(encryptionType !== undefined && { [FIELDS.encryptionType]: encryptionType }),
  ...(maker !== undefined && { [FIELDS.maker]: maker }),
  ...(split !== undefined && { [JOURNAL_POOL]: poolHex(split.journalPoolId) }),
  ...more,
});

/** Writes the attributes of a claim that are not written. `Raced` if another driver writes them first. */
export const writeAttributes = (
  kind: Kind,
  pool: PoolRef,
  { uuid, unwritten }: Pick<Claim, "uuid" | "unwritten">,
): Effect.Effect<void, CephError, Rados> =>
  unwritten === undefined
    ? Effect.void
    : Effect.flatMap(Rados, (rados) =>
        rados.omapWrite(pool, uuidObject(kind, uuid), {
          object: "ensure",
          compare: { [kind.requestNameKey]: "", [FIELDS.maker]: "" },
          set: unwritten,
        }),
      );

/** Whether the directory still gives the name to the claim. Only for kinds whose directory has no parts. */
export const isNamed = (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  requestName: string,
  { entry }: Pick<Claim, "entry">,
): Effect.Effect<boolean, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) => {
    const key = nameKey(kind, requestName);
    return Effect.map(
      rados.omapGet(pool, directoryObject(kind, instance), [key]),
      (values) => values?.get(key) === entry,
    );
  });

/** `writeAttributes` of a name that another call has reserved: `Raced` if that one has freed the name meanwhile. */
export const writeFound = Effect.fnUntraced(function* (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  requestName: string,
  claimed: Claim,
): Effect.fn.Return<void, CephError | JournalCorrupt, Rados> {
  if (claimed.unwritten === undefined) return;
  yield* writeAttributes(kind, pool, claimed);
  if ((yield* lookUp(kind, pool, instance, requestName))?.entry === claimed.entry) return;
  yield* forget(kind, pool, claimed.uuid);
  return yield* new Raced({ op: "rados_omap_get", subject: requestName });
});

/** Whether every driver finds the image of the claim by its UUID, also while its attributes are not written. */
export const namedByUuid = (kind: Kind, { uuid, imageName }: Claim): boolean =>
  imageName === imageNameOf(kind, uuid, undefined);

/** The name of the image (or RBD group) behind a UUID: as the journal has it, else the one that drivers give by default. */
export const imageNameOf = (kind: Kind, uuid: string, attributes: Attributes | undefined): string =>
  attributes?.imageName ?? kind.defaultImagePrefix + uuid;

/** The attributes of a UUID; `undefined` if the journal has nothing under it. */
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

/** Whether the attributes of a UUID are gone: what they were written for is deleted, or was undone. */
export const isForgotten = (kind: Kind, pool: PoolRef, uuid: string): Effect.Effect<boolean, CephError, Rados> =>
  Effect.map(readAttributes(kind, pool, uuid), (attributes) => attributes === undefined);

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
  maker: values.get(FIELDS.maker),
});

/** A name in the directory. `place` is absent for an entry that leads nowhere, because no driver of today writes it. */
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
      rados.omapList(
        pool,
        directoryObject(kind, instance),
        { prefix: kind.prefix, after: nameKey(kind, after), limit },
        directoryParts(kind, instance),
      ),
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

/** Changes the attributes of a UUID whose object is there. */
export const writeEntry = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  change: Omit<OmapWrite, "object">,
): Effect.Effect<void, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) => rados.omapWrite(pool, uuidObject(kind, uuid), { object: "require", ...change }));

/** Fails with `Raced` unless the image of the UUID is the one of that name, and nobody has recorded it as complete. */
const whileIncomplete = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  imageName: string,
  set: Readonly<Record<string, string>>,
): Effect.Effect<void, CephError, Rados> =>
  writeEntry(kind, pool, uuid, { compare: { [FIELDS.imageId]: "", [kind.imageNameKey]: imageName }, set });

/** Has the image made anew under another name: whoever made the one before no longer records it as complete. */
export const replaceImage = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  imageName: string,
  next: string,
): Effect.Effect<void, CephError, Rados> => whileIncomplete(kind, pool, uuid, imageName, { [kind.imageNameKey]: next });

/** `storeImageId` of an image that another driver may have replaced. */
export const storeOwnImageId = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  imageName: string,
  imageId: string,
): Effect.Effect<void, CephError, Rados> => whileIncomplete(kind, pool, uuid, imageName, { [FIELDS.imageId]: imageId });

/** Records the Kubernetes namespace of the claim, which may have been bound anew. */
export const storeOwner = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  owner: string,
): Effect.Effect<void, CephError, Rados> => writeEntry(kind, pool, uuid, { set: { [FIELDS.owner]: owner } });

/** The empty object that ceph-csi makes beside an image whose journal is in another pool: by it the UUID is found there. */
export const markImagePool = (kind: Kind, imagePool: PoolRef, uuid: string): Effect.Effect<void, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) => rados.omapWrite(imagePool, uuidObject(kind, uuid), { object: "ensure" }));

/** What the journal was seen to say of the making of an image. */
export type Seen = Pick<Attributes, "imageId" | "maker">;

/**
 * Records that the image is complete, by its ID. `Raced` if another driver has recorded it, or has taken over the making
 * of it and so may remove what this one has made.
 */
export const storeImageId = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  imageId: string,
  { maker = "" }: Pick<Seen, "maker">,
): Effect.Effect<void, CephError, Rados> =>
  maker === GIVEN_UP
    ? givenUp(kind, uuid)
    : writeEntry(kind, pool, uuid, {
        compare: { [FIELDS.imageId]: "", [FIELDS.maker]: maker },
        set: { [FIELDS.imageId]: imageId },
        ...(maker !== "" && { remove: [FIELDS.maker] }),
      });

/** Whoever gave it up may be undoing it: nobody goes on with it. */
const givenUp = (kind: Kind, uuid: string): Effect.Effect<never, CephError> =>
  Effect.fail(new Raced({ op: "rados_omap_set", subject: uuidObject(kind, uuid) }));

/**
 * Takes over the making of an image, before what another call may have made of it is removed: nobody else records it as
 * complete from then on. `Raced` if somebody has recorded it since it was seen, or has taken over. -> the new maker.
 */
export const takeOver = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  { imageId, maker }: Seen,
): Effect.Effect<string, CephError, Rados> =>
  maker === GIVEN_UP ? givenUp(kind, uuid) : handOver(kind, pool, uuid, { imageId, maker });

/** Puts a new maker in the place of the one that was seen. */
const handOver = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  { imageId = "", maker = "" }: Seen,
): Effect.Effect<string, CephError, Rados> =>
  Effect.suspend(() => {
    const next = crypto.randomUUID();
    const handed = writeEntry(kind, pool, uuid, {
      compare: { [FIELDS.imageId]: imageId, [FIELDS.maker]: maker },
      set: { [FIELDS.maker]: next },
      ...(imageId !== "" && { remove: [FIELDS.imageId] }),
    });
    return Effect.as(handed, next);
  });

/**
 * Gives up the making of an image that nobody has completed, before anything of it is undone: nobody goes on with it. `Raced` as in
 * `takeOver`. `mayLack`: whether the attributes may not be written yet; then they never are.
 */
export const giveUp = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  { maker = "" }: Pick<Seen, "maker">,
  mayLack: boolean,
): Effect.Effect<void, CephError, Rados> => {
  const compare = { [FIELDS.imageId]: "", [FIELDS.maker]: maker };
  const set = { [FIELDS.maker]: GIVEN_UP };
  const written = writeEntry(kind, pool, uuid, { compare, set });
  if (!mayLack) return written;
  const unwritten = {
    object: "ensure",
    compare: { ...compare, [kind.requestNameKey]: "" },
    set,
    // the object goes with the name, a moment later
    evenIfFull: true,
  } as const;
  return Effect.catchTag(written, "ObjectNotFound", () =>
    Effect.flatMap(Rados, (rados) => rados.omapWrite(pool, uuidObject(kind, uuid), unwritten)),
  );
};

/** Lets others go on with what was given up. -> the new maker. `Raced` if somebody has finished the undo. */
export const release = (kind: Kind, pool: PoolRef, uuid: string): Effect.Effect<string, CephError, Rados> =>
  handOver(kind, pool, uuid, { imageId: undefined, maker: GIVEN_UP });

/** The parts of a reservation that freeing it needs. */
export interface ReservedName {
  readonly uuid: string;
  readonly entry: string;
  readonly requestName: string | undefined;
}

/** Frees the name, then removes the object of the UUID. Only for callers that have proven the image gone. */
export const unreserve = (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  reservation: ReservedName,
): Effect.Effect<void, CephError, Rados> =>
  Effect.andThen(freeName(kind, pool, instance, reservation), forget(kind, pool, reservation.uuid));

/** Frees the name alone. The UUID keeps its attributes, so that what is removed in parts is found by its ID until the last part is gone. */
export const freeName = Effect.fnUntraced(function* (
  kind: Kind,
  pool: PoolRef,
  instance: string,
  { requestName, entry }: ReservedName,
): Effect.fn.Return<void, CephError, Rados> {
  if (requestName === undefined) return;
  const rados = yield* Rados;
  const key = nameKey(kind, requestName);
  const nodes = kind === VOLUMES ? [nodesKey(requestName)] : [];
  const directory = directoryObject(kind, instance);
  /** Removes them if the key has that value. -> whether it had. */
  const removed = (object: string, value: string, remove: readonly string[]) =>
    Effect.as(rados.omapWrite(pool, object, { object: "require", compare: { [key]: value }, remove }), true).pipe(
      Effect.catchTag(["Raced", "ObjectNotFound"], () => Effect.succeed(false)),
    );
  if (yield* removed(directory, entry, [key, ...nodes])) return;
  // The name is free already, has been given to another volume since, or is in a part of the directory.
  const parts = directoryParts(kind, instance);
  if (parts.length === 0) return;
  const link = { prefix: kind.prefix, tail: UUID_LENGTH, keys: [] };
  const found = yield* rados.omapFollow(pool, directory, key, link, parts);
  if (found === undefined || found.object === directory || found.value !== entry) return;
  yield* removed(found.object, entry, [key]);
  // the nodes are kept in the directory, wherever the name is
  if (nodes.length > 0) yield* removed(directory, "", nodes);
});

/** Removes the object of a UUID: after `freeName`, as the last step of a removal. */
export const forget = (kind: Kind, pool: PoolRef, uuid: string): Effect.Effect<void, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) => rados.objectRemove(pool, uuidObject(kind, uuid)));

/** ceph-csi looks at keys in `csi.` only. */
const keyMark = (attempt: string): string => `csi-rbd.key.${attempt}`;

/** Writes a mark of the key of a snapshot that an attempt is to make, into the entry that is there. */
export const writeKeyMark = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  attempt: string,
  mark: string,
): Effect.Effect<void, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) =>
    rados.omapWrite(pool, uuidObject(kind, uuid), { object: "require", set: { [keyMark(attempt)]: mark } }),
  );

/** `undefined`: there is none. */
export const readKeyMark = (
  kind: Kind,
  pool: PoolRef,
  uuid: string,
  attempt: string,
): Effect.Effect<string | undefined, CephError, Rados> =>
  Effect.flatMap(Rados, (rados) =>
    Effect.map(rados.omapGet(pool, uuidObject(kind, uuid), [keyMark(attempt)]), (values) =>
      values?.get(keyMark(attempt)),
    ),
  );

const NOTHING: Attributes = attributesFrom(VOLUMES, new Map());

/** A pool id is an int64 that is not negative. */
const POOL_ID = /^[0-7][0-9a-f]{15}$/i;

/** Refuses what is not a UUID: no volume ID could be made of it, so its image could never be deleted. */
const parseEntry = (entry: string): { uuid: string; imagePoolId: bigint | undefined } | undefined => {
  if (isUuid(entry)) return { uuid: entry, imagePoolId: undefined };
  const [pool, uuid, ...rest] = entry.split("/");
  if (pool === undefined || uuid === undefined || rest.length > 0) return undefined;
  return POOL_ID.test(pool) && isUuid(uuid) ? { uuid, imagePoolId: BigInt(`0x${pool}`) } : undefined;
};
