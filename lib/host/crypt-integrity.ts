/**
 * LUKS with integrity: each sector has a tag, by which a read finds out that the stored bytes were changed. A sector without
 * a tag cannot be read, so all of a new layer is written once before it is used.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: the order of these calls, and when they may be made (lib/node/crypt-wipe.ts); other layers (./crypt.ts).
 *
 * 1. The header stays beside the device until the layer is written. Its file is in memory, and goes when its call ends.
 * 2. While a header goes on its device, the device shows one without key slots, or the whole one: its beginning comes
 *    first, what makes it valid comes last, and each part lasts before the next one begins.
 * 3. What goes through all of a layer does so in calls that end in seconds.
 * 4. A tool that writes and does not end is killed before its call is put aside, and a call that was put aside begins no
 *    further write. What the kernel has of it is written all the same, however late: lib/node/wipe-record.ts.
 * 5. A header goes on only behind the beginning that the same call wrote.
 */
import { closeSync, fsyncSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { Errno } from "../cells/cell.ts";
import { deviceState } from "./block.ts";
import { failure, run, timeLeft } from "./child.ts";
import {
  cryptHeader,
  forgetRead,
  HEADER_BYTES,
  headerBegin,
  headerBytes,
  isOpen,
  luksFormat,
  METADATA_BYTES,
  metadataIn,
  occupiedBy,
  openLayer,
} from "./crypt.ts";
import { CALL_LIMIT, type PlainKeys } from "./cryptsetup.ts";
import { afterChange } from "./errno.ts";
import type { CryptFormat, CryptPrepare, CryptSeal, DataLook, HeaderPart, PreparedCrypt } from "./host.ts";
import type { CryptDevice } from "./mapped-device.ts";
import { withHeaderFile } from "./mapper/key-file.ts";

export type PrepareCryptAnswer =
  | ({ readonly kind: "prepared" } & PreparedCrypt)
  | { readonly kind: "refused"; readonly reason: string }
  | { readonly kind: "occupied"; readonly found: string };
export type SealCryptAnswer =
  | { readonly kind: "sealed"; readonly headerBytes: bigint }
  | { readonly kind: "occupied"; readonly found: string };

const HEADER = Number(HEADER_BYTES);
/** Where the copy of the header begins, and where the key slots do. */
const COPY = Number(METADATA_BYTES);
const KEY_SLOTS = 2 * COPY;
const SECTOR = 512;

// --------------------------------------------------------------------------------------------------------- the header

export const prepareCrypt = (request: PlainKeys<CryptPrepare>): PrepareCryptAnswer => {
  const { device, name, key, cipher, integrity, over } = request;
  const left = timeLeft("cryptsetup luksFormat", CALL_LIMIT);
  forgetRead(device);
  const occupied = occupant(device, over);
  if (occupied !== undefined) return { kind: "occupied", found: occupied };
  return withHeaderFile((file): PrepareCryptAnswer => {
    const beside = ["--integrity-no-wipe", "--header", file, "--offset", String(HEADER / SECTOR)];
    const refused = luksFormat(device, key, [...cipher, "--integrity", integrity], left(), beside);
    if (refused !== undefined) return { kind: "refused", reason: refused };
    const header = afterChange("read", () => partsOf(file));
    // A journal would write everything twice, and a wipe that is cut off begins anew.
    const how = ["--integrity-no-journal", "--header", file];
    const opened = openLayer({ device, name, key, readOnly: false }, left, how);
    if (opened.kind === "opened") return { kind: "prepared", crypt: opened.crypt, header };
    return { kind: "refused", reason: opened.kind === "refused" ? opened.reason : "its new header does not open" };
  });
};

/** What is where the header goes, and must stay; `undefined`: nothing. */
const occupant = (device: string, over: CryptFormat["over"]): string | undefined => {
  const found = cryptHeader({ device });
  if (found.kind === "none" && found.zeroed && !found.allZeroed) return "data that no tool knows";
  return occupiedBy(found, over);
};

const PART = 64 << 10;

/** The header that a file holds. Around its key slots is noise, which nobody needs. */
const partsOf = (file: string): readonly HeaderPart[] => {
  const bytes = readFileSync(file);
  if (bytes.length !== HEADER) {
    throw new Errno("cryptsetup luksFormat", 0, `it made a header of ${bytes.length} bytes, and not of ${HEADER}`);
  }
  const metadata = Array.from({ length: KEY_SLOTS / PART }, (_, index) => [index * PART, PART] as const).filter(
    ([at, size]) => bytes.subarray(at, at + size).some((byte) => byte !== 0),
  );
  const slots = Object.values(metadataIn(file).keyslots ?? {}).map(({ area }) => {
    if (area === undefined) throw new Errno("cryptsetup luksDump", 0, "its output has no area of a key slot");
    return [Number(area.offset), Number(area.size)] as const;
  });
  return [...metadata, ...slots].map(([at, size]) => ({ at, bytes: new Uint8Array(bytes.subarray(at, at + size)) }));
};

/** The binary part of a header, without which the rest is nothing. Ceph stores all of it or nothing. */
const BINARY = 4096;

/** Milliseconds after which no further part of a header is begun: a third of those of its call. */
const SEAL_LIMIT = 50_000;

/** Bytes, and where they go on the device. */
export type Piece = readonly [at: number, bytes: Uint8Array];

/** What a header is written in, in this order. The pieces of one write may come in any order. */
export const headerWrites = (
  header: readonly HeaderPart[],
): readonly [readonly [Piece], readonly [Piece, Piece], readonly [Piece], readonly [Piece]] => {
  const whole = Buffer.alloc(HEADER);
  for (const { at, bytes } of header) whole.set(bytes, at);
  const begin = Buffer.alloc(BINARY);
  headerBegin().copy(begin);
  return [
    [[0, begin]],
    [
      [BINARY, whole.subarray(BINARY, COPY)],
      [COPY + BINARY, whole.subarray(COPY + BINARY)],
    ],
    [[COPY, whole.subarray(COPY, COPY + BINARY)]],
    [[0, whole.subarray(0, BINARY)]],
  ];
};

export const sealCrypt = ({ device, header, over }: CryptSeal): SealCryptAnswer => {
  const left = timeLeft("write of the header", SEAL_LIMIT);
  forgetRead(device);
  const occupied = occupant(device, over);
  if (occupied !== undefined) return { kind: "occupied", found: occupied };
  left();
  return afterChange("write", () => {
    const fd = openSync(device, "r+");
    try {
      writeHeader(fd, header, { forget: () => forgetRead(device), left });
    } finally {
      closeSync(fd);
    }
    forgetRead(device);
    const { kind } = cryptHeader({ device });
    if (kind !== "whole") throw new Error(`it succeeded, but the header on the device is ${kind}`);
    return { kind: "sealed", headerBytes: headerBytes(device) };
  });
};

/** Writes a header part by part. `forget`: of what was read. `left`: throws once it is too late for another part. */
export const writeHeader = (
  fd: number,
  header: readonly HeaderPart[],
  { forget, left }: { readonly forget: () => void; readonly left: () => unknown },
): void => {
  const [begin, ...rest] = headerWrites(header);
  writeLasting(fd, begin);
  for (const pieces of rest) {
    forget();
    if (!isThere(fd, begin)) throw new Error("another client has written to the device meanwhile");
    left();
    writeLasting(fd, pieces);
  }
};

const writeLasting = (fd: number, pieces: readonly Piece[]): void => {
  for (const [at, bytes] of pieces) {
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, at + done);
  }
  fsyncSync(fd);
};

