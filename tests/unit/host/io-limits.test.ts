/** Where kubelet has a pod's control group, by either of its drivers, and what is written there. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { limitIo } from "../../../lib/host/io-limits.ts";

const UID = "0f5a1b2c-1111-4222-8333-444455556666";
const SLICE = "0f5a1b2c_1111_4222_8333_444455556666";

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "cgroup-"));
  writeFileSync(join(root, "cgroup.controllers"), "cpu io memory");
  for (const other of ["system.slice/kubelet.service", "user.slice"]) mkdirSync(join(root, other), { recursive: true });
});
afterEach(() => rmSync(root, { recursive: true }));

const group = (path: string, withIo = true): string => {
  mkdirSync(join(root, path), { recursive: true });
  if (withIo) writeFileSync(join(root, path, "io.max"), "");
  return join(root, path, "io.max");
};
const limit = (limits = {}, podUid = UID) => limitIo({ podUid, major: 252, minor: 16, limits }, root);

test.each([
  ["cgroupfs, guaranteed", `kubepods/pod${UID}`],
  ["cgroupfs, burstable", `kubepods/burstable/pod${UID}`],
  ["cgroupfs, best effort", `kubepods/besteffort/pod${UID}`],
  ["systemd, guaranteed", `kubepods.slice/kubepods-pod${SLICE}.slice`],
  ["systemd, burstable", `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${SLICE}.slice`],
  ["systemd, best effort", `kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${SLICE}.slice`],
  ["cgroupfs below a root of its own", `kubelet/kubepods/burstable/pod${UID}`],
  [
    "systemd below a root of its own, as in kind",
    `kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod${SLICE}.slice`,
  ],
])("limitIo finds the group of a pod: %s", (_, path) => {
  const file = group(path);
  expect(limit({ readBytes: 1048576n, writeOps: 50n })).toEqual({ kind: "set" });
  expect(readFileSync(file, "utf8")).toBe("252:16 rbps=1048576 wbps=max riops=max wiops=50\n");
});

test("limitIo lifts what is absent", () => {
  const file = group(`kubepods/pod${UID}`);
  limit();
  expect(readFileSync(file, "utf8")).toBe("252:16 rbps=max wbps=max riops=max wiops=max\n");
});

test("limitIo says that a pod has no group, and makes none", () => {
  expect(limit()).toEqual({ kind: "no-group" });
  group(`kubepods/burstable/pod${UID}`);
  expect(limit({}, "0f5a1b2c")).toEqual({ kind: "no-group" });
});

test("limitIo says what is missing on the machine", () => {
  group(`kubepods/pod${UID}`, false);
  expect(limit()).toEqual({ kind: "unsupported", reason: expect.stringContaining("has no io.max") });
  rmSync(join(root, "cgroup.controllers"));
  expect(limit()).toEqual({ kind: "unsupported", reason: `${root} is not a control group of version 2` });
});
