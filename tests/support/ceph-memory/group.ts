/**
 * Groups of images in memory and their snapshots.
 *
 * Not here: the calls (./groups.ts).
 *
 * 1. An image is in one group at most, and each knows of the other, also while the image is in the trash.
 */
import type { MemoryImage, MemorySnapshot } from "./image.ts";

export interface MemoryGroup {
  readonly id: string;
  readonly images: Set<MemoryImage>;
  readonly snapshots: Map<string, MemoryGroupSnapshot>;
}

export interface MemoryGroupSnapshot {
  /** Not complete: its maker died on the way. The name is taken, some members have no snapshot. */
  complete: boolean;
  readonly members: MemorySnapshot[];
}

export const dropGroupSnapshot = (group: MemoryGroup, name: string): void => {
  for (const member of group.snapshots.get(name)?.members ?? []) member.image.dropSnapshot(member);
  group.snapshots.delete(name);
};

export const leaveGroup = (image: MemoryImage): void => {
  image.group?.images.delete(image);
  image.group = undefined;
};
