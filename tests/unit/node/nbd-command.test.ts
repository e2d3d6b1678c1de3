/** How rbd-nbd is called, what its command line tells of the image it serves, and what its failures become. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { gunzipSync } from "node:zlib";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { joinNbdOptions, nbdMapsReadOnly } from "../../../lib/config/nbd-options.ts";
import type { MapArg } from "../../../lib/host/mapper/mapper.ts";
import { parseNbdCommand } from "../../../lib/host/mapper/nbd-command.ts";
import { endLog } from "../../../lib/host/mapper/nbd-log.ts";
import { rbdNbd } from "../../../lib/host/mapper/nbd.ts";

const KEY = "c2VjcmV0IGtleSBvZiBhIHRlc3Q=";
const bin = mkdtempSync(join(tmpdir(), "csi-rbd-nbd-"));
const pathBefore = process.env["PATH"];
const REQUEST: MapArg = {
  mapper: "rbd-nbd",
  pool: "rbd",
  namespace: "tenant",
  image: "csi-vol-1",
  monitors: ["10.0.0.1:6789", "10.0.0.2:6789"],
  user: "node",
  key: KEY,
  readOnly: true,
  options: "try-netlink,io-timeout=0",
  netNamespace: undefined,
  cookie: "0001-x",
  logFile: join(bin, "logs", "rbd-nbd-0001-x.log"),
};

/** One map whose tool ends like this; -> the answer, and the tool's arguments. */
const mapped = (then: string) => {
  const script = `#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done > ${bin}/args
for word in "$@"; do case "$word" in --keyfile=*) f="\${word#--keyfile=}"; stat -c %a "$f" > ${bin}/key; cat "$f" >> ${bin}/key;; esac; done
${then}
`;
  writeFileSync(join(bin, "rbd-nbd"), script);
  chmodSync(join(bin, "rbd-nbd"), 0o755);
  const answer = rbdNbd.map(REQUEST);
  return { answer, args: readFileSync(join(bin, "args"), "utf8").trimEnd().split("\n") };
};

beforeAll(() => {
  process.env["PATH"] = `${bin}:${pathBefore}`;
});
afterAll(() => {
  process.env["PATH"] = pathBefore;
  rmSync(bin, { recursive: true });
});

describe("rbd-nbd map", () => {
  test("rbd-nbd map gets its arguments one by one, and the key in a private file that is removed afterwards", () => {
    const { args } = mapped("exit 1");
    const keyFile = args.find((word) => word.startsWith("--keyfile=/tmp/csi/keys/")) ?? "none";
    expect(args.join(" ")).toBe(
      `--id node -m 10.0.0.1:6789,10.0.0.2:6789 ${keyFile} --log-file ${REQUEST.logFile} ` +
        "map rbd/tenant/csi-vol-1 --cookie=0001-x --try-netlink --io-timeout=0 --read-only",
    );
    expect(readFileSync(join(bin, "key"), "utf8")).toBe(`600\n${KEY}`);
    expect(existsSync(keyFile.slice("--keyfile=".length))).toBe(false);
    expect(args.join(" ")).not.toContain(KEY);
  });

  for (const [what, then, kind, text] of [
    ["an option that it lacks", "echo 'rbd-nbd: unknown args: --x' >&2; exit 1", "refused", "nbd part of mapOptions"],
    [
      "a kernel without nbd",
      "echo 'rbd-nbd: failed to load nbd kernel module: x' >&2; exit 1",
      "refused",
      "module nbd",
    ],
    [
      "no rights",
      "echo 'x: (1) Operation not permitted' >&2; exit 1",
      "refused",
      'mon, osd and mgr need "profile rbd"',
    ],
    ["a reason that only its log has", `echo 'the reason' >> ${REQUEST.logFile}; exit 1`, "failed", "the reason"],
    ["no word at all", "exit 1", "failed", "exit status 1"],
    ["a success of which the kernel knows nothing", "echo /dev/nbd77", "failed", "the kernel has no /dev/nbd77"],
    ["a success without a device", "exit 0", "failed", "the kernel has no device of it"],
  ] as const) {
    test(`rbd-nbd map reports the reason of a failure: ${what}`, () => {
      const { answer } = mapped(`${then}; exit 0`);
      expect(answer).toMatchObject({ kind, reason: expect.stringContaining(text) });
      expect(JSON.stringify(answer)).not.toContain(KEY);
    });
  }

  test("rbd-nbd map does not run when the network namespace of its cluster is gone", () => {
    expect(rbdNbd.map({ ...REQUEST, netNamespace: "/nowhere/net" })).toMatchObject({ kind: "refused", unfit: false });
  });
});

