/**
 * The limits of I/O that an image keeps in its metadata, where librbd and nodes find them. Keys and values are those of
 * ceph-csi 3.17. Pure.
 *
 * Three families of keys:
 * - `conf_rbd_qos_*`: what librbd holds rbd-nbd to. librbd reads them when it opens the image, and again when they change.
 * - `rbd_base_qos_*`, `rbd_max_qos_*`, `rbd_*_per_gib_limit`: from which the first are computed when the volume grows.
 * - `.rbd.csi.ceph.com/cgroup_qos_*`: what a node holds a pod to whose volume the kernel maps. A clone does not inherit them.
 *
 * 1. What is not asked for stays as it is (CSI: no change for the absence of a key).
 * 2. A kept value that cannot be read is an error where it counts, and never "no limit".
 * 3. librbd's limits hold for every client of librbd. An image that only the kernel maps gets none when it is made: they would
 *    slow exports and backups.
 */
import * as Result from "effect/Result";
import { GIB } from "../csi/size.ts";
import {
  type Asked,
  BASE_SIZE,
  baseKey,
  isMax,
  type Limited,
  MAX_LIMIT,
  maxKey,
  type Meter,
  METERS,
  NONE_WORD,
  perGibKey,
  POD_METERS,
  type PodMeter,
  readNumber,
} from "./parameters.ts";

/** `ReadIops` -> `read_iops`. */
const snake = (meter: Meter): string => meter.replaceAll(/(?<!^)[A-Z]/g, "_$&").toLowerCase();

const confOf = (meter: Meter): string => `conf_rbd_qos_${snake(meter)}_limit`;
const podKeyOf = (meter: PodMeter): string => `.rbd.csi.ceph.com/cgroup_qos_max_${snake(meter)}`;

/** Where the values are kept from which librbd's limits are computed, by parameter. */
const KEPT: ReadonlyMap<string, string> = new Map([
  ...METERS.flatMap((meter): readonly (readonly [string, string])[] => [
    [baseKey(meter), `rbd_base_qos_${snake(meter)}_limit`],
    [maxKey(meter), `rbd_max_qos_${snake(meter)}_limit`],
    [perGibKey(meter), `rbd_${snake(meter)}_per_gib_limit`],
  ]),
  [BASE_SIZE, "rbd_base_qos_vol_size"],
]);

/** The keys from which librbd's limits are computed. */
export const KEPT_KEYS: readonly string[] = [...KEPT.values()];
/** The keys that a node reads. */
export const POD_KEYS: readonly string[] = POD_METERS.map(podKeyOf);

/** Image metadata: `undefined` removes a key. */
export type Metadata = Readonly<Record<string, string | undefined>>;

/** All keys that say something of limits. */
export const LIMIT_KEYS: readonly string[] = [...KEPT_KEYS, ...METERS.map(confOf), ...POD_KEYS];

/**
 * All limits taken away: those that a clone inherits, and those that an earlier attempt gave it. Those of a volume are what
 * its own class says.
 */
export const NO_INHERITED_LIMITS: Metadata = Object.fromEntries(LIMIT_KEYS.map((key) => [key, undefined]));

/** A kept value that is not a number. */
export interface Unreadable {
  readonly key: string;
  readonly text: string;
}

/**
 * The limit for a size, in 64 bits. A base limit counts alone up to the base size, and whatever the maximum says. One of 0 is
 * none, which does not grow.
 */
export const limitFor = (
  sizeBytes: bigint,
  { base, perGib, max, baseSize }: { base: bigint; perGib?: bigint; max?: bigint; baseSize?: bigint },
): bigint => {
  if (base === 0n || perGib === undefined || baseSize === undefined || sizeBytes <= baseSize) return base;
  const grown = base + ((sizeBytes - baseSize) / GIB) * perGib;
  const cap = max === undefined || max === 0n ? MAX_LIMIT : max;
  return grown > cap ? cap : grown;
};

