/**
 * Creates images. Loaded in cells only.
 *
 * Not here: clones (./clones.ts, ./plain-clone.ts); what becomes of an image whose creation was cut off (./repair.ts).
 *
 * `rbd_create4` makes nine operations one after the other. The same writes, by the same methods of the object class
 * (stable from Ceph 14 on), take four rounds here: what the pool prescribes, the name, its entry in the directory, then
 * header and object map.
 *
 * 1. Only an image that needs nothing else is created so: a plain layout in a pool that librbd has found fit, whose
 *    options nobody has changed for the pool. Everything else is left to `rbd_create4`, which also says what is wrong.
 * 2. As with librbd a crash leaves names without a header, or a header without an object map, and nothing else.
 * 3. Nothing that is there is written to, except the directory: ids are random, and the id of another image, also of one
 *    in the trash, is a failure.
 * 4. If an OSD refuses a write, what was written is removed again; if that fails too, the failure is one midway. If it is
 *    not known what became of a write, everything stays, because only the names lead to what may be there.
 */
import { FFIType as T } from "bun:ffi";
import { Errno } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import type { ImageSpec } from "../rbd.ts";
import { type Change, changeAll, WITHOUT_EFFECT } from "./changes.ts";
import { encode } from "./encoder.ts";
import { bind, EEXIST, ENOENT, ESTALE, held, slot, textIn, valueOf, zeroed } from "./ffi.ts";
import { instanceId, type PoolArg, setting } from "./rados.ts";
import { create as byLibrbd } from "./rbd.ts";

const rados = bind("librados.so.2", {
  rados_create_read_op: { args: [], returns: T.u64 },
  rados_release_read_op: { args: [T.u64], returns: T.void },
  rados_read_op_read: { args: [T.u64, T.u64, T.u64, T.ptr, T.ptr, T.ptr], returns: T.void },
  rados_read_op_omap_get_vals2: { args: [T.u64, T.cstring, T.cstring, T.u64, T.ptr, T.ptr, T.ptr], returns: T.void },
  rados_read_op_operate: { args: [T.u64, T.u64, T.cstring, T.i32], returns: T.i32 },
  rados_omap_get_end: { args: [T.u64], returns: T.void },
  rados_omap_iter_size: { args: [T.u64], returns: T.u32 },
});

/** Gives the id of the new image; undefined: another client has removed it since. */
export const create = (
  where: PoolArg,
  io: bigint,
  image: string,
  spec: ImageSpec,
  { id = newId(where.cluster), otherwise = byLibrbd }: Ways = {},
): string | undefined => createPlain(where, io, image, spec, { id }) ?? otherwise(where, io, image, spec);

/** Gives the id of the new image; undefined: it is not plain, and nothing was done. `op` stands for it in failures. */
export const createPlain = (
  where: PoolArg,
  io: bigint,
  image: string,
  spec: ImageSpec,
  { id = newId(where.cluster), op = "rbd_create" }: { readonly id?: string; readonly op?: string } = {},
): string | undefined => {
  const layout = plainLayout(where, image, spec);
  if (layout === undefined || !isPlain(io)) return undefined;
  write(io, image, id, layout, op);
  return id;
};

/** For tests. */
interface Ways {
  /** Of an image that is created here. */
  readonly id?: string;
  /** Creates what is not created here. */
  readonly otherwise?: typeof byLibrbd;
}

interface Layout {
  readonly sizeBytes: bigint;
  readonly order: number;
  readonly features: bigint;
}

const { layering, "exclusive-lock": LOCK, "object-map": MAP, "fast-diff": DIFF, "deep-flatten": DEEP } = FEATURE_BITS;
/** Features that every OSD since Ceph 13 has, and that need nothing in the header but their bit. */
const PLAIN_FEATURES = layering | LOCK | MAP | DIFF | DEEP;
const [SMALLEST_ORDER, LARGEST_ORDER] = [12, 25];
const MOST_MAPPED_OBJECTS = 256_000_000n;
/** Options that would change the layout, and the values with which they do not. */
const NEUTRAL: Readonly<Record<string, string>> = {
  rbd_default_format: "2",
  rbd_default_stripe_unit: "0",
  rbd_default_stripe_count: "0",
  rbd_default_data_pool: "",
};

/** undefined: `rbd_create4` has to decide what the image is. */
const plainLayout = ({ cluster, namespace }: PoolArg, image: string, spec: ImageSpec): Layout | undefined => {
  const { sizeBytes, dataPool, stripeUnit, stripeCount, objectSize } = spec;
  if (namespace !== "" || dataPool !== undefined || stripeUnit !== undefined || stripeCount !== undefined) return;
  if (/[@/\0]/.test(image) || image === "") return;
  if (Object.entries(NEUTRAL).some(([option, value]) => setting(cluster, option) !== value)) return;
  const features = spec.features ?? featuresIn(setting(cluster, "rbd_default_features"));
  const order = objectSize === undefined ? Number(setting(cluster, "rbd_default_order")) : orderOf(objectSize);
  if (features === undefined || !arePlain(features) || order === undefined) return;
  if (!(order >= SMALLEST_ORDER && order <= LARGEST_ORDER)) return;
  const layout = { sizeBytes, order, features };
  return (features & MAP) !== 0n && objectsOf(layout) > MOST_MAPPED_OBJECTS ? undefined : layout;
};

const orderOf = (objectSize: bigint): number | undefined => {
  const order = objectSize.toString(2).length - 1;
  return 1n << BigInt(order) === objectSize ? order : undefined;
};

