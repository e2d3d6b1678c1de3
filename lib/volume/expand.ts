/** ControllerExpandVolume: an image grows, and never shrinks. */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { Rbd } from "../ceph/rbd.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, VolumeNotFound } from "../csi/errors.ts";
import { chooseSize, type InvalidSize, SizeOutOfRange, type SizeRequest } from "../csi/size.ts";
import { locateVolume } from "../journal/locate.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";

export interface ExpandRequest {
  readonly volumeId: string;
  readonly credentials: Credentials;
  readonly size: SizeRequest;
  /** The volume is used as a raw block device: no filesystem has to follow. */
  readonly block: boolean;
}

export const expandVolume = ({ volumeId, credentials, size, block }: ExpandRequest) =>
  Effect.gen(function* () {
    const sizeBytes = yield* stage("validate", Effect.fromResult(growTo(size)));
    const limit = size.limitBytes ?? 0n;
    const rbd = yield* Rbd;
    const body = Effect.gen(function* () {
      const { pool, imageName, attributes } = yield* stage("find", locateVolume(volumeId, credentials));
      if (limit > 0n) {
        const { sizeBytes: now } = yield* stage("compare", rbd.imageStatus(pool, imageName));
        if (now > limit) {
          const reason = `the volume has ${now} bytes already, limit_bytes is ${limit}, and no volume shrinks`;
          return yield* new SizeOutOfRange({ reason });
        }
      }
      const capacityBytes = yield* stage("grow image", rbd.imageGrow(pool, imageName, sizeBytes));
      // The header of a LUKS device has to follow its image, also on a raw block volume.
      const luks = attributes?.encryptKms !== undefined && attributes.encryptionType !== "file";
      return { capacityBytes, nodeExpansionRequired: !block || luks };
    }).pipe(
      Effect.catchTag("ImageNotFound", ({ message }) => Effect.fail(new VolumeNotFound({ volumeId, reason: message }))),
    );
    return yield* stage("lock", (yield* Locks).withLock(`volume ${volumeId}`, "exclusive", body));
  });

/** 0 asks for no size: the size that there is will do. A range without any size is no request to grow. */
const growTo = (range: SizeRequest): Result.Result<bigint, InvalidRequest | InvalidSize | SizeOutOfRange> => {
  const nothing = (bytes: bigint | undefined) => bytes === undefined || bytes === 0n;
  if (nothing(range.requiredBytes) && nothing(range.limitBytes)) {
    const reason = "says neither required_bytes nor limit_bytes";
    return Result.fail(new InvalidRequest({ field: "capacity_range", reason }));
  }
  return Result.map(chooseSize(range), (size) => (nothing(range.requiredBytes) ? 0n : size));
};
