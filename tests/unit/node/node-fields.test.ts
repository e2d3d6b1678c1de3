/**
 * Every field of every Node request: missing, empty, too long, of another kind, unknown. Each has its code, and none
 * changes the node.
 */
import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import type { Driver } from "../../support/one-world.ts";
import {
  aNode,
  expanding,
  nodeOn,
  publishing,
  staging,
  statistics,
  unpublishing,
  unstaging,
  VOLUME,
} from "../../support/node-world.ts";
import { asBlock, codeOf, mounted, PARAMETERS } from "../../support/world.ts";

const LONG_PATH = `/${"x".repeat(4095)}`;
const BAD = "INVALID_ARGUMENT";

type Case = readonly [what: string, more: object, code: string];

const ids: readonly Case[] = [
  ["volume_id empty", { volumeId: "" }, BAD],
  ["volume_id of 256 bytes", { volumeId: "x".repeat(256) }, BAD],
  ["volume_id of 256 bytes in fewer letters", { volumeId: "ö".repeat(128) }, BAD],
  ["volume_id with a slash", { volumeId: "a/b" }, BAD],
  ["volume_id ..", { volumeId: ".." }, BAD],
  ["volume_id with a NUL", { volumeId: "a\0b" }, BAD],
  ["volume_id with a newline", { volumeId: "a\nb" }, BAD],
  ["volume_id with half a surrogate pair", { volumeId: "a\ud800" }, BAD],
];
const path = (name: string, field: string): readonly Case[] => [
  [`${name} empty`, { [field]: "" }, BAD],
  [`${name} relative`, { [field]: "a/b" }, BAD],
  [`${name} with ..`, { [field]: "/a/../b" }, BAD],
  [`${name} longer than PATH_MAX`, { [field]: LONG_PATH }, BAD],
  [`${name} the root`, { [field]: "//." }, BAD],
  [`${name} with a NUL`, { [field]: "/a\0b" }, BAD],
];
const capability: readonly Case[] = [
  ["volume_capability missing", { volumeCapability: undefined }, BAD],
  ["access_type missing", { volumeCapability: { accessMode: { mode: Mode.SINGLE_NODE_WRITER } } }, BAD],
  ["access_mode missing", { volumeCapability: { accessType: { case: "block", value: {} } } }, BAD],
  ["access_mode unknown", { volumeCapability: asBlock(Mode.UNKNOWN) }, BAD],
  [
    "access_mode of the future",
    { volumeCapability: { accessType: { case: "block", value: {} }, accessMode: { mode: 99 } } },
    BAD,
  ],
  ["a filesystem with many writers", { volumeCapability: mounted(Mode.MULTI_NODE_MULTI_WRITER) }, BAD],
];
const context = (key: string, value: string): object => ({ volumeContext: { ...PARAMETERS, [key]: value } });