const objectsOf = ({ sizeBytes, order }: Layout): bigint => {
  const objectSize = 1n << BigInt(order);
  return (sizeBytes + objectSize - 1n) / objectSize;
};

/** The option is a number, or names with commas between them. */
const featuresIn = (value = ""): bigint | undefined => {
  if (/^\d+$/.test(value)) return BigInt(value);
  const names: Readonly<Record<string, bigint>> = FEATURE_BITS;
  const bits = value.split(",").map((name) => names[name.trim()]);
  return bits.reduce<bigint | undefined>(
    (all, bit) => (all === undefined || bit === undefined ? undefined : all | bit),
    0n,
  );
};

/** librbd completes or refuses what lacks a feature that another one needs. */
const arePlain = (features: bigint): boolean =>
  (features & ~PLAIN_FEATURES) === 0n &&
  ((features & MAP) !== 0n) === ((features & DIFF) !== 0n) &&
  ((features & MAP) === 0n || (features & LOCK) !== 0n);

const FOUND_FIT = "overwrite validated";

/** Whether librbd has found the pool fit for images, and nobody has set an option for it ("rbd config pool set"). */
const isPlain = (io: bigint): boolean => {
  const op = rados.rados_create_read_op();
  const text = zeroed(64);
  const more = zeroed(1);
  const [read, readStatus, options, optionsStatus] = [slot(), slot(), slot(), slot()];
  try {
    rados.rados_read_op_read(op, 0n, BigInt(text.length - 1), text, read, readStatus);
    rados.rados_read_op_omap_get_vals2(op, "", "metadata_conf_", 1n, options, more, optionsStatus);
    const result = rados.rados_read_op_operate(op, io, "rbd_info", 0);
    held(text, more, read, readStatus, options, optionsStatus);
    if (result < 0) return false;
    return textIn(text) === FOUND_FIT && rados.rados_omap_iter_size(valueOf(options)) === 0;
  } finally {
    if (valueOf(options) !== 0n) rados.rados_omap_get_end(valueOf(options));
    rados.rados_release_read_op(op);
  }
};

const LONGEST_ID = 14;

/** As librbd makes one: the number of this connection and a random one. */
const newId = (cluster: bigint): string => {
  const [random = 0] = crypto.getRandomValues(new Uint32Array(1));
  return (instanceId(cluster).toString(16) + random.toString(16)).slice(-LONGEST_ID);
};

const write = (io: bigint, image: string, id: string, layout: Layout, op: string): void => {
  const rounds = [...namesOf(image, id).map((name) => [name]), contentOf(id, layout)];
  const written: Change[] = [];
  for (const round of rounds) {
    const results = changeAll(io, round);
    written.push(...round.filter((_, i) => results[i] === 0));
    const failures = results.filter((result) => result !== 0);
    const unclear = failures.find((result) => !WITHOUT_EFFECT.includes(-result));
    const failed = unclear ?? failures.find((result) => result !== -EEXIST) ?? failures[0];
    if (failed === undefined) continue;
    const undone = unclear === undefined && undo(io, image, id, written);
    throw new Errno(op, -failed, undefined, !undone);
  }
};

const nameOf = (image: string): string => `rbd_id.${image}`;

/** One after the other: of several that create the same name, the one that makes the first object goes on alone. */
const namesOf = (image: string, id: string): readonly Change[] => [
  { object: nameOf(image), state: "exclusive", calls: [{ method: "set_id", input: encode({ text: id }) }] },
  {
    object: DIRECTORY,
    state: "ensure",
    calls: [{ method: "dir_add_image", input: encode({ text: image }, { text: id }) }],
  },
];

const DIRECTORY = "rbd_directory";
const NO_DATA_POOL = -1n;
const OBJECT_ABSENT = 0;

const contentOf = (id: string, layout: Layout): readonly Change[] => {
  const { sizeBytes, order, features } = layout;
  const prefix = `rbd_data.${id}`;
  const header = encode({ u64: sizeBytes }, { u8: order }, { u64: features }, { text: prefix }, { i64: NO_DATA_POOL });
  const map = encode({ u64: objectsOf(layout) }, { u8: OBJECT_ABSENT });
  return [
    { object: `rbd_header.${id}`, state: "exclusive", calls: [{ method: "create", input: header }] },
    ...((features & MAP) === 0n
      ? []
      : [
          {
            object: `rbd_object_map.${id}`,
            state: "exclusive",
            calls: [{ method: "object_map_resize", input: map }],
          } as const,
        ]),
  ];
};

/** Removes what was written, the names last, and a name only while it leads to this image. -> whether nothing is left */
const undo = (io: bigint, image: string, id: string, written: readonly Change[]): boolean => {
  const removals = written.toReversed().map((change): Change => {
    if (change.object === nameOf(image)) {
      return { object: change.object, state: "require", calls: { removeIf: encode({ text: id }) } };
    }
    if (change.object !== DIRECTORY) return { object: change.object, state: "ensure", calls: "remove" };
    const input = encode({ text: image }, { text: id });
    return { object: DIRECTORY, state: "require", calls: [{ method: "dir_remove_image", input }] };
  });
  return removals.every((removal) =>
    changeAll(io, [removal]).every((result) => result === 0 || GONE.includes(-result)),
  );
};

/** What an OSD answers if something is not there, or is another image's. */
const GONE: readonly number[] = [ENOENT, ESTALE];
