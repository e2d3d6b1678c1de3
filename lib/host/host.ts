/**
 * The machine that the driver runs on, as one Effect service, `Host`. It has two implementations of one contract:
 * ./live.ts over the kernel and its tools, and a model in memory for tests.
 *
 * Not here: anything of CSI. Names are the kernel's and RBD's.
 *
 * 1. Every method is one blocking call in a cell, with a limit of its own.
 * 2. Absence is a value (`undefined`, "absent") or a typed error. It is never inferred from another failure.
 * 3. Nothing is removed recursively, and no device is formatted on which anything was found.
 */
import * as Context from "effect/Context";
import type * as Effect from "effect/Effect";
import type * as Redacted from "effect/Redacted";
import type { HostError } from "./errors.ts";
import type { IoLimitAnswer } from "./io-limits.ts";
import type { CryptDevice, ImageName, MappedCluster, MappedDevice, MapperName } from "./mapped-device.ts";
import type { BlockDevice, MountTable } from "./mountinfo.ts";

export interface MapRequest extends ImageName {
  readonly mapper: MapperName;
  readonly monitors: readonly string[];
  /** cephx id, without `client.`. */
  readonly user: string;
  readonly key: Redacted.Redacted;
  readonly readOnly: boolean;
  /** The mapper's own options, comma-separated; "" for none. */
  readonly options: string;
  /** Path of the network namespace from which the cluster is reached. */
  readonly netNamespace: string | undefined;
  /** The next two are for rbd-nbd: by what the mapping is known again, and where its process writes its log. */
  readonly cookie: string;
  readonly logFile: string;
}

/** What becomes of a log: it goes, is compressed beside itself, or stays. */
export interface LogEnd {
  readonly path: string;
  readonly strategy: "remove" | "compress" | "preserve";
}

/** The content of a block device, by its signatures. */
export type Content =
  /** blkid finds no signature. `zeroed`: its first bytes read as zeros, too. */
  | { readonly kind: "blank"; readonly zeroed: boolean }
  /** `unfinished`: its tool, such as mkfs, was cut off, as the filesystem says itself. */
  | { readonly kind: "filesystem"; readonly type: string; readonly unfinished?: true }
  | { readonly kind: "partitions"; readonly type: string }
  /** LUKS, LVM, RAID and the like, or signatures that contradict each other. */
  | { readonly kind: "other"; readonly type: string };

/** The beginning of a device, as far as LUKS is concerned. */
export type CryptHeader =
  /**
   * `zeroed`: the device is blank, and all reads as zeros where a header and its copy go. `allZeroed`: so it does where
   * their key slots go, too.
   */
  | { readonly kind: "none"; readonly content: Content; readonly zeroed: boolean; readonly allZeroed: boolean }
  /** Of a format that ended before the header had a key slot: no key ever opened it. */
  | { readonly kind: "half-made" }
  /** As far as anybody can tell without a key. `integrity`: its layer has it. */
  | { readonly kind: "whole"; readonly integrity?: true };

export interface CryptFormat {
  readonly device: string;
  readonly key: Redacted.Redacted;
  /** Arguments that choose another cipher than the tool's own. */
  readonly cipher: readonly string[];
  /** What it may write over. */
  readonly over: "blank" | "half-made";
}

/** The format of a layer with integrity, whose header stays beside the device. */
export interface CryptPrepare extends CryptFormat {
  /** As cryptsetup names it: hmac-sha256. */
  readonly integrity: string;
  /** Of the layer. */
  readonly name: string;
}

/** A part of a header; what is in no part is zeros. */
export interface HeaderPart {
  readonly at: number;
  readonly bytes: Uint8Array;
}

export interface PreparedCrypt {
  /** The open layer. What was not written to it cannot be read. */
  readonly crypt: CryptDevice;
  /** What is not on the device yet. */
  readonly header: readonly HeaderPart[];
}

export interface CryptSeal extends Pick<CryptFormat, "device" | "over"> {
  readonly header: readonly HeaderPart[];
}

/** Whether a look has found anything but zeros, and where it goes on. */
export type DataLook = { readonly kind: "zeros"; readonly next: bigint } | { readonly kind: "data" };

export interface CryptOpen {
  readonly device: string;
  readonly name: string;
  readonly key: Redacted.Redacted;
  readonly readOnly: boolean;
}

