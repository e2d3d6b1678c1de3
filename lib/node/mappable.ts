/**
 * Whether this node may map an image: nobody else uses it, it is not a mirror, and the mapper knows all its features.
 *
 * Not here: what "in use" means (lib/images/in-use.ts), and mapping (lib/host/mapper).
 *
 * 1. This node's own mappings of the image are not somebody else: they are known by their watcher IDs.
 * 2. The wait ends before the caller's deadline, so that the caller reads who uses the image. The watch of a dead node
 *    ends by itself after about 30 s, that of a partitioned node does not.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { featureNames } from "../ceph/features.ts";
import { imageLabel } from "../ceph/label.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";
import { SERVICE_ACCOUNTS } from "../csi/service-accounts.ts";
import { type HostError, UnexpectedContent } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { isImage, type MappedDevice, type MapperName } from "../host/mapped-device.ts";
import { provePrimary, proveUnused, watcherOf, watchersOf } from "../images/in-use.ts";
import { stage } from "../operations/pipeline.ts";
import { POD_KEYS } from "../qos/image-limits.ts";
import { untilDeadline } from "../operations/until-deadline.ts";
import type { StagedDevice } from "./staged-device.ts";
import { cookieOf, toImageName, type VolumeContext, type VolumeImage } from "./volume-context.ts";

const WAIT = { first: "1 second", factor: 1.4, longest: "10 seconds" } as const;

/** How this node is to have an image. */
export interface MappingWanted {
  readonly context: {
    readonly mapper: MapperName;
    /** Whether rbd-nbd maps what the kernel's driver cannot. */
    readonly tryOtherMounters: boolean;
    readonly volumeId: string;
    readonly fixed: VolumeContext["fixed"];
  };
  /** Whether other nodes may use the image at the same time. */
  readonly shared: boolean;
}

export interface Mappable {
  readonly status: ImageStatus;
  /** The mapper that knows all features of the image. */
  readonly mapper: MapperName;
}

/**
 * The image's state as soon as this node may map it, with what its metadata says of pods. `devices` are all that the
 * node has mapped.
 */
export const waitUntilMappable = Effect.fnUntraced(function* (
  image: VolumeImage,
  { context, shared }: MappingWanted,
  devices: readonly StagedDevice[],
): Effect.fn.Return<Mappable, CephError | HostError | Precondition, Host | Rbd> {
  const own = (status: ImageStatus) => devicesOfImage(devices, image, status, cookieOf(context));
  const status = yield* untilUnused(image, shared, own, [
    SERVICE_ACCOUNTS,
    ...(context.mapper === "krbd" ? POD_KEYS : []),
  ]);
  const features = yield* stage("read features of mapper", (yield* Host).mapperFeatures(context.mapper));
  const proven = Effect.as(proveFeatures(image, status, features), context.mapper);
  if (!context.tryOtherMounters) return { status, mapper: yield* proven };
  const mapper = yield* Effect.catch(proven, ({ message }) =>
    Effect.as(
      Effect.logWarning(`volume ${context.volumeId} is mapped with rbd-nbd: ${message}`),
      "rbd-nbd" as MapperName,
    ),
  );
  return { status, mapper };
});

/** The image's state as soon as nobody but `own` uses it or, of a shared one, as soon as it is the primary. */
export const untilUnused = Effect.fnUntraced(function* (
  image: VolumeImage,
  shared: boolean,
  own: (status: ImageStatus) => readonly StagedDevice[],
  metadata: readonly string[] = [],
): Effect.fn.Return<ImageStatus, CephError | Precondition, Rbd> {
  const look = Effect.tap((yield* Rbd).imageStatus(image.pool, image.imageName, metadata), (status) =>
    shared ? provePrimary(image.pool, image.imageName, status) : proveUsable(image, status, own(status)),
  );
  return yield* stage("wait for other users", untilDeadline(look, { while: isInUse, ...WAIT }));
});

const isInUse = ({ _tag }: { readonly _tag: string }): boolean => _tag === "Busy";

/**
 * The devices of a node that are this very image: of its name and its ID or, with rbd-nbd, of its name and the volume's
 * cookie. A mapping of rbd-nbd that somebody made by hand has another cookie.
 */
