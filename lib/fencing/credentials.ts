/**
 * The credentials for attaching and detaching a volume. Kubernetes sends them only for volumes whose StorageClass named a
 * Secret for it when they were made; for others the administrator states them per cluster.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { ClusterSecrets } from "../config/cluster-secrets.ts";
import { Clusters } from "../config/clusters.ts";
import type { ConfigError, InvalidSecret } from "../config/errors.ts";
import { type Credentials, parseCredentials } from "../config/secrets.ts";
import type { NotReadyYet } from "../csi/errors.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import { Kubernetes } from "./kubernetes.ts";

type Secrets = Readonly<Record<string, string>>;

const parsed = (secrets: Secrets) => Effect.fromResult(parseCredentials(secrets, { allowMigration: true }));

/**
 * Those of the request; else those of `--secrets-dir`; else those in the Secret that the cluster's entry in config.json
 * names (`rbd.controllerPublishSecretRef`). `undefined`: nobody has given any. Fails if there is no such entry: whether it would
 * name a Secret is not known then.
 */
export const attachCredentials = Effect.fnUntraced(function* (
  volumeId: string,
  secrets: Secrets,
): Effect.fn.Return<
  Credentials | undefined,
  ConfigError | InvalidSecret | NotReadyYet,
  ClusterSecrets | Clusters | Kubernetes
> {
  if (Object.keys(secrets).length > 0) return yield* parsed(secrets);
  const handle = parseVolumeId(volumeId);
  if (Result.isFailure(handle)) return undefined;
  const { clusterId } = handle.success;
  const given = yield* (yield* ClusterSecrets).get(clusterId);
  if (given !== undefined) return given.credentials;
  const cluster = yield* (yield* Clusters).get(clusterId);
  if (cluster.controllerPublishSecret === undefined) return undefined;
  const found = yield* (yield* Kubernetes).secret(cluster.controllerPublishSecret);
  return found && (yield* parsed(found));
});

/** For messages: where credentials can come from. */
export const HOW_TO_GIVE_CREDENTIALS =
  "Name the cluster's Secret in config.json (rbd.controllerPublishSecretRef) or in --secrets-dir; for volumes to come, in the StorageClass (csi.storage.k8s.io/controller-publish-secret-name and -namespace)";
