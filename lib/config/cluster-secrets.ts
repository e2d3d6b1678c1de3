/**
 * Credentials that an administrator gives the driver by file, for the calls whose requests bring none (ListVolumes,
 * ControllerGetVolume, GetCapacity) or may bring none (ListSnapshots):
 *
 *   <secrets-dir>/<clusterID>/userID     cephx name without "client."
 *   <secrets-dir>/<clusterID>/userKey    its key
 *   <secrets-dir>/<clusterID>/pools      optional: the only pools to look into, one a line
 *
 * That is the form of a mounted Kubernetes Secret whose keys have these names: the one that StorageClasses use will do.
 *
 * 1. `get` returns the current content of the files (see reread.ts). A new Secret needs no restart.
 * 2. A key is in memory only, Redacted; it reaches no log line and no error. Files that everybody may read are used, with
 *    a warning: the mode of a mounted Secret is the pod's to choose, and its default is 0644.
 * 3. No clusterID leads out of the folder.
 */
import { stat } from "node:fs/promises";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import { hasControl } from "../text/printable.ts";
import { ConfigInvalid } from "./errors.ts";
import { reread } from "./reread.ts";
import { type Credentials, parseCredentials } from "./secrets.ts";

export interface ClusterSecret {
  readonly credentials: Credentials;
  /** Absent: every pool that the user may look into. */
  readonly pools: readonly string[] | undefined;
}

type Read = Effect.Effect<string | undefined, ConfigInvalid>;

const isFolderName = (clusterId: string): boolean =>
  clusterId !== "" && clusterId !== "." && clusterId !== ".." && !clusterId.includes("/") && !hasControl(clusterId);

const WORLD_READABLE = 0o004;

const warnIfOpen = (path: string) =>
  Effect.promise(() => stat(path).catch(() => undefined)).pipe(
    Effect.flatMap((found) =>
      found === undefined || (found.mode & WORLD_READABLE) === 0
        ? Effect.void
        : Effect.logWarning(`${path} can be read by everybody: set defaultMode 0400 where the Secret is mounted`),
    ),
  );

const textOf = (path: string, secret: boolean): Read =>
  reread<string | undefined>({
    path,
    parse: (text) => Result.succeed(text),
    missing: Result.succeed(undefined),
    ...(secret && { onRead: () => warnIfOpen(path) }),
  });

const poolsIn = (path: string, text: string): Result.Result<readonly string[], ConfigInvalid> => {
  const names = text
    .split(/[\r\n,]+/)
    .map((name) => name.trim())
    .filter((name) => name !== "");
  if (names.length > 0 && !names.some(hasControl)) return Result.succeed([...new Set(names)]);
  const reason = "names no pool: write one a line, or remove the file";
  return Result.fail(new ConfigInvalid({ kind: "bad-entry", path, reason }));
};

const reader = (folder: string): Effect.Effect<ClusterSecret | undefined, ConfigInvalid> => {
  const user = textOf(`${folder}/userID`, false);
  const key = textOf(`${folder}/userKey`, true);
  const list = textOf(`${folder}/pools`, false);
  return Effect.gen(function* () {
    const [userID, userKey, poolText] = yield* Effect.all([user, key, list], { concurrency: "unbounded" });
    if (userID === undefined && userKey === undefined) return undefined;
    const secrets = { ...(userID !== undefined && { userID }), ...(userKey !== undefined && { userKey }) };
    const parsed = parseCredentials(secrets, { allowMigration: false });
    if (Result.isFailure(parsed)) {
      const { key: name, reason } = parsed.failure;
      return yield* new ConfigInvalid({ kind: "bad-entry", path: `${folder}/${name}`, reason });
    }
    const pools = poolText === undefined ? undefined : yield* Effect.fromResult(poolsIn(`${folder}/pools`, poolText));
    return { credentials: parsed.success, pools };
  });
};

/** Credentials per cluster, as the administrator gives them. */
export class ClusterSecrets extends Context.Service<
  ClusterSecrets,
  {
    /** `undefined`: the administrator has given none for this cluster. */
    readonly get: (clusterId: string) => Effect.Effect<ClusterSecret | undefined, ConfigInvalid>;
    /** The folder that would hold one, for messages. */
    readonly place: (clusterId: string) => string;
  }
>()("csi-rbd/config/ClusterSecrets") {
  /** Reads the folders of `secretsDir`, again whenever they change. */
  static readonly layer = (secretsDir: string): Layer.Layer<ClusterSecrets> =>
    Layer.sync(ClusterSecrets, () => {
      const readers = new Map<string, ReturnType<typeof reader>>();
      const place = (clusterId: string) => `${secretsDir}/${clusterId}`;
      const get = (clusterId: string) =>
        Effect.suspend(() => {
          if (!isFolderName(clusterId)) return Effect.succeed(undefined);
          const known = readers.get(clusterId) ?? reader(place(clusterId));
          readers.set(clusterId, known);
          return known;
        });
      return ClusterSecrets.of({ get, place });
    });

  /** Holds these credentials and reads no file, for tests. */
  static readonly layerOf = (secrets: Readonly<Record<string, ClusterSecret>>): Layer.Layer<ClusterSecrets> =>
    Layer.succeed(
      ClusterSecrets,
      ClusterSecrets.of({
        get: (clusterId) => Effect.succeed(secrets[clusterId]),
        place: (clusterId) => `--secrets-dir/${clusterId}`,
      }),
    );
}
