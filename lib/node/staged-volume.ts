/**
 * A volume as it is on its node already: its mounts, its mapped devices and its image-meta.json, taken together.
 *
 * The layout is ceph-csi's: `<staging_target_path>/<volume_id>` is the mount or, for raw block, a file that the device
 * is bound over; `<staging_target_path>/image-meta.json` names the image (./image-meta.ts).
 *
 * Not here: whether it is as a request asks for (./compare-with-request.ts), and what is done about it (./stage.ts,
 * ./stale-state.ts, ./unstage.ts).
 *
 * 1. The kernel's mount table alone says what is mounted, and the mappers alone say what is mapped. image-meta.json
 *    only says which image was meant, and may be missing or broken.
 * 2. A volume's devices are found by its mount, by image-meta.json, or by its UUID. If these disagree, nothing is done.
 * 3. Other programs make network block devices too, and theirs have no cookie. So one without a cookie is the volume's only
 *    if an rbd-nbd process serves the image from it, or if it is mounted at the staging target. Kernels before 5.14 keep no
 *    cookie, so this is all that is known of a device whose process has died there.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { basename, dirname } from "node:path";
import { Precondition, VolumeNotFound } from "../csi/errors.ts";
import { parseMigratedId } from "../csi/migrated-volume-id.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { type ImageName, imageSpec, isImage, type MappedDevice } from "../host/mapped-device.ts";
import { isReadOnly, isShutDown, isRbdMount, type MountEntry, type MountTable, mountsAt } from "../host/mountinfo.ts";
import { decodeImageMeta, encodeImageMeta, type ImageMeta, imageMetaPath } from "./image-meta.ts";
import { otherMounts, type ShownDevice, shownBy, stackOver, type StagedDevice } from "./staged-device.ts";

/** Where a volume is staged. */
export interface StagedPlace {
  readonly volumeId: string;
  /** The request's staging_target_path. */
  readonly stagingPath: string;
}

export type FoundImageMeta =
  | { readonly kind: "absent" }
  | { readonly kind: "corrupt"; readonly reason: string }
  | { readonly kind: "read"; readonly meta: ImageMeta };

export interface StagedVolume {
  readonly volumeId: string;
  /** `<staging_target_path>/<volume_id>` without symlinks; `undefined`: the staging target path does not exist. */
  readonly stagingTarget: string | undefined;
  /** The mounts at the staging target, the visible one last. */
  readonly mounts: MountTable;
  /** All mounts of the node. */
  readonly mountTable: MountTable;
  /** All mapped images of the node. */
  readonly devices: readonly StagedDevice[];
  readonly imageMeta: FoundImageMeta;
}

// ------------------------------------------------------------------------------------------------ what is there

export const lookAtStagedVolume = Effect.fnUntraced(function* ({
  volumeId,
  stagingPath,
}: StagedPlace): Effect.fn.Return<StagedVolume, HostError, Host> {
  const host = yield* Host;
  const stagingTarget = yield* host.resolvePath(`${stagingPath}/${volumeId}`);
  const text = stagingTarget === undefined ? undefined : yield* host.readText(imageMetaPath(stagingPath));
  const mountTable = yield* host.mountTable;
  const imageMeta: FoundImageMeta = text === undefined ? { kind: "absent" } : readImageMeta(text);
  const mounts = stagingTarget === undefined ? [] : mountsAt(mountTable, stagingTarget);
  const mapped = (yield* host.mappedDevices).map((device) => completed(volumeId, device, imageMeta, mounts));
  return {
    volumeId,
    stagingTarget,
    mounts,
    mountTable,
    devices: mapped.map(stackOver),
    imageMeta,
  };
});

/** A device of the volume whose rbd-nbd process has died has its image from image-meta.json. */
const completed = (volumeId: string, device: MappedDevice, found: FoundImageMeta, mounts: MountTable): MappedDevice => {
  if (device.image !== "" || found.kind !== "read" || !found.meta.nbd) return device;
  const { pool, namespace, image, device: path } = found.meta;
  const isShown = () => mounts.some((entry) => shownBy(entry, [stackOver(device)]) !== undefined);
  const isIts = device.cookie === "" ? isShown() : hasCookieOf(volumeId, { ...device, image });
  return isIts && (path === "" || path === device.path) ? { ...device, pool, namespace, image } : device;
};

/** Whether a mapping of rbd-nbd was made for the volume. The cookie of a migrated one is the image. */
const hasCookieOf = (volumeId: string, { cookie, image }: MappedDevice): boolean =>
  cookie !== "" && (cookie === volumeId || cookie === image);

