/**
 * How a volume that is staged already compares with what NodeStageVolume asks for: as requested, broken, or a conflict.
 *
 * Not here: what is on the node (./staged-volume.ts), and what is done about it (./stage.ts, ./stale-state.ts).
 *
 * 1. A mount is never trusted for its path alone: its device must be mapped, and must be of the volume's image.
 * 2. Only a volume that is staged as requested can be broken. Anything else at the staging target is a Conflict.
 */
import * as Effect from "effect/Effect";
import type { Capability } from "../csi/capability.ts";
import { hasHeader } from "../config/encryption.ts";
import { Conflict } from "../csi/errors.ts";
import type { HostStuck } from "../host/errors.ts";
import { serves } from "../host/filesystem.ts";
import { Host } from "../host/host.ts";
import { imageSpec, isImage } from "../host/mapped-device.ts";
import { isRbdMount, type MountEntry } from "../host/mountinfo.ts";
import { type ShownDevice, shownBy, type StagedDevice } from "./staged-device.ts";
import { canBeImageOf, type StagedVolume, visibleFault } from "./staged-volume.ts";
import type { VolumeContext } from "./volume-context.ts";

/** How a request wants the volume to be staged. */
export interface WantedVolume {
  readonly volumeId: string;
  readonly context: VolumeContext;
  readonly access: Capability["access"];
  readonly readOnly: boolean;
}

export type Comparison =
  | { readonly state: "not staged" }
  | { readonly state: "as requested"; readonly device: StagedDevice; readonly entry: MountEntry }
  /** As requested, but of no use any more. The device is absent if it is not mapped any more. */
  | { readonly state: "broken"; readonly why: string; readonly device: StagedDevice | undefined };

/** Compares what is mounted at the staging target with the request. Something else than it asks for is a Conflict. */
export const compareWithRequest = Effect.fnUntraced(function* (
  wanted: WantedVolume,
  now: StagedVolume,
): Effect.fn.Return<Comparison, Conflict | HostStuck, Host> {
  const entry = now.mounts.at(-1);
  if (entry === undefined) return { state: "not staged" };
  if (!isRbdMount(entry)) {
    return yield* new Conflict({
      subject: `staging target ${entry.point}`,
      problem: `is a mount of ${entry.source}, which is not a volume of this driver`,
      remedy: "Unmount it by hand",
    });
  }
  const shown = shownBy(entry, now.devices);
  if (shown === undefined) return { state: "broken", why: `${entry.source} is not mapped any more`, device: undefined };
  const { device } = shown;
  const difference = differenceOf(wanted, now, entry, shown);
  if (difference !== undefined) {
    return yield* new Conflict({
      subject: `volume ${wanted.volumeId}`,
      problem: `is already staged at ${entry.point} ${difference}`,
      remedy: "Unstage it before you stage it in another way",
    });
  }
  if (shown.kind === "block") return { state: "as requested", device, entry };
  const why = now.mounts.length > 1 ? "several mounts are stacked at the staging target" : yield* faultOf(entry);
  return why === undefined ? { state: "as requested", device, entry } : { state: "broken", why, device };
});

/** How the staged volume differs from the request, as a clause after "is already staged at P". */
const differenceOf = (
  { volumeId, context, access, readOnly }: WantedVolume,
  { imageMeta }: StagedVolume,
  entry: MountEntry,
  { device: { mapped }, kind }: ShownDevice,
): string | undefined => {
  const { fixed } = context;
  const isItsImage =
    (fixed === undefined
      ? canBeImageOf(volumeId, mapped)
      : fixed.imageName === mapped.image && fixed.pool === mapped.pool) &&
    (imageMeta.kind !== "read" || isImage(mapped, imageMeta.meta));
  if (!isItsImage) return `from image ${imageSpec(mapped)}, which is not its image`;
  if (hasHeader(context.encryption) && mapped.crypt === undefined) {
    return `from ${mapped.path} as it is; the request asks for encryption`;
  }
  if (kind !== access.kind)
    return `as ${kind}; the request asks for ${access.kind === "block" ? "block" : "a filesystem"}`;
  // The publish makes the device what its pod asks for.
  if (access.kind === "block") return undefined;
  if (!serves(entry.fsType, access.type)) {
    return `with ${entry.fsType}; the request asks for ${access.type}`;
  }
  // A reader gets a read-only bind of what is staged writable.
  return entry.options.includes("ro") && !readOnly ? "read-only; the request asks for writable" : undefined;
};

/** As `visibleFault`, and looks into the filesystem as well. One that has not answered yet has no fault that is known. */
const faultOf = Effect.fnUntraced(function* (entry: MountEntry): Effect.fn.Return<string | undefined, HostStuck, Host> {
  const visible = visibleFault(entry);
  if (visible !== undefined) return visible;
  return yield* (yield* Host).usage(entry.point).pipe(
    Effect.as(undefined),
    Effect.catch((error) => (error._tag === "HostStuck" ? Effect.fail(error) : Effect.succeed(error.message))),
  );
});
