/**
 * What the driver asks of the machine it runs on: one Effect service, `Host`, with two implementations of one
 * contract: ./live.ts over the kernel and its tools, tests/support/host-memory.ts for tests.
 *
 * Not here: anything of CSI. Names are the kernel's and RBD's.
 *
 * 1. Every method is one blocking call in a cell, with a limit of its own.
 * 2. Absence is a value (`undefined`, "absent") or a typed error, never inferred from another failure.
 * 3. There is no recursive removal, and no formatting of a device on which anything was found.
 */
import * as Context from "effect/Context";
import type * as Effect from "effect/Effect";
import type * as Redacted from "effect/Redacted";
import type { HostError } from "./errors.ts";
import type { DeviceNumber, MountTable } from "./mountinfo.ts";

/** An image as the kernel has it mapped. */
export interface MappedDevice extends DeviceNumber {
  readonly pool: string;
  /** "" is the default namespace. */
  readonly namespace: string;
  readonly image: string;
  readonly imageId: string;
  /** "" for the image itself. */
  readonly snapshot: string;
  readonly fsid: string;
  /** The kernel's client in the cluster, as watchers show it: `client.4123`. */
  readonly client: string;
  readonly sizeBytes: bigint;
  readonly readOnly: boolean;
}

export interface ImageName {
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
}

export interface MapRequest extends ImageName {
  readonly monitors: readonly string[];
  /** cephx id, without `client.`. */
  readonly user: string;
  readonly key: Redacted.Redacted;
  readonly readOnly: boolean;
  /** krbd's own options, comma-separated; "" for none. */
  readonly options: string;
  /** Path of the network namespace from which the cluster is reached. */
  readonly netNamespace: string | undefined;
}

/** What is on a block device. */
export type Content =
  /** No signature that blkid knows; `zeroed`: its beginning reads as zeros, too. */
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
  /** In place of the driver's own arguments. */
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

/** Of a mounted filesystem, in bytes and inodes. */
export interface Usage {
  readonly totalBytes: bigint;
  readonly usedBytes: bigint;
  /** What an ordinary user can still take. */
  readonly availableBytes: bigint;
  readonly totalInodes: bigint;
  readonly freeInodes: bigint;
}

export interface HostService {
  /** Feature bits that krbd supports; `undefined` where the kernel doesn't say. Loads the module if need be. */
  readonly krbdFeatures: Effect.Effect<bigint | undefined, HostError>;
  readonly mappedDevices: Effect.Effect<readonly MappedDevice[], HostError>;
  /** The device is there, is the image's, and is nobody else's. A definite failure leaves nothing mapped. */
  readonly map: (request: MapRequest) => Effect.Effect<MappedDevice, HostError>;
  /** Unmaps this very mapping; one that is gone already is fine. `DeviceBusy` names who uses it. */
  readonly unmap: (device: MappedDevice, options: string) => Effect.Effect<void, HostError>;

  readonly probe: (device: string) => Effect.Effect<Content, HostError>;
  /** Looks again right before, and makes nothing on a device that is not blank (`UnexpectedContent`). */
  readonly mkfs: (request: MkfsRequest) => Effect.Effect<void, HostError>;
  /** Repairs what is safe to. -> what fsck had to say, "" if nothing. `FilesystemDamaged` for the rest. */
  readonly fsck: (filesystem: FilesystemOn) => Effect.Effect<string, HostError>;
  /** Grows a mounted filesystem to its device where it is smaller; -> the filesystem's bytes then. */
  readonly growFilesystem: (filesystem: FilesystemOn, point: string) => Effect.Effect<bigint, HostError>;
  /** By path of the node; `undefined`: there is none. */
  readonly deviceState: (path: string) => Effect.Effect<DeviceState | undefined, HostError>;
  /** Whether openers of the device may write. Fails where the mapping itself is read-only. */
  readonly setReadOnly: (device: string, readOnly: boolean) => Effect.Effect<void, HostError>;

  readonly mountTable: Effect.Effect<MountTable, HostError>;
  /** The path with the symlinks of its parents resolved, itself untouched; `undefined`: no such parent. */
  readonly resolvePath: (path: string) => Effect.Effect<string | undefined, HostError>;
  readonly mount: (request: MountRequest) => Effect.Effect<void, HostError>;
  /** Takes away the topmost mount at the path. */
  readonly unmount: (point: string) => Effect.Effect<void, HostError>;
  /** Looks at the path itself: not for one that may be a mount point. */
  readonly pathKind: (path: string) => Effect.Effect<"absent" | "directory" | "file" | "other", HostError>;
  /** With its parents. -> whether it was not there before. `PathInTheWay` when something else is there. */
  readonly makeDirectory: (path: string) => Effect.Effect<boolean, HostError>;
  readonly makeFile: (path: string) => Effect.Effect<boolean, HostError>;
  /** An empty directory or an empty file. What is absent stays so; `PathInTheWay` for anything else. */
  readonly removePath: (path: string) => Effect.Effect<void, HostError>;
  readonly usage: (point: string) => Effect.Effect<Usage, HostError>;

  /** A small file's text; `undefined`: there is none. */
  readonly readText: (path: string) => Effect.Effect<string | undefined, HostError>;
  /** Replaces the file as one step that a power cut can't halve; mode 0600. */
  readonly writeText: (path: string, text: string) => Effect.Effect<void, HostError>;
  /** Removes a regular file, whatever is in it; absent is fine. */
  readonly removeText: (path: string) => Effect.Effect<void, HostError>;
}

export class Host extends Context.Service<Host, HostService>()("csi-rbd/Host") {}

export const imageSpec = ({ pool, namespace, image }: ImageName): string =>
  namespace === "" ? `${pool}/${image}` : `${pool}/${namespace}/${image}`;