const readImageMeta = (text: string): FoundImageMeta => {
  const decoded = decodeImageMeta(text);
  return Result.isSuccess(decoded)
    ? { kind: "read", meta: decoded.success }
    : { kind: "corrupt", reason: decoded.failure };
};

export const writeImageMeta = (stagingPath: string, meta: ImageMeta): Effect.Effect<void, HostError, Host> =>
  Effect.flatMap(Host, (host) => host.writeText(imageMetaPath(stagingPath), encodeImageMeta(meta)));

export const removeImageMeta = (stagingPath: string): Effect.Effect<void, HostError, Host> =>
  Effect.flatMap(Host, (host) => host.removeText(imageMetaPath(stagingPath)));

// ------------------------------------------------------------------------------------------- which devices are its

/**
 * Whether an image can be the volume's, by its name: it ends in the UUID of the volume ID, or is the volume ID. The ID of one
 * that the in-tree plugin made names image and pool.
 */
export const canBeImageOf = (volumeId: string, { pool, image }: Pick<ImageName, "pool" | "image">): boolean => {
  const migrated = parseMigratedId(volumeId);
  if (Result.isSuccess(migrated)) return image === migrated.success.imageName && pool === migrated.success.pool;
  const uuid = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.exec(volumeId)?.[0];
  return image === volumeId || (uuid !== undefined && image.endsWith(uuid));
};

/**
 * The devices of the volume: the mounted one, and others of the same image. The image is the one that image-meta.json
 * names, or else any that can be its by the volume ID.
 */
export const devicesOfVolume = (now: StagedVolume): Effect.Effect<readonly StagedDevice[], Precondition> => {
  const { volumeId, mounts, devices, imageMeta, stagingTarget } = now;
  const mounted = mounts.flatMap((entry) => shownBy(entry, devices)?.device ?? []);
  const meta = imageMeta.kind === "read" ? imageMeta.meta : undefined;
  const stranger = meta && mounted.find(({ mapped }) => !isImage(mapped, meta));
  if (stranger !== undefined) {
    return Effect.fail(
      new Precondition({
        subject: `staging target ${stagingTarget ?? volumeId}`,
        problem: `is a mount of image ${imageSpec(stranger.mapped)}, but the image-meta.json beside it names another image`,
        remedy: "Find out which of the two is wrong, and remove it by hand",
      }),
    );
  }
  const isNamed = ({ mapped }: StagedDevice) => {
    // Old kernels keep no cookie: then the process alone tells the image.
    const isIts = mapped.cookie === "" ? mapped.served : hasCookieOf(volumeId, mapped);
    if (mapped.mapper === "rbd-nbd" && !isIts) return false;
    return meta === undefined ? isCandidate(volumeId, mapped) : isImage(mapped, meta);
  };
  const [first] = mounted;
  const same = devices.filter(
    (device) => isNamed(device) && (first === undefined || isTwin(device.mapped, first.mapped)),
  );
  const ours = [...new Set([...mounted, ...same])];
  if (ours.every((device) => isTwin(device.mapped, ours[0]!.mapped))) return Effect.succeed(ours);
  return Effect.fail(
    new Precondition({
      subject: `volume ${volumeId}`,
      problem: `is not mounted, and several images can be its: ${ours.map(describeDevice).join(", ")}`,
      remedy: 'Unmap those of other volumes with "rbd device unmap", then retry',
      holders: ours.map(({ mapped }) => mapped.path),
    }),
  );
};

const describeDevice = ({ mapped }: StagedDevice): string =>
  `${mapped.path} (image ${imageSpec(mapped)}${mapped.fsid === "" ? "" : ` of cluster ${mapped.fsid}`})`;

/** Without image-meta.json: a device whose process has died says nothing of its image, but has the volume's ID. */
const isCandidate = (volumeId: string, mapped: MappedDevice): boolean =>
  mapped.image === "" ? mapped.cookie === volumeId : mapped.snapshot === "" && canBeImageOf(volumeId, mapped);

/** Whether two devices are of one image, as far as what is known of them tells. */
const isTwin = (a: MappedDevice, b: MappedDevice): boolean =>
  isSame(a.fsid, b.fsid) && isSame(a.imageId, b.imageId) && (a.image === "" || b.image === "" || isImage(a, b));

const isSame = (a: string, b: string): boolean => a === "" || b === "" || a === b;

