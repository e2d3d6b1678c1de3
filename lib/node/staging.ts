/**
 * A volume on its node, as found: mounts, kernel mappings and stash taken together; and the steps on mounts that more
 * than one RPC takes.
 *
 * Layout (ceph-csi's): `<staging>/<volumeId>` is the mount or, for raw block, a file with the device bound over it;
 * `<staging>/image-meta.json` is the stash (./image-meta.ts).
 *
 * 1. What is mounted is said by the kernel's mount table alone, what is mapped by sysfs alone. The stash says only
 *    which image was meant, and a missing or broken one is made up for.
 * 2. Nothing here unmounts a mount that is not a volume's.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { DeviceBusy, type HostError, PathInTheWay } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { type ImageName, imageSpec, isImage, type MappedDevice } from "../host/mapped-device.ts";
import {
  isFilesystemOf,
  isNodeOf,
  isVolumeMount,
  type MountEntry,
  type MountTable,
  mountsAt,
  mountsOf,
} from "../host/mountinfo.ts";
import { decodeStash, encodeStash, type Stash } from "./image-meta.ts";

export type FoundStash =
  | { readonly kind: "absent" }
  | { readonly kind: "corrupt"; readonly reason: string }
  | { readonly kind: "read"; readonly stash: Stash };

export interface StagedVolume {
  /** `<staging>/<volumeId>` without symlinks; `undefined`: the staging path does not exist. */
  readonly place: string | undefined;
  readonly stack: MountTable;
  readonly table: MountTable;
  readonly devices: readonly MappedDevice[];
  readonly stash: FoundStash;
}

export const stashPath = (staging: string): string => `${staging}/image-meta.json`;

export const lookAtStaging = (staging: string, volumeId: string): Effect.Effect<StagedVolume, HostError, Host> =>
  Effect.gen(function* () {
    const host = yield* Host;
    const place = yield* host.resolvePath(`${staging}/${volumeId}`);
    const text = place === undefined ? undefined : yield* host.readText(stashPath(staging));
    const table = yield* host.mountTable;
    const devices = yield* host.mappedDevices;
    return {
      place,
      table,
      devices,
      stack: place === undefined ? [] : mountsAt(table, place),
      stash: text === undefined ? { kind: "absent" } : readStash(text),
    };
  });

const readStash = (text: string): FoundStash => {
  const decoded = decodeStash(text);
  return Result.isSuccess(decoded)
    ? { kind: "read", stash: decoded.success }
    : { kind: "corrupt", reason: decoded.failure };
};

export const writeStash = (
  staging: string,
  image: ImageName,
  unmapOptions: string,
): Effect.Effect<void, HostError, Host> =>
  Effect.flatMap(Host, (host) =>
    host.writeText(
      stashPath(staging),
      encodeStash({
        ...image,
        unmapOptions,
        nbd: false,
        encrypted: false,
        device: "",
        logDir: "",
        logFileStrategy: "",
      }),
    ),
  );

/** The mapped device that a mount shows, and how; `undefined`: none that is mapped now. */
export const deviceOf = (
  devices: readonly MappedDevice[],
  entry: MountEntry,
): { readonly device: MappedDevice; readonly kind: "block" | "filesystem" } | undefined => {
  const filesystem = devices.find((device) => isFilesystemOf(entry, device));
  if (filesystem !== undefined) return { device: filesystem, kind: "filesystem" };
  const node = devices.find((device) => isNodeOf(entry, device));
  return node === undefined ? undefined : { device: node, kind: "block" };
};

/** Where else than at these paths a device is mounted. */
export const otherMounts = (table: MountTable, device: MappedDevice, paths: readonly string[]): readonly string[] =>
  mountsOf(table, device).flatMap(({ point }) => (paths.includes(point) ? [] : [point]));

export const sameImage = isImage;

/** Whether the name of an image is one that the volume's can have: it ends in the handle's UUID, or is the handle. */
export const mayBeImageOf = (volumeId: string, image: string): boolean => {
  const uuid = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.exec(volumeId)?.[0];
  return image === volumeId || (uuid !== undefined && image.endsWith(uuid));
};

/**
 * The mapped devices that are the volume's: what its mount shows, else what the stash names, else what has its UUID.
 * Devices of one name in different clusters can't be told apart without the mount, so they are a failure.
 */
export const devicesOf = (
  volumeId: string,
  { stack, devices, stash }: StagedVolume,
): Effect.Effect<readonly MappedDevice[], DeviceBusy | PathInTheWay> => {
  const mounted = stack.flatMap((entry) => deviceOf(devices, entry)?.device ?? []);
  const stranger = stash.kind === "read" ? mounted.find((device) => !sameImage(device, stash.stash)) : undefined;
  if (stranger !== undefined) {
    const reason = `shows ${imageSpec(stranger)}, but its image-meta.json names another image; remove the wrong one of the two by hand`;
    return Effect.fail(new PathInTheWay({ op: "unmount", subject: stack[0]?.point ?? volumeId, reason }));
  }
  const named =
    stash.kind === "read"
      ? devices.filter((device) => sameImage(device, stash.stash))
      : devices.filter((device) => device.snapshot === "" && mayBeImageOf(volumeId, device.image));
  const [first] = mounted;
  const ours = [...new Set([...mounted, ...named.filter((device) => first === undefined || isTwin(device, first))])];
  if (ours.every((device) => isTwin(device, ours[0]!))) return Effect.succeed(ours);
  const list = ours.map(({ path, fsid }) => `${path} (cluster ${fsid})`);
  return Effect.fail(new DeviceBusy({ op: "unmap", subject: `volume ${volumeId}`, holders: list }));
};

const isTwin = (a: MappedDevice, b: MappedDevice): boolean =>
  a.fsid === b.fsid && a.imageId === b.imageId && sameImage(a, b);

/** More stacked mounts than this at one path were made by something that will go on making them. */
const MAX_STACK = 64;

/** Takes away what is mounted at the path, layer by layer, as long as it is a volume's. */
export const unmountAll = (point: string): Effect.Effect<void, HostError, Host> =>
  Effect.gen(function* () {
    const host = yield* Host;
    for (let layer = 0; layer < MAX_STACK; layer++) {
      const top = mountsAt(yield* host.mountTable, point).at(-1);
      if (top === undefined) return;
      if (!isVolumeMount(top)) {
        const reason = `is a mount of ${top.source} (${top.fsType}), which is no volume; unmount it by hand`;
        return yield* new PathInTheWay({ op: "unmount", subject: point, reason });
      }
      yield* host.unmount(point);
    }
    const reason = `is still a mount point after ${MAX_STACK} unmounts; something mounts it again`;
    return yield* new PathInTheWay({ op: "unmount", subject: point, reason });
  });
