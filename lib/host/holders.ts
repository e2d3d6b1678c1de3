/**
 * Who uses a block device, for the message that the device is busy: a person reads it and ends that use.
 *
 * Loaded in host cells: no Effect. Whatever cannot be read is left out, as of a process that has just ended.
 *
 * 1. `openersOf` is a proof besides (./mapper/nbd.ts): an open file is judged by what it is, never by its name.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { blockDeviceAt } from "./device-node.ts";
import { type BlockDevice, mountsOf, parseMountInfo } from "./mountinfo.ts";

/** Mount namespaces that are read at most. A longer answer does not help. */
const MAX_NAMESPACES = 500;
const MAX_MOUNTS = 20;

const quietly = <A>(read: () => A): A | undefined => {
  try {
    return read();
  } catch {
    return undefined;
  }
};

export const holdersOf = (device: BlockDevice, sys = "/sys/block"): string[] => {
  const name = device.path.slice("/dev/".length);
  const stacked = (quietly(() => readdirSync(`${sys}/${name}/holders`)) ?? []).map((holder) => `/dev/${holder}`);
  const swaps = quietly(() => readFileSync("/proc/swaps", "utf8")) ?? "";
  const swap = swaps.split("\n").some((line) => line.startsWith(`${device.path} `)) ? ["swap"] : [];
  const points = pointsIn("self", device);
  return [...stacked, ...swap, ...loopHolders(device, points, sys), ...mountHolders(device, points)];
};

/** kubelet opens a loop device over each raw volume. The kernel has the device open then, and no process. */
const loopHolders = ({ path }: BlockDevice, points: readonly string[], sys: string): string[] => {
  // a bind that is gone leaves the node's path on the filesystem of /dev
  const paths = [path, path.slice("/dev".length), ...points];
  return (quietly(() => readdirSync(sys)) ?? []).flatMap((name) => {
    if (!/^loop\d+$/.test(name)) return [];
    const file = quietly(() => readFileSync(`${sys}/${name}/loop/backing_file`, "utf8").trim());
    const isIts = file !== undefined && paths.includes(file.replace(/( \(deleted\)|\/\/deleted)$/, ""));
    return isIts ? [`/dev/${name} (a loop device; if nobody needs it: losetup -d /dev/${name})`] : [];
  });
};

/** Mounts of the device in this mount namespace, at `points`, and in those of other processes that can be read. */
const mountHolders = (device: BlockDevice, points: readonly string[]): string[] => {
  const own = quietly(() => readlinkSync("/proc/self/ns/mnt"));
  const seen = new Set<string>();
  const found = points.map((point) => `mount ${point}`);
  if (own !== undefined) seen.add(own);
  for (const pid of quietly(() => readdirSync("/proc")) ?? []) {
    if (!/^\d+$/.test(pid) || seen.size > MAX_NAMESPACES) continue;
    const namespace = quietly(() => readlinkSync(`/proc/${pid}/ns/mnt`));
    if (namespace === undefined || seen.has(namespace)) continue;
    seen.add(namespace);
    for (const point of pointsIn(pid, device)) found.push(`mount ${point} as process ${pid} sees it`);
  }
  return found.slice(0, MAX_MOUNTS);
};

const pointsIn = (pid: string, device: BlockDevice): string[] =>
  quietly(() =>
    mountsOf(parseMountInfo(readFileSync(`/proc/${pid}/mountinfo`, "utf8")), device).map(({ point }) => point),
  ) ?? [];

/**
 * The processes that have the device open, by any node of it: a container has one of its own, under a name of its own, in
 * whatever folder. Apart from the one that serves it and this one.
 */
export const openersOf = (device: BlockDevice, { proc = "/proc", deviceAt = blockDeviceAt }: Looks = {}): string[] => {
  const number = `${device.major}:${device.minor}`;
  return (quietly(() => readdirSync(proc)) ?? []).flatMap((pid) => {
    if (!/^\d+$/.test(pid) || pid === String(process.pid)) return [];
    const name = quietly(() => readFileSync(`${proc}/${pid}/comm`, "utf8").trim());
    if (name === undefined || name === "rbd-nbd") return [];
    const folder = `${proc}/${pid}/fd`;
    const isOpen = (fd: string): boolean => isFile(`${folder}/${fd}`) && deviceAt(`${folder}/${fd}`) === number;
    return (quietly(() => readdirSync(folder)) ?? []).some(isOpen) ? [`process ${pid} (${name})`] : [];
  });
};

/** For tests. */
interface Looks {
  readonly proc?: string;
  readonly deviceAt?: typeof blockDeviceAt;
}

/** The kernel writes of what has no path: `socket:[17]`, `pipe:[4]`, `anon_inode:[eventpoll]`. */
const isFile = (link: string): boolean => {
  const target = quietly(() => readlinkSync(link));
  return target !== undefined && !/^\w+:/.test(target);
};
