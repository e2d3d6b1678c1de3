/**
 * Which client libraries of Ceph this machine has. It calls no cluster and blocks on nothing, so that it may also be
 * asked outside of a cell, by a process that only wants to know.
 *
 * Not here: the calls of the libraries (./rados.ts, ./rbd.ts).
 */
import { dlopen, FFIType as T } from "bun:ffi";
import { cStringAt, optional } from "./ffi.ts";

/** The release of the library, such as `16.2.15`; undefined: unknown. The public interface has only its own number, 3.0.0. */
export const release = (): string | undefined => {
  const library = optional("libceph-common.so.2", { _Z19ceph_version_to_strv: { args: [], returns: T.u64 } });
  const address = library?._Z19ceph_version_to_strv() ?? 0n;
  return address === 0n ? undefined : cStringAt(address);
};

/** The library's own number, from a function that writes its three parts. */
const numberOf = (library: string, symbol: string): string => {
  const { symbols } = dlopen(library, { [symbol]: { args: [T.ptr, T.ptr, T.ptr], returns: T.void } });
  const parts = [0, 1, 2].map(() => new Int32Array(new ArrayBuffer(4)));
  symbols[symbol]?.(...parts);
  return parts.map(([part]) => part).join(".");
};

/** One line about librados and librbd, also where they are missing. */
export const clientLibrary = (): string => {
  try {
    const rados = numberOf("librados.so.2", "rados_version");
    const rbd = numberOf("librbd.so.1", "rbd_version");
    // the release is known once librados has loaded its common part
    return `${release() ?? "of an unknown release"} (librados ${rados}, librbd ${rbd})`;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return `cannot be loaded; install librados2 and librbd1 of Ceph (${why})`;
  }
};
