/**
 * The calls of librbd on images that have a name. Loaded in cells only.
 *
 * Not here: what an image is like (./status.ts), images in the trash (./trash.ts), what an errno means (lib/ceph/live/errno.ts).
 *
 * 1. An image that was opened is closed, whatever comes between.
 * 2. Sizes only grow: `rbd_resize2` is told to refuse a shrink, and is not called for one.
 */
import { dlopen, FFIType as T, JSCallback, type Pointer } from "bun:ffi";
import { Errno, midway } from "../../cells/cell.ts";
import type { CloneSpec, ImageSpec } from "../rbd.ts";
import { PARENT, whileParentsGo } from "./ancestry.ts";
import { metadataOf } from "./image-headers.ts";
import { Decoder } from "./decoder.ts";
import { check, EINVAL, ENOENT, plain, slot, valueOf, written, zeroed } from "./ffi.ts";
import { exists } from "./omaps.ts";
import { execute, poolId, type PoolArg, withLock, withPool } from "./rados.ts";

const { symbols: rbd } = dlopen("librbd.so.1", {
  rbd_image_options_create: { args: [T.ptr], returns: T.void },
  rbd_image_options_destroy: { args: [T.u64], returns: T.void },
  rbd_image_options_set_string: { args: [T.u64, T.i32, T.cstring], returns: T.i32 },
  rbd_image_options_set_uint64: { args: [T.u64, T.i32, T.u64], returns: T.i32 },
  rbd_create4: { args: [T.u64, T.cstring, T.u64, T.u64], returns: T.i32 },
  rbd_namespace_exists: { args: [T.u64, T.cstring, T.ptr], returns: T.i32 },
  rbd_open: { args: [T.u64, T.cstring, T.ptr, T.ptr], returns: T.i32 },
  rbd_open_read_only: { args: [T.u64, T.cstring, T.ptr, T.ptr], returns: T.i32 },
  rbd_close: { args: [T.u64], returns: T.i32 },
  rbd_get_size: { args: [T.u64, T.ptr], returns: T.i32 },
  rbd_get_features: { args: [T.u64, T.ptr], returns: T.i32 },
  rbd_resize2: { args: [T.u64, T.u64, T.u8, T.ptr, T.ptr], returns: T.i32 },
  rbd_update_features: { args: [T.u64, T.u64, T.u8], returns: T.i32 },
  rbd_rebuild_object_map: { args: [T.u64, T.ptr, T.ptr], returns: T.i32 },
  rbd_diff_iterate2: { args: [T.u64, T.ptr, T.u64, T.u64, T.u8, T.u8, T.function, T.ptr], returns: T.i32 },
  rbd_metadata_set: { args: [T.u64, T.cstring, T.cstring], returns: T.i32 },
  rbd_metadata_remove: { args: [T.u64, T.cstring], returns: T.i32 },
});

/**
 * librbd calls a progress function without asking whether there is one, on threads of its own, where no JavaScript
 * can be called. This one is C, takes whatever it is given, does nothing and answers 0.
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

/** Image options for the time of `use`. */
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

export const create = (where: PoolArg, io: bigint, image: string, spec: ImageSpec): void =>
  withOptions(spec, (options) => {
    const result = rbd.rbd_create4(io, plain(image), spec.sizeBytes, options);
    if (result === -ENOENT) explaining(() => explainMissing(where, spec.dataPool));
    check("rbd_create", result);
  });

/**
 * For look-ups after a call that changes something has answered ENOENT: they throw what was missing. A look-up that
 * fails in another way explains nothing of the call.
 */
export const explaining = (lookUp: () => void): void => midway(lookUp, ({ errno }) => errno === ENOENT);

/** To `rbd_create` and `rbd_clone` a missing namespace and a missing data pool are one and the same errno. */
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

/** From the image's name object alone. */
export const id = (io: bigint, image: string): string | undefined => {
  const answer = execute(io, `rbd_id.${image}`, "get_id");
  return answer && new Decoder(answer).text();
};

/** For what is read of an image without opening it. */
export const existing = <A>(answer: A | undefined): A => {
  if (answer === undefined) throw new Errno("rbd_open", ENOENT);
  return answer;
};

/**
 * For calls that open the image, and with it its parents. ENOENT may be a parent's then. So it is tried again while the
 * image itself is there, and never becomes "no such image".
 */