export interface OpenedCrypt {
  readonly crypt: CryptDevice;
  /** Where the data begins on the device under it. */
  readonly headerBytes: bigint;
}

export interface CryptKeyTest {
  readonly device: string;
  readonly key: Redacted.Redacted;
  readonly slot?: number;
}

export interface CryptKeyAdd {
  readonly device: string;
  readonly key: Redacted.Redacted;
  readonly slot: number;
  readonly next: Redacted.Redacted;
}

export interface CryptSlotKill {
  readonly device: string;
  readonly key: Redacted.Redacted;
  readonly slot: number;
  readonly by: number;
}

/** The folder of a mounted filesystem that is published in place of its root where files are encrypted. */
export const ENCRYPTED_FOLDER = "ceph-csi-encrypted";

/** How far the encrypted folder of a mounted filesystem is made, and whether its files can be read now. */
export type CryptFolder =
  | { readonly kind: "none" }
  /** Of a setup that did not end: there are keys, and nothing that they could have encrypted. */
  | { readonly kind: "half-made" }
  | { readonly kind: "locked" }
  | { readonly kind: "unlocked" }
  /** Something that no setup leaves. `reason` says what it is and what to do, as a clause about the volume. */
  | { readonly kind: "other"; readonly reason: string };

export interface CryptFolderKey {
  /** Where the filesystem is mounted. */
  readonly point: string;
  /** How the key wraps those of the folder: by its bytes, or by a hash of it that takes time and memory. */
  readonly source: "raw_key" | "custom_passphrase";
  readonly key: Redacted.Redacted;
}

/** Below this the kernel sets no btrfs to another size: a smaller one keeps the size that it has. */
export const LEAST_RESIZED_BTRFS = 256n << 20n;

/** Why a machine cannot serve a filesystem. */
export interface FilesystemLack {
  /** As a clause about the machine. */
  readonly problem: string;
  readonly remedy: string;
}

export interface FilesystemOn {
  readonly device: string;
  readonly type: string;
}

export interface MkfsRequest extends FilesystemOn {
  /** Arguments of mkfs in place of the driver's own. */
  readonly options: readonly string[] | undefined;
  /** Whether files can be encrypted in it. Only ext4 is made so. */
  readonly encryptsFiles?: boolean;
}

export interface MountRequest {
  readonly source: string;
  readonly target: string;
  readonly type?: string;
  readonly options: readonly string[];
}

export interface DeviceState {
  readonly sizeBytes: bigint;
  readonly readOnly: boolean;
}

/** The usage of a mounted filesystem, in bytes and inodes. */
export interface Usage {
  readonly totalBytes: bigint;
  readonly usedBytes: bigint;
  /** The space that is left for users other than root. */
  readonly availableBytes: bigint;
  readonly totalInodes: bigint;
  readonly freeInodes: bigint;
}

export interface TroubleRequest {
  /** Of the mapped device: `/dev/rbd0`. */
  readonly path: string;
  /** What is written to: the device itself, or the layer over it. */
  readonly top: Pick<BlockDevice, "major" | "minor">;
}

/** What the kernel has noticed about a device since it was mapped, and about the filesystem on it. */
export interface Trouble {
  /** Ceph refuses the kernel's client. */
  readonly blocklisted: boolean;
  /** The image was removed while it was mapped. */
  readonly imageGone: boolean;
  /** The errno for which the kernel did not watch the image lately; absent: it does, as far as is known. */
  readonly unwatched?: number;
  /** How many I/O errors there were in the last ten minutes. */
  readonly ioErrors: number;
  /** The kernel's line about the newest of them. */
  readonly lastError?: string;
  /** How many errors ext4 has recorded in the filesystem since it was checked last. */
  readonly filesystemErrors: number;
}

/** What may be done with a device in a second; absent: as much as it can. */
export interface IoLimits {
  readonly readBytes?: bigint | undefined;
  readonly writeBytes?: bigint | undefined;
  readonly readOps?: bigint | undefined;
  readonly writeOps?: bigint | undefined;
}

export interface IoLimitRequest {
  /** As kubelet names the pod's folder. */
  readonly podUid: string;
  /** The number of the device. */
  readonly major: number;
  readonly minor: number;
  readonly limits: IoLimits;
}

