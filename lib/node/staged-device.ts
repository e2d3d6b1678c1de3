/**
 * The device of a volume on its node, as a stack: the image as it is mapped, and the device that is mounted or bound.
 * The two are one device, unless the volume is encrypted: then the second is the LUKS layer over the first.
 *
 * 1. `mapped` is compared with images and is unmapped. `top` is probed, formatted, mounted, bound, grown, and set
 *    read-only.
 * 2. A use of any device of the stack is a use of the volume.
 */
import type { MappedDevice } from "../host/mapped-device.ts";
import { type BlockDevice, isFilesystemOf, isNodeOf, type MountEntry, type MountTable } from "../host/mountinfo.ts";

export interface TopDevice extends BlockDevice {
  readonly sizeBytes: bigint;
  readonly readOnly: boolean;
}

export interface StagedDevice {
  readonly mapped: MappedDevice;
  readonly top: TopDevice;
}

/** The stack over a mapped device, as the kernel has it. */
export const stackOver = (mapped: MappedDevice): StagedDevice => ({ mapped, top: mapped.crypt ?? mapped });

/** A device, and how a mount shows it: the filesystem on it, or its node. */
export interface ShownDevice {
  readonly device: StagedDevice;
  readonly kind: "block" | "filesystem";
}

/** The device that a mount shows; `undefined`: it is not mapped any more. */
export const shownBy = (entry: MountEntry, devices: readonly StagedDevice[]): ShownDevice | undefined => {
  const filesystem = devices.find(({ top }) => isFilesystemOf(entry, top));
  if (filesystem !== undefined) return { device: filesystem, kind: "filesystem" };
  const node = devices.find(({ top }) => isNodeOf(entry, top));
  return node && { device: node, kind: "block" };
};

/** The mounts of a device that are not at one of `paths`. */
export const otherUses = (
  table: MountTable,
  { mapped, top }: StagedDevice,
  paths: readonly (string | undefined)[],
): MountTable => {
  const isUse = (entry: MountEntry) =>
    [top, mapped].some((device) => isFilesystemOf(entry, device) || isNodeOf(entry, device));
  return table.filter((entry) => isUse(entry) && !paths.includes(entry.point));
};

/** The mount points of a device that are not among `paths`. */
export const otherMounts = (...asked: Parameters<typeof otherUses>): readonly string[] =>
  otherUses(...asked).map(({ point }) => point);
