/**
 * Whether a node may map an image now: features that its kernel has, and nobody else who holds the image.
 *
 * Not here: mapping (lib/host). Watchers are how Ceph shows who has an image open; a dead node's watch ends by itself
 * after some 30 s, a partitioned node's does not.
 *
 * 1. Own kernel mappings of the image are not "somebody else": they are known by their client.
 * 2. Waiting ends before the caller's deadline, so that the caller reads who holds the image.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import { type Ceph, imageLabel } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { featureNames } from "../ceph/features.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";
import { UnexpectedContent } from "../host/errors.ts";
import type { MappedDevice } from "../host/mapped-device.ts";
import { CurrentOperation } from "../operations/operation.ts";
import type { VolumeImage } from "./volume-context.ts";

const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 10_000;

/** Who has the image open besides these devices and the cluster's own mirror daemons. */
export const otherWatchers = (
  { cluster }: VolumeImage,
  { watchers, mirror }: ImageStatus,
  own: readonly MappedDevice[],
): readonly string[] => {
  const others = watchers.filter((watcher) => !own.some(({ watcherId }) => watcher.split("/").includes(watcherId)));
  return others.length <= (mirror === "primary" ? cluster.mirrorDaemonCount : 0) ? [] : others;
};

/** The image's state once nobody but this node uses it. */
export const waitUntilFree = (
  volume: VolumeImage,
  own: (image: ImageStatus) => readonly MappedDevice[],
): Effect.Effect<ImageStatus, CephError | Precondition, Ceph> =>
  Effect.gen(function* () {
    const rbd = yield* Rbd;
    const operation = yield* CurrentOperation;
    for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 1.4, LONGEST_PAUSE)) {
      const image = yield* rbd.imageStatus(volume.pool, volume.imageName);
      const others = otherWatchers(volume, image, own(image));
      // a mirror's replica stays in use by its daemon: no reason to wait, and checkMappable refuses it
      if (others.length === 0 || image.mirror === "non-primary") return image;
      const left = (operation?.deadline ?? 0) - (yield* Clock.currentTimeMillis);
      if (left <= pause) return yield* inUse(volume, others);
      yield* Effect.sleep(pause);
    }
  });

export const inUse = ({ pool, imageName }: VolumeImage, others: readonly string[]): Precondition =>
  new Precondition({
    subject: "",
    problem: `image ${imageLabel(pool, imageName)} is in use by ${others.join(", ")}; if that node is dead, blocklist its address with "ceph osd blocklist add", then retry`,
  });

/** Fails when the image is one that this node must not write, or can't map. */
export const checkMappable = (
  { pool, imageName }: VolumeImage,
  image: ImageStatus,
  kernel: bigint | undefined,
): Effect.Effect<void, Precondition> => {
  const subject = `image ${imageLabel(pool, imageName)}`;
  if (image.mirror === "non-primary") {
    const message = `${subject} is a mirror of another cluster's image: promote it before it is used here`;
    return Effect.fail(new Precondition({ subject: "", problem: message }));
  }
  const lacking = kernel === undefined ? 0n : image.features & ~kernel;
  if (lacking === 0n) return Effect.void;
  const { names, unknown } = featureNames(lacking);
  const list = [...names, ...(unknown === 0n ? [] : [`0x${unknown.toString(16)}`])].join(", ");
  return Effect.fail(
    new Precondition({
      subject: "",
      problem: `${subject} has features that this node's kernel can't map: ${list}; disable them with "rbd feature disable", or use a newer kernel`,
    }),
  );
};

/** The device is this very image, of this very cluster, and nobody mapped it at the same time. */
export const proveOurs = (shared: boolean, volume: VolumeImage, before: ImageStatus, device: MappedDevice) =>
  Effect.gen(function* () {
    if (device.imageId !== before.id) {
      const reason = `it is image ${device.imageId} of cluster ${device.fsid}, not ${before.id}`;
      return yield* new UnexpectedContent({ op: "map", subject: device.path, reason });
    }
    if (shared) return;
    const status = yield* (yield* Rbd).imageStatus(volume.pool, volume.imageName);
    const others = otherWatchers(volume, status, [device]);
    if (others.length > 0) return yield* inUse(volume, others);
  });
