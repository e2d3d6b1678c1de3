/**
 * Whether this node reaches the clusters whose images it has mapped: for NodeGetStorageHealth.
 *
 * Not here: single volumes (./health.ts).
 *
 * 1. A monitor counts as reached if it greets a client that connects. Nobody logs in: no credentials are needed.
 * 2. Only clusters that the kernel has images of are asked: a node need not reach each cluster of config.json.
 * 3. Monitors move, and the kernel follows them. So a monitor is missed only if it is one of today's: the kernel's client
 *    knows it or, where that cannot be read, config.json does. Those by which images were mapped count if they answer.
 * 4. A cluster is unreachable only if no I/O of its volumes is completed meanwhile. Nothing is said of one that config.json
 *    has in another network namespace, where the driver is not.
 * 5. It answers in two seconds, whatever hangs.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { type MonitorState, monitorStates } from "../ceph/monitors.ts";
import { shareMonitor } from "../ceph/same-monitors.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import type { MappedCluster } from "../host/mapped-device.ts";

export interface StorageFault {
  readonly status: "degraded" | "unreachable";
  /** One CamelCase word, for programs. */
  readonly reason: string;
  /** For people. */
  readonly message: string;
}

const PATIENCE = Duration.millis(1500);

export const storageFaults: Effect.Effect<readonly StorageFault[], HostError, Clusters | Host> = Effect.gen(
  function* () {
    const clusters = yield* (yield* Host).mappedClusters;
    const configured = yield* (yield* Clusters).table.pipe(
      Effect.map((table) => [...table.clusters.values()]),
      Effect.orElseSucceed((): readonly Cluster[] => []),
    );
    const faults = yield* Effect.forEach(clusters, (cluster) => faultOf(cluster, configured), {
      concurrency: "unbounded",
    });
    return faults.filter((fault) => fault !== undefined);
  },
).pipe(Effect.withSpan("node.storageFaults"));

const faultOf = Effect.fnUntraced(function* (
  cluster: MappedCluster,
  configured: readonly Cluster[],
): Effect.fn.Return<StorageFault | undefined, HostError, Host> {
  const { fsid, mappedBy, monitors } = cluster;
  const known = [...mappedBy, ...(monitors ?? [])];
  const entries = configured.filter((each) => each.clusterId === fsid || shareMonitor(each.monitors, known));
  if (entries.some(({ netNamespaceFilePath }) => netNamespaceFilePath !== "")) return undefined;
  const configuredNow = entries.flatMap((each) => each.monitors);
  const today = new Set(monitors ?? configuredNow);
  const others = [...mappedBy, ...configuredNow].filter((each) => !today.has(each));
  const [states, more] = yield* Effect.all(
    [monitorStates([...today], PATIENCE), today.size === 0 ? Effect.succeed([]) : monitorStates(others, PATIENCE)],
    { concurrency: "unbounded" },
  );
  const missing = states.flatMap(({ fault }) => fault ?? []);
  if (missing.length === 0) return undefined;
  const words = missing.join("; ");
  if ([...states, ...more].some(isReached)) {
    return {
      status: "degraded",
      reason: "MonitorsMissing",
      message: `this node does not reach all monitors of cluster ${fsid}: ${words}`,
    };
  }
  const goesOn = yield* completesMore(cluster);
  return {
    status: goesOn ? "degraded" : "unreachable",
    reason: "MonitorsUnreachable",
    message: `this node reaches no monitor of cluster ${fsid}${goesOn ? ", and the I/O of its volumes goes on" : ""}: ${words}. Check its network and "ceph -s"`,
  };
});

const isReached = ({ fault }: MonitorState): boolean => fault === undefined;

/** Whether the devices of a cluster have completed requests since. */
const completesMore = ({ fsid, completed }: MappedCluster): Effect.Effect<boolean, HostError, Host> =>
  Effect.flatMap(Host, (host) =>
    Effect.map(host.mappedClusters, (now) => now.some((each) => each.fsid === fsid && each.completed > completed)),
  );
