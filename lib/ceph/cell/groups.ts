/**
 * Groups of images and their snapshots: changed by librbd, read from their objects. Loaded in cells only.
 *
 * Not here: the snapshot of each member (./snapshots.ts).
 *
 * 1. A group and its images are in one namespace, as librbd requires; their pools may differ.
 * 2. Groups are read from their objects, because librbd lists one that does not exist as empty (Ceph 16): here it is
 *    undefined.
 */
import { FFIType as T } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import { Decoder } from "./decoder.ts";
import { bind, check, EBUSY, EEXIST, ENOENT, plain } from "./ffi.ts";
import { list, readMany } from "./omaps.ts";
import { type PoolArg, poolName, withPool, withPoolId } from "./rados.ts";
import { id as imageIdOf } from "./rbd.ts";

const rbd = bind("librbd.so.1", {
  rbd_group_create: { args: [T.u64, T.cstring], returns: T.i32 },
  rbd_group_remove: { args: [T.u64, T.cstring], returns: T.i32 },
  rbd_group_image_add: { args: [T.u64, T.cstring, T.u64, T.cstring], returns: T.i32 },
  rbd_group_snap_create: { args: [T.u64, T.cstring, T.cstring], returns: T.i32 },
});

/** An image, and the pool that it is in. */
export interface MemberArg {
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
}

export interface SnapshotMember extends MemberArg {
  readonly snapshotId: bigint;
}

const missing = (): Errno => new Errno("rbd_group_open", ENOENT);

export const create = (io: bigint, group: string): void => {
  check("rbd_group_create", rbd.rbd_group_create(io, plain(group)));
};

/** Removes the group and its snapshots; its images stay. */
export const remove = (io: bigint, group: string): void => {
  const result = rbd.rbd_group_remove(io, plain(group));
  if (result !== -ENOENT) check("rbd_group_remove", result);
};

export const add = (where: PoolArg, io: bigint, group: string, member: MemberArg): void =>
  withMember(where, member, (imageIo) => {
    const result = rbd.rbd_group_image_add(io, plain(group), imageIo, plain(member.image));
    if (result === -ENOENT) {
      throw imageIdOf(imageIo, member.image) === undefined ? new Errno("rbd_open of the member", ENOENT) : missing();
    }
    if (result === -EEXIST) throw new Errno("rbd_group_image_add", EBUSY);
    check("rbd_group_image_add", result);
  });

const withMember = (where: PoolArg, { pool, namespace }: MemberArg, use: (io: bigint) => void): void =>
  withPool({ cluster: where.cluster, pool, namespace }, use, "rados_ioctx_create of the member");

export const snapshotCreate = (io: bigint, group: string, snapshot: string): void => {
  const result = rbd.rbd_group_snap_create(io, plain(group), plain(snapshot));
  if (result === -ENOENT && groupId(io, group) === undefined) throw missing();
  check("rbd_group_snap_create", result);
};

/** undefined: the group has no complete snapshot of that name, or does not exist. */
export const snapshotMembers = (
  where: PoolArg,
  io: bigint,
  group: string,
  snapshot: string,
): readonly SnapshotMember[] | undefined => {
  const found = taken(io, group)?.find(({ name, complete }) => complete && name === snapshot);
  return found && named(where, found.parts).map(({ of, member }) => ({ ...member, snapshotId: of.snapshotId }));
};

export const exists = (io: bigint, group: string): boolean => groupId(io, group) !== undefined;

const groupId = (io: bigint, group: string): string | undefined => {
  const key = `name_${group}`;
  const value = readMany(io, [{ object: "rbd_group_directory", keys: [key] }])[0]?.get(key);
  return value && new Decoder(value).text();
};

const headerEntries = (
  io: bigint,
  group: string,
  prefix: string,
): readonly (readonly [string, Uint8Array])[] | undefined => {
  const id = groupId(io, group);
  if (id === undefined) return undefined;
  const entries = list(io, `rbd_group_header.${id}`, { prefix, after: "", limit: Number.MAX_SAFE_INTEGER });
  return entries && [...entries].map(([key, value]) => [key.slice(prefix.length), value]);
};

interface ImageId {
  readonly pool: bigint;
  readonly id: string;
}

interface Taken {
  readonly name: string;
  readonly complete: boolean;
  readonly parts: readonly (ImageId & { readonly snapshotId: bigint })[];
}

const COMPLETE = 1;

const taken = (io: bigint, group: string): readonly Taken[] | undefined =>
  headerEntries(io, group, "snapshot_")?.map(([, value]) => decodeSnapshot(new Decoder(value)));

/** cls::rbd::GroupSnapshot. */
const decodeSnapshot = (bytes: Decoder): Taken => {
  bytes.version();
  bytes.text();
  const name = bytes.text();
  const complete = bytes.u8() === COMPLETE;
  const parts = Array.from({ length: bytes.u32() }, () => {
    bytes.version();
    return { pool: bytes.i64(), id: bytes.text(), snapshotId: bytes.u64() };
  });
  return { name, complete, parts };
};

/** Finds the names of images by their ids, and leaves out images that have none any more. */
const named = <A extends ImageId>(
  { cluster, namespace }: PoolArg,
  wanted: readonly A[],
): readonly { readonly of: A; readonly member: MemberArg }[] => {
  const pools = [...new Set(wanted.map(({ pool }) => pool))];
  const names = new Map(
    pools.flatMap((pool) => {
      const keys = wanted.flatMap((one) => (one.pool === pool ? [`id_${one.id}`] : []));
      const found = withPoolId(cluster, pool, namespace, (io) => readMany(io, [{ object: "rbd_directory", keys }])[0]);
      return [...(found ?? [])].map(([key, value]) => [`${pool} ${key}`, new Decoder(value).text()] as const);
    }),
  );
  return wanted.flatMap((of) => {
    const image = names.get(`${of.pool} id_${of.id}`);
    return image === undefined ? [] : [{ of, member: { pool: poolName(cluster, of.pool), namespace, image } }];
  });
};