const rpcs: readonly {
  readonly name: string;
  readonly call: (driver: Driver, more: never) => Promise<unknown>;
  readonly cases: readonly Case[];
}[] = [
  {
    name: "NodeStageVolume",
    call: (driver, more) => driver.stage(staging(more)),
    cases: [
      ...ids,
      ...path("staging_target_path", "stagingTargetPath"),
      ...capability,
      ["secrets missing", { secrets: {} }, BAD],
      ["userKey missing", { secrets: { userID: "admin" } }, BAD],
      ["userID empty", { secrets: { userID: "", userKey: "k" } }, BAD],
      ["userKey with a newline inside", { secrets: { userID: "admin", userKey: "a\nb" } }, BAD],
      ["encrypted that is not a boolean", context("encrypted", "perhaps"), BAD],
      ["staticVolume that is not a boolean", context("staticVolume", "perhaps"), BAD],
      ["staticVolume without a pool", { volumeContext: { staticVolume: "true", clusterID: "east" } }, BAD],
      ["staticVolume without a cluster", { volumeContext: { staticVolume: "true", pool: "rbd" } }, BAD],
      ["pool that is a path", { volumeContext: { staticVolume: "true", clusterID: "east", pool: "a/b" } }, BAD],
      ["mapOptions with a control character", context("mapOptions", "a\u0001b"), BAD],
      ["unmapOptions of an unknown mounter", context("unmapOptions", "fuse:x"), BAD],
      ["mkfsOptions with a NUL", context("mkfsOptions", "-L\0"), BAD],
      ["volume_context empty, which a dynamic volume can do without", { volumeContext: {} }, "OK"],
      ["publish_context, which means nothing here", { publishContext: { a: "b" } }, "OK"],
    ],
  },
  {
    name: "NodeUnstageVolume",
    call: (driver, more) => driver.unstage(unstaging(more)),
    cases: [...ids, ...path("staging_target_path", "stagingTargetPath")],
  },
  {
    name: "NodePublishVolume",
    call: (driver, more) => driver.publish(publishing(more)),
    cases: [
      ...ids,
      ...path("target_path", "targetPath"),
      ...path("staging_target_path", "stagingTargetPath"),
      ...capability,
      ["a volume that is not staged", {}, "FAILED_PRECONDITION"],
    ],
  },
  {
    name: "NodeUnpublishVolume",
    call: (driver, more) => driver.unpublish(unpublishing(more)),
    cases: [...ids, ...path("target_path", "targetPath"), ["a volume that is not published", {}, "OK"]],
  },
  {
    name: "NodeExpandVolume",
    call: (driver, more) => driver.expand(expanding(more)),
    cases: [
      ...ids,
      ...path("staging_target_path", "stagingTargetPath").filter(([what]) => !what.endsWith("empty")),
      ...path("volume_path", "volumePath").map(
        ([what, more, code]): Case => [what, more, what.endsWith("relative") ? "NOT_FOUND" : code],
      ),
      ["required_bytes negative", { capacityRange: { requiredBytes: -1n } }, BAD],
      ["limit_bytes below required_bytes", { capacityRange: { requiredBytes: 2n, limitBytes: 1n } }, BAD],
      ["a volume that is not there", {}, "NOT_FOUND"],
    ],
  },
  {
    name: "NodeGetVolumeStats",
    call: (driver, more) => driver.stats(statistics(more)),
    cases: [
      ...ids,
      ...path("volume_path", "volumePath").map(
        ([what, more, code]): Case => [what, more, what.endsWith("relative") ? "NOT_FOUND" : code],
      ),
      ["a volume that is not there", {}, "NOT_FOUND"],
    ],
  },
];

for (const { name, call, cases } of rpcs) {
  describe(name, () => {
    for (const [what, more, code] of cases) {
      test(`${name} with ${what} answers ${code}`, async () => {
        const { host } = await aNode();
        const before = host.dump();
        await using driver = nodeOn(host);
        expect(await codeOf(call(driver, more as never))).toBe(code);
        if (code !== "OK") expect(host.dump()).toEqual(before);
      });
    }

    test(`${name} answers to any text in any field, and harms nothing`, async () => {
      const { host } = await aNode();
      const before = host.dump();
      await using driver = nodeOn(host);
      const text = fc.oneof(
        fc.string(),
        fc.string({ unit: "binary" }),
        fc.constantFrom("", "/", "/kubelet", VOLUME, "\0"),
      );
      const record = fc.record({
        volumeId: text,
        stagingTargetPath: text,
        targetPath: text,
        volumePath: text,
        volumeContext: fc.dictionary(text, text),
        secrets: fc.dictionary(text, text),
      });
      const known = new Set(["OK", BAD, "NOT_FOUND", "FAILED_PRECONDITION", "PERMISSION_DENIED"]);
      await fc.assert(
        fc.asyncProperty(record, async (more) => {
          const code = await codeOf(call(driver, more as never));
          expect(known).toContain(code);
        }),
        { numRuns: 40 },
      );
      expect(host.dump()).toEqual(before);
    }, 20_000);
  });
}
