/**
 * Who uses a block device, for the message that the device is busy: a person reads it and ends that use.
 *
 * Loaded in host cells: no Effect. Best effort: whatever cannot be read is left out, because the answer is only shown.
 */
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { deviceNumber } from "./block.ts";
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

export const holdersOf = (device: BlockDevice): string[] => {
  const name = device.path.slice("/dev/".length);
  const stacked = (quietly(() => readdirSync(`/sys/block/${name}/holders`)) ?? []).map((holder) => `/dev/${holder}`);
  const swaps = quietly(() => readFileSync("/proc/swaps", "utf8")) ?? "";
  const swap = swaps.split("\n").some((line) => line.startsWith(`${device.path} `)) ? ["swap"] : [];
  return [...stacked, ...swap, ...mountHolders(device)];
};

/** Mounts of the device in this mount namespace, and in those of other processes that can be read. */
const mountHolders = (device: BlockDevice): string[] => {
  const own = quietly(() => readlinkSync("/proc/self/ns/mnt"));
  const seen = new Set<string>();
  const found = pointsIn("self", device).map((point) => `mount ${point}`);
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
 * The processes that have the device open, by any node of it: a container has one of its own, under a name of its own. Apart
 * from the one that serves it and this one.
 */
export const openersOf = (device: BlockDevice): string[] =>
  (quietly(() => readdirSync("/proc")) ?? []).flatMap((pid) => {
    if (!/^\d+$/.test(pid) || pid === String(process.pid)) return [];
    const name = quietly(() => readFileSync(`/proc/${pid}/comm`, "utf8").trim());
    const isOpen = () =>
      readdirSync(`/proc/${pid}/fd`).some((fd) => quietly(() => isNodeOf(`/proc/${pid}/fd/${fd}`, device)));
    return name === undefined || name === "rbd-nbd" || quietly(isOpen) !== true ? [] : [`process ${pid} (${name})`];
  });

/** Only what is in a folder of devices is looked at: a file may be on a filesystem that hangs. */
const isNodeOf = (link: string, { path, major, minor }: BlockDevice): boolean => {
  const target = readlinkSync(link);
  if (target === path) return true;
  if (!target.startsWith("/dev/")) return false;
  const found = statSync(link);
  return found.isBlockDevice() && deviceNumber(found.rdev) === `${major}:${minor}`;
};
