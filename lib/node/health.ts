/**
 * What is wrong with a volume where it is mounted on this node: for NodeGetVolumeStats, NodeGetVolumeHealth, and a person.
 *
 * Not here: the health of its image in the cluster (lib/listing/volume-health.ts); the node has no credentials for that.
 *
 * 1. A filesystem that fails or does not answer is a fault of the volume, and not an error of the call.
 * 2. It answers in two seconds, whatever hangs: the host calls that can hang have a limit below that, and run side by side.
 * 3. What cannot be told is no fault.
 */
import * as Effect from "effect/Effect";
import type { VolumeNotFound } from "../csi/errors.ts";
import type { Fault } from "../csi/volume-health.ts";
import type { HostError } from "../host/errors.ts";
import { Host, type Trouble, type Usage } from "../host/host.ts";
import type { MappedDevice } from "../host/mapped-device.ts";
import { isShutDown, type MountEntry } from "../host/mountinfo.ts";
import { findMounted, findMountedVolume, visibleFault } from "./staged-volume.ts";

export interface VolumeState {
  /** Of a filesystem that answers. */
  readonly usage?: Usage;
  /** The bytes of a raw block device. */
  readonly deviceBytes?: bigint;
  readonly faults: readonly Fault[];
}

/** `path`: where the volume is mounted or bound, be it its staging target or a target path; absent: anywhere. */
export const volumeState = Effect.fn("node.volumeState")(function* (
  volumeId: string,
  path?: string,
): Effect.fn.Return<VolumeState, HostError | VolumeNotFound, Host> {
  const host = yield* Host;
  const { entry, shown } = yield* path === undefined ? findMounted(volumeId) : findMountedVolume(volumeId, path);
  if (shown === undefined) return { faults: [notMapped(entry)] };
  const { mapped, top } = shown.device;
  const gone = processGone(mapped);
  const isBlock = shown.kind === "block";
  if (gone.length > 0) return isBlock ? { deviceBytes: top.sizeBytes, faults: gone } : { faults: gone };
  const noticed = Effect.map(host.trouble({ path: mapped.path, top }), (trouble) => faultsIn(mapped, trouble)).pipe(
    Effect.catch(({ message }) => Effect.as(Effect.logDebug(message), [])),
  );
  if (isBlock) return { deviceBytes: top.sizeBytes, faults: yield* noticed };
  const used = host.usage(entry.point).pipe(
    Effect.map((usage): VolumeState => ({ usage, faults: [...visibleFaults(entry), ...spaceFaults(usage)] })),
    Effect.catch(({ message }) => Effect.succeed<VolumeState>({ faults: [noAnswer(message)] })),
  );
  const [state, faults] = yield* Effect.all([used, noticed], { concurrency: "unbounded" });
  return { ...state, faults: [...state.faults, ...faults] };
});

const inaccessible = (reason: string, message: string): Fault => ({ status: "inaccessible", reason, message });
const degraded = (reason: string, message: string): Fault => ({ status: "degraded", reason, message });

const notMapped = ({ source }: MountEntry): Fault => inaccessible("NotMapped", `${source} is not mapped any more`);

const noAnswer = (message: string): Fault => inaccessible("FilesystemFails", message);

const processGone = ({ path, served }: MappedDevice): readonly Fault[] =>
  served
    ? []
    : [inaccessible("ProcessGone", `the rbd-nbd process of ${path} has died, and its I/O waits for another one`)];

const visibleFaults = (entry: MountEntry): readonly Fault[] => {
  const message = visibleFault(entry);
  if (message === undefined) return [];
  return [isShutDown(entry) ? inaccessible("FilesystemShutDown", message) : degraded("FilesystemReadOnly", message)];
};

/** Filesystems without a table of inodes tell of none. */
const spaceFaults = ({ availableBytes, totalInodes, freeInodes }: Usage): readonly Fault[] => {
  if (availableBytes === 0n) return [degraded("NoSpaceLeft", "its filesystem is full: no bytes are left")];
  return totalInodes > 0n && freeInodes === 0n
    ? [degraded("NoInodesLeft", "its filesystem is full: no inodes are left")]
    : [];
};

const faultsIn = ({ path }: MappedDevice, trouble: Trouble): readonly Fault[] => {
  const { blocklisted, imageGone, unwatched, ioErrors, lastError = "", filesystemErrors } = trouble;
  const faults: Fault[] = [];
  if (imageGone) {
    faults.push({
      status: "data loss",
      reason: "ImageGone",
      message: `its image was removed while ${path} was mapped`,
    });
  } else if (blocklisted) {
    const message = `Ceph refuses the client of ${path}: it is, or was, on the blocklist. Stage the volume anew once its fence is lifted`;
    faults.push(inaccessible("ClientBlocklisted", message));
  } else if (unwatched !== undefined) {
    const message = `the kernel could not watch the image of ${path} in the last two minutes (errno ${unwatched}), and tries again: until it can, it does not learn of changes, and others may take the image for unused`;
    faults.push(degraded("Unwatched", message));
  }
  if (ioErrors > 0) {
    const many = ioErrors === 1 ? "an I/O error" : `${ioErrors} I/O errors`;
    faults.push(degraded("IoErrors", `${path} had ${many} in the last ten minutes, the newest: ${lastError}`));
  }
  if (filesystemErrors > 0) {
    const message = `ext4 has recorded ${filesystemErrors} errors in its filesystem: have it checked (fsck)`;
    faults.push(degraded("FilesystemErrors", message));
  }
  return faults;
};
