/**
 * Reads the status of one image. Loaded in cells only.
 *
 * Not here: changes of an image (./rbd.ts), what an errno means (lib/ceph/live/errno.ts).
 *
 * 1. The image is opened read-only: that registers no watcher and takes no lock.
 */
import { FFIType as T } from "bun:ffi";
import type { ImageStatus, Parent } from "../rbd.ts";
import { someMetadataOf } from "./image-headers.ts";
import { bind, bytesAt, check, cStringAt, ENOENT, millis, textIn, written, zeroed } from "./ffi.ts";
import { locks } from "./locks.ts";
import { instanceId, type PoolArg, poolName } from "./rados.ts";
import { features, withImage } from "./rbd.ts";
import { kindOf, listed } from "./snapshots.ts";
import { watchers } from "./watchers.ts";

const rbd = bind("librbd.so.1", {
  rbd_stat: { args: [T.u64, T.ptr, T.u64], returns: T.i32 },
  rbd_get_id: { args: [T.u64, T.ptr, T.u64], returns: T.i32 },
  rbd_get_stripe_unit: { args: [T.u64, T.ptr], returns: T.i32 },
  rbd_get_stripe_count: { args: [T.u64, T.ptr], returns: T.i32 },
  rbd_get_data_pool_id: { args: [T.u64], returns: T.i64 },
  rbd_get_create_timestamp: { args: [T.u64, T.ptr], returns: T.i32 },
  rbd_mirror_image_get_info: { args: [T.u64, T.ptr, T.u64], returns: T.i32 },
  rbd_mirror_image_get_info_cleanup: { args: [T.ptr], returns: T.void },
  rbd_mirror_image_get_global_status: { args: [T.u64, T.ptr, T.u64], returns: T.i32 },
  rbd_mirror_image_global_status_cleanup: { args: [T.ptr], returns: T.void },
  rbd_get_parent: { args: [T.u64, T.ptr, T.ptr], returns: T.i32 },
  rbd_linked_image_spec_cleanup: { args: [T.ptr], returns: T.void },
  rbd_snap_spec_cleanup: { args: [T.ptr], returns: T.void },
});

// rbd_image_info_t: size at 0, object size at 8, then what other calls answer better; 160 bytes in all.
const INFO_BYTES = 160;

export const stat = (handle: bigint): { readonly sizeBytes: bigint; readonly objectSize: bigint } => {
  const info = new BigUint64Array(new ArrayBuffer(INFO_BYTES));
  check("rbd_stat", rbd.rbd_stat(handle, info, BigInt(INFO_BYTES)));
  return { sizeBytes: info[0] ?? 0n, objectSize: info[1] ?? 0n };
};

export const stripeCount = (handle: bigint): bigint =>
  written("rbd_get_stripe_count", (place) => rbd.rbd_get_stripe_count(handle, place));

export const status = (where: PoolArg, io: bigint, image: string, metadata: readonly string[] = []): ImageStatus =>
  withImage(io, image, "read", (handle) => {
    const name = zeroed(256);
    check("rbd_get_id", rbd.rbd_get_id(handle, name, BigInt(name.length)));
    // an image without a data pool answers with its own pool
    const dataPool = poolName(where.cluster, rbd.rbd_get_data_pool_id(handle));
    const snapshots = listed(handle).map((each) => ({ ...each, kind: kindOf(handle, each.id) }));
    const id = textIn(name);
    return {
      id,
      ...stat(handle),
      features: features(handle),
      stripeUnit: written("rbd_get_stripe_unit", (place) => rbd.rbd_get_stripe_unit(handle, place)),
      stripeCount: stripeCount(handle),
      dataPool: dataPool === where.pool ? undefined : dataPool,
      watchers: watchers(handle, instanceId(where.cluster)),
      ...locks(handle),
      ...mirrorOf(handle),
      parent: parentOf(handle),
      snapshotCount: snapshots.length,
      namedSnapshots: snapshots.filter(({ kind }) => kind === "user").map(({ name }) => name),
      groupSnapshotCount: snapshots.filter(({ kind }) => kind === "group").length,
      createdAt: createdAt(handle),
      metadata: someMetadataOf(io, id, metadata),
    };
  });

