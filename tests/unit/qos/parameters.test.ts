/** The parameters that limit I/O: spellings, values, and what the log says of those without effect. */
import { describe, expect, test } from "bun:test";
import * as Result from "effect/Result";
import {
  type Limited,
  overlaid,
  readLimits,
  readMutableParameters,
  readClassLimits,
  remarksOnLimits,
} from "../../../lib/qos/parameters.ts";

type Strings = Readonly<Record<string, string>>;

const limitsOf = (parameters: Strings) =>
  Object.fromEntries([...Result.getOrThrow(readLimits(parameters))].map(([key, { value }]) => [key, value]));

const TODAY =
  "baseIops maxIops baseReadIops maxReadIops baseWriteIops maxWriteIops baseBps maxBps baseReadBps maxReadBps baseWriteBps maxWriteBps iopsPerGiB readIopsPerGiB writeIopsPerGiB bpsPerGiB readBpsPerGiB writeBpsPerGiB baseVolSizeBytes";
const OLDER: Strings = {
  BaseIops: "baseIops",
  BaseReadIops: "baseReadIops",
  BaseWriteIops: "baseWriteIops",
  BaseBytesPerSecond: "baseBps",
  BaseReadBytesPerSecond: "baseReadBps",
  BaseWriteBytesPerSecond: "baseWriteBps",
  IopsPerGiB: "iopsPerGiB",
  ReadIopsPerGiB: "readIopsPerGiB",
  WriteIopsPerGiB: "writeIopsPerGiB",
  BpsPerGiB: "bpsPerGiB",
  ReadBpsPerGiB: "readBpsPerGiB",
  WriteBpsPerGiB: "writeBpsPerGiB",
  BaseVolSizeBytes: "baseVolSizeBytes",
};

describe("readLimits", () => {
  test.each(TODAY.split(" "))("readLimits reads %s", (key) => {
    expect(limitsOf({ [key]: "7", pool: "rbd" })).toEqual({ [key]: 7n });
  });

  test.each(Object.entries(OLDER))("readLimits reads the older spelling %s as %s", (older, key) => {
    expect(limitsOf({ [older]: "7" })).toEqual({ [key]: 7n });
    expect(limitsOf({ [older]: "7", [key]: "8" })).toEqual({ [key]: 8n });
    expect(limitsOf({ [older]: "7", [key]: "" })).toEqual({ [key]: 7n });
  });

  test.each<[string, string, bigint | "none"]>([
    ["baseIops", "0", 0n],
    ["baseIops", "+5", 5n],
    ["baseIops", "007", 7n],
    ["maxIops", "max", "none"],
    ["maxReadBps", "max", "none"],
    ["maxWriteIops", "0", "none"],
    ["maxWriteIops", "9223372036854775807", 2n ** 63n - 1n],
  ])("readLimits reads %s=%s as %s", (key, text, value) => {
    expect(limitsOf({ [key]: text })).toEqual({ [key]: value });
  });

  test("readLimits takes an empty value for an absent one, and knows no other keys", () => {
    const others = { maxIops: "", iops: "1", maxReads: "1", BASEIOPS: "1", maxiops: "1", toString: "1" };
    expect(limitsOf(others)).toEqual({});
  });

  test.each([
    ["baseIops", "-1"],
    ["baseIops", "max"],
    ["baseIops", " 1"],
    ["baseVolSizeBytes", "20Gi"],
    ["iopsPerGiB", "1.5"],
    ["maxReadIops", "MAX"],
    ["maxReadIops", "9223372036854775808"],
    ["maxReadIops", "1e3"],
    ["BaseReadBytesPerSecond", "fast"],
  ])("readLimits refuses %s=%s, and names the key as it is spelled", (key, text) => {
    const { field, reason, message } = Result.getOrThrow(Result.flip(readLimits({ [key]: text })));
    expect(field).toBe(key);
    expect(reason).toContain("is no limit: write a whole number of ");
    expect(message).toStartWith(`parameter ${key}: ${JSON.stringify(text)}`);
  });
});

