/**
 * A volume that is on its node already: whether it is the one that a request means, in the way it means, and sound.
 *
 * Not here: how a node is looked at (lib/node/staging.ts) and the order of steps (services/node.ts).
 *
 * 1. Nothing that is mounted is trusted for its path alone: its device has to be mapped, and of the volume's image.
 * 2. A filesystem that failed is taken down only when nobody else uses it.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Capability } from "../csi/capability.ts";
import { Conflict, Precondition, VolumeNotFound } from "../csi/errors.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import { HostStuck, UnexpectedContent } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { imageSpec, type MappedDevice } from "../host/mapped-device.ts";
import { isReadOnly, isShutDown, isVolumeMount, type MountEntry, mountsAt } from "../host/mountinfo.ts";
import type { DomainError } from "../operations/outcomes.ts";
import * as staging from "./staging.ts";
import type { VolumeContext } from "./volume-context.ts";

/** How a volume is to be staged. */
export interface Asked {
  readonly volumeId: string;
  readonly context: VolumeContext;
  readonly access: Capability["access"];
  readonly readOnly: boolean;
}

/** A volume that was staged in a way that this driver can't handle yet. */
export const refuseForeign = (volumeId: string, { stash }: staging.StagedVolume) => {
  if (stash.kind !== "read" || !(stash.stash.nbd || stash.stash.encrypted)) return Effect.void;
  const how = stash.stash.encrypted ? "encrypted" : "with rbd-nbd";
  const message = `volume ${volumeId} was staged ${how}, which this driver can't take over yet; drain the node with the driver that staged it`;
  return Effect.fail(new Precondition({ subject: "", problem: message }));
};

export type Found =
  | { readonly kind: "sound"; readonly device: MappedDevice; readonly entry: MountEntry }
  | { readonly kind: "broken"; readonly why: string; readonly device: MappedDevice | undefined };

/** What is mounted at the staging path already: `undefined`, nothing. Something else than asked for is a conflict. */
export const inspect = (
  { volumeId, context, access, readOnly }: Asked,
  { stack, devices, stash }: staging.StagedVolume,
): Effect.Effect<Found | undefined, DomainError, Host> =>
  Effect.gen(function* () {
    const entry = stack.at(-1);
    if (entry === undefined) return undefined;
    const conflict = (what: string) =>
      new Conflict({ subject: "", problem: `volume ${volumeId} is staged at ${entry.point} already, but ${what}` });
    if (!isVolumeMount(entry)) return yield* conflict(`it is a mount of ${entry.source}`);
    const found = staging.deviceOf(devices, entry);
    if (found === undefined) return { kind: "broken", why: `${entry.source} is mapped no more`, device: undefined };
    const { device, kind } = found;
    const expected =
      (context.fixed === undefined
        ? staging.mayBeImageOf(volumeId, device.image)
        : context.fixed.imageName === device.image && context.fixed.pool === device.pool) &&
      (stash.kind !== "read" || staging.sameImage(device, stash.stash));
    if (!expected) return yield* conflict(`from image ${imageSpec(device)}`);
    if (kind !== access.kind) return yield* conflict(`as ${kind}`);
    if (access.kind === "block") {
      return readOnly && !device.readOnly ? yield* conflict("writable") : { kind: "sound", device, entry };
    }
    if (access.type !== "" && access.type !== entry.fsType) return yield* conflict(`with ${entry.fsType}`);
    if (entry.options.includes("ro") !== readOnly) return yield* conflict(readOnly ? "writable" : "read-only");
    if (stack.length > 1) return { kind: "broken", why: "several mounts are stacked there", device };
    const why = yield* illness(entry);
    return why === undefined ? { kind: "sound", device, entry } : { kind: "broken", why, device };
  });

/** What the mount table says is wrong with a filesystem; `undefined`, nothing. */
export const symptom = (entry: MountEntry): string | undefined => {
  if (isShutDown(entry)) return "its filesystem was shut down after errors";
  return isReadOnly(entry) && !entry.options.includes("ro") ? "its filesystem went read-only after errors" : undefined;
};

/** As `symptom`, and looks into the filesystem. */
const illness = (entry: MountEntry) =>
  Effect.gen(function* () {
    const seen = symptom(entry);
    if (seen !== undefined) return seen;
    return yield* (yield* Host).usage(entry.point).pipe(
      Effect.as(undefined),
      Effect.catch(({ message }) => Effect.succeed(message)),
    );
  });

