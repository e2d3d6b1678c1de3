/**
 * LUKS with cryptsetup: formats, opens, grows and closes the encrypted layer of a device.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: which layers are open (./crypt-layers.ts), layers with integrity (./crypt-integrity.ts), and when a device is
 * formatted (lib/node/crypt-layer.ts).
 *
 * 1. A format probes in the same call. It writes over nothing but a blank device, or the header of a format that was
 *    ended before it had a key slot: no key ever opened that, so nothing was ever written through it.
 * 2. Each layer is what sysfs shows after the tool has ended, whatever the tool says.
 * 3. A tool that formats or opens and does not end is killed before its call is put aside, and none begins after that.
 */
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { Errno } from "../cells/cell.ts";
import { deviceNumber, deviceState, probe } from "./block.ts";
import { failure, type Finished, must, outputOf, run, timeLeft } from "./child.ts";
import { layerOver, leftOver, namedDevice } from "./crypt-layers.ts";
import { CALL_LIMIT, EXIT, isRefusal, midway, PBKDF_MEMORY, type PlainKeys, withKeys } from "./cryptsetup.ts";
import { afterChange } from "./errno.ts";
import { holdersOf } from "./holders.ts";
import type { CryptFormat, CryptHeader, CryptOpen, OpenedCrypt } from "./host.ts";
import type { CryptDevice } from "./mapped-device.ts";
import type { BlockDevice } from "./mountinfo.ts";

export type FormatCryptAnswer =
  | { readonly kind: "made"; readonly headerBytes: bigint }
  | { readonly kind: "refused"; readonly reason: string }
  | { readonly kind: "occupied"; readonly found: string };
export type OpenCryptAnswer =
  | ({ readonly kind: "opened" } & OpenedCrypt)
  | { readonly kind: "wrong-key" }
  | { readonly kind: "refused"; readonly reason: string };
export type CloseCryptAnswer =
  | { readonly kind: "closed" }
  | { readonly kind: "busy"; readonly holders: readonly string[] };
export type ResizeCryptAnswer =
  | { readonly kind: "sized"; readonly sizeBytes: bigint }
  | { readonly kind: "refused"; readonly reason: string };

const LUKS = "crypto_LUKS";
/** Of the header and of its copy. Both, and the area for key slots, make the 16 MiB that ceph-csi and LUKS2 agree on. */
export const METADATA_BYTES = 4n << 20n;
export const HEADER_BYTES = 4n * METADATA_BYTES;
const SECTOR = 512n;

// ---------------------------------------------------------------------------------------------------------- the header

/** What is at the beginning of a device, as far as LUKS is concerned. */
export const cryptHeader = ({ device }: { readonly device: string }): CryptHeader => {
  const content = probe(device);
  if (content.kind !== "other" || content.type !== LUKS) {
    const zeroed = content.kind === "blank" && isZeroed(device, 0n, 2n * METADATA_BYTES);
    return { kind: "none", content, zeroed, allZeroed: zeroed && isZeroed(device, 2n * METADATA_BYTES, HEADER_BYTES) };
  }
  const dump = run(["cryptsetup", "luksDump", "--dump-json-metadata", device]);
  if (dump.code < 0) throw failure("cryptsetup luksDump", dump);
  const begun = beginOf(device);
  // one of another version, or with areas of other sizes, was not begun here: it may hold more than it shows
  if (dump.code === EXIT.WRONG_PARAMETERS && NOT_LUKS.test(dump.stderr)) return begun ? HALF_MADE : WHOLE;
  if (dump.code !== 0) return WHOLE;
  const metadata = metadataOf(dump.stdout);
  if (!hasSlots(metadata)) return HALF_MADE;
  const hasIntegrity = Object.values(metadata.segments ?? {}).some(({ integrity }) => integrity !== undefined);
  return hasIntegrity ? { ...WHOLE, integrity: true } : WHOLE;
};

const CHUNK_BYTES = 1 << 20;

