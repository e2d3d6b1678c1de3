/**
 * Limits of the I/O that a pod does with a block device: `io.max` of the control group in which kubelet puts the pod.
 *
 * Loaded in host cells: no Effect. All functions block.
 *
 * 1. No group is made, and nothing is written but the line of one device. The kernel forgets it with the group, and with
 *    the device.
 * 2. A group is found by name alone: `pod<UID>` below `kubepods` (cgroupfs), or the slices of that name (systemd), be it at
 *    the top or below the root that kubelet was given (`--cgroup-root`).
 */
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { IoLimitRequest, IoLimits } from "./host.ts";

export type IoLimitAnswer =
  | { readonly kind: "set" }
  /** The pod has no group: not yet, or not any more. */
  | { readonly kind: "no-group" }
  /** The device does not exist any more. */
  | { readonly kind: "gone" }
  | { readonly kind: "unsupported"; readonly reason: string };

const ROOT = "/sys/fs/cgroup";
const KUBEPODS = /^(.+-)?kubepods(\.slice)?$/;
const CLASSES = ["", "burstable", "besteffort"];
/** Groups of other programs, of which there are many. */
const OTHERS = new Set(["system.slice", "user.slice", "init.scope"]);

const foldersIn = (path: string): readonly string[] => {
  try {
    return readdirSync(path, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  } catch {
    // It has gone meanwhile.
    return [];
  }
};

/** The groups of all pods: at the top, else up to two levels below. */
const podRoots = (path: string, levels: number): readonly string[] => {
  const names = foldersIn(path).filter((name) => !OTHERS.has(name));
  const found = names.filter((name) => KUBEPODS.test(name));
  if (found.length > 0 || levels === 0) return found.map((name) => join(path, name));
  return names.flatMap((name) => podRoots(join(path, name), levels - 1));
};

/** Where kubelet may have the pod below a group of all pods, by its class of service. */
const candidates = (root: string, podUid: string): readonly string[] => {
  if (!root.endsWith(".slice")) return CLASSES.map((name) => join(root, name, `pod${podUid}`));
  const uid = podUid.replaceAll("-", "_");
  return CLASSES.map((name) => {
    const parent = name === "" ? basename(root, ".slice") : `${basename(root, ".slice")}-${name}`;
    return join(root, name === "" ? "" : `${parent}.slice`, `${parent}-pod${uid}.slice`);
  });
};

/** As the kernel reads it; a limit that is absent is lifted. */
const lineOf = ({ readBytes, writeBytes, readOps, writeOps }: IoLimits): string =>
  `rbps=${readBytes ?? "max"} wbps=${writeBytes ?? "max"} riops=${readOps ?? "max"} wiops=${writeOps ?? "max"}`;

export const limitIo = ({ podUid, major, minor, limits }: IoLimitRequest, root = ROOT): IoLimitAnswer => {
  if (!existsSync(`${root}/cgroup.controllers`)) {
    return { kind: "unsupported", reason: `${root} is not a control group of version 2` };
  }
  const group = podRoots(root, 2)
    .flatMap((each) => candidates(each, podUid))
    .find((each) => existsSync(each));
  if (group === undefined) return { kind: "no-group" };
  const file = `${group}/io.max`;
  if (!existsSync(file)) {
    return existsSync(group)
      ? {
          kind: "unsupported",
          reason: `${group} has no io.max, because kubelet or systemd has not turned the io controller on`,
        }
      : { kind: "no-group" };
  }
  try {
    writeFileSync(file, `${major}:${minor} ${lineOf(limits)}\n`, { flag: "r+" });
  } catch (error) {
    const { code = "" } = error as { code?: string };
    if (code === "EROFS") return { kind: "unsupported", reason: `${file} is read-only here: mount the host's /sys` };
    if (code === "ENODEV") return { kind: "gone" };
    if (code !== "ENOENT") throw error;
    // The group has gone meanwhile.
    return { kind: "no-group" };
  }
  return { kind: "set" };
};