/** A part of a filesystem, in bytes. */
export interface Stretch {
  readonly offset: bigint;
  /** Absent: to its end. */
  readonly length?: bigint;
}

export interface HostService {
  /** The bits of the image features that a mapper supports; `undefined`: unknown. Loads its module if needed. */
  readonly mapperFeatures: (mapper: MapperName) => Effect.Effect<bigint | undefined, HostError>;
  /** The devices of all mappers. */
  readonly mappedDevices: Effect.Effect<readonly MappedDevice[], HostError>;
  /** The clusters of the kernel's devices; rbd-nbd does not show its monitors. */
  readonly mappedClusters: Effect.Effect<readonly MappedCluster[], HostError>;
  /** Maps an image; -> its device, proven to be the image's. A failure without effect leaves nothing mapped. */
  readonly map: (request: MapRequest) => Effect.Effect<MappedDevice, HostError>;
  /** Gives a device of rbd-nbd, whose process has died, a new one, which serves the same image. */
  readonly attach: (device: MappedDevice, request: MapRequest) => Effect.Effect<MappedDevice, HostError>;
  /** Ends the process of a device of rbd-nbd in good order. The device stays, and its I/O waits for another process. */
  readonly detach: (device: MappedDevice) => Effect.Effect<void, HostError>;
  /** Ends this very mapping; succeeds if it does not exist any more. `DeviceBusy` names who uses the device. */
  readonly unmap: (device: MappedDevice, options: string) => Effect.Effect<void, HostError>;

  readonly cryptHeader: (device: string) => Effect.Effect<CryptHeader, HostError>;
  /** Makes a LUKS header; -> its bytes. Looks right before, and fails on what is not to be overwritten (`UnexpectedContent`). */
  readonly formatCrypt: (request: CryptFormat) => Effect.Effect<bigint, HostError>;
  /**
   * Makes the header of a layer with integrity, writes nothing where a header goes, and opens the layer. Looks right before,
   * and fails on what is not to be overwritten (`UnexpectedContent`).
   */
  readonly prepareCrypt: (request: CryptPrepare) => Effect.Effect<PreparedCrypt, HostError>;
  /** Writes zeros through an open layer for some seconds; -> up to where they are and last. */
  readonly wipeCrypt: (crypt: CryptDevice, from: bigint) => Effect.Effect<bigint, HostError>;
  /**
   * Writes a prepared header to its device; -> its bytes. A part of it never passes for the whole. Looks right before, and
   * fails on what is not to be overwritten (`UnexpectedContent`).
   */
  readonly sealCrypt: (request: CryptSeal) => Effect.Effect<bigint, HostError>;
  /** Reads a device for some seconds, or until it finds anything but zeros. */
  readonly lookForData: (device: string, from: bigint) => Effect.Effect<DataLook, HostError>;
  /** Opens the LUKS layer of a device. `HostRefused` if the key does not open it. */
  readonly openCrypt: (request: CryptOpen) => Effect.Effect<OpenedCrypt, HostError>;
  /** Closes this very layer; succeeds if it is not open any more. `DeviceBusy` names who uses it. */
  readonly closeCrypt: (crypt: CryptDevice) => Effect.Effect<void, HostError>;
  /** Grows an open layer to the size of the device under it if it is smaller; -> the layer's bytes afterwards. */
  readonly resizeCrypt: (crypt: CryptDevice, device: string) => Effect.Effect<bigint, HostError>;

  /** The key slot that a key opens; with `slot`, whether it opens that one. `undefined`: none. Changes nothing. */
  readonly cryptKeySlot: (request: CryptKeyTest) => Effect.Effect<number | undefined, HostError>;
  /** Adds a key to a free slot, by a key that opens another. `HostRefused` if none does, or if the slot is taken. */
  readonly addCryptKey: (request: CryptKeyAdd) => Effect.Effect<void, HostError>;
  /**
   * Empties a key slot; succeeds if it is empty. Proves right before that `key` opens the slot `by`, which is another one:
   * `HostRefused` if it does not, and nothing is changed.
   */
  readonly killCryptSlot: (request: CryptSlotKill) => Effect.Effect<void, HostError>;