/** Whether the bytes from one offset up to another are zeros, as far as the device goes. */
const isZeroed = (device: string, from: bigint, to: bigint): boolean => {
  const fd = openSync(device, "r");
  try {
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (let at = from; at < to; at += BigInt(CHUNK_BYTES)) {
      const length = readSync(fd, chunk, 0, CHUNK_BYTES, at);
      if (chunk.subarray(0, length).some((byte) => byte !== 0)) return false;
    }
    return true;
  } finally {
    closeSync(fd);
  }
};

const WHOLE = { kind: "whole" } as const;
const HALF_MADE = { kind: "half-made" } as const;
const NOT_LUKS = /is not a valid LUKS device/;

/** The beginning of a header with areas of the sizes that `formatCrypt` gives it: magic, version, and size of the header. */
export const headerBegin = (): Buffer => {
  const size = Buffer.alloc(8);
  size.writeBigUInt64BE(METADATA_BYTES);
  return Buffer.concat([Buffer.from("LUKS\xba\xbe\0\x02", "latin1"), size]);
};

/** Whether the device begins so. */
const beginOf = (device: string): boolean => {
  const fd = openSync(device, "r");
  try {
    const begin = headerBegin();
    const start = Buffer.alloc(begin.length);
    if (readSync(fd, start, 0, start.length, 0) < start.length) throw new Errno("read", 0, "its header cannot be read");
    return start.equals(begin);
  } finally {
    closeSync(fd);
  }
};

interface HeaderMetadata {
  readonly keyslots?: Readonly<Record<string, { readonly area?: { readonly offset: string; readonly size: string } }>>;
  readonly segments?: Readonly<Record<string, { readonly offset?: string; readonly integrity?: object }>>;
}

const metadataOf = (text: string): HeaderMetadata => JSON.parse(text) as HeaderMetadata;
const hasSlots = ({ keyslots = { unknown: {} } }: HeaderMetadata): boolean => Object.keys(keyslots).length > 0;

/** Of a device, or of a file that is a header. */
export const metadataIn = (path: string): HeaderMetadata =>
  metadataOf(must(["cryptsetup", "luksDump", "--dump-json-metadata", path]).stdout);

/** Where the data begins on a device that is formatted. */
export const headerBytes = (device: string): bigint => {
  const offset = metadataIn(device).segments?.["0"]?.offset;
  if (offset === undefined) throw new Errno("cryptsetup luksDump", 0, "its output has no offset of the data");
  return BigInt(offset);
};

// ---------------------------------------------------------------------------------------------------------- format

/** As ceph-csi formats: the tool's own cipher and key size, unless the volume has others, and 32 MiB of memory. */
const FORMAT = [
  "--type",
  "luks2",
  "--hash",
  "sha256",
  ...PBKDF_MEMORY,
  "--luks2-metadata-size",
  "4096k",
  "--luks2-keyslots-size",
  "8192k",
];

/** What was read of a device before would hide what another client has written since. */
export const forgetRead = (device: string): void => void must(["blockdev", "--flushbufs", device]);

export const formatCrypt = ({ device, key, cipher, over }: PlainKeys<CryptFormat>): FormatCryptAnswer => {
  const left = timeLeft("cryptsetup luksFormat", CALL_LIMIT);
  forgetRead(device);
  const found = cryptHeader({ device });
  const occupied = occupiedBy(found, over);
  if (occupied !== undefined) return { kind: "occupied", found: occupied };
  const refused = luksFormat(device, key, cipher, left());
  if (refused !== undefined) return { kind: "refused", reason: refused };
  return afterChange("cryptsetup luksFormat", () => ({ kind: "made", headerBytes: headerBytes(device) }));
};

/**
 * -> why cryptsetup refuses; `undefined`: it is done. `chosen`: the arguments that the StorageClass chooses. `limit`:
 * milliseconds.
 */
export const luksFormat = (
  device: string,
  key: string,
  chosen: readonly string[],
  limit: number,
  more: readonly string[] = [],
): string | undefined => {
  const argv = ["cryptsetup", "-q", "luksFormat", ...FORMAT, ...chosen, ...more, device, "-d", "-"];
  const done = withKeys(argv, [key], limit);
  if (CIPHER_REFUSED.test(done.stderr) || isRefusal(done)) {
    const remedy = chosen.length === 0 ? "" : `. Its arguments are those of the StorageClass: ${chosen.join(" ")}`;
    return `${outputOf(done)}${remedy}`;
  }
  if (done.code !== 0) throw midway("cryptsetup luksFormat", done);
  return undefined;
};