export const devicesOfImage = (
  devices: readonly StagedDevice[],
  image: VolumeImage,
  { id }: ImageStatus,
  cookie: string,
): readonly StagedDevice[] =>
  devices.filter(({ mapped }) =>
    mapped.mapper === "krbd"
      ? isImage(mapped, toImageName(image)) && mapped.imageId === id
      : (mapped.image === "" || isImage(mapped, toImageName(image))) && mapped.cookie === cookie,
  );

const proveUsable = ({ pool, imageName, cluster }: VolumeImage, status: ImageStatus, own: readonly StagedDevice[]) =>
  proveUnused(pool, imageName, status, {
    mirrorDaemons: cluster.mirrorDaemonCount,
    own: own.map(({ mapped }) => mapped),
  });

const proveFeatures = (
  { pool, imageName }: VolumeImage,
  { features }: ImageStatus,
  supported: bigint | undefined,
): Effect.Effect<void, Precondition> => {
  const lacking = supported === undefined ? 0n : features & ~supported;
  if (lacking === 0n) return Effect.void;
  const { names, unknown } = featureNames(lacking);
  const list = [...names, ...(unknown === 0n ? [] : [`0x${unknown.toString(16)}`])].join(", ");
  return Effect.fail(
    new Precondition({
      subject: `image ${imageLabel(pool, imageName)}`,
      problem: `has features that this node's kernel does not support: ${list}`,
      remedy: 'Disable them with "rbd feature disable", use a newer kernel, or map with rbd-nbd (mounter)',
    }),
  );
};

/**
 * Fails unless the device is this very image of this cluster, and nobody else began to use it at the same time. -> the
 * device's client among the watchers, if those had to be read; "" if more than one may be it.
 */
export const proveOurs = Effect.fnUntraced(function* (
  image: VolumeImage,
  shared: boolean,
  before: ImageStatus,
  device: StagedDevice,
): Effect.fn.Return<string | undefined, CephError | Precondition | UnexpectedContent, Rbd> {
  const { mapped } = device;
  if (mapped.mapper === "rbd-nbd") return yield* proveWatched(image, shared, before, device);
  const { path, imageId, fsid } = mapped;
  if (imageId !== before.id) {
    const reason = `it is image ${imageId} of cluster ${fsid}, not image ${before.id}. Check the monitors of the cluster in config.json`;
    return yield* new UnexpectedContent({ op: "map", subject: path, reason });
  }
  if (shared) return undefined;
  const now = yield* (yield* Rbd).imageStatus(image.pool, image.imageName);
  yield* proveUsable(image, now, [device]);
  return watcherOf(now.watchers, mapped);
});

/**
 * A process of rbd-nbd does not tell the ID of its image. The proof is that this very image has a watcher from its
 * addresses or, if Ceph sees the node under another address, one that has come since.
 */
const proveWatched = Effect.fnUntraced(function* (
  image: VolumeImage,
  shared: boolean,
  before: ImageStatus,
  device: StagedDevice,
): Effect.fn.Return<string | undefined, CephError | Precondition | UnexpectedContent, Rbd> {
  const { path, addresses } = device.mapped;
  const now = yield* (yield* Rbd).imageStatus(image.pool, image.imageName);
  const come = now.watchers.filter((watcher) => !before.watchers.includes(watcher));
  const its = watcherOf(come, device.mapped) ?? come[0] ?? watcherOf(now.watchers, device.mapped);
  if (now.id !== before.id || its === undefined) {
    const reason = `no client from ${addresses.join(", ")} watches image ${before.id}, so it is another image. Check the monitors of the cluster in config.json`;
    return yield* new UnexpectedContent({ op: "map", subject: path, reason });
  }
  const known = onlyClient(come, now.watchers, device.mapped, shared);
  if (shared) return known;
  const others = now.watchers.filter((watcher) => watcher !== its);
  yield* proveUsable(image, { ...now, watchers: others }, []);
  return known;
});

/** Which watcher the client of rbd-nbd is, if it can be no other one: the node is fenced by it. */
const onlyClient = (come: readonly string[], all: readonly string[], mapped: MappedDevice, shared: boolean): string => {
  const only = (may: readonly string[]): string => (may.length === 1 ? (may[0] ?? "") : "");
  const itsAddress = watchersOf(come, mapped);
  if (itsAddress.length > 0) return only(itsAddress);
  // Ceph sees the node under another address, as it may see the others that use a shared image.
  if (come.length > 0) return shared ? "" : only(come);
  return only(watchersOf(all, mapped));
};
