/**
 * The size of a volume for a capacity range: rounding, the default, and the limits. Pure.
 *
 * Not here: images, pools and the space in them.
 *
 * 1. A chosen size is a multiple of 1 MiB, at least 1 MiB, at least required_bytes and at most limit_bytes.
 * 2. Without a limit in its way it is the size ceph-csi would have chosen.
 */
import * as Data from "effect/Data";
import * as Result from "effect/Result";

export const MIB = 1n << 20n;
export const GIB = 1n << 30n;
/** The size of a volume when the request does not ask for one. */
export const DEFAULT_SIZE = GIB;
/** 1 EiB. Far above what an image can usefully be, far below where int64 arithmetic ends. */
export const MAX_SIZE = 1n << 60n;

/** CSI's CapacityRange. A bound that is absent or 0 does not apply. */
export interface SizeRequest {
  readonly requiredBytes?: bigint | undefined;
  readonly limitBytes?: bigint | undefined;
}

/** The request contradicts itself. */
export class InvalidSize extends Data.TaggedError("InvalidSize")<{ readonly reason: string }> {
  override get message(): string {
    return `invalid capacity range: ${this.reason}`;
  }
}

/** No size that this driver can make lies within the range. */
export class SizeOutOfRange extends Data.TaggedError("SizeOutOfRange")<{ readonly reason: string }> {
  override get message(): string {
    return `capacity out of range: ${this.reason}`;
  }
}

const roundUpTo = (bytes: bigint, unit: bigint): bigint => ((bytes + unit - 1n) / unit) * unit;

/** Up to the next MiB below 1 GiB, up to the next GiB from there on. 0 stays 0. */
export const roundUp = (bytes: bigint): bigint => roundUpTo(bytes, bytes < GIB ? MIB : GIB);

/** The size for a capacity range. A limit that the rounding to GiB would exceed is met by rounding to MiB. */
export const chooseSize = (request: SizeRequest): Result.Result<bigint, InvalidSize | SizeOutOfRange> => {
  const required = request.requiredBytes ?? 0n;
  const limit = request.limitBytes ?? 0n;
  if (required < 0n) return Result.fail(new InvalidSize({ reason: `required_bytes ${required} is negative` }));
  if (limit < 0n) return Result.fail(new InvalidSize({ reason: `limit_bytes ${limit} is negative` }));
  if (limit > 0n && limit < required) {
    return Result.fail(new InvalidSize({ reason: `limit_bytes ${limit} is below required_bytes ${required}` }));
  }
  if (required > MAX_SIZE) {
    const reason = `required_bytes ${required} is above the largest size, ${MAX_SIZE} bytes`;
    return Result.fail(new SizeOutOfRange({ reason }));
  }
  if (limit > 0n && limit < MIB) {
    const reason = `limit_bytes ${limit} is below the smallest size, ${MIB} bytes`;
    return Result.fail(new SizeOutOfRange({ reason }));
  }
  const fits = (bytes: bigint): boolean => limit === 0n || bytes <= limit;
  if (required === 0n) return Result.succeed(fits(DEFAULT_SIZE) ? DEFAULT_SIZE : limit - (limit % MIB));
  const chosen = [roundUp(required), roundUpTo(required, MIB)].find(fits);
  if (chosen !== undefined) return Result.succeed(chosen);
  const reason = `no multiple of ${MIB} bytes lies between required_bytes ${required} and limit_bytes ${limit}`;
  return Result.fail(new SizeOutOfRange({ reason }));
};