/** The kernel's ENOENT for a cipher that it lacks is no passing failure. */
const CIPHER_REFUSED = /check that kernel supports/i;

/** What is on the device that must stay; `undefined`: nothing. */
export const occupiedBy = (found: CryptHeader, over: CryptFormat["over"]): string | undefined => {
  if (found.kind === "half-made") return over === "half-made" ? undefined : "a LUKS header without key slots";
  if (found.kind === "whole") return "a LUKS header";
  if (found.content.kind !== "blank") return found.content.type;
  return found.zeroed ? undefined : "data that no tool knows";
};

// ---------------------------------------------------------------------------------------------------- open and close

export const openCrypt = (request: PlainKeys<CryptOpen>): OpenCryptAnswer => {
  const answer = openLayer(request, timeLeft("cryptsetup open", CALL_LIMIT));
  if (answer.kind !== "opened") return answer;
  const { crypt } = answer;
  // The table of a layer with integrity counts from the one under it.
  const bytes = () => (crypt.integrity === true ? headerBytes(request.device) : tableOf(crypt.name).offset * SECTOR);
  return { kind: "opened", crypt, headerBytes: afterChange("cryptsetup open", bytes) };
};

export type OpenLayerAnswer =
  | { readonly kind: "opened"; readonly crypt: CryptDevice }
  | Exclude<OpenCryptAnswer, { kind: "opened" }>;

/** `left`: the milliseconds that it has. `more`: further arguments of cryptsetup. */
export const openLayer = (
  { device, name, key, readOnly }: PlainKeys<CryptOpen>,
  left: () => number,
  more: readonly string[] = [],
): OpenLayerAnswer => {
  const taken = nameTaken(name);
  if (taken !== undefined) return { kind: "refused", reason: taken };
  const how = ["--type", "luks", "--disable-keyring", ...(readOnly ? ["--readonly"] : []), ...more];
  const done = withKeys(["cryptsetup", "open", ...how, device, name, "-d", "-"], [key], left());
  if (done.code === EXIT.NO_PERMISSION) return { kind: "wrong-key" };
  if (done.code !== 0) removeUnborn(name, done);
  if (isRefusal(done)) return { kind: "refused", reason: outputOf(done) };
  if (done.code !== 0) throw midway("cryptsetup open", done);
  return afterChange("cryptsetup open", () => {
    const crypt = layerOver({ path: device });
    if (crypt?.name !== name) throw new Error(`it succeeded, but the kernel has no ${name} over ${device}`);
    if (crypt.readOnly !== readOnly) throw new Error(`${crypt.path} is ${readOnly ? "writable" : "read-only"}`);
    const node = statSync(crypt.path, { throwIfNoEntry: false });
    if (node === undefined) throw new Error(`${crypt.path} does not exist here: mount the host's /dev`);
    if (deviceNumber(node.rdev) !== `${crypt.major}:${crypt.minor}`) {
      throw new Error(`${crypt.path} is another device than ${crypt.kernelPath}. Remove it, then retry`);
    }
    return { kind: "opened", crypt };
  });
};

/** Milliseconds: what nothing uses is closed at once. */
const CLOSE_LIMIT = 15_000;

/**
 * Closes a device of that name. For cryptsetup a device is not there that has no live table, as one that was killed leaves
 * it: device-mapper removes it. The kernel refuses what is in use.
 */
const close = (name: string, limit?: number): Finished => {
  const how = limit === undefined ? {} : { limit };
  const done = run(["cryptsetup", "close", name], how);
  const isOver = done.code <= 0 || done.code === EXIT.BUSY || namedDevice(name) === undefined;
  if (isOver) return done;
  return run(["dmsetup", "remove", name], how);
};

const BUSY = /device or resource busy/i;
const NAME_EXISTS = /already exists|create ioctl on \S+ .*failed/i;

