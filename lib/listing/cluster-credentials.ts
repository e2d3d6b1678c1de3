/**
 * Which clusters are listed, and with whose credentials: those of the administrator's files first
 * (lib/config/cluster-secrets.ts), else those of the request.
 *
 * Not here: which pools of a cluster (./page.ts).
 *
 * 1. A list is whole or an error: a cluster that can't be asked fails it, for what is missing from a list counts as
 *    gone.
 * 2. Of entries in config.json that lead to the same place, the first lists what is there, so nothing is listed twice.
 */
import * as Effect from "effect/Effect";
import { type ClusterSecret, ClusterSecrets } from "../config/cluster-secrets.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { Credentials } from "../config/secrets.ts";
import { Precondition } from "../csi/errors.ts";

export interface Reach {
  readonly cluster: Cluster;
  readonly secret: ClusterSecret;
}

const inBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** The cluster with credentials for it; fails where there are none. */
export const reachOf = (clusterId: string, given: Credentials | undefined) =>
  Effect.gen(function* () {
    const cluster = yield* (yield* Clusters).get(clusterId);
    return yield* withSecret(cluster, given);
  });

const withSecret = (cluster: Cluster, given: Credentials | undefined) =>
  Effect.gen(function* () {
    const secrets = yield* ClusterSecrets;
    const own = yield* secrets.get(cluster.clusterId);
    const secret = own ?? (given && { credentials: given, pools: undefined });
    if (secret !== undefined) return { cluster, secret } satisfies Reach;
    const message = `the driver has no credentials for cluster ${cluster.clusterId}, and the request brings none: mount a Secret with userID and userKey at ${secrets.place(cluster.clusterId)}`;
    return yield* new Precondition({ subject: "", problem: message });
  });

/** Every place of the configuration once, in the order of the clusterIDs' bytes, from `from` on. */
export const allClusters = (from: string | undefined) =>
  Effect.gen(function* () {
    const clusters = yield* Clusters;
    const { clusters: good, problems } = yield* clusters.table;
    for (const name of problems.keys()) if (typeof name === "string" && !good.has(name)) yield* clusters.get(name);
    const seen = new Set<string>();
    const once = [...good.values()].filter(({ monitors, radosNamespace }) => {
      const place = JSON.stringify([monitors.toSorted(), radosNamespace]);
      if (seen.has(place)) return false;
      seen.add(place);
      return true;
    });
    return once
      .filter(({ clusterId }) => from === undefined || inBytes(clusterId, from) >= 0)
      .toSorted((a, b) => inBytes(a.clusterId, b.clusterId));
  });

/** Whether every cluster can be listed without credentials in the request: what listing is offered for. */
export const canList = Effect.gen(function* () {
  const clusters = yield* allClusters(undefined);
  for (const cluster of clusters) yield* withSecret(cluster, undefined);
  return clusters.length > 0;
}).pipe(Effect.catch(({ message }) => Effect.as(Effect.logInfo(`listing is not offered: ${message}`), false)));
