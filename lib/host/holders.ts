/**
 * Who uses a block device: asked when the kernel says that it is busy, so that a person can end that use.
 *
 * Loaded in host cells: no Effect. Best effort: what can't be read is left out, for the answer is only ever shown.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { type DeviceNumber, mountsOf, parseMountInfo } from "./mountinfo.ts";

/** Namespaces looked at, at most: a machine with more is not helped by a longer answer. */
const MAX_NAMESPACES = 500;

const quietly = <A>(read: () => A): A | undefined => {
  try {
    return read();
  } catch {
    return undefined;
  }
};

export const holdersOf = (device: DeviceNumber): string[] => {
  const name = device.path.slice("/dev/".length);
  const stacked = (quietly(() => readdirSync(`/sys/block/${name}/holders`)) ?? []).map((holder) => `/dev/${holder}`);
  const swaps = quietly(() => readFileSync("/proc/swaps", "utf8")) ?? "";
  const swap = swaps.split("\n").some((line) => line.startsWith(`${device.path} `)) ? ["swap"] : [];
  return [...stacked, ...swap, ...mountHolders(device)];
};

/** Mounts of the device in this mount namespace, and in those of other processes where they can be seen. */
const mountHolders = (device: DeviceNumber): string[] => {
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
  return found.slice(0, 20);
};

const pointsIn = (pid: string, device: DeviceNumber): string[] =>
  quietly(() =>
    mountsOf(parseMountInfo(readFileSync(`/proc/${pid}/mountinfo`, "utf8")), device).map(({ point }) => point),
  ) ?? [];