describe("readMutableParameters", () => {
  const failure = (parameters: Strings): string =>
    Result.getOrThrow(Result.flip(readMutableParameters(parameters))).message;

  test("readMutableParameters refuses what no volume has, and says what was probably meant", () => {
    expect(failure({ maxReadIop: "1" })).toBe(
      'mutable_parameters has the key "maxReadIop", which no volume has: write maxReadIops',
    );
    expect(failure({ pool: "ssd" })).toContain('the key "pool", which no volume has: the keys are baseIops, ');
    expect(failure({ "a\nb": "" })).toContain('"a\\nb"');
    expect(failure({ maxReadIops: "x" })).toStartWith("parameter maxReadIops: ");
  });

  test("readMutableParameters takes the names that sidecars add", () => {
    const read = readMutableParameters({ "csi.storage.k8s.io/pvc/name": "data", BaseIops: "3" });
    expect([...Result.getOrThrow(read)]).toEqual([["baseIops", { spelled: "BaseIops", value: 3n }]]);
  });

  test("what is mutable takes precedence, and leaves the rest", () => {
    const both = overlaid(
      Result.getOrThrow(readLimits({ maxReadIops: "1", maxWriteIops: "2" })),
      Result.getOrThrow(readMutableParameters({ maxReadIops: "max" })),
    );
    expect([...both].map(([key, { value }]) => [key, value])).toEqual([
      ["maxReadIops", "none"],
      ["maxWriteIops", 2n],
    ]);
  });
});

describe("readClassLimits", () => {
  test.each<[string, Limited, Strings]>([
    ["baseIops", "krbd", { baseIops: "fast" }],
    ["maxIops", "krbd", { maxIops: "fast", baseIops: "1" }],
    ["iopsPerGiB", "rbd-nbd", { iopsPerGiB: "fast", baseBps: "1" }],
    ["BaseVolSizeBytes", "rbd-nbd", { BaseVolSizeBytes: "fast" }],
  ])("readClassLimits remarks %s that has no effect with %s, and leaves it out", (key, by, parameters) => {
    const { asked, remarks } = Result.getOrThrow(readClassLimits({ ...parameters, maxReadIops: "1" }, by));
    expect(asked.has("maxReadIops")).toBe(true);
    expect([...asked.values()].some(({ spelled }) => spelled === key)).toBe(false);
    expect(remarks).toEqual([expect.stringMatching(new RegExp(`^parameter ${key}: "fast" .* has no effect`))]);
  });

  test.each<[string, Limited, Strings]>([
    ["maxReadIops", "krbd", { maxReadIops: "fast" }],
    ["maxReadIops", "either", { maxReadIops: "fast" }],
    ["baseIops", "rbd-nbd", { baseIops: "fast" }],
    ["BaseIops", "either", { BaseIops: "fast" }],
    ["maxIops", "rbd-nbd", { maxIops: "fast", baseIops: "1" }],
    ["baseVolSizeBytes", "rbd-nbd", { baseVolSizeBytes: "fast", baseIops: "1" }],
  ])("readClassLimits refuses %s that limits a volume of %s", (field, by, parameters) => {
    expect(Result.getOrThrow(Result.flip(readClassLimits(parameters, by)))).toMatchObject({ field });
  });
});

describe("remarksOnLimits", () => {
  const remarks = (parameters: Strings, by: Limited) => remarksOnLimits(Result.getOrThrow(readLimits(parameters)), by);
  const use = "use maxReadIops, maxWriteIops, maxReadBps, maxWriteBps";

  test.each<[Strings, Limited, readonly string[]]>([
    [{ maxReadIops: "1", maxWriteBps: "1" }, "krbd", []],
    [
      { baseIops: "1", maxReadIops: "1", BaseVolSizeBytes: "1", maxBps: "1" },
      "krbd",
      [
        `parameters BaseVolSizeBytes, baseIops, maxBps have no effect, because they limit rbd-nbd and the kernel maps this volume: ${use}`,
      ],
    ],
    [{ baseIops: "1", maxIops: "2", iopsPerGiB: "1", baseVolSizeBytes: "1" }, "rbd-nbd", []],
    [
      { maxReadIops: "1", readBpsPerGiB: "1" },
      "rbd-nbd",
      [
        "parameters maxReadIops, readBpsPerGiB have no effect without the base limit that belongs to each, such as baseIops",
      ],
    ],
    [{ maxReadIops: "1" }, "either", []],
    [
      { maxIops: "1" },
      "either",
      ["parameters maxIops have no effect without the base limit that belongs to each, such as baseIops"],
    ],
    [{ baseIops: "1", iopsPerGiB: "1" }, "rbd-nbd", ["parameters iopsPerGiB have no effect without baseVolSizeBytes"]],
    [{}, "rbd-nbd", []],
  ])("The log says what has no effect: %j, mapped by %s", (parameters, by, expected) => {
    expect(remarks(parameters, by)).toEqual([...expected]);
  });
});
