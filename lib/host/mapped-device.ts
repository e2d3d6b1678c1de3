/**
 * Images as block devices of this machine: their names, and what is known of a mapped one.
 *
 * Loaded in host cells: no Effect. All functions are pure.
 */
import type { BlockDevice } from "./mountinfo.ts";

/** The programs that map images; see ./mapper. */
export type MapperName = "krbd";

/** A block device that a mapper has made of an image. */
export interface MappedDevice extends BlockDevice {
  readonly mapper: MapperName;
  readonly pool: string;
  /** "" for the default namespace. */
  readonly namespace: string;
  readonly image: string;
  readonly imageId: string;
  /** "" for the image itself. */
  readonly snapshot: string;
  readonly fsid: string;
  /** The mapper's client of the cluster, as it appears among the image's watchers: `client.4123`. */
  readonly watcherId: string;
  readonly sizeBytes: bigint;
  readonly readOnly: boolean;
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