/** librbd's limits for a size, of the kept values of meters. Those without a base limit are left out. */
export const librbdLimits = (
  kept: ReadonlyMap<string, string>,
  sizeBytes: bigint,
  meters: readonly Meter[] = METERS,
): Result.Result<Readonly<Record<string, string>>, Unreadable> =>
  Result.gen(function* () {
    const limits: Record<string, string> = {};
    const number = (parameter: string): Result.Result<bigint | undefined, Unreadable> => {
      const key = KEPT.get(parameter) ?? parameter;
      const text = kept.get(key) ?? "";
      if (text === "" || (text === NONE_WORD && isMax(parameter))) return Result.succeed(undefined);
      const value = readNumber(text);
      return value === undefined ? Result.fail({ key, text }) : Result.succeed(value);
    };
    for (const meter of meters) {
      const base = yield* number(baseKey(meter));
      if (base === undefined) continue;
      const perGib = yield* number(perGibKey(meter));
      const max = yield* number(maxKey(meter));
      const baseSize = yield* number(BASE_SIZE);
      const parts = { ...(perGib !== undefined && { perGib }), ...(max !== undefined && { max }) };
      limits[confOf(meter)] = String(
        limitFor(sizeBytes, { base, ...parts, ...(baseSize !== undefined && { baseSize }) }),
      );
    }
    return limits;
  });

/** The meters of which a request changes librbd's limits. */
const metersOf = (asked: Asked): readonly Meter[] =>
  METERS.filter((meter) =>
    [BASE_SIZE, baseKey(meter), maxKey(meter), perGibKey(meter)].some((parameter) => asked.has(parameter)),
  );

/** The metadata to be set so that an image has the limits that are asked for; `now` is what it has of KEPT_KEYS. */
export const metadataFor = (
  asked: Asked,
  now: ReadonlyMap<string, string>,
  sizeBytes: bigint,
): Result.Result<Metadata, Unreadable> => {
  const changed = [...asked].flatMap(([parameter, { value }]): readonly (readonly [string, string | undefined])[] => {
    const key = KEPT.get(parameter);
    return key === undefined ? [] : [[key, value === "none" ? undefined : String(value)]];
  });
  const kept = new Map(now);
  for (const [key, text] of changed) kept.set(key, text ?? "");
  return Result.map(librbdLimits(kept, sizeBytes, metersOf(asked)), (limits) => ({
    ...Object.fromEntries(changed),
    ...limits,
    ...forPods(asked),
  }));
};

const forPods = (asked: Asked): Metadata =>
  Object.fromEntries(
    POD_METERS.flatMap((meter): readonly (readonly [string, string])[] => {
      const value = asked.get(maxKey(meter))?.value;
      return value === undefined ? [] : [[podKeyOf(meter), value === "none" ? NONE_WORD : String(value)]];
    }),
  );

/** The same for an image that has no limits yet, by what maps it. */
export const metadataForNew = (asked: Asked, sizeBytes: bigint, by: Limited): Metadata => {
  if (by === "krbd") return forPods(asked);
  // Nothing is kept that could be unreadable.
  const all = Result.getOrThrow(metadataFor(asked, new Map(), sizeBytes));
  return by === "either" ? all : Object.fromEntries(Object.entries(all).filter(([key]) => !POD_KEYS.includes(key)));
};

// -------------------------------------------------------------------------------------------------------- for pods

/** What a pod may do with a device, in operations and bytes per second; absent: as much as it can. */
export type PodLimits = Readonly<Partial<Record<PodMeter, bigint>>>;

/** The limits that an image's metadata has for pods; `undefined`: it says nothing of them. */
export const podLimits = (metadata: ReadonlyMap<string, string>): Result.Result<PodLimits | undefined, Unreadable> =>
  Result.gen(function* () {
    const limits: Partial<Record<PodMeter, bigint>> = {};
    let isSaid = false;
    for (const meter of POD_METERS) {
      const key = podKeyOf(meter);
      const text = metadata.get(key) ?? "";
      if (text === "") continue;
      isSaid = true;
      const value = text === NONE_WORD ? 0n : readNumber(text);
      if (value === undefined) return yield* Result.fail({ key, text });
      if (value > 0n) limits[meter] = value;
    }
    return isSaid ? limits : undefined;
  });