/** Fails if a device is mounted anywhere but at the staging target. */
export const proveUnpublished = (
  { volumeId, mountTable, stagingTarget }: StagedVolume,
  devices: readonly StagedDevice[],
): Effect.Effect<void, Precondition> => {
  const users = devices.flatMap((device) => otherMounts(mountTable, device, [stagingTarget]));
  if (users.length === 0) return Effect.void;
  return Effect.fail(
    new Precondition({
      subject: `volume ${volumeId}`,
      problem: `is still mounted at ${users.join(", ")}`,
      remedy: "Unpublish it there, then retry",
      holders: users,
    }),
  );
};

/** Whether nothing but its mounts tells whose device this is. */
export const isNameless = ({ image, cookie }: MappedDevice): boolean => image === "" && cookie === "";

/**
 * The ID of the volume whose nameless device this is: it is mounted at the volume's staging target, and the image-meta.json beside
 * that names it. `undefined`: nothing tells, or several volumes.
 */
export const ownerOf = Effect.fnUntraced(function* (
  device: MappedDevice,
  table: MountTable,
): Effect.fn.Return<string | undefined, never, Host> {
  const host = yield* Host;
  const owners = yield* Effect.forEach(new Set(otherMounts(table, stackOver(device), [])), (point) =>
    host.readText(imageMetaPath(dirname(point))).pipe(
      Effect.map((text) => {
        const found = text === undefined ? undefined : readImageMeta(text);
        const isIts = found?.kind === "read" && found.meta.nbd && found.meta.device === device.path;
        return isIts ? [basename(point)] : [];
      }),
      Effect.orElseSucceed((): string[] => []),
    ),
  );
  const [owner, ...others] = new Set(owners.flat());
  return others.length === 0 ? owner : undefined;
});

// ---------------------------------------------------------------------------------------------- at any of its paths

/** A mount of the volume, and its device; the device is absent if it is not mapped any more. */
export interface MountedVolume {
  readonly entry: MountEntry;
  readonly shown: ShownDevice | undefined;
}

/** Whether a device is the volume's; `undefined`: nothing tells. */
const isOf = Effect.fnUntraced(function* (
  volumeId: string,
  mapped: MappedDevice,
  table: MountTable,
): Effect.fn.Return<boolean | undefined, never, Host> {
  if (!isNameless(mapped)) return mapped.cookie === volumeId || canBeImageOf(volumeId, mapped);
  const owner = yield* ownerOf(mapped, table);
  return owner === undefined ? undefined : owner === volumeId;
});

/** The volume as it is mounted at a path, be it its staging target or where it is published. */
export const findMountedVolume = Effect.fnUntraced(function* (
  volumeId: string,
  path: string,
): Effect.fn.Return<MountedVolume, HostError | VolumeNotFound, Host> {
  const host = yield* Host;
  const point = yield* host.resolvePath(path);
  const table = yield* host.mountTable;
  const entry = point === undefined ? undefined : mountsAt(table, point).at(-1);
  if (entry === undefined || !isRbdMount(entry)) return yield* notMountedAt(volumeId, path);
  const shown = shownBy(entry, (yield* host.mappedDevices).map(stackOver));
  const isDynamic = Result.isSuccess(parseVolumeId(volumeId));
  const mapped = shown?.device.mapped;
  const isIts = mapped === undefined || (yield* isOf(volumeId, mapped, table)) !== false;
  if (isDynamic && !isIts) return yield* notMountedAt(volumeId, path);
  return { entry, shown };
});

/** The volume wherever it is mounted on this node: at the mount of it that is the oldest. */
export const findMounted = Effect.fnUntraced(function* (
  volumeId: string,
): Effect.fn.Return<MountedVolume, HostError | VolumeNotFound, Host> {
  const host = yield* Host;
  const table = yield* host.mountTable;
  const mapped = yield* host.mappedDevices;
  const its = yield* Effect.filter(mapped, (each) => Effect.map(isOf(volumeId, each, table), (is) => is === true));
  const devices = its.map(stackOver);
  for (const entry of table) {
    const shown = shownBy(entry, devices);
    if (shown !== undefined) return { entry, shown };
  }
  return yield* new VolumeNotFound({ volumeId, reason: "it is not mounted on this node" });
});

export const notMountedAt = (volumeId: string, path: string): VolumeNotFound =>
  new VolumeNotFound({ volumeId, reason: `it is not mounted at ${path}` });

/** What the mount table shows to be wrong with a filesystem; `undefined`: nothing. */
export const visibleFault = (entry: MountEntry): string | undefined => {
  if (isShutDown(entry)) return "the kernel shut its filesystem down after errors";
  return isReadOnly(entry) && !entry.options.includes("ro") ? "its filesystem went read-only after errors" : undefined;
};