export const whileThere = (io: bigint, image: string, attempt: () => number, op = PARENT): number =>
  whileParentsGo(() => {
    const result = attempt();
    return result === -ENOENT && isThere(io, image) ? undefined : result;
  }, op);

export const hasHeader = (io: bigint, id: string): boolean => exists(io, `rbd_header.${id}`);

/** A name that leads to no header is what a creation or a removal has left that was cut off. */
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
  const handle = valueOf(place);
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
 * Makes anew what says which objects the image has, from the objects. Long: as long as the image is big.
 * Off and on first: where the map is missing altogether, a rebuild alone leaves one that says "all of them" (Ceph 16).
 * In between the map is marked invalid, and nobody trusts it.
 */
export const renewObjectMap = (handle: bigint, dependent: bigint): void => {
  check("rbd_update_features", rbd.rbd_update_features(handle, dependent, 0));
  midway(() => {
    check("rbd_update_features", rbd.rbd_update_features(handle, dependent, 1));
    check("rbd_rebuild_object_map", rbd.rbd_rebuild_object_map(handle, noProgress, null));
  });
};

/**
 * -> the size that the image has in the end.
 * Under a lock between drivers: librbd refuses a shrink by the size that it knew before, so that of two growers at once
 * the one with the smaller size could undo the other.
 */
export const grow = (io: bigint, image: string, sizeBytes: bigint): bigint => {
  const found = existing(id(io, image));
  // A lock makes the object that it is on: a name that leads nowhere must go on to do so.
  if (!hasHeader(io, found)) throw new Errno("rbd_open", ENOENT);
  return withLock(io, `rbd_header.${found}`, "csi-rbd.grow", () =>
    withImage(io, image, "write", (handle) => {
      const size = sizeOf(handle);
      if (size >= sizeBytes) return size;
      const result = rbd.rbd_resize2(handle, sizeBytes, 0, noProgress, null);
      // refused as a shrink, for somebody else has made the image bigger meanwhile
      if (result === -EINVAL && sizeOf(handle) >= sizeBytes) return sizeOf(handle);
      check("rbd_resize", result);
      return sizeBytes;
    }),
  );
};

/** A callback answers this to end an iteration, which then answers it, too. */
export const STOP = -125;
let extentFound = false;
// Made once and never closed: librbd calls it on the thread that iterates, which is this one.
const extent = new JSCallback(
  (_offset: bigint, _length: bigint, exists: number) => {
    if (exists === 0) return 0;
    extentFound = true;
    return STOP;
  },
  { args: [T.u64, T.u64, T.i32, T.ptr], returns: T.i32 },
);

/** Ends at the first extent: an image in use answers as quickly as an empty one with an object map. */
export const hasData = (io: bigint, image: string, whose: "own" | "any"): boolean =>
  withImage(io, image, "read", (handle) => {
    extentFound = false;
    const size = sizeOf(handle);
    const callback = extent.ptr;
    if (callback === null) throw new Errno("rbd_diff_iterate", 0, "no callback for rbd_diff_iterate");
    const result = rbd.rbd_diff_iterate2(handle, null, 0n, size, whose === "any" ? 1 : 0, 1, callback, null);
    if (extentFound) return true;
    check("rbd_diff_iterate", result);
    return false;
  });

/** All of it, without opening the image. */
const metaList = (io: bigint, image: string): Map<string, string> => existing(metadataOf(io, existing(id(io, image))));

/** Image metadata to be set; `undefined` removes. */
export type Metadata = Readonly<Record<string, string | undefined>>;

/** The image is opened only for what is not as it should be already: a copy mostly has nothing to get rid of. */
export const metaSet = (io: bigint, image: string, entries: Metadata): void => {
  const now = metaList(io, image);
  const changes = Object.entries(entries).filter(([key, value]) => now.get(key) !== value);
  if (changes.length === 0) return;
  withImage(io, image, "write", (handle) => {
    const apply = ([key, value]: readonly [string, string | undefined]) => {
      if (value !== undefined) {
        check("rbd_metadata_set", rbd.rbd_metadata_set(handle, plain(key), plain(value)));
        return;
      }
      const result = rbd.rbd_metadata_remove(handle, plain(key));
      if (result !== -ENOENT) check("rbd_metadata_remove", result);
    };
    const [first, ...others] = changes;
    if (first !== undefined) apply(first);
    midway(() => others.forEach(apply));
  });
};
