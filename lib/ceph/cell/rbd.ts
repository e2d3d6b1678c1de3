/**
 * The calls of librbd on images that have a name. Loaded in cells only.
 *
 * Not here: the status of an image (./status.ts), its growth (./grow.ts), images in the trash (./trash.ts), what an errno
 * means (lib/ceph/live/errno.ts).
 *
 * 1. An image that was opened is closed, whatever happens between.
 */
import { dlopen, FFIType as T, type Pointer } from "bun:ffi";
import { Errno, midway } from "../../cells/cell.ts";
import type { CloneSpec, ImageSpec } from "../rbd.ts";
import { PARENT, whileParentsGo } from "./ancestry.ts";
import { Decoder } from "./decoder.ts";
import { bind, check, EINVAL, ENOENT, plain, slot, valueOf, written, zeroed } from "./ffi.ts";
import { exists } from "./omaps.ts";
import { execute, poolId, type PoolArg, withPool } from "./rados.ts";

const rbd = bind("librbd.so.1", {
  rbd_image_options_create: { args: [T.ptr], returns: T.void },
  rbd_image_options_destroy: { args: [T.u64], returns: T.void },
  rbd_image_options_set_string: { args: [T.u64, T.i32, T.cstring], returns: T.i32 },
  rbd_image_options_set_uint64: { args: [T.u64, T.i32, T.u64], returns: T.i32 },
  rbd_create4: { args: [T.u64, T.cstring, T.u64, T.u64], returns: T.i32 },
  rbd_namespace_exists: { args: [T.u64, T.cstring, T.ptr], returns: T.i32 },
  rbd_open: { args: [T.u64, T.cstring, T.ptr, T.ptr], returns: T.i32 },
  rbd_open_by_id: { args: [T.u64, T.cstring, T.ptr, T.ptr], returns: T.i32 },
  rbd_open_by_id_read_only: { args: [T.u64, T.cstring, T.ptr, T.ptr], returns: T.i32 },
  rbd_open_read_only: { args: [T.u64, T.cstring, T.ptr, T.ptr], returns: T.i32 },
  rbd_close: { args: [T.u64], returns: T.i32 },
  rbd_get_size: { args: [T.u64, T.ptr], returns: T.i32 },
  rbd_get_features: { args: [T.u64, T.ptr], returns: T.i32 },
  rbd_update_features: { args: [T.u64, T.u64, T.u8], returns: T.i32 },
  rbd_rebuild_object_map: { args: [T.u64, T.ptr, T.ptr], returns: T.i32 },
});

/**
 * A progress function for librbd, which calls it without a check, on threads of its own, where no JavaScript can run. This
 * one is C, ignores its arguments and answers 0.
 */
export const noProgress = Number(
  dlopen("libc.so.6", { dlsym: { args: [T.u64, T.cstring], returns: T.u64 } }).symbols.dlsym(0n, "sched_yield"),
) as Pointer;

const OPTION = { features: 1, order: 2, stripeUnit: 3, stripeCount: 4, dataPool: 10 } as const;

/** librbd takes the size of objects as a power of two. */
const orderOf = (objectSize: bigint): bigint => {
  const order = BigInt(objectSize.toString(2).length - 1);
  if (1n << order !== objectSize) throw new Errno("rbd_image_options_set_uint64", EINVAL);
  return order;
};

/** Makes image options, does `use`, and frees them. */
export const withOptions = <A>(
  spec: CloneSpec,
  use: (options: bigint, set: (option: number, value: bigint) => void) => A,
): A => {
  const place = slot();
  rbd.rbd_image_options_create(place);
  const options = valueOf(place);
  const set = (option: number, value: bigint | undefined): void => {
    if (value === undefined) return;
    check("rbd_image_options_set_uint64", rbd.rbd_image_options_set_uint64(options, option, value));
  };
  try {
    set(OPTION.features, spec.features);
    set(OPTION.order, spec.objectSize === undefined ? undefined : orderOf(spec.objectSize));
    set(OPTION.stripeUnit, spec.stripeUnit);
    set(OPTION.stripeCount, spec.stripeCount);
    if (spec.dataPool !== undefined) {
      const result = rbd.rbd_image_options_set_string(options, OPTION.dataPool, plain(spec.dataPool));
      check("rbd_image_options_set_string", result);
    }
    return use(options, set);
  } finally {
    rbd.rbd_image_options_destroy(options);
  }
};

