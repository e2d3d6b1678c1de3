/**
 * config.json: which clusters there are and how to reach them. Its fields and defaults are ceph-csi's; only those
 * that matter to RBD are read. It holds no secret, and opens no connection.
 *
 * Invariants:
 * 1. A bad entry affects no other. Whoever asks for it gets an error that says what is wrong with it.
 * 2. Of two entries with one clusterID the first counts, even if it is the bad one: a second one may mean another
 *    cluster.
 * 3. `get` returns the current content of the file, or that of a moment ago (see reread.ts).
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import * as z from "zod";
import { type Fields, fieldsOf, isObject, misspelled } from "../text/go-json.ts";
import { hasControl, oneLine } from "../text/printable.ts";
import { type ConfigError, ConfigInvalid, ConfigMissing } from "./errors.ts";
import { parseArray } from "./json-array.ts";
import { MOMENT_MS, reread } from "./reread.ts";

export interface Cluster {
  readonly clusterId: string;
  /** Copied from the file: `host:port`, `[v2:…,v1:…]` and so on. Neither the list nor one of them is empty. */
  readonly monitors: ReadonlyArray<string>;
  /** RADOS namespace of images and journal; "" is the default one. */
  readonly radosNamespace: string;
  /** Path of the network namespace in which the node maps images; "" for its own. */
  readonly netNamespaceFilePath: string;
  /** Watchers of mirror daemons that an image in no use may have. */
  readonly mirrorDaemonCount: number;
  readonly readAffinity: { readonly enabled: boolean; readonly crushLocationLabels: ReadonlyArray<string> };
  /** The Secret for attaching and detaching volumes whose StorageClass named none. */
  readonly controllerPublishSecret?: { readonly name: string; readonly namespace: string };
}

export interface ClusterTable {
  readonly clusters: ReadonlyMap<string, Cluster>;
  /** Per clusterID, or per index of an entry without one. For an ID that `clusters` lacks: why it is refused. */
  readonly problems: ReadonlyMap<string | number, string>;
}

const line = z.string("must be a string").refine((value) => !hasControl(value), "must not hold control characters");
const nonEmpty = line.refine((value) => value.trim() !== "", "must not be empty");
/** Go reads a null in a list of strings as an empty one. */
const text = z.preprocess((value) => value ?? "", z.string("must be a string"));
const ARRAY_FORM = "must be an array of strings";

/** librados splits its list of monitors at blanks and line ends, too, and skips what is empty. */
const monitorList = z
  .array(text.transform((value) => value.trim()).pipe(line), ARRAY_FORM)
  .transform((monitors) => monitors.filter((monitor) => monitor !== ""))
  .pipe(z.array(z.string()).min(1, "must name at least one monitor"));

/** ceph-csi joins them by commas, splits them again, and ignores each that the node lacks. */
const labelList = z.array(text, ARRAY_FORM).transform((labels) =>
  labels
    .flatMap((label) => label.split(","))
    .map((label) => label.trim())
    .filter((label) => label !== ""),
);

const flag = z.union([z.boolean(), z.enum(["true", "false"]).transform((word) => word === "true")], {
  error: "must be true or false",
});

/** A nested object with its keys in our spelling. */
const section = <S extends z.ZodRawShape>(shape: S) =>
  z.preprocess(
    (value) => (isObject(value) ? fieldsOf(value, Object.keys(shape)) : value),
    z.object(shape, "must be an object"),
  );

const daemonCount = z.int("must be a whole number").default(0);
/** ceph-csi's documents name its keys in two ways. */
const secretRef = {
  name: line.optional(),
  namespace: line.optional(),
  secretName: line.optional(),
  secretNamespace: line.optional(),
};
type SecretRef = { readonly [K in keyof typeof secretRef]?: string | undefined };

const secretIn = ({ name, namespace, secretName, secretNamespace }: SecretRef = {}) => {
  const secret = { name: name || secretName || "", namespace: namespace || secretNamespace || "" };
  return secret.name === "" || secret.namespace === "" ? undefined : secret;
};

const rbdShape = {
  radosNamespace: line.default(""),
  netNamespaceFilePath: line.default(""),
  mirrorDaemonCount: daemonCount,
  // The name that its documents have had as well.
  mirrorCount: daemonCount,
  controllerPublishSecretRef: section(secretRef).optional().catch(undefined),
};
/** ceph-csi's since 3.13. They are accepted in any form, because nothing reads them here. */
const WITHOUT_EFFECT = ["rbd.nodePublishSecretRef", "replicationDestination"];

