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
import { type HostError, UnexpectedContent } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { isImage, type MapperName } from "../host/mapped-device.ts";
import { provePrimary, proveUnused } from "../images/in-use.ts";
import { stage } from "../operations/pipeline.ts";
import { untilDeadline } from "../operations/until-deadline.ts";
import type { StagedDevice } from "./staged-device.ts";
import { toImageName, type VolumeImage } from "./volume-context.ts";

const WAIT = { first: "1 second", factor: 1.4, longest: "10 seconds" } as const;

/** How this node is to have an image. */
export interface MappingWanted {
  readonly context: { readonly mapper: MapperName };
  /** Whether other nodes may use the image at the same time. */
  readonly shared: boolean;
}

/** The image's state as soon as this node may map it. `devices` are all that the node has mapped. */
export const waitUntilMappable = Effect.fnUntraced(function* (
  image: VolumeImage,
  { context: { mapper }, shared }: MappingWanted,
  devices: readonly StagedDevice[],
): Effect.fn.Return<ImageStatus, CephError | HostError | Precondition, Host | Rbd> {
  const look = Effect.tap((yield* Rbd).imageStatus(image.pool, image.imageName), (status) =>
    shared
      ? provePrimary(image.pool, image.imageName, status)
      : proveUsable(image, status, devicesOfImage(devices, image, status)),
  );
  const status = yield* stage("wait for other users", untilDeadline(look, { while: isInUse, ...WAIT }));
  const features = yield* stage("read features of mapper", (yield* Host).mapperFeatures(mapper));
  yield* proveFeatures(image, status, features);
  return status;
});

const isInUse = ({ _tag }: { readonly _tag: string }): boolean => _tag === "Busy";

/** The devices of a node that are this very image: of its name and its ID. */
export const devicesOfImage = (
  devices: readonly StagedDevice[],
  image: VolumeImage,
  { id }: ImageStatus,
): readonly StagedDevice[] =>
  devices.filter(({ mapped }) => isImage(mapped, toImageName(image)) && mapped.imageId === id);

const proveUsable = ({ pool, imageName, cluster }: VolumeImage, status: ImageStatus, own: readonly StagedDevice[]) =>
  proveUnused(pool, imageName, status, {
    mirrorDaemons: cluster.mirrorDaemonCount,
    own: own.map(({ mapped }) => mapped.watcherId),
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
      remedy: 'Disable them with "rbd feature disable", or use a newer kernel',
    }),
  );
};

/** Fails unless the device is this very image of this cluster, and nobody else began to use it at the same time. */
export const proveOurs = Effect.fnUntraced(function* (
  image: VolumeImage,
  shared: boolean,
  before: ImageStatus,
  device: StagedDevice,
): Effect.fn.Return<void, CephError | Precondition | UnexpectedContent, Rbd> {
  const { path, imageId, fsid } = device.mapped;
  if (imageId !== before.id) {
    const reason = `it is image ${imageId} of cluster ${fsid}, not image ${before.id}. Check the monitors of the cluster in config.json`;
    return yield* new UnexpectedContent({ op: "map", subject: path, reason });
  }
  if (shared) return;
  const now = yield* (yield* Rbd).imageStatus(image.pool, image.imageName);
  yield* proveUsable(image, now, [device]);
});