/** Gives the id of the new image; undefined: another client has removed it since. */
export const create = (where: PoolArg, io: bigint, image: string, spec: ImageSpec): string | undefined => {
  withOptions(spec, (options) => {
    const result = rbd.rbd_create4(io, plain(image), spec.sizeBytes, options);
    if (result === -ENOENT) explaining(() => explainMissing(where, spec.dataPool));
    check("rbd_create", result);
  });
  return midway(() => id(io, image));
};

/**
 * Does look-ups after a change has answered ENOENT. They throw ENOENT of what is missing, and the change did nothing. A
 * look-up that fails in another way explains nothing.
 */
export const explaining = (lookUp: () => void): void => midway(lookUp, ({ errno }) => errno === ENOENT);

/** Looks for the data pool and the namespace, because `rbd_create` and `rbd_clone` answer one errno for both. */
export const explainMissing = (where: PoolArg, dataPool: string | undefined): void => {
  if (dataPool !== undefined) poolId(where.cluster, dataPool);
  if (where.namespace === "" || withPool({ ...where, namespace: "" }, (io) => namespaceExists(io, where.namespace)))
    return;
  throw new Errno("rbd_namespace_exists", ENOENT);
};

const namespaceExists = (io: bigint, namespace: string): boolean => {
  const answer = zeroed(1);
  check("rbd_namespace_exists", rbd.rbd_namespace_exists(io, plain(namespace), answer));
  return answer[0] === 1;
};

/** Reads the id from the name object of the image alone. */
export const id = (io: bigint, image: string): string | undefined => {
  const answer = execute(io, `rbd_id.${image}`, "get_id");
  return answer && new Decoder(answer).text();
};

/** Fails as `rbd_open` does if something was not found that is read without opening the image. */
export const existing = <A>(answer: A | undefined): A => {
  if (answer === undefined) throw new Errno("rbd_open", ENOENT);
  return answer;
};

/**
 * Repeats an attempt that opens the image, and with it its parents, while it answers ENOENT and the image exists: then a
 * parent is missing. So ENOENT of a parent never becomes "no such image".
 */
export const whileThere = (io: bigint, image: string, attempt: () => number, op = PARENT): number =>
  whileParentsGo(() => {
    const result = attempt();
    return result === -ENOENT && isThere(io, image) ? undefined : result;
  }, op);

export const hasHeader = (io: bigint, id: string): boolean => exists(io, `rbd_header.${id}`);

/** A name without a header is the rest of an interrupted creation or removal. */
export const isThere = (io: bigint, image: string): boolean => {
  const found = id(io, image);
  return found !== undefined && hasHeader(io, found);
};

export const withImage = <A>(
  io: bigint,
  image: string,
  mode: "read" | "write",
  use: (handle: bigint) => A,
  op = PARENT,
): A => {
  const place = slot();
  const open = () =>
    mode === "read"
      ? rbd.rbd_open_read_only(io, plain(image), place, null)
      : rbd.rbd_open(io, plain(image), place, null);
  check("rbd_open", whileThere(io, image, open, op));
  return closing(valueOf(place), use);
};

/** Opens an image, also one in the trash. */
export const withImageById = <A>(io: bigint, id: string, mode: "read" | "write", use: (handle: bigint) => A): A => {
  const place = slot();
  const opened = mode === "read" ? rbd.rbd_open_by_id_read_only : rbd.rbd_open_by_id;
  const open = () => {
    const result = opened(io, plain(id), place, null);
    return result === -ENOENT && hasHeader(io, id) ? undefined : result;
  };
  check("rbd_open", whileParentsGo(open, PARENT));
  return closing(valueOf(place), use);
};

const closing = <A>(handle: bigint, use: (handle: bigint) => A): A => {
  try {
    return use(handle);
  } finally {
    rbd.rbd_close(handle);
  }
};

export const features = (handle: bigint): bigint =>
  written("rbd_get_features", (place) => rbd.rbd_get_features(handle, place));

export const sizeOf = (handle: bigint): bigint => written("rbd_get_size", (place) => rbd.rbd_get_size(handle, place));

/**
 * Rebuilds the object map from the objects, which takes as long as the image is big. The feature is switched off and on
 * first, because a rebuild of a map that does not exist leaves one that lists all objects (Ceph 16). In between the map is
 * marked invalid, and no client trusts it.
 */
export const renewObjectMap = (handle: bigint, dependent: bigint): void => {
  check("rbd_update_features", rbd.rbd_update_features(handle, dependent, 0));
  midway(() => {
    check("rbd_update_features", rbd.rbd_update_features(handle, dependent, 1));
    check("rbd_rebuild_object_map", rbd.rbd_rebuild_object_map(handle, noProgress, null));
  });
};

/** A callback answers this to end an iteration, which then answers it, too. */
export const STOP = -125;