describe("the command line of an rbd-nbd process", () => {
  const ours = { pool: "rbd", namespace: "", image: "i", snapshot: "", cookie: "", device: "", keyFile: "" };
  for (const [line, found] of [
    ["rbd-nbd map rbd/i", ours],
    ["/usr/bin/rbd-nbd map i", ours],
    ["rbd-nbd --id map -m map --log-file attach map rbd/i", ours],
    [
      "rbd-nbd map pool/ns/i@snap --cookie=c",
      { ...ours, pool: "pool", namespace: "ns", snapshot: "snap", cookie: "c" },
    ],
    ["rbd-nbd map --snap-id 7 rbd/i", { ...ours, snapshot: "@7" }],
    ["rbd-nbd map --device /dev/nbd3 rbd/i --cookie c", { ...ours, device: "/dev/nbd3", cookie: "c" }],
    ["rbd-nbd --keyfile=/k attach rbd/i --device /dev/nbd3", { ...ours, device: "/dev/nbd3", keyFile: "/k" }],
    ["rbd-nbd unmap /dev/nbd0", undefined],
    ["rbd-nbd list-mapped", undefined],
    ["rbd-nbd map", undefined],
    ["rbd-nbd", undefined],
  ] as const) {
    test(`The command line "${line}" ${found === undefined ? "serves no image" : "names its image"}`, () =>
      expect(parseNbdCommand(line.split(" "))).toEqual(found));
  }

  test("No command line makes the parser throw", () => {
    fc.assert(
      fc.property(fc.array(fc.string()), (words) => void parseNbdCommand(["rbd-nbd", ...words])),
      { numRuns: 300 },
    );
  });
});

describe("the options of rbd-nbd", () => {
  for (const [given, joined] of [
    ["", "try-netlink,reattach-timeout=300,io-timeout=0"],
    ["reattach-timeout=60", "try-netlink,io-timeout=0,reattach-timeout=60"],
    ["io_timeout=5,try-netlink", "reattach-timeout=300,io_timeout=5,try-netlink"],
    ["timeout=5", "try-netlink,reattach-timeout=300,timeout=5"],
    ["read-only,exclusive", "try-netlink,reattach-timeout=300,io-timeout=0,exclusive"],
  ] as const) {
    test(`The options "${given}" of rbd-nbd win over the driver's`, () => expect(joinNbdOptions(given)).toBe(joined));
  }

  test("Only the option read-only asks for a read-only device", () => {
    expect(["read-only", "a,read_only"].every(nbdMapsReadOnly)).toBe(true);
    expect(["exclusive", "read-only-x", ""].some(nbdMapsReadOnly)).toBe(false);
  });
});

test("Of a log of gigabytes the end is read, and a log that cannot be read hides no reason of the tool", () => {
  mkdirSync(join(bin, "logs"), { recursive: true });
  writeFileSync(REQUEST.logFile, "");
  truncateSync(REQUEST.logFile, 8 * 2 ** 30);
  const peak = () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
  const before = peak();
  const after = (then: string) => mapped(then).answer;
  expect(after(`echo 'the reason' >> ${REQUEST.logFile}; exit 1`)).toMatchObject({
    kind: "failed",
    reason: expect.stringContaining("the reason"),
  });
  const grown = `truncate -s +4G ${REQUEST.logFile}; (yes of a log | head -n 9999; echo 'the last line') >> ${REQUEST.logFile}; exit 1`;
  expect(after(grown)).toMatchObject({ reason: expect.stringContaining("the last line") });
  expect(peak() - before).toBeLessThan(200 * 1024);
  rmSync(REQUEST.logFile);
  expect(after(`mkdir ${REQUEST.logFile}; echo 'no such image' >&2; exit 1`)).toMatchObject({
    kind: "failed",
    reason: expect.stringContaining("no such image"),
  });
  rmSync(REQUEST.logFile, { recursive: true });
});

describe("the log of an rbd-nbd process that has ended", () => {
  const path = join(bin, "rbd-nbd-1.log");
  const text = "a line of the log\n".repeat(200_000);
  const after = (strategy: "remove" | "compress" | "preserve") => {
    writeFileSync(path, text);
    endLog({ path, strategy });
    return readdirSync(bin).filter((name) => name.startsWith("rbd-nbd-1"));
  };

  test("The log of a process that has ended goes, stays, or is compressed whole under ceph-csi's name", () => {
    expect([after("remove"), after("preserve"), after("compress")]).toEqual([[], ["rbd-nbd-1.log"], ["rbd-nbd-1.gz"]]);
    expect(gunzipSync(readFileSync(join(bin, "rbd-nbd-1.gz"))).toString()).toBe(text);
  });

  test("A log that does not exist is dealt with already", () => {
    for (const strategy of ["remove", "compress", "preserve"] as const)
      endLog({ path: join(bin, "absent.log"), strategy });
    expect(readdirSync(bin).filter((name) => name.startsWith("absent"))).toEqual([]);
  });
});
