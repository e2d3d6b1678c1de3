/**
 * ControllerExpandVolume: grows an image, and librbd's limits of its I/O with it. No image shrinks.
 */
import { constants } from "node:os";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { CephError, CephFailed } from "../ceph/errors.ts";
import type { PoolRef, Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import { encryptionIn } from "../config/encryption.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, type LockHeld, Precondition, VolumeNotFound } from "../csi/errors.ts";
import { chooseSize, type InvalidSize, SizeOutOfRange, type SizeRequest } from "../csi/size.ts";
import { clearLeftLocks, isLocked } from "../images/left-locks.ts";
import { type ImageRef, layerPlace } from "../kms/image-keys.ts";
import { locateVolume } from "../journal/locate.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { KEPT_KEYS } from "../qos/image-limits.ts";
import { growLimits } from "./modify.ts";

export interface ExpandRequest {
  readonly volumeId: string;
  readonly credentials: Credentials;
  readonly size: SizeRequest;
  /** The volume is used as a raw block device: no filesystem has to follow. */
  readonly block: boolean;
}

export interface ExpandedVolume {
  readonly capacityBytes: bigint;
  readonly nodeExpansionRequired: boolean;
}

export type ExpandVolumeError =
  | CephError
  | ConfigError
  | InvalidRequest
  | InvalidSize
  | LockHeld
  | Precondition
  | SizeOutOfRange
  | VolumeNotFound;

type Needs = ClusterMapping | Clusters | Rados | Rbd;

export const expandVolume = Effect.fn("volume.expandVolume")(function* (
  request: ExpandRequest,
): Effect.fn.Return<ExpandedVolume, ExpandVolumeError, Needs | Locks> {
  const { volumeId, size } = request;
  const sizeBytes = yield* stage("validate", Effect.fromResult(sizeToGrowTo(size)));
  const grown = growLocated(request, sizeBytes).pipe(
    Effect.catchTag("ImageNotFound", ({ message }) => Effect.fail(new VolumeNotFound({ volumeId, reason: message }))),
  );
  return yield* (yield* Locks).with([LockKey.volume(volumeId)], grown);
});

const growLocated = Effect.fnUntraced(function* (
  { volumeId, credentials, size, block }: ExpandRequest,
  sizeBytes: bigint,
): Effect.fn.Return<ExpandedVolume, CephError | ConfigError | Precondition | SizeOutOfRange | VolumeNotFound, Needs> {
  const rbd = yield* Rbd;
  const limit = size.limitBytes ?? 0n;
  const { pool, imageName, attributes } = yield* stage("find", locateVolume(volumeId, credentials));
  if (limit > 0n) {
    const { sizeBytes: now } = yield* stage("compare", rbd.imageHeader(pool, imageName));
    if (now > limit) {
      const reason = `the volume has ${now} bytes already, and limit_bytes is ${limit}. No volume shrinks`;
      return yield* new SizeOutOfRange({ reason });
    }
  }
  // The header of a LUKS device has to follow its image, also on a raw block volume.
  const luks = encryptionIn(attributes)?.type === "block";
  const fixed = luks && (yield* stage("compare", proveGrows(volumeId, { pool, imageName }, sizeBytes)));
  const grow = rbd.imageGrow(pool, imageName, sizeBytes, KEPT_KEYS);
  const unlocked = (error: CephFailed) => clearLocks(pool, imageName, error);
  const grown = yield* stage(
    "grow image",
    Effect.catchTag(grow, "CephFailed", (error) => Effect.andThen(unlocked(error), grow)),
  );
  yield* growLimits(pool, imageName, grown);
  const capacityBytes = grown.sizeBytes;
  return { capacityBytes, nodeExpansionRequired: !fixed && (!block || luks) };
});

/**
 * Fails if the volume's layer would not follow its image. Of what ceph-csi has made, the first stage here tells. -> whether
 * the layer never grows.
 */
const proveGrows = Effect.fnUntraced(function* (
  volumeId: string,
  image: ImageRef,
  sizeBytes: bigint,
): Effect.fn.Return<boolean, CephError | Precondition | SizeOutOfRange, Rbd> {
  const now = yield* layerPlace(image);
  if (!now.integrity || sizeBytes <= now.sizeBytes) return now.integrity;
  if (now.wiping) {
    return yield* new Precondition({
      subject: `volume ${volumeId}`,
      problem:
        "is wiped, or its wipe was cut off, and as a volume with integrity (integrityMode) it keeps the size that it was made with. Nothing was changed",
      remedy: "Stage it to its end, or make a larger volume in its place",
    });
  }
  return yield* new SizeOutOfRange({
    reason: `volume ${volumeId} has integrity (integrityMode), and such a volume keeps the size that it was made with, ${now.sizeBytes} bytes. Nothing was changed: copy its data into a larger volume`,
  });
});

/** librbd's answer while a lock keeps it from writing. */
const { EROFS } = constants.errno;

/** After a growth that failed. Fails with its error if no lock is why. */
const clearLocks = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  error: CephFailed,
): Effect.fn.Return<void, CephError | Precondition, Rbd> {
  if (error.errno !== EROFS) return yield* error;
  const now = yield* (yield* Rbd).imageStatus(pool, imageName);
  if (!isLocked(now)) return yield* error;
  yield* clearLeftLocks(pool, imageName, now);
});

/** 0: the present size will do, because the range has only a limit. A range without any size is refused. */
const sizeToGrowTo = (range: SizeRequest): Result.Result<bigint, InvalidRequest | InvalidSize | SizeOutOfRange> => {
  const nothing = (bytes: bigint | undefined) => bytes === undefined || bytes === 0n;
  if (nothing(range.requiredBytes) && nothing(range.limitBytes)) {
    const reason = "has neither required_bytes nor limit_bytes";
    return Result.fail(new InvalidRequest({ field: "capacity_range", reason }));
  }
  return Result.map(chooseSize(range), (size) => (nothing(range.requiredBytes) ? 0n : size));
};
