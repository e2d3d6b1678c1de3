/** How the rbd tool is called for a mapping, and what its failures become; over a stand-in for the tool. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { failureOf, krbd } from "../../../lib/host/mapper/krbd.ts";
import type { MapArg } from "../../../lib/host/mapper/mapper.ts";

const KEY = "c2VjcmV0IGtleSBvZiBhIHRlc3Q=";
const REQUEST: MapArg = {
  mapper: "krbd",
  pool: "rbd",
  namespace: "",
  image: "csi-vol-1",
  monitors: ["10.0.0.1:6789", "10.0.0.2:6789"],
  user: "node",
  key: KEY,
  readOnly: false,
  options: "",
  netNamespace: undefined,
  cookie: "",
  logFile: "",
};

const bin = mkdtempSync(join(tmpdir(), "csi-rbd-bin-"));
const pathBefore = process.env["PATH"];

/** A program that notes its arguments, and the key file it was given; then does what `then` says. */
const program = (name: string, then: string): void => {
  const script = `#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done > ${bin}/${name}.args
for word in "$@"; do case "$word" in --keyfile=*) f="\${word#--keyfile=}"; stat -c %a "$f" > ${bin}/key; cat "$f" >> ${bin}/key;; esac; done
${then}
`;
  writeFileSync(join(bin, name), script);
  chmodSync(join(bin, name), 0o755);
};
const given = (name: string): string[] =>
  readFileSync(join(bin, `${name}.args`), "utf8")
    .trimEnd()
    .split("\n");

beforeAll(() => {
  process.env["PATH"] = `${bin}:${pathBefore}`;
});
afterAll(() => {
  process.env["PATH"] = pathBefore;
  rmSync(bin, { recursive: true });
});

/** One map whose tool ends like this; -> the answer. */
const mapped = (then: string, more: Partial<MapArg> = {}) => {
  program("rbd", then);
  return krbd.map({ ...REQUEST, ...more });
};

describe("rbd map", () => {
  test("rbd map gets its arguments in ceph-csi's order and the key in a private file that is removed afterwards", () => {
    mapped("exit 5");
    const args = given("rbd");
    const keyFile = args.find((word) => word.startsWith("--keyfile=")) ?? "";
    expect(args).toEqual(
      ["--id", "node", "-m", "10.0.0.1:6789,10.0.0.2:6789", keyFile, "map", "rbd/csi-vol-1"].concat([
        "--device-type",
        "krbd",
        "--options",
        "noudev",
      ]),
    );
    expect(keyFile).toStartWith("--keyfile=/tmp/csi/keys/");
    expect(readFileSync(join(bin, "key"), "utf8")).toBe(`600\n${KEY}`);
    expect(existsSync(keyFile.slice("--keyfile=".length))).toBe(false);
    expect(readdirSync("/tmp/csi/keys")).toEqual([]);
    expect(args.join(" ")).not.toContain(KEY);
  });

  test("rbd map gets namespace, options and read-only when the caller asks for them", () => {
    mapped("exit 5", { namespace: "tenant", options: "ms_mode=secure,queue_depth=8", readOnly: true });
    expect(given("rbd").slice(6)).toEqual(
      ["rbd/tenant/csi-vol-1", "--device-type", "krbd", "--options", "noudev", "--options"].concat([
        "ms_mode=secure,queue_depth=8",
        "--read-only",
      ]),
    );
  });

  test("rbd map runs inside the cluster's network namespace, and does not run when the namespace is gone", () => {
    program("nsenter", "exit 5");
    mapped("exit 5", { netNamespace: "/proc/self/ns/net" });
    expect(given("nsenter").slice(0, 3)).toEqual(["--net=/proc/self/ns/net", "--", "rbd"]);
    rmSync(join(bin, "rbd.args"));
    expect(mapped("exit 0", { netNamespace: "/nowhere/net" })).toMatchObject({
      kind: "refused",
      reason: expect.stringContaining("netNamespaceFilePath"),
    });
    expect(existsSync(join(bin, "rbd.args"))).toBe(false);
  });

  const failures: readonly (readonly [what: string, then: string, kind: string, text: string])[] = [
    ["lacking features", "echo 'rbd: sysfs write failed' >&2; exit 6", "refused", "rbd feature disable"],
    ["no rights", "exit 13", "refused", 'mon, osd and mgr need "profile rbd"'],
    ["a blocklisted node", "exit 108", "refused", "ceph osd blocklist ls"],
    [
      "an option that the tool does not have",
      "echo \"rbd: unknown map option 'foo'\" >&2; exit 22",
      "refused",
      "option 'foo'",
    ],
    [
      "a value that the tool cannot read",
      "echo \"rbd: invalid ms_mode value 'x'\" >&2; exit 22",
      "refused",
      "mapOptions",
    ],
    ["no answer", "echo 'rbd: map failed: (110) Connection timed out' >&2; exit 110", "failed", "no answer"],
    ["anything else", "echo 'rbd: the reason' >&2; exit 5", "failed", "rbd: the reason (exit status 5)"],
    ["a success of which the kernel knows nothing", "echo /dev/rbd77", "failed", "the kernel has no /dev/rbd77"],
  ];
  for (const [what, then, kind, text] of failures) {
    test(`rbd map reports the reason of a failure: ${what}`, () => {
      const answer = mapped(then);
      expect(answer).toMatchObject({ kind, reason: expect.stringContaining(text) });
      expect(JSON.stringify(answer)).not.toContain(KEY);
    });
  }

  test("The message of a map that fails for a newer Ceph's key, an option or a lock quotes the kernel's log", () => {
    const logged = (log: string) =>
      failureOf(
        { code: 22, stdout: "", stderr: "rbd: map failed: (22) Invalid argument", timedOut: false },
        REQUEST,
        log,
      );
    expect(logged("libceph: secret too big 32")).toMatchObject({
      kind: "refused",
      reason: expect.stringContaining("32-byte key of client.node"),
    });
    expect(logged("")).toMatchObject({ kind: "failed" });
    expect(logged("libceph: Unknown parameter noodev")).toMatchObject({
      kind: "refused",
      reason: expect.stringContaining("mapOptions"),
    });
    expect(logged("rbd: image csi-vol-1: exclusive-lock feature is not enabled")).toMatchObject({
      kind: "refused",
      reason: expect.stringContaining("lacks the feature exclusive-lock"),
    });
  });

  test("A map with options that fails with EINVAL and without a word is refused, and names the options", () => {
    const answer = mapped("exit 22", { options: "alloc_size=3" });
    expect(answer).toMatchObject({ kind: "refused", reason: expect.stringContaining("alloc_size=3") });
  });
});
