/**
 * Changes of objects by methods of the object class "rbd", each object's in one atomic operation, and those of several
 * objects side by side. Loaded in cells only.
 *
 * Not here: one method that reads (./rados.ts), omaps as such (./omaps.ts).
 *
 * 1. This thread starts the operations and awaits every one of them: librados calls no JavaScript.
 * 2. librados copies what it is given before an operation starts, and writes no answer into memory of JavaScript.
 */
import { FFIType as T } from "bun:ffi";
import {
  bind,
  check,
  EACCES,
  EBADF,
  EDQUOT,
  EEXIST,
  EINVAL,
  ENOSPC,
  EOPNOTSUPP,
  EPERM,
  ESTALE,
  plain,
  slot,
  valueOf,
} from "./ffi.ts";
import { FULL_FORCE, requireValues } from "./omaps.ts";

const rados = bind("librados.so.2", {
  rados_create_write_op: { args: [], returns: T.u64 },
  rados_release_write_op: { args: [T.u64], returns: T.void },
  rados_write_op_create: { args: [T.u64, T.i32, T.ptr], returns: T.void },
  rados_write_op_assert_exists: { args: [T.u64], returns: T.void },
  rados_write_op_exec: { args: [T.u64, T.cstring, T.cstring, T.ptr, T.u64, T.ptr], returns: T.void },
  rados_write_op_remove: { args: [T.u64], returns: T.void },
  rados_write_op_cmpext: { args: [T.u64, T.ptr, T.u64, T.u64, T.ptr], returns: T.void },
  rados_aio_create_completion2: { args: [T.ptr, T.ptr, T.ptr], returns: T.i32 },
  rados_aio_write_op_operate: { args: [T.u64, T.u64, T.u64, T.cstring, T.ptr, T.i32], returns: T.i32 },
  rados_aio_wait_for_complete: { args: [T.u64], returns: T.i32 },
  rados_aio_get_return_value: { args: [T.u64], returns: T.i32 },
  rados_aio_release: { args: [T.u64], returns: T.void },
});

/** A method and its input. */
export interface Call {
  readonly method: string;
  readonly input: Uint8Array;
}

export interface Change {
  readonly object: string;
  /** `exclusive`: it must not exist. `require`: it must. `ensure`: it is created if it does not. */
  readonly state: "exclusive" | "require" | "ensure";
  /** Values of its omap that must be there, else ECANCELED; "" stands for an absent key, too. */
  readonly compare?: Readonly<Record<string, string | Uint8Array>>;
  /** Also in a full pool, where an OSD creates no object. For what frees space, or makes it possible to. */
  readonly evenIfFull?: true;
  /** In this order, all or none. `removeIf`: removes an object that begins with these bytes; `ESTALE` if it does not. */
  readonly calls: readonly Call[] | "remove" | { readonly removeIf: Uint8Array };
}

/** What an OSD answers that has refused a write. EBADF: the directory of images has the id already. */
export const WITHOUT_EFFECT: readonly number[] = [EACCES, EBADF, EDQUOT, EEXIST, EINVAL, ENOSPC, EOPNOTSUPP, EPERM];

/** What C answers to each change, in the order of the changes: 0, or a negative errno. */
export const changeAll = (io: bigint, changes: readonly Change[]): readonly number[] => {
  const begun = changes.map((change) => begin(io, change));
  return begun.map((operation) => (typeof operation === "number" ? operation : resultOf(operation)));
};

interface Operation {
  readonly op: bigint;
  readonly completion: bigint;
}

/** A number: it could not be started. */
const begin = (io: bigint, { object, state, compare = {}, evenIfFull, calls }: Change): Operation | number => {
  const name = plain(object);
  const place = slot();
  check("rados_aio_create_completion", rados.rados_aio_create_completion2(null, null, place));
  const operation = { op: rados.rados_create_write_op(), completion: valueOf(place) };
  const { op, completion } = operation;
  if (state === "require") rados.rados_write_op_assert_exists(op);
  if (state === "exclusive") rados.rados_write_op_create(op, 1, null);
  requireValues(op, compare);
  if (calls === "remove") rados.rados_write_op_remove(op);
  else if ("removeIf" in calls) {
    rados.rados_write_op_cmpext(op, calls.removeIf, BigInt(calls.removeIf.length), 0n, null);
    rados.rados_write_op_remove(op);
  } else {
    for (const { method, input } of calls) {
      rados.rados_write_op_exec(op, "rbd", method, input, BigInt(input.length), null);
    }
  }
  const flags = evenIfFull === true ? FULL_FORCE : 0;
  const result = rados.rados_aio_write_op_operate(op, io, completion, name, null, flags);
  if (result >= 0) return operation;
  free(operation);
  return result;
};

const resultOf = (operation: Operation): number => {
  rados.rados_aio_wait_for_complete(operation.completion);
  const result = rados.rados_aio_get_return_value(operation.completion);
  free(operation);
  return result <= FIRST_DIFFERENCE ? -ESTALE : result;
};

/** What an OSD answers to a comparison of bytes is this, less the place of the first byte that differs. */
const FIRST_DIFFERENCE = -4095;

const free = ({ op, completion }: Operation): void => {
  rados.rados_aio_release(completion);
  rados.rados_release_write_op(op);
};
