/** The settings of volumes and snapshots that flags decide, as a service that recipes ask for. */
import * as Context from "effect/Context";
import * as Duration from "effect/Duration";
import * as Layer from "effect/Layer";
import type { Flags } from "./flags.ts";

export interface CloneDepthLimits {
  /** From this many parents on an image is flattened soon. */
  readonly softDepth: number;
  /** From this many parents on an image is flattened before it is cloned again. */
  readonly hardDepth: number;
}

export interface Settings {
  /** Part of the keys of topology segments. */
  readonly driverName: string;
  /** Names the journals: `csi.volumes.<instanceId>`, `csi.snaps.<instanceId>`. */
  readonly instanceId: string;
  /** Written into the metadata of images next to the names of their claim and volume, or snapshot, if not "". */
  readonly clusterName: string;
  readonly cloneDepth: CloneDepthLimits;
  /** For how long a removed image stays protected in the trash, for an administrator to purge; 0: it goes at once. */
  readonly trashDelay: Duration.Duration;
  /** Whether the client of a node that is out of service is fenced before its volumes go to other nodes. */
  readonly fencing: boolean;
  /** Snapshots of one image: above the first no new one; above the second flattening begins. */
  readonly maxSnapshots: number;
  readonly minSnapshots: number;
  /**
   * How long a removal waits for an image to fall out of use: whoever purges a child of it, the manager say, has it open
   * for a moment. Half of the shortest time that a sidecar waits by default.
   */
  readonly inUsePatience: Duration.Duration;
  /** How many members of one request, or entries of one page, are worked on side by side. */
  readonly atOnce: number;
}

const IN_USE_PATIENCE = Duration.seconds(5);
const AT_ONCE = 16;

export const settingsOf = (flags: Flags): Settings => ({
  driverName: flags.driverName,
  instanceId: flags.instanceId,
  clusterName: flags.clusterName,
  cloneDepth: { softDepth: flags.rbdSoftMaxCloneDepth, hardDepth: flags.rbdHardMaxCloneDepth },
  trashDelay: flags.trashDelay,
  fencing: flags.enableFencing,
  maxSnapshots: flags.maxSnapshotsOnImage,
  minSnapshots: flags.minSnapshotsOnImage,
  inUsePatience: IN_USE_PATIENCE,
  atOnce: AT_ONCE,
});

export class DriverSettings extends Context.Service<DriverSettings, Settings>()("csi-rbd/DriverSettings") {
  static readonly layer = (flags: Flags): Layer.Layer<DriverSettings> => DriverSettings.layerOf(settingsOf(flags));
  static readonly layerOf = (settings: Settings): Layer.Layer<DriverSettings> =>
    Layer.succeed(DriverSettings, DriverSettings.of(settings));
}