const affinityShape = {
  enabled: flag.optional(),
  crushLocationLabels: labelList.default([]),
};
const entryShape = {
  clusterID: nonEmpty,
  monitors: monitorList,
  rbd: section(rbdShape).prefault({}),
  readAffinity: section(affinityShape).prefault({}),
};
const entrySchema = z.object(entryShape);
const ENTRY_FIELDS = [...Object.keys(entryShape), "radosNamespace"];

/** Keys of an entry that are almost ours, with their place. ceph-csi's keys for other drivers are none of them. */
const misspelledIn = (entry: Fields): ReadonlyArray<string> => {
  const fields = fieldsOf(entry, ENTRY_FIELDS);
  const places: ReadonlyArray<readonly [place: string, object: unknown, names: ReadonlyArray<string>]> = [
    ["", entry, Object.keys(entryShape)],
    ["rbd.", fields["rbd"], Object.keys(rbdShape)],
    ["readAffinity.", fields["readAffinity"], Object.keys(affinityShape)],
  ];
  return places.flatMap(([place, object, names]) =>
    isObject(object)
      ? misspelled(object, names).map(
          ([written, meant]) => `${oneLine(place + written)} is not a key and has no effect: write ${place}${meant}`,
        )
      : [],
  );
};

const issueText = (issue: z.core.$ZodIssue | undefined): string => {
  const path = (issue?.path ?? []).map(String).join(".");
  // zod's own words for an absent field would speak of `undefined`.
  return `${path || "the entry"} ${issue?.message ?? "is wrong"}`;
};

/** Whether the entry has something at `a.b`, with keys in any case. */
const has = (entry: Fields, place: string): boolean => {
  let value: unknown = entry;
  for (const key of place.split(".")) value = isObject(value) ? fieldsOf(value, [key])[key] : undefined;
  return value !== undefined;
};

/** Remarks on an entry that works all the same. */
const notesOn = (entry: Fields, fields: Record<string, unknown>, cluster: Cluster): ReadonlyArray<string> => {
  const notes: Array<string> = [];
  const affinity = fields["readAffinity"];
  if (isObject(affinity) && typeof fieldsOf(affinity, ["enabled"])["enabled"] === "string") {
    notes.push("readAffinity.enabled is a string: write true or false without quotes");
  }
  if (
    typeof fields["radosNamespace"] === "string" &&
    fields["radosNamespace"] !== "" &&
    cluster.radosNamespace === ""
  ) {
    notes.push("radosNamespace outside of rbd has no effect: write it as rbd.radosNamespace");
  }
  if (has(entry, "rbd.controllerPublishSecretRef") && cluster.controllerPublishSecret === undefined) {
    notes.push("rbd.controllerPublishSecretRef has no effect: write the name and the namespace of a Secret");
  }
  for (const place of WITHOUT_EFFECT) {
    if (has(entry, place)) notes.push(`${place} has no effect in this release`);
  }
  return notes;
};

/** Values from the flags, for entries that do not state them. */
export interface ClusterDefaults {
  readonly readAffinity: boolean;
}
const NO_DEFAULTS: ClusterDefaults = { readAffinity: false };

interface Entry {
  readonly name: string | number;
  readonly cluster?: Cluster;
  readonly remarks: ReadonlyArray<string>;
}

const parseEntry = (value: unknown, index: number, defaults: ClusterDefaults): Entry => {
  if (!isObject(value)) return { name: index, remarks: ["the entry must be an object"] };
  const fields = fieldsOf(value, ENTRY_FIELDS);
  const id = entryShape.clusterID.safeParse(fields["clusterID"]);
  const name = id.success ? id.data : index;
  const parsed = entrySchema.safeParse(fields);
  const typos = misspelledIn(value);
  if (!parsed.success) return { name, remarks: [...parsed.error.issues.slice(0, 5).map(issueText), ...typos] };
  const { clusterID, monitors, rbd, readAffinity } = parsed.data;
  const { mirrorCount, controllerPublishSecretRef, ...inRbd } = rbd;
  const controllerPublishSecret = secretIn(controllerPublishSecretRef);
  const mirrorDaemonCount = [rbd.mirrorDaemonCount, mirrorCount].find((count) => count > 0) ?? 1;
  const { enabled = defaults.readAffinity, crushLocationLabels } = readAffinity;
  const cluster: Cluster = {
    clusterId: clusterID,
    monitors,
    ...inRbd,
    mirrorDaemonCount,
    readAffinity: { enabled, crushLocationLabels },
    ...(controllerPublishSecret !== undefined && { controllerPublishSecret }),
  };
  return { name, cluster, remarks: [...notesOn(value, fields, cluster), ...typos] };
};

