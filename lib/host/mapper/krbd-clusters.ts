/**
 * The clusters of which krbd has images mapped, and the monitors that it knows of each.
 *
 * Loaded in host cells: no Effect.
 *
 * 1. What an image was mapped by is fixed, however long it stays mapped: `config_info` is the text of the map call. The monitors
 *    of now are in the client's monmap, where debugfs can be read, and else unknown here.
 *
 * Source: drivers/block/rbd.c (config_info), net/ceph/debugfs.c (monmap_show) and ceph_pr_addr, which puts the type of an
 * address before it since 5.11; Documentation/block/stat.rst.
 */
import { readFileSync } from "node:fs";
import type { MappedCluster } from "../mapped-device.ts";
import { namesIn, optional } from "./sysfs.ts";

const DEVICES = "/sys/bus/rbd/devices";
/** A folder for each client of the kernel: `<fsid>.client<ID>`. */
const CLIENTS = "/sys/kernel/debug/ceph";

/** What the kernel shows of one mapped image. */
export interface ShownMapping {
  readonly fsid: string;
  /** "10.0.0.1:6789,10.0.0.2:6789 name=admin,key=client.admin rbd image -" */
  readonly configInfo: string;
  /** Of its block device: /sys/block/rbd0/stat. */
  readonly stat: string;
}

/** "epoch 3" and a line for each monitor: "	mon0	(2)10.0.0.1:3300". The epoch is -1 of a text that is none. */
export const readMonmap = (text: string): { readonly epoch: number; readonly monitors: readonly string[] } => ({
  epoch: Number(/^epoch (\d+)$/m.exec(text)?.[1] ?? -1),
  monitors: [...text.matchAll(/^\s*mon\d+\s+(?:\(\d+\))?(\S+:\d+)$/gm)].flatMap(([, address]) => address ?? []),
});

/** Where reads, writes, discards and flushes that were completed are in `stat`. */
const COMPLETED: readonly number[] = [0, 4, 11, 15];

const completedIn = (stat: string): bigint => {
  const counts = stat.trim().split(/\s+/);
  return COMPLETED.reduce((sum, at) => sum + BigInt(/^\d+$/.exec(counts[at] ?? "")?.[0] ?? 0), 0n);
};

/** `monmaps`: those of the kernel's clients, by fsid. */
export const clustersOf = (
  mappings: readonly ShownMapping[],
  monmaps: ReadonlyMap<string, readonly string[]>,
): readonly MappedCluster[] => {
  const fsids = new Set(mappings.map(({ fsid }) => fsid).filter((fsid) => fsid !== ""));
  return [...fsids].map((fsid) => {
    const its = mappings.filter((each) => each.fsid === fsid);
    const lists = its.flatMap(({ configInfo }) => (configInfo.split(" ")[0] ?? "").split(","));
    return {
      fsid,
      mappedBy: [...new Set(lists.filter((monitor) => monitor !== ""))],
      monitors: monmaps.get(fsid),
      completed: its.reduce((sum, { stat }) => sum + completedIn(stat), 0n),
    };
  });
};

/** debugfs may be absent, locked, or not for this process. */
const inDebugfs = <A>(read: () => A): A | undefined => {
  try {
    return read();
  } catch {
    return undefined;
  }
};

/** Of several clients of a cluster the one that knows the newest map counts. */
const liveMonmaps = (): ReadonlyMap<string, readonly string[]> => {
  const newest = new Map<string, ReturnType<typeof readMonmap>>();
  for (const client of inDebugfs(() => namesIn(CLIENTS)) ?? []) {
    const fsid = client.replace(/\.client\d+$/, "");
    const map = readMonmap(inDebugfs(() => readFileSync(`${CLIENTS}/${client}/monmap`, "utf8")) ?? "");
    if (map.monitors.length > 0 && map.epoch > (newest.get(fsid)?.epoch ?? -1)) newest.set(fsid, map);
  }
  return new Map([...newest].map(([fsid, { monitors }]) => [fsid, monitors]));
};

export const mappedClusters = (): readonly MappedCluster[] => {
  const mappings = namesIn(DEVICES).map((id) => ({
    fsid: optional(`${DEVICES}/${id}/cluster_fsid`),
    configInfo: optional(`${DEVICES}/${id}/config_info`),
    stat: optional(`/sys/block/rbd${id}/stat`),
  }));
  return clustersOf(mappings, liveMonmaps());
};
