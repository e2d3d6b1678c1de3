/**
 * The parameters that limit the I/O of a volume, in a StorageClass or a VolumeAttributesClass. Their names, values and
 * meaning are those of ceph-csi 3.17; the older spelling is that of 3.13 to 3.16. Pure.
 *
 * Not here: what of it an image keeps (./image-limits.ts).
 *
 * 1. An empty value says nothing, as if the key were absent. Of two spellings of one key today's counts.
 * 2. "max" and 0 both mean: no limit.
 */
import * as Result from "effect/Result";
import { InvalidParameter } from "../config/errors.ts";
import type { ParameterMap } from "../config/parameter-kinds.ts";
import { InvalidRequest } from "../csi/errors.ts";
import { closest } from "../text/closest.ts";
import { oneLine } from "../text/printable.ts";

/** What is limited: operations or bytes in a second, of reads, of writes, or of both together. */
export const METERS = ["Iops", "ReadIops", "WriteIops", "Bps", "ReadBps", "WriteBps"] as const;
export type Meter = (typeof METERS)[number];

/** Those that the kernel can hold a pod to. It knows no limit of reads and writes together. */
export const POD_METERS = ["ReadIops", "WriteIops", "ReadBps", "WriteBps"] as const satisfies readonly Meter[];
export type PodMeter = (typeof POD_METERS)[number];

export const isPodMeter = (meter: Meter): meter is PodMeter => (POD_METERS as readonly Meter[]).includes(meter);

/** The volume size up to which the base limit alone counts, in bytes. */
export const BASE_SIZE = "baseVolSizeBytes";
export const baseKey = (meter: Meter): string => `base${meter}`;
export const maxKey = (meter: Meter): string => `max${meter}`;
export const perGibKey = (meter: Meter): string => `${meter.charAt(0).toLowerCase()}${meter.slice(1)}PerGiB`;

/** Each key in today's spelling, with the older one where there was one. */
const SPELLINGS: ReadonlyMap<string, string | undefined> = new Map([
  ...METERS.flatMap((meter): readonly (readonly [string, string | undefined])[] => [
    [baseKey(meter), `Base${meter.replace("Bps", "BytesPerSecond")}`],
    [maxKey(meter), undefined],
    [perGibKey(meter), `${meter}PerGiB`],
  ]),
  [BASE_SIZE, "BaseVolSizeBytes"],
]);

/** What classes say of limits, by today's keys. */
export type Asked = ReadonlyMap<string, AskedLimit>;

export interface AskedLimit {
  /** The key as it was spelled. */
  readonly spelled: string;
  /** In operations or bytes per second, or in bytes; `none`: it shall not limit. */
  readonly value: bigint | "none";
}

export const NONE_WORD = "max";
export const isMax = (key: string): boolean => METERS.some((meter) => key === maxKey(meter));

/** ceph-csi reads Go's int64. */
export const MAX_LIMIT = 2n ** 63n - 1n;

/** A number as ceph-csi reads it; `undefined`: it is none. */
export const readNumber = (text: string): bigint | undefined => {
  const value = /^\+?\d{1,30}$/.test(text) ? BigInt(text) : MAX_LIMIT + 1n;
  return value > MAX_LIMIT ? undefined : value;
};

const readValue = (key: string, text: string): bigint | "none" | undefined => {
  if (isMax(key) && text === NONE_WORD) return "none";
  const value = readNumber(text);
  return isMax(key) && value === 0n ? "none" : value;
};

const unitOf = (key: string): string => {
  if (key === BASE_SIZE) return "bytes";
  return `${/iops/i.test(key) ? "operations" : "bytes"} per second`;
};

/** Reads the limits among the parameters. The first that is wrong is named as it is spelled. */
export const readLimits = (parameters: ParameterMap): Result.Result<Asked, InvalidParameter> => {
  const asked = new Map<string, AskedLimit>();
  for (const [key, older] of SPELLINGS) {
    const isGiven = (name: string) => Object.hasOwn(parameters, name) && parameters[name] !== "";
    const spelled = [key, older].find((name) => name !== undefined && isGiven(name));
    if (spelled === undefined) continue;
    const text = parameters[spelled] ?? "";
    const value = readValue(key, text);
    if (value === undefined) {
      const orMax = isMax(key) ? `, or ${NONE_WORD} for no limit` : "";
      const reason = `${oneLine(text)} is no limit: write a whole number of ${unitOf(key)}, at most ${MAX_LIMIT}${orMax}`;
      return Result.fail(new InvalidParameter({ field: spelled, reason }));
    }
    asked.set(key, { spelled, value });
  }
  return Result.succeed(asked);
};

