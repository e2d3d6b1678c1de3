/**
 * Images as block devices of this machine: their names, and what is known of a mapped one.
 *
 * Loaded in host cells: no Effect. All functions are pure.
 */
import type { BlockDevice } from "./mountinfo.ts";

/** The programs that map images; see ./mapper. */
export type MapperName = "krbd" | "rbd-nbd";

/** A LUKS layer that is open over a mapped device: what is written to it reaches the image encrypted. */
export interface CryptDevice extends BlockDevice {
  /** As device-mapper has it: `luks-rbd-<volume ID>`, as ceph-csi names it, too. */
  readonly name: string;
  readonly sizeBytes: bigint;
  readonly readOnly: boolean;
  /** It finds out that stored data were changed: it has a layer of dm-integrity under it, and cannot grow. */
  readonly integrity?: true;
}

export const CRYPT_PREFIX = "luks-rbd-";

/** A block device that a mapper has made of an image. */
export interface MappedDevice extends BlockDevice {
  readonly mapper: MapperName;
  /** "" where nothing tells it: rbd-nbd's process has died. */
  readonly pool: string;
  /** "" for the default namespace. */
  readonly namespace: string;
  /** "" as that of `pool`. */
  readonly image: string;
  /** "" with rbd-nbd, whose process does not show it. */
  readonly imageId: string;
  /** "" for the image itself. */
  readonly snapshot: string;
  /** "" with rbd-nbd. */
  readonly fsid: string;
  /** The mapper's client of the cluster, as it appears among the image's watchers: `client.4123`. "" with rbd-nbd. */
  readonly watcherId: string;
  /**
   * The addresses from which rbd-nbd's client may watch the image, because its ID is not known; none with krbd, and none if
   * its process has died.
   */
  readonly addresses: readonly string[];
  /** What was given to rbd-nbd to know the mapping again: the ID of its volume. "" with krbd. */
  readonly cookie: string;
  /** Whether somebody answers its I/O: false if rbd-nbd's process has died. */
  readonly served: boolean;
  readonly sizeBytes: bigint;
  readonly readOnly: boolean;
  /** The layer over it, as the kernel knows it; absent: there is none. */
  readonly crypt?: CryptDevice;
}

/** A cluster of which the kernel has mapped images. */
export interface MappedCluster {
  readonly fsid: string;
  /** The monitors by which they were mapped. The cluster may have others since. */
  readonly mappedBy: readonly string[];
  /** Those that the kernel's client knows now; `undefined`: it does not show them. */
  readonly monitors: readonly string[] | undefined;
  /** How many requests their devices have completed. */
  readonly completed: bigint;
}

export interface ImageName {
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
}

/** RBD's image-spec: `pool/image` or `pool/namespace/image`. */
export const imageSpec = ({ pool, namespace, image }: ImageName): string =>
  namespace === "" ? `${pool}/${image}` : `${pool}/${namespace}/${image}`;

/** Whether a device is the image itself, and not a snapshot of it. */
export const isImage = (device: MappedDevice, image: ImageName): boolean =>
  device.pool === image.pool &&
  device.namespace === image.namespace &&
  device.image === image.image &&
  device.snapshot === "";
