/**
 * The log of an rbd-nbd process that has ended: it goes, is compressed, or stays.
 *
 * Loaded in host cells: no Effect. All functions block.
 *
 * 1. A log of any size is read piece by piece.
 */
import { closeSync, openSync, readSync, renameSync, rmSync, writeSync } from "node:fs";
import { gzipSync } from "node:zlib";
import type { LogEnd } from "../host.ts";
import { unlessAbsent } from "./sysfs.ts";

const PIECE_BYTES = 1 << 20;

export const endLog = ({ path, strategy }: LogEnd): void => {
  if (strategy === "preserve") return;
  if (strategy === "compress") unlessAbsent(() => compress(path));
  rmSync(path, { force: true });
};

/** `rbd-nbd-X.log` becomes `rbd-nbd-X.gz`, as ceph-csi names it. Pieces that are compressed by themselves make one file. */
const compress = (path: string): void => {
  const target = path.endsWith(".log") ? `${path.slice(0, -".log".length)}.gz` : `${path}.gz`;
  const [from, to] = [openSync(path, "r"), openSync(`${target}.new`, "w", 0o640)];
  try {
    const piece = Buffer.alloc(PIECE_BYTES);
    for (let read = readSync(from, piece); read > 0; read = readSync(from, piece)) {
      writeAll(to, gzipSync(piece.subarray(0, read)));
    }
  } finally {
    closeSync(from);
    closeSync(to);
  }
  renameSync(`${target}.new`, target);
};

const writeAll = (fd: number, data: Uint8Array): void => {
  for (let at = 0; at < data.length; ) at += writeSync(fd, data, at);
};
