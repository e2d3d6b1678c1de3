/**
 * Which clusters are listed, and with whose credentials: those that the administrator has given by file
 * (lib/config/cluster-secrets.ts) come first, those of the request second.
 *
 * Not here: which pools of a cluster are looked into (./page.ts).
 *
 * 1. A list is whole or an error: a cluster that cannot be asked fails it, because what a list lacks counts as gone.
 * 2. Of several entries in config.json that lead to the same place, only the first is listed, so nothing is listed twice.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { monitorsKey } from "../ceph/same-monitors.ts";
import { type ClusterSecret, ClusterSecrets } from "../config/cluster-secrets.ts";
import { type Cluster, Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { Credentials } from "../config/secrets.ts";
import { Precondition } from "../csi/errors.ts";

export interface ClusterWithSecret {
  readonly cluster: Cluster;
  readonly secret: ClusterSecret;
}

const inBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** The cluster with credentials for it; fails when there are none. */
export const clusterWithSecret = Effect.fn("listing.clusterWithSecret")(function* (
  clusterId: string,
  requestCredentials: Credentials | undefined,
): Effect.fn.Return<ClusterWithSecret, ConfigError | Precondition, Clusters | ClusterSecrets> {
  return yield* withSecret(yield* (yield* Clusters).get(clusterId), requestCredentials);
});

const withSecret = Effect.fnUntraced(function* (
  cluster: Cluster,
  requestCredentials: Credentials | undefined,
): Effect.fn.Return<ClusterWithSecret, ConfigError | Precondition, ClusterSecrets> {
  const secrets = yield* ClusterSecrets;
  const given = yield* secrets.get(cluster.clusterId);
  const secret = given ?? (requestCredentials && { credentials: requestCredentials, pools: undefined });
  if (secret !== undefined) return { cluster, secret };
  return yield* new Precondition({
    subject: `cluster ${cluster.clusterId}`,
    problem: "cannot be asked, because neither the driver nor the request has credentials for it",
    remedy: `Mount a Secret with userID and userKey at ${secrets.place(cluster.clusterId)}`,
  });
});

/**
 * The credentials for one object: those of the request, else those that the administrator has given for the cluster in
 * the object's ID. `gone` is the error for an ID that does not parse.
 */
export const credentialsFor = Effect.fn("listing.credentialsFor")(function* <E>(
  id: Result.Result<{ readonly clusterId: string }, { readonly reason: string }>,
  requestCredentials: Credentials | undefined,
  gone: (reason: string) => E,
): Effect.fn.Return<Credentials, ConfigError | Precondition | E, Clusters | ClusterSecrets> {
  if (Result.isFailure(id)) return yield* Effect.fail(gone(id.failure.reason));
  if (requestCredentials !== undefined) return requestCredentials;
  return (yield* clusterWithSecret(id.success.clusterId, undefined)).secret.credentials;
});

/** Every place of the configuration once, in the order of the clusterIDs' bytes, from `from` on. */
export const allClusters = Effect.fn("listing.allClusters")(function* (
  from: string | undefined,
): Effect.fn.Return<readonly Cluster[], ConfigError, Clusters> {
  const clusters = yield* Clusters;
  const { clusters: usable, problems } = yield* clusters.table;
  // Fails with what is wrong with the entry.
  for (const name of problems.keys()) if (typeof name === "string" && !usable.has(name)) yield* clusters.get(name);
  const seen = new Set<string>();
  return [...usable.values()]
    .filter(({ monitors, radosNamespace }) => {
      const place = JSON.stringify([monitorsKey(monitors), radosNamespace]);
      return !seen.has(place) && seen.add(place);
    })
    .filter(({ clusterId }) => from === undefined || inBytes(clusterId, from) >= 0)
    .toSorted((a, b) => inBytes(a.clusterId, b.clusterId));
});

/** Whether every cluster can be listed without credentials in the request: the condition for offering to list. */
export const canList: Effect.Effect<boolean, never, Clusters | ClusterSecrets> = Effect.gen(function* () {
  const clusters = yield* allClusters(undefined);
  for (const cluster of clusters) yield* withSecret(cluster, undefined);
  return clusters.length > 0;
}).pipe(Effect.catch(({ message }) => Effect.as(Effect.logInfo(`listing is not offered: ${message}`), false)));
