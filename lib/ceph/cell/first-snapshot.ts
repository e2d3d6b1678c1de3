/**
 * Takes the first snapshot of a plain image without opening the image. Loaded in cells only.
 *
 * Not here: all other snapshots (./snapshots.ts).
 *
 * librbd opens the image and the parents behind it, and watches it: some thirty trips to the OSDs for a clone of an image, and
 * 8 ms of CPU. The same write, by the same method of the object class, takes seven trips here and a tenth of the CPU.
 *
 * 1. Only what is proven to be so simple is done so: an image that never had a snapshot and whose parents are there, without
 *    a feature for which a client has to hold its lock, or keep more than its header. Everything else is left to librbd,
 *    which also says what is wrong.
 * 2. All that was proven must be the same in the operation that writes.
 * 3. It writes what librbd writes, in one operation: a crash leaves it done or not done. As with librbd a crash before it
 *    leaves an id of the monitors that no snapshot has.
 */
import { FFIType as T } from "bun:ffi";
import { Errno, midway } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import { changeAll, WITHOUT_EFFECT } from "./changes.ts";
import { encode } from "./encoder.ts";
import { bind, ECANCELED, ENOENT, ESTALE, slot, valueOf } from "./ffi.ts";
import { USER_KIND } from "./header-snapshots.ts";
import { tellClients } from "./header-watchers.ts";
import { parentsAreThere, PLAIN_KEYS, plainHeader } from "./plain-header.ts";
import type { PoolArg } from "./rados.ts";

const rados = bind("librados.so.2", {
  rados_ioctx_selfmanaged_snap_create: { args: [T.u64, T.ptr], returns: T.i32 },
  rados_ioctx_selfmanaged_snap_remove: { args: [T.u64, T.u64], returns: T.i32 },
});

const { layering, "deep-flatten": DEEP, operations: OPERATIONS } = FEATURE_BITS;
const PLAIN_FEATURES = layering | DEEP | OPERATIONS;

/** Gives whether the snapshot was taken; `false`: librbd has to take it, and nothing was done. */
export const takeFirst = (where: PoolArg, io: bigint, image: string, snapshot: string): boolean => {
  const proven = provenFirst(where, io, image);
  return proven !== undefined && take(io, proven, snapshot);
};

/** An image without a snapshot, as its header had it. */
export interface ProvenFirst {
  readonly header: string;
  readonly keys: Readonly<Record<string, string | Uint8Array>>;
}

/** undefined: it is left to librbd. */
export const provenFirst = (where: PoolArg, io: bigint, image: string): ProvenFirst | undefined => {
  const header = plainHeader(io, image, PLAIN_FEATURES);
  if (header === undefined || header.newestSnapshot !== 0n || !parentsAreThere(where, io, header)) return undefined;
  const { object, values } = header;
  return { header: object, keys: Object.fromEntries(PLAIN_KEYS.map((key) => [key, values.get(key) ?? ""])) };
};

/** Takes it if nothing has changed since; gives whether. Waits for the monitors. */
export const take = (io: bigint, { header, keys }: ProvenFirst, snapshot: string): boolean => {
  if (/[@/\0]/.test(snapshot) || snapshot === "") return false;
  const place = slot();
  if (rados.rados_ioctx_selfmanaged_snap_create(io, place) < 0) return false;
  const id = valueOf(place);
  const input = encode({ text: snapshot }, { u64: id }, USER_KIND);
  const calls = [{ method: "snapshot_add", input }];
  const [result = 0] = changeAll(io, [{ object: header, state: "require", compare: keys, calls }]);
  if (result !== 0) {
    // a write of which nobody knows what became may still come: then the id is the snapshot's
    if (!REFUSED.includes(-result)) throw new Errno("rbd_snap_create", -result, undefined, true);
    rados.rados_ioctx_selfmanaged_snap_remove(io, id);
    return false;
  }
  midway(() => tellClients(io, header));
  return true;
};

/** ESTALE: the header has seen a younger id. */
const REFUSED: readonly number[] = [...WITHOUT_EFFECT, ECANCELED, ENOENT, ESTALE];
