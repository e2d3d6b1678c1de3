/** Mount flags as people write them: one in each string, or several in one. */
import { expect, test } from "bun:test";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import { readMountFlags } from "../../../lib/csi/mount-flags.ts";

const CONTEXT = 'context="system_u:object_r:data_t:s0:c1,c2"';

test.each<[flags: string[], options: string[], readOnly: boolean]>([
  [[], [], false],
  [["noatime", "noexec"], ["noatime", "noexec"], false],
  [["noatime,noexec"], ["noatime", "noexec"], false],
  [[" noatime , noexec ", "", ","], ["noatime", "noexec"], false],
  [["noatime\n", "noexec\r\nnodev\n"], ["noatime", "noexec", "nodev"], false],
  [["ro"], [], true],
  [["ro", "noatime"], ["noatime"], true],
  [["noatime,ro"], ["noatime"], true],
  [["ro", "rw"], [], false],
  [["rw,ro"], [], true],
  [["noatime", "discard,noatime"], ["noatime", "discard"], false],
  [["errors=remount-ro"], ["errors=remount-ro"], false],
  [[CONTEXT, `${CONTEXT},nosuid`], [CONTEXT, "nosuid"], false],
])("The mount flags %j are the options %j, and read-only is %p", (flags, options, readOnly) => {
  expect(readMountFlags(flags)).toEqual(Result.succeed({ options, readOnly }));
});

test.each([
  [["noatime\0"], "control characters"],
  [['context="a\nb"'], "control characters"],
  [['context="a,b'], "double quote"],
])("The mount flags %j are refused", (flags, reason) => {
  const read = readMountFlags(flags);
  expect(Result.isFailure(read) ? read.failure : "").toContain(reason);
});

test("Reading mount flags ends for any text, and joined options are read as the same ones", () => {
  const text = fc.oneof(fc.string(), fc.stringMatching(/^[a-z=", ]{0,30}$/));
  fc.assert(
    fc.property(fc.array(text, { maxLength: 5 }), (flags) => {
      const read = readMountFlags(flags);
      if (Result.isFailure(read)) return;
      expect(readMountFlags([read.success.options.join(",")])).toMatchObject({
        success: { options: read.success.options },
      });
    }),
    { numRuns: 1000 },
  );
});