const isThere = (fd: number, pieces: readonly Piece[]): boolean =>
  pieces.every(([at, bytes]) => {
    const found = Buffer.alloc(bytes.length);
    return readSync(fd, found, 0, found.length, at) === found.length && found.equals(bytes);
  });

// ------------------------------------------------------------------------------------------------------ the whole layer

/** Milliseconds after which a call begins no further part. */
const PATIENCE = 4_000;
const PART_BYTES = 64n << 20n;
/** Milliseconds for one part. A call has 150 seconds. */
const PART_LIMIT = 120_000;

/** -> up to where the layer is written. All that is written lasts. */
export const wipeCrypt = ({ crypt, from }: { readonly crypt: CryptDevice; readonly from: bigint }): bigint => {
  const until = performance.now() + PATIENCE;
  let at = from;
  do {
    if (!isOpen(crypt)) throw new Errno("wipe", 0, "the layer is not open any more", at > from);
    const left = crypt.sizeBytes - at;
    const length = left < PART_BYTES ? left : PART_BYTES;
    // Through the cache it would push out what the node needs.
    const write = ["-c", `pwrite -q -b 1m -S 0 ${at} ${length}`, "-c", "fsync"];
    const done = run(["xfs_io", "-d", ...write, crypt.path], { limit: PART_LIMIT });
    if (done.code !== 0 || done.stderr.trim() !== "") throw failure("xfs_io", done);
    at += length;
  } while (at < crypt.sizeBytes && performance.now() < until);
  return at;
};

const CHUNK = 1 << 20;

export const lookForData = ({ device, from }: { readonly device: string; readonly from: bigint }): DataLook => {
  const end = deviceState(device)?.sizeBytes;
  if (end === undefined) throw new Errno("read", 0, "the device does not exist");
  const until = performance.now() + PATIENCE;
  const [chunk, zeros] = [Buffer.alloc(CHUNK), Buffer.alloc(CHUNK)];
  const fd = openSync(device, "r");
  try {
    let at = from;
    do {
      const length = readSync(fd, chunk, 0, CHUNK, at);
      if (length === 0) throw new Errno("read", 0, `it ends after ${at} of ${end} bytes`);
      if (!chunk.subarray(0, length).equals(zeros.subarray(0, length))) return { kind: "data" };
      at += BigInt(length);
    } while (at < end && performance.now() < until);
    return { kind: "zeros", next: at };
  } finally {
    closeSync(fd);
  }
};
