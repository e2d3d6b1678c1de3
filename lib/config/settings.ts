/** What the flags decide about volumes and snapshots. */
import type { Flags } from "./flags.ts";

export interface VolumeOptions {
  /** Names the journals: `csi.volumes.<instanceId>`, `csi.snaps.<instanceId>`. */
  readonly instanceId: string;
  /** Whether images carry the names of their claim and volume, or snapshot, as metadata. */
  readonly setMetadata: boolean;
  /** Written next to those names, if not "". */
  readonly clusterName: string;
  readonly chain: CloneDepthLimits;
  /** Snapshots of one image: above the first no new one; above the second flattening begins. */
  readonly maxSnapshots: number;
  readonly minSnapshots: number;
}

export const volumeOptions = (flags: Flags): VolumeOptions => ({
  instanceId: flags.instanceId,
  setMetadata: flags.setMetadata,
  clusterName: flags.clusterName,
  chain: { softDepth: flags.rbdSoftMaxCloneDepth, hardDepth: flags.rbdHardMaxCloneDepth },
  maxSnapshots: flags.maxSnapshotsOnImage,
  minSnapshots: flags.minSnapshotsOnImage,
});

export interface CloneDepthLimits {
  /** From this many parents on an image is flattened soon. */
  readonly softDepth: number;
  /** From this many parents on an image is flattened before it is cloned again. */
  readonly hardDepth: number;
}