export const takeDown = (
  { volumeId }: Asked,
  place: string,
  { table }: staging.StagedVolume,
  staged: Found & { kind: "broken" },
) =>
  Effect.gen(function* () {
    const users = staged.device === undefined ? [] : staging.otherMounts(table, staged.device, [place]);
    if (users.length > 0) {
      const message = `volume ${volumeId} is staged, but ${staged.why}; end the pods that use it (${users.join(", ")}), then it is staged again`;
      return yield* new Precondition({ subject: "", problem: message });
    }
    yield* Effect.logWarning(`staging ${volumeId} again: ${staged.why}`);
    yield* staging.unmountAll(place);
  });

/** A mapping that no mount uses is from a stage that was cut off: its options may be others than are asked for. */
export const unmapLeftOver = (
  place: string,
  { table }: staging.StagedVolume,
  device: MappedDevice,
  context: VolumeContext,
) =>
  Effect.gen(function* () {
    const users = staging.otherMounts(table, device, [place]);
    if (users.length > 0) {
      const message = `image ${imageSpec(device)} is mapped as ${device.path} already, and in use at ${users.join(", ")}`;
      return yield* new Precondition({ subject: "", problem: message });
    }
    yield* (yield* Host).unmap(device, context.unmapOptions);
  });

/** mount(8) mounts read-only, with a warning, what it can't mount writable. */
export const proveMounted = (point: string, device: MappedDevice, readOnly: boolean) =>
  Effect.gen(function* () {
    const entry = mountsAt(yield* (yield* Host).mountTable, point).at(-1);
    if (entry === undefined || staging.deviceOf([device], entry) === undefined) {
      return yield* new UnexpectedContent({
        op: "mount",
        subject: point,
        reason: `${device.path} is not mounted there`,
      });
    }
    if (entry.options.includes("ro") === readOnly && (readOnly || !isReadOnly(entry))) return;
    const reason = readOnly
      ? "its mount is writable, and it has to be read-only"
      : "its mount is read-only, and it has to be writable";
    return yield* new UnexpectedContent({ op: "mount", subject: point, reason });
  });

export const provePublished = (device: MappedDevice, entry: MountEntry, readOnly: boolean) => {
  const conflict = (what: string) =>
    Effect.fail(new Conflict({ subject: "", problem: `${entry.point} is a mount already, but ${what}` }));
  const found = staging.deviceOf([device], entry);
  if (found === undefined) return conflict(`of ${entry.source}`);
  if (found.kind === "filesystem" && entry.options.includes("ro") !== readOnly) {
    return conflict(readOnly ? "writable" : "read-only");
  }
  if (found.kind === "block" && readOnly !== device.readOnly) return conflict(readOnly ? "writable" : "read-only");
  return Effect.succeed({});
};

export const notThere = (volumeId: string, path: string): VolumeNotFound =>
  new VolumeNotFound({ volumeId, reason: `it is not mounted at ${path}` });

/** The volume's mount at a path, and its device if that is mapped still. */
export const volumeAt = (volumeId: string, path: string) =>
  Effect.gen(function* () {
    const host = yield* Host;
    const point = yield* host.resolvePath(path);
    const entry = point === undefined ? undefined : mountsAt(yield* host.mountTable, point).at(-1);
    if (entry === undefined || !isVolumeMount(entry)) return yield* notThere(volumeId, path);
    const found = staging.deviceOf(yield* host.mappedDevices, entry);
    if (
      found !== undefined &&
      Result.isSuccess(parseVolumeId(volumeId)) &&
      !staging.mayBeImageOf(volumeId, found.device.image)
    ) {
      return yield* notThere(volumeId, path);
    }
    return { entry, found };
  });

/**
 * A failure after which something stays on the node, for the undoing failed too or would harm. kubelet takes a
 * definite error for "nothing is staged" and then never unstages, so this one is not definite.
 */
export const halfStaged = (volumeId: string, error: DomainError): HostStuck =>
  new HostStuck({
    op: "stage",
    subject: volumeId,
    reason: `${error.message}; the volume is half-staged, and a retry or NodeUnstageVolume goes on from there`,
  });
