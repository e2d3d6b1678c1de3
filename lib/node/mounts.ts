/**
 * The steps on mounts that several Node RPCs take.
 *
 * Not here: the options of mounts (lib/host/filesystem.ts).
 *
 * 1. Only mounts of volumes are unmounted.
 * 2. A mount counts as made when the kernel's table shows it, with the device and the access that were asked for. A bind and
 *    its options are two calls of the kernel.
 */
import * as Effect from "effect/Effect";
import { Conflict, Precondition } from "../csi/errors.ts";
import { type HostError, PathInTheWay } from "../host/errors.ts";
import { notInForce, withoutJournal } from "../host/filesystem.ts";
import { Host, type MountRequest } from "../host/host.ts";
import { imageSpec } from "../host/mapped-device.ts";
import { isReadOnly, isRbdMount, type MountEntry, mountsAt } from "../host/mountinfo.ts";
import { shownBy, type StagedDevice } from "./staged-device.ts";

/** More mounts than these on one path mean that something mounts it again and again. */
const MAX_STACKED = 64;

/**
 * Mounts the filesystem of a device. If that takes no writes, nothing can replay the journal that the snapshot of a mounted
 * filesystem has; such a filesystem is mounted without it, as it is in its place on the device.
 */
export const mountFilesystem = Effect.fnUntraced(function* (
  { top }: StagedDevice,
  request: Required<Omit<MountRequest, "source">>,
): Effect.fn.Return<void, HostError, Host> {
  const host = yield* Host;
  const mount = host.mount({ ...request, source: top.path });
  const options = top.readOnly ? withoutJournal(request.type, request.options) : undefined;
  if (options === undefined) return yield* mount;
  yield* Effect.catchTag(mount, "HostFailed", ({ message }) =>
    Effect.andThen(
      Effect.logWarning(
        `the filesystem on ${top.path} is mounted without its journal (${options.join(",")}) because its device is read-only: changes of the moments before its snapshot may be missing. ${message}`,
      ),
      host.mount({ ...request, source: top.path, options }),
    ),
  );
});

/** Unmounts all mounts at a path, the visible one first. Fails at one that is not a volume's. */
export const unmountAll = Effect.fnUntraced(function* (point: string): Effect.fn.Return<void, HostError, Host> {
  const host = yield* Host;
  for (let layer = 0; layer < MAX_STACKED; layer += 1) {
    const visible = mountsAt(yield* host.mountTable, point).at(-1);
    if (visible === undefined) return;
    if (!isRbdMount(visible)) {
      const reason = `is a mount of ${visible.source} (${visible.fsType}), which is not a volume of this driver. Unmount it by hand`;
      return yield* new PathInTheWay({ op: "unmount", subject: point, reason });
    }
    yield* host.unmount(point);
  }
  const reason = `is still a mount point after ${MAX_STACKED} unmounts. Find out what mounts it again, and stop it`;
  return yield* new PathInTheWay({ op: "unmount", subject: point, reason });
});

/**
 * Fails unless the device is mounted as asked for: mount(8) mounts read-only what it cannot mount writable. `options` are
 * those that mount(8) was given; `root` is what of the filesystem is to be seen, where it is not all.
 */
export const proveMounted = Effect.fnUntraced(function* (
  point: string,
  device: StagedDevice,
  readOnly: boolean,
  options: readonly string[],
  root?: string,
): Effect.fn.Return<void, HostError | Precondition, Host> {
  const entry = mountsAt(yield* (yield* Host).mountTable, point).at(-1);
  const subject = `the mount at ${point}`;
  const remedy = 'Look at the log of the kernel ("dmesg"), then retry';
  if (entry === undefined || shownBy(entry, [device]) === undefined) {
    return yield* new Precondition({ subject, problem: `is not of ${device.top.path}`, remedy });
  }
  if (root !== undefined && entry.root !== root) {
    return yield* new Precondition({ subject, problem: `shows ${entry.root} of its filesystem, not ${root}`, remedy });
  }
  if (entry.options.includes("ro") !== readOnly || (!readOnly && isReadOnly(entry))) {
    const problem = readOnly ? "is writable, but must be read-only" : "is read-only, but must be writable";
    return yield* new Precondition({ subject, problem, remedy });
  }
  const missing = notInForce(options, entry.options);
  if (missing.length === 0) return;
  return yield* new Precondition({
    subject,
    problem: `lacks ${missing.join(", ")}, which it was mounted with`,
    remedy,
  });
});

/** Fails unless the mount at a target path is of this device, and takes writes if they are asked for. */
export const provePublished = (
  { mapped, top }: StagedDevice,
  entry: MountEntry,
  readOnly: boolean,
  root?: string,
): Effect.Effect<void, Conflict> => {
  const conflict = (problem: string) =>
    Effect.fail(
      new Conflict({
        subject: `target path ${entry.point}`,
        problem,
        remedy: "Unpublish it there, or use another target path",
      }),
    );
  const shown = shownBy(entry, [{ mapped, top }]);
  if (shown === undefined) return conflict(`is already a mount of ${entry.source}, not of image ${imageSpec(mapped)}`);
  if (root !== undefined && entry.root !== root) {
    return conflict(`is already a mount of ${entry.root} of its filesystem, and the request asks for ${root}`);
  }
  const takesNoWrites = entry.options.includes("ro") || (shown.kind === "block" && top.readOnly);
  if (takesNoWrites && !readOnly) return conflict("is already published read-only; the request asks for writable");
  return Effect.void;
};

/** Whether a mount allows what these options forbid: its driver was killed between the bind and the options of it. */
export const allowsMore = ({ options }: MountEntry, asked: readonly string[]): boolean =>
  (asked.includes("ro") && !options.includes("ro")) || notInForce(asked, options).length > 0;
