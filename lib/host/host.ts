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
import type { ImageName, MappedDevice, MapperName } from "./mapped-device.ts";
import type { MountTable } from "./mountinfo.ts";

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
}

/** The content of a block device, by its signatures. */
export type Content =
  /** blkid finds no signature. `zeroed`: its first bytes read as zeros, too. */
  | { readonly kind: "blank"; readonly zeroed: boolean }
  | { readonly kind: "filesystem"; readonly type: string }
  | { readonly kind: "partitions"; readonly type: string }
  /** LUKS, LVM, RAID and the like, or signatures that contradict each other. */
  | { readonly kind: "other"; readonly type: string };

export interface FilesystemOn {
  readonly device: string;
  readonly type: string;
}

export interface MkfsRequest extends FilesystemOn {
  /** Arguments of mkfs in place of the driver's own. */
  readonly options: readonly string[] | undefined;
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

export interface HostService {
  /** The bits of the image features that a mapper supports; `undefined`: unknown. Loads its module if needed. */
  readonly mapperFeatures: (mapper: MapperName) => Effect.Effect<bigint | undefined, HostError>;
  /** The devices of all mappers. */
  readonly mappedDevices: Effect.Effect<readonly MappedDevice[], HostError>;
  /** Maps an image; -> its device, proven to be the image's. A failure without effect leaves nothing mapped. */
  readonly map: (request: MapRequest) => Effect.Effect<MappedDevice, HostError>;
  /** Ends this very mapping; succeeds if it does not exist any more. `DeviceBusy` names who uses the device. */
  readonly unmap: (device: MappedDevice, options: string) => Effect.Effect<void, HostError>;

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
  readonly usage: (point: string) => Effect.Effect<Usage, HostError>;

  /** The text of a small file; `undefined`: it does not exist. */
  readonly readText: (path: string) => Effect.Effect<string | undefined, HostError>;
  /** Writes or replaces a file of mode 0600. After a power cut it has the old text or the new one. */
  readonly writeText: (path: string, text: string) => Effect.Effect<void, HostError>;
  /** Removes a regular file with any text, if it exists. */
  readonly removeText: (path: string) => Effect.Effect<void, HostError>;
}

export class Host extends Context.Service<Host, HostService>()("csi-rbd/Host") {}