/** After an open that failed by its name: removes what has it and got no table, which sysfs does not show. */
const removeUnborn = (name: string, { stderr }: Finished): void => {
  if (!NAME_EXISTS.test(stderr)) return;
  for (const each of [name, `${name}_dif`]) {
    if (namedDevice(each) === undefined) run(["dmsetup", "remove", each], { limit: CLOSE_LIMIT });
  }
};

/**
 * Why the name cannot be used. A device of it with none under it is left from one that was unmapped by force: it is
 * closed, which the kernel refuses while anything uses it.
 */
const nameTaken = (name: string): string | undefined => {
  const other = namedDevice(name);
  if (other === undefined) return undefined;
  if (other.under.length > 0) return `/dev/${other.device} over ${other.under.join(", ")} has the name ${name} already`;
  const done = close(name, CLOSE_LIMIT);
  return namedDevice(name) === undefined
    ? undefined
    : `/dev/${other.device} has the name ${name}, and its own device is gone. Close it: ${outputOf(done)}`;
};

export const closeCrypt = ({ crypt }: { readonly crypt: CryptDevice }): CloseCryptAnswer => {
  if (!isOpen(crypt)) return { kind: "closed" };
  const done = close(crypt.name);
  if (!afterChange("cryptsetup close", () => isOpen(crypt))) return { kind: "closed" };
  if (done.code === EXIT.BUSY || BUSY.test(done.stderr))
    return { kind: "busy", holders: holdersOf(kernelDevice(crypt)) };
  throw failure("cryptsetup close", done);
};

/** Closes what a killed cryptsetup has left over a device that is to be unmapped. The kernel refuses what is in use. */
export const closeLeftOver = (device: BlockDevice): void => {
  for (const name of leftOver(device)) {
    const done = close(name, CLOSE_LIMIT);
    if (done.code < 0) throw failure("cryptsetup close", done);
  }
};

export const isOpen = ({ name, major, minor }: CryptDevice): boolean =>
  namedDevice(name)?.number === `${major}:${minor}`;

/** As /sys and /proc/swaps name it. */
const kernelDevice = (crypt: CryptDevice) => ({ ...crypt, path: crypt.kernelPath ?? crypt.path });

// ------------------------------------------------------------------------------------------------------------- size

/** In sectors. */
const tableOf = (name: string): { readonly offset: bigint; readonly size: bigint } => {
  const { stdout } = must(["cryptsetup", "status", name]);
  const value = (field: string): bigint => {
    const digits = new RegExp(`^\\s*${field}:\\s+(\\d+)`, "m").exec(stdout)?.[1];
    if (digits === undefined) throw new Errno("cryptsetup status", 0, `its output has no "${field}"`);
    return BigInt(digits);
  };
  return { offset: value("offset"), size: value("size") };
};

/** A layer has whole sectors of its own, which have at most 4096 bytes. */
const SLACK_SECTORS = 8n;

const KEEPS_SIZE =
  "it has integrity (integrityMode), and such a layer keeps the size that it was made with. Nothing is lost: copy its data into a larger volume";

/** Grows a layer to the size of the device under it; -> the bytes that it has then. */
export const resizeCrypt = ({
  crypt,
  device,
}: {
  readonly crypt: CryptDevice;
  readonly device: string;
}): ResizeCryptAnswer => {
  if (crypt.integrity === true) return { kind: "refused", reason: KEEPS_SIZE };
  const available = deviceState(device)?.sizeBytes;
  if (available === undefined) throw new Errno("cryptsetup resize", 0, "the device under it does not exist");
  const fills = () => {
    const { offset, size } = tableOf(crypt.name);
    return { sizeBytes: size * SECTOR, filled: offset + size + SLACK_SECTORS > available / SECTOR };
  };
  const now = fills();
  if (now.filled) return { kind: "sized", sizeBytes: now.sizeBytes };
  const done = run(["cryptsetup", "resize", crypt.name]);
  if (isRefusal(done)) return { kind: "refused", reason: outputOf(done) };
  if (done.code !== 0) throw failure("cryptsetup resize", done);
  return afterChange("cryptsetup resize", () => {
    const { filled, sizeBytes } = fills();
    if (!filled) throw new Error(`it succeeded, but ${crypt.path} has ${sizeBytes} bytes of ${available}`);
    return { kind: "sized", sizeBytes };
  });
};
