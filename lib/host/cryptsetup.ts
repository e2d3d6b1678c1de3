/**
 * How cryptsetup is run with keys, and what its ends mean.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: what it is asked for (./crypt.ts, ./crypt-slots.ts).
 *
 * 1. A key reaches cryptsetup through its standard input alone, also where there are two.
 */
import type * as Redacted from "effect/Redacted";
import { Errno } from "../cells/cell.ts";
import { type Finished, outputOf, run, SYSTEM_FAILED } from "./child.ts";

/** A request as a cell gets it: with the texts of its keys. */
export type PlainKeys<A> = { readonly [K in keyof A]: A[K] extends Redacted.Redacted ? string : A[K] };

/** cryptsetup's exit statuses: see its manual, RETURN CODES. */
export const EXIT = { WRONG_PARAMETERS: 1, NO_PERMISSION: 2, BUSY: 5 } as const;

/** Milliseconds for all tools of a call that change something. The call has 150 seconds, and is put aside then. */
export const CALL_LIMIT = 140_000;

/** The memory that each opening takes, in KiB: as ceph-csi has it. */
export const PBKDF_MEMORY = ["--pbkdf-memory", "32768"] as const;

/** It reads the keys one after the other. `limit`: milliseconds, after which it is killed. */
export const withKeys = (argv: readonly string[], keys: readonly string[], limit?: number): Finished =>
  run(argv, { secrets: keys, input: keys.join(""), ...(limit !== undefined && { limit }) });

/** Of what it is asked for, and not by a failure of the system on the way. `also`: further statuses that refuse. */
export const isRefusal = ({ code, stderr }: Finished, ...also: readonly number[]): boolean =>
  [EXIT.WRONG_PARAMETERS, ...also].includes(code) && !SYSTEM_FAILED.test(stderr);

/** A change that failed does not say how far it came. */
export const midway = (op: string, done: Finished): Errno => new Errno(op, 0, outputOf(done), true);