/** Reads the text of a config.json. Fails only when there are no entries to speak of. */
export const parseClusters = (
  text: string,
  path = "config.json",
  defaults = NO_DEFAULTS,
): Result.Result<ClusterTable, ConfigInvalid> =>
  Result.map(parseArray(path, text), (values) => {
    const clusters = new Map<string, Cluster>();
    const remarks = new Map<string | number, ReadonlyArray<string>>();
    const claimed = new Set<string | number>();
    for (const [index, value] of values.entries()) {
      const entry = parseEntry(value, index, defaults);
      const before = remarks.get(entry.name) ?? [];
      if (claimed.has(entry.name)) {
        remarks.set(entry.name, [...before, `entry ${index} repeats this clusterID and has no effect`]);
        continue;
      }
      claimed.add(entry.name);
      if (entry.remarks.length > 0) remarks.set(entry.name, entry.remarks);
      if (entry.cluster !== undefined) clusters.set(entry.cluster.clusterId, entry.cluster);
    }
    return { clusters, problems: new Map([...remarks].map(([name, texts]) => [name, texts.join("; ")])) };
  });

/** The cluster of this ID, or why there is none. */
export const findCluster = (
  table: ClusterTable,
  clusterId: string,
  path: string,
): Result.Result<Cluster, ConfigError> => {
  const cluster = table.clusters.get(clusterId);
  if (cluster !== undefined) return Result.succeed(cluster);
  const problem = table.problems.get(clusterId);
  if (problem !== undefined) {
    const reason = `the entry of clusterID ${oneLine(clusterId)} cannot be used: ${problem}`;
    return Result.fail(new ConfigInvalid({ kind: "bad-entry", path, reason }));
  }
  return Result.fail(new ConfigMissing({ clusterId, path, known: [...table.clusters.keys()].slice(0, 20) }));
};

const warn = (path: string) => (table: ClusterTable) =>
  Effect.forEach(
    table.problems,
    ([name, problem]) => Effect.logWarning(`${path}: ${typeof name === "number" ? `entry ${name}` : name}: ${problem}`),
    { discard: true },
  );

/** The clusters of config.json. */
export class Clusters extends Context.Service<
  Clusters,
  {
    readonly get: (clusterId: string) => Effect.Effect<Cluster, ConfigError>;
    /** The whole table, for start-up checks and diagnosis. */
    readonly table: Effect.Effect<ClusterTable, ConfigInvalid>;
  }
>()("csi-rbd/config/Clusters") {
  /** Reads `<configDir>/config.json`, again whenever it changes. */
  static readonly layer = (configDir: string, defaults = NO_DEFAULTS): Layer.Layer<Clusters> =>
    Layer.sync(Clusters, () => {
      const path = `${configDir}/config.json`;
      const reason = "the file does not exist: mount the ConfigMap with config.json there, or set --config-dir";
      const table = reread<ClusterTable>({
        path,
        trustedMs: MOMENT_MS,
        parse: (text) => parseClusters(text, path, defaults),
        missing: Result.fail(new ConfigInvalid({ kind: "file-missing", path, reason })),
        onRead: warn(path),
      });
      const get = (clusterId: string) =>
        Effect.flatMap(table, (now) => Effect.fromResult(findCluster(now, clusterId, path)));
      return Clusters.of({ get, table });
    });

  /** Holds these clusters and reads no file, for tests. */
  static readonly layerOf = (clusters: ReadonlyArray<Cluster>): Layer.Layer<Clusters> => {
    const table: ClusterTable = {
      clusters: new Map(clusters.map((each) => [each.clusterId, each])),
      problems: new Map(),
    };
    const get = (clusterId: string) => Effect.fromResult(findCluster(table, clusterId, "memory"));
    return Layer.succeed(Clusters, Clusters.of({ get, table: Effect.succeed(table) }));
  };
}