// rbd_mirror_image_info_t: address of the global id, state (32 bits), whether primary (one byte).
const MIRROR_BYTES = 16;
const MIRROR_ENABLED = 1;

const mirrorOf = (handle: bigint): Pick<ImageStatus, "mirror" | "mirrorReplays"> => {
  const state = mirror(handle);
  return { mirror: state, ...(state === "non-primary" && isReplayed(handle) && { mirrorReplays: true }) };
};

const mirror = (handle: bigint): ImageStatus["mirror"] => {
  const info = zeroed(MIRROR_BYTES);
  check("rbd_mirror_image_get_info", rbd.rbd_mirror_image_get_info(handle, info, BigInt(MIRROR_BYTES)));
  const state = info[8];
  const primary = info[12] === 1;
  rbd.rbd_mirror_image_get_info_cleanup(info);
  if (state !== MIRROR_ENABLED) return "disabled";
  return primary ? "primary" : "non-primary";
};

// rbd_mirror_image_global_status_t: address of the name, rbd_mirror_image_info_t, number of sites (32 bits), their address.
const GLOBAL_BYTES = 40;
const SITES_AT = 24;
// rbd_mirror_image_site_status_t: address of the site's UUID, state (32 bits), address of the description, time, whether up.
const SITE_BYTES = 40;
const REPLAYING = 4;

/** What the mirror daemon of this cluster says of the image. If that cannot be read, it is not replayed for all one knows. */
const isReplayed = (handle: bigint): boolean => {
  const status = zeroed(GLOBAL_BYTES);
  if (rbd.rbd_mirror_image_get_global_status(handle, status, BigInt(GLOBAL_BYTES)) < 0) return false;
  const all = new DataView(status.buffer);
  const first = all.getBigUint64(SITES_AT + 8, true);
  const replayed = Array.from({ length: all.getUint32(SITES_AT, true) }, (_, i) => {
    const site = new DataView(bytesAt(first + BigInt(i * SITE_BYTES), SITE_BYTES).buffer);
    // The cluster itself is the site without a UUID.
    const isLocal = cStringAt(site.getBigUint64(0, true)) === "";
    return isLocal && site.getUint32(8, true) === REPLAYING && site.getUint8(32) === 1;
  });
  rbd.rbd_mirror_image_global_status_cleanup(status);
  return replayed.includes(true);
};

// rbd_linked_image_spec_t: pool id, then addresses of pool, namespace, image id and image name, then "in the trash".
const LINKED_WORDS = 6;
// rbd_snap_spec_t: id, namespace type (32 bits), address of the name.
const SNAP_SPEC_WORDS = 3;

export const parentOf = (handle: bigint): Parent | undefined => {
  const image = new BigUint64Array(new ArrayBuffer(LINKED_WORDS * 8));
  const snapshot = new BigUint64Array(new ArrayBuffer(SNAP_SPEC_WORDS * 8));
  const result = rbd.rbd_get_parent(handle, image, snapshot);
  if (result === -ENOENT) return undefined;
  check("rbd_get_parent", result);
  const answer = {
    pool: cStringAt(image[1] ?? 0n),
    namespace: cStringAt(image[2] ?? 0n),
    imageId: cStringAt(image[3] ?? 0n),
    image: cStringAt(image[4] ?? 0n),
    inTrash: ((image[5] ?? 0n) & 0xffn) !== 0n,
    snapshot: cStringAt(snapshot[2] ?? 0n),
  };
  rbd.rbd_linked_image_spec_cleanup(image);
  rbd.rbd_snap_spec_cleanup(snapshot);
  return answer;
};

const createdAt = (handle: bigint): number => {
  const time = new BigInt64Array(new ArrayBuffer(16));
  check("rbd_get_create_timestamp", rbd.rbd_get_create_timestamp(handle, time));
  return millis(time);
};
