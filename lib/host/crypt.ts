/**
 * LUKS with cryptsetup: formats, opens, grows and closes the encrypted layer of a device.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: which layers are open (./crypt-layers.ts), and when a device is formatted (lib/node/crypt-layer.ts).
 *
 * 1. A format probes in the same call. It writes over nothing but a blank device, or the header of a format that was
 *    ended before it had a key slot: no key ever opened that, so nothing was ever written through it.
 * 2. Each layer is what sysfs shows after the tool has ended, whatever the tool says.
 */
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { Errno } from "../cells/cell.ts";
import { deviceNumber, deviceState, probe } from "./block.ts";
import { failure, must, outputOf, run } from "./child.ts";
import { layerOver, namedDevice } from "./crypt-layers.ts";
import { EXIT, isRefusal, midway, PBKDF_MEMORY, type PlainKeys, withKeys } from "./cryptsetup.ts";
import { afterChange } from "./errno.ts";
import { holdersOf } from "./holders.ts";
import type { CryptFormat, CryptHeader, CryptOpen, OpenedCrypt } from "./host.ts";
import type { CryptDevice } from "./mapped-device.ts";

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
const METADATA_BYTES = 4n << 20n;
const SECTOR = 512n;

// ---------------------------------------------------------------------------------------------------------- the header

/** What is at the beginning of a device, as far as LUKS is concerned. */
export const cryptHeader = ({ device }: { readonly device: string }): CryptHeader => {
  const content = probe(device);
  if (content.kind !== "other" || content.type !== LUKS) {
    return { kind: "none", content, zeroed: content.kind === "blank" && isZeroed(device) };
  }
  const dump = run(["cryptsetup", "luksDump", "--dump-json-metadata", device]);
  if (dump.code < 0) throw failure("cryptsetup luksDump", dump);
  const begun = beginOf(device);
  // one of another version, or with areas of other sizes, was not begun here: it may hold more than it shows
  if (dump.code === EXIT.WRONG_PARAMETERS && NOT_LUKS.test(dump.stderr)) return begun ? HALF_MADE : WHOLE;
  if (dump.code !== 0) return WHOLE;
  return hasSlots(dump.stdout) ? WHOLE : HALF_MADE;
};

const CHUNK_BYTES = 1 << 20;

/** Whether a header and its copy would go over zeros. */
const isZeroed = (device: string): boolean => {
  const fd = openSync(device, "r");
  try {
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (let at = 0; at < 2 * Number(METADATA_BYTES); at += CHUNK_BYTES) {
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
const BINARY_BYTES = 16;

/** Whether the device begins with the binary header of LUKS2 and the size that `formatCrypt` gives it. */
const beginOf = (device: string): boolean => {
  const fd = openSync(device, "r");
  try {
    const start = Buffer.alloc(BINARY_BYTES);
    if (readSync(fd, start, 0, BINARY_BYTES, 0) < BINARY_BYTES) throw new Errno("read", 0, "its header cannot be read");
    const isLuks2 = start.subarray(0, 6).toString("latin1") === "LUKS\xba\xbe" && start.readUInt16BE(6) === 2;
    return isLuks2 && start.readBigUInt64BE(8) === METADATA_BYTES;
  } finally {
    closeSync(fd);
  }
};

interface HeaderMetadata {
  readonly keyslots?: Readonly<Record<string, unknown>>;
  readonly segments?: Readonly<Record<string, { readonly offset?: string }>>;
}

const metadataOf = (text: string): HeaderMetadata => JSON.parse(text) as HeaderMetadata;
const hasSlots = (text: string): boolean => Object.keys(metadataOf(text).keyslots ?? { unknown: true }).length > 0;

/** Where the data begins on a device that is formatted. */
const headerBytes = (device: string): bigint => {
  const { stdout } = must(["cryptsetup", "luksDump", "--dump-json-metadata", device]);
  const offset = metadataOf(stdout).segments?.["0"]?.offset;
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

export const formatCrypt = ({ device, key, cipher, over }: PlainKeys<CryptFormat>): FormatCryptAnswer => {
  const found = cryptHeader({ device });
  const occupied = occupiedBy(found, over);
  if (occupied !== undefined) return { kind: "occupied", found: occupied };
  const done = withKeys(["cryptsetup", "-q", "luksFormat", ...FORMAT, ...cipher, device, "-d", "-"], [key]);
  if (CIPHER_REFUSED.test(done.stderr) || isRefusal(done)) {
    const remedy = cipher.length === 0 ? "" : `. Its arguments are those of the StorageClass: ${cipher.join(" ")}`;
    return { kind: "refused", reason: `${outputOf(done)}${remedy}` };
  }
  if (done.code !== 0) throw midway("cryptsetup luksFormat", done);
  return afterChange("cryptsetup luksFormat", () => ({ kind: "made", headerBytes: headerBytes(device) }));
};

/** The kernel's ENOENT for a cipher that it lacks is no passing failure. */
const CIPHER_REFUSED = /check that kernel supports/i;

/** What is on the device that must stay; `undefined`: nothing. */
const occupiedBy = (found: CryptHeader, over: CryptFormat["over"]): string | undefined => {
  if (found.kind === "half-made") return over === "half-made" ? undefined : "a LUKS header without key slots";
  if (found.kind === "whole") return "a LUKS header";
  if (found.content.kind !== "blank") return found.content.type;
  return found.zeroed ? undefined : "data that no tool knows";
};

// ---------------------------------------------------------------------------------------------------- open and close

export const openCrypt = ({ device, name, key, readOnly }: PlainKeys<CryptOpen>): OpenCryptAnswer => {
  const taken = nameTaken(name);
  if (taken !== undefined) return { kind: "refused", reason: taken };
  const done = withKeys(
    [
      "cryptsetup",
      "open",
      "--type",
      "luks",
      "--disable-keyring",
      ...(readOnly ? ["--readonly"] : []),
      device,
      name,
      "-d",
      "-",
    ],
    [key],
  );
  if (done.code === EXIT.NO_PERMISSION) return { kind: "wrong-key" };
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
    return { kind: "opened", crypt, headerBytes: tableOf(name).offset * SECTOR };
  });
};

/**
 * Why the name cannot be used. A device of it with none under it is left from one that was unmapped by force: it is
 * closed, which the kernel refuses while anything uses it.
 */
const nameTaken = (name: string): string | undefined => {
  const other = namedDevice(name);
  if (other === undefined) return undefined;
  if (other.under.length > 0) return `/dev/${other.device} over ${other.under.join(", ")} has the name ${name} already`;
  const done = run(["cryptsetup", "close", name]);
  return namedDevice(name) === undefined
    ? undefined
    : `/dev/${other.device} has the name ${name}, and its own device is gone. Close it: ${outputOf(done)}`;
};

export const closeCrypt = ({ crypt }: { readonly crypt: CryptDevice }): CloseCryptAnswer => {
  if (!isOpen(crypt)) return { kind: "closed" };
  const done = run(["cryptsetup", "close", crypt.name]);
  if (!afterChange("cryptsetup close", () => isOpen(crypt))) return { kind: "closed" };
  if (done.code === EXIT.BUSY) return { kind: "busy", holders: holdersOf(kernelDevice(crypt)) };
  throw failure("cryptsetup close", done);
};

const isOpen = ({ name, major, minor }: CryptDevice): boolean => namedDevice(name)?.number === `${major}:${minor}`;

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

/** Grows a layer to the size of the device under it; -> the bytes that it has then. */
export const resizeCrypt = ({
  crypt,
  device,
}: {
  readonly crypt: CryptDevice;
  readonly device: string;
}): ResizeCryptAnswer => {
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