/**
 * Reads the limits of a StorageClass, and what is wrong among those that do not limit a volume that is mapped so: classes
 * have those since before a driver read them, and they go on to work.
 */
export const readClassLimits = (
  parameters: ParameterMap,
  by: Limited,
): Result.Result<{ readonly asked: Asked; readonly remarks: readonly string[] }, InvalidParameter> => {
  const isGiven = (key: string): boolean =>
    [key, SPELLINGS.get(key)].some((name) => name !== undefined && (parameters[name] ?? "") !== "");
  const limitsIt = new Map(Object.entries(parameters));
  const remarks: string[] = [];
  for (const [key, older] of SPELLINGS) {
    if (hasEffect(key, isGiven, by)) continue;
    const names = [key, older].filter((name) => name !== undefined);
    const alone = Object.fromEntries([...limitsIt].filter(([name]) => names.includes(name)));
    const read = readLimits(alone);
    if (Result.isSuccess(read)) continue;
    remarks.push(`${read.failure.message}. It has no effect on this volume`);
    for (const name of names) limitsIt.delete(name);
  }
  return Result.map(readLimits(Object.fromEntries(limitsIt)), (asked) => ({ asked, remarks }));
};

/** Whether a parameter limits a volume that is mapped so. */
const hasEffect = (key: string, isGiven: (key: string) => boolean, by: Limited): boolean => {
  if (by !== "rbd-nbd" && POD_METERS.some((meter) => key === maxKey(meter))) return true;
  if (by === "krbd") return false;
  if (key === BASE_SIZE) return METERS.some((meter) => isGiven(baseKey(meter)));
  return METERS.some(
    (meter) => isGiven(baseKey(meter)) && [baseKey(meter), maxKey(meter), perGibKey(meter)].includes(key),
  );
};

/** Of sidecars, which may add the names of claim and volume. */
const SIDECAR_PREFIX = "csi.storage.k8s.io/";

/** Reads `mutable_parameters`, in which nothing but limits may be. */
export const readMutableParameters = (
  parameters: ParameterMap,
): Result.Result<Asked, InvalidParameter | InvalidRequest> => {
  const known = [...SPELLINGS].flat().filter((name) => name !== undefined);
  for (const key of Object.keys(parameters)) {
    if (known.includes(key) || key.startsWith(SIDECAR_PREFIX)) continue;
    const meant = closest(key, [...SPELLINGS.keys()]);
    const hint = meant === undefined ? `the keys are ${[...SPELLINGS.keys()].join(", ")}` : `write ${meant}`;
    const reason = `has the key ${oneLine(key)}, which no volume has: ${hint}`;
    return Result.fail(new InvalidRequest({ field: "mutable_parameters", reason }));
  }
  return readLimits(parameters);
};

/** CSI: what is mutable takes precedence. */
export const overlaid = (below: Asked, above: Asked): Asked => new Map([...below, ...above]);

// ------------------------------------------------------------------------------------------ what has no effect

/** Who maps the volume; `either`: it is not known, or it may be one or the other. */
export type Limited = "krbd" | "rbd-nbd" | "either";

/** Remarks, for the log, on limits without effect. */
export const remarksOnLimits = (asked: Asked, by: Limited): readonly string[] => {
  const byLibrbd = METERS.flatMap((meter) =>
    [baseKey(meter), perGibKey(meter), ...(isPodMeter(meter) ? [] : [maxKey(meter)])].filter((key) => asked.has(key)),
  );
  const spelled = (keys: readonly string[]) =>
    keys
      .map((key) => asked.get(key)?.spelled ?? key)
      .toSorted()
      .join(", ");
  if (by === "krbd") {
    const without = [...byLibrbd, ...(asked.has(BASE_SIZE) ? [BASE_SIZE] : [])];
    if (without.length === 0) return [];
    const use = POD_METERS.map(maxKey).join(", ");
    return [
      `parameters ${spelled(without)} have no effect, because they limit rbd-nbd and the kernel maps this volume: use ${use}`,
    ];
  }
  const lonely = METERS.filter((meter) => !asked.has(baseKey(meter))).flatMap((meter) =>
    [perGibKey(meter), ...(by === "either" && isPodMeter(meter) ? [] : [maxKey(meter)])].filter((key) =>
      asked.has(key),
    ),
  );
  const growing = METERS.map(perGibKey).filter((key) => asked.has(key) && !lonely.includes(key));
  return [
    ...(lonely.length === 0
      ? []
      : [`parameters ${spelled(lonely)} have no effect without the base limit that belongs to each, such as baseIops`]),
    ...(growing.length > 0 && !asked.has(BASE_SIZE)
      ? [`parameters ${spelled(growing)} have no effect without ${BASE_SIZE}`]
      : []),
  ];
};
