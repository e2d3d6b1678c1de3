/**
 * Whether this node reaches the clusters whose images it has mapped: for NodeGetStorageHealth.
 *
 * Not here: single volumes (./health.ts).
 *
 * 1. A monitor counts as reached if it greets a client that connects. Nobody logs in: no credentials are needed.
 * 2. Only clusters that the kernel has images of are asked: a node need not reach each cluster of config.json.
 * 3. It answers in two seconds, whatever hangs.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { type MonitorState, monitorStates } from "../ceph/monitors.ts";
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

export const storageFaults: Effect.Effect<readonly StorageFault[], HostError, Host> = Effect.gen(function* () {
  const clusters = yield* (yield* Host).mappedClusters;
  const faults = yield* Effect.forEach(
    clusters,
    (cluster) => Effect.map(monitorStates(cluster.monitors, PATIENCE), (states) => faultOf(cluster, states)),
    { concurrency: "unbounded" },
  );
  return faults.filter((fault) => fault !== undefined);
}).pipe(Effect.withSpan("node.storageFaults"));

const faultOf = ({ fsid }: MappedCluster, states: readonly MonitorState[]): StorageFault | undefined => {
  const missing = states.flatMap(({ fault }) => fault ?? []);
  if (missing.length === 0) return undefined;
  const words = missing.join("; ");
  return missing.length === states.length
    ? {
        status: "unreachable",
        reason: "MonitorsUnreachable",
        message: `this node reaches no monitor of cluster ${fsid}: ${words}. Check its network and "ceph -s"`,
      }
    : {
        status: "degraded",
        reason: "MonitorsMissing",
        message: `this node does not reach all monitors of cluster ${fsid}: ${words}`,
      };
};