  /** Looks into the mounted filesystem. Changes nothing in it. */
  readonly cryptFolder: (point: string) => Effect.Effect<CryptFolder, HostError>;
  /**
   * Makes the encrypted folder and unlocks it. `HostRefused` unless there is none, or a half-made one, and if the
   * filesystem does not have the feature for it.
   */
  readonly setUpCryptFolder: (request: CryptFolderKey) => Effect.Effect<void, HostError>;
  /** Unlocks the encrypted folder until the filesystem is unmounted. `HostRefused` if the key is another. */
  readonly unlockCryptFolder: (request: CryptFolderKey) => Effect.Effect<void, HostError>;

  /**
   * What this machine lacks for a filesystem that not each machine has; `undefined`: nothing. Loads its module if needed.
   */
  readonly filesystemLack: (type: string) => Effect.Effect<FilesystemLack | undefined, HostError>;
  readonly probe: (device: string) => Effect.Effect<Content, HostError>;
  /** Makes a filesystem. Probes right before, and fails on a device that is not blank (`UnexpectedContent`). */
  readonly mkfs: (request: MkfsRequest) => Effect.Effect<void, HostError>;
  /** Repairs what is safe to repair; -> fsck's output, "" if it found nothing. `FilesystemDamaged` for the rest. */
  readonly fsck: (filesystem: FilesystemOn) => Effect.Effect<string, HostError>;
  /** Grows a mounted filesystem to the size of its device if it is smaller; -> the filesystem's bytes afterwards. */
  readonly growFilesystem: (filesystem: FilesystemOn, point: string) => Effect.Effect<bigint, HostError>;
  /** The state of the device at this path; `undefined`: it does not exist. */
  readonly deviceState: (path: string) => Effect.Effect<DeviceState | undefined, HostError>;
  /** Decides whether openers of the device can write. Fails if it is mapped read-only. */
  readonly setReadOnly: (device: string, readOnly: boolean) => Effect.Effect<void, HostError>;

  readonly mountTable: Effect.Effect<MountTable, HostError>;
  /** The path with the symlinks of its parents resolved, and itself not; `undefined`: its parent does not exist. */
  readonly resolvePath: (path: string) => Effect.Effect<string | undefined, HostError>;
  readonly mount: (request: MountRequest) => Effect.Effect<void, HostError>;
  /** Unmounts the topmost mount at the path; succeeds if there is none. */
  readonly unmount: (point: string) => Effect.Effect<void, HostError>;
  /** Opens the path itself, so it must not be used for one that may be a mount point. */
  readonly pathKind: (path: string) => Effect.Effect<"absent" | "directory" | "file" | "other", HostError>;
  /** Makes a directory, and its parents; -> whether it did not exist before. `PathInTheWay`: it is something else. */
  readonly makeDirectory: (path: string) => Effect.Effect<boolean, HostError>;
  /** As `makeDirectory`, for an empty file. */
  readonly makeFile: (path: string) => Effect.Effect<boolean, HostError>;
  /** Removes an empty directory or an empty file, if it exists. `PathInTheWay` for anything else. */
  readonly removePath: (path: string) => Effect.Effect<void, HostError>;
  /**
   * Tells the device which blocks of a mounted filesystem are free, and gives how many bytes. `HostRefused` if the device
   * takes no discards. Takes as long as the stretch has to free.
   */
  readonly trim: (point: string, stretch: Stretch) => Effect.Effect<bigint, HostError>;
  readonly usage: (point: string) => Effect.Effect<Usage, HostError>;
  /** Answers soon, whatever the device does. */
  readonly trouble: (request: TroubleRequest) => Effect.Effect<Trouble, HostError>;

  /** Holds all processes of a pod to these limits of a device, and lifts others that they had of it. */
  readonly limitIo: (request: IoLimitRequest) => Effect.Effect<IoLimitAnswer, HostError>;

  /** The text of a small file; `undefined`: it does not exist. */
  readonly readText: (path: string) => Effect.Effect<string | undefined, HostError>;
  /** Writes or replaces a file of mode 0600. After a power cut it has the old text or the new one. */
  readonly writeText: (path: string, text: string) => Effect.Effect<void, HostError>;
  /** Removes a regular file with any text, if it exists. */
  readonly removeText: (path: string) => Effect.Effect<void, HostError>;
  /** Deals with the log of an rbd-nbd process that has ended; succeeds if there is none. */
  readonly endLog: (log: LogEnd) => Effect.Effect<void, HostError>;
}

export class Host extends Context.Service<Host, HostService>()("csi-rbd/Host") {}
