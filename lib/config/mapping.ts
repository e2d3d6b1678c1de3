/**
 * Reads cluster-mapping.json, which names the cluster and pool in which a volume is after a failover.
 *
 * Not here: when a volume is looked for there (lib/journal/locate.ts).
 *
 * Invariants:
 * 1. Both directions count, of clusters and of pools.
 * 2. A bad element affects no other, and a bad pair no other pair. Without the file there is no mapping.
 * 3. The answers never hold the place that was asked for, and hold no place twice.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import * as z from "zod";
import { fieldsOf, isObject, misspelled } from "../text/go-json.ts";
import { oneLine } from "../text/printable.ts";
import type { ConfigInvalid } from "./errors.ts";
import { parseArray } from "./json-array.ts";
import { MOMENT_MS, reread } from "./reread.ts";

export interface Place {
  readonly clusterId: string;
  readonly poolId: bigint;
}

type Pairs = ReadonlyArray<readonly [string, string]>;

interface Element {
  readonly clusters: Pairs;
  /** One list of pairs per map of RBDPoolIDMapping; ids as decimal text. */
  readonly pools: ReadonlyArray<Pairs>;
}

export interface MappingTable {
  readonly elements: ReadonlyArray<Element>;
  /** Per index of a refused element: why. */
  readonly problems: ReadonlyMap<number, string>;
  /** On elements that are in force: keys that are almost the right ones, and pairs that have no effect. */
  readonly remarks: ReadonlyArray<string>;
}

export const NO_MAPPING: MappingTable = { elements: [], problems: new Map(), remarks: [] };

const FORM = "must be an object of strings";
const POOL_FORM = "must hold pool ids as decimal strings";

/** Pairs as they are written. Go reads null as no pairs. */
const written = z
  .preprocess((value) => value ?? {}, z.record(z.string(), z.unknown(), FORM))
  .transform((object) => Object.entries(object));
const elementShape = {
  clusterIDMapping: written.prefault({}),
  RBDPoolIDMapping: z.array(written, "must be an array of objects").default([]),
};
const elementSchema = z.object(elementShape);

/** What is wrong with one side of a pair. */
type Check = (side: unknown) => string | undefined;
const wrongWithCluster: Check = (id) => {
  if (typeof id !== "string") return "must be a string";
  return id === "" ? "must not be empty" : undefined;
};
const wrongWithPool: Check = (id) =>
  typeof id === "string" && /^\d{1,19}$/.test(id) && BigInt(id) < 2n ** 63n ? undefined : POOL_FORM;

/** The pairs that can lead from one place to another, and a remark on each of the rest. */
const usable = (place: string, list: ReadonlyArray<readonly [string, unknown]>, wrongWith: Check) => {
  const pairs: Array<readonly [string, string]> = [];
  const remarks: Array<string> = [];
  for (const [from, to] of list) {
    const wrong = wrongWith(from) ?? wrongWith(to ?? "");
    if (wrong === undefined) pairs.push([from, String(to)]);
    else remarks.push(`${place}: the pair of ${oneLine(from)} has no effect: it ${wrong}`);
  }
  return { pairs, remarks };
};

const elementOf = ({ clusterIDMapping, RBDPoolIDMapping }: z.infer<typeof elementSchema>) => {
  const clusters = usable("clusterIDMapping", clusterIDMapping, wrongWithCluster);
  const pools = RBDPoolIDMapping.map((list, i) => usable(`RBDPoolIDMapping.${i}`, list, wrongWithPool));
  const element: Element = { clusters: clusters.pairs, pools: pools.map(({ pairs }) => pairs) };
  return { element, remarks: [...clusters.remarks, ...pools.flatMap(({ remarks }) => remarks)] };
};

/** Reads the text of a cluster-mapping.json. */
export const parseMapping = (text: string, path = "cluster-mapping.json"): Result.Result<MappingTable, ConfigInvalid> =>
  Result.map(parseArray(path, text), (values) => {
    const elements: Array<Element> = [];
    const problems = new Map<number, string>();
    const remarks: Array<string> = [];
    for (const [index, value] of values.entries()) {
      const typos = isObject(value) ? misspelled(value, Object.keys(elementShape)) : [];
      const parsed = elementSchema.safeParse(isObject(value) ? fieldsOf(value, Object.keys(elementShape)) : value);
      for (const [key, meant] of typos) {
        remarks.push(`element ${index}: ${oneLine(key)} is not a key and has no effect: write ${meant}`);
      }
      if (parsed.success) {
        const { element, remarks: skipped } = elementOf(parsed.data);
        elements.push(element);
        remarks.push(...skipped.map((remark) => `element ${index}: ${remark}`));
      } else {
        const issue = parsed.error.issues[0];
        problems.set(index, `${issue?.path.map(String).join(".") || "the element"}: ${issue?.message ?? "is wrong"}`);
      }
    }
    return { elements, problems, remarks };
  });

const otherSide = (list: Pairs, id: string): ReadonlyArray<string> =>
  list.flatMap(([from, to]) => {
    if (from === id) return [to];
    return to === id ? [from] : [];
  });

/** The clusters that stand in for this one, in the file's order. */
export const mappedClusters = (table: MappingTable, clusterId: string): ReadonlyArray<string> => {
  const found = table.elements.flatMap((element) => otherSide(element.clusters, clusterId));
  return [...new Set(found)].filter((each) => each !== clusterId);
};

/** The places where a volume of this cluster and pool may be instead, in the order to try them. */
export const mapped = (table: MappingTable, clusterId: string, poolIdHere: bigint): ReadonlyArray<Place> => {
  const places = new Map<string, Place>();
  for (const { clusters, pools } of table.elements) {
    const poolsThere = pools.flatMap((list) => otherSide(list, poolIdHere.toString()));
    for (const there of otherSide(clusters, clusterId)) {
      for (const pool of poolsThere) {
        const place = { clusterId: there, poolId: BigInt(pool) };
        const isHere = there === clusterId && place.poolId === poolIdHere;
        if (!isHere) places.set(`${place.poolId} ${there}`, place);
      }
    }
  }
  return [...places.values()];
};

/** The failover mapping in force. */
export class ClusterMapping extends Context.Service<
  ClusterMapping,
  {
    readonly mapped: (clusterId: string, poolId: bigint) => Effect.Effect<ReadonlyArray<Place>, ConfigInvalid>;
    readonly mappedClusters: (clusterId: string) => Effect.Effect<ReadonlyArray<string>, ConfigInvalid>;
  }
>()("csi-rbd/config/ClusterMapping") {
  private static readonly from = (table: Effect.Effect<MappingTable, ConfigInvalid>): ClusterMapping["Service"] =>
    ClusterMapping.of({
      mapped: (clusterId, pool) => Effect.map(table, (now) => mapped(now, clusterId, pool)),
      mappedClusters: (clusterId) => Effect.map(table, (now) => mappedClusters(now, clusterId)),
    });

  /** Reads `<configDir>/cluster-mapping.json`, again whenever it changes. */
  static readonly layer = (configDir: string): Layer.Layer<ClusterMapping> =>
    Layer.sync(ClusterMapping, () => {
      const path = `${configDir}/cluster-mapping.json`;
      const table = reread<MappingTable>({
        path,
        trustedMs: MOMENT_MS,
        parse: (text) => parseMapping(text, path),
        missing: Result.succeed(NO_MAPPING),
        onRead: (now) =>
          Effect.forEach(
            [
              ...[...now.problems].map(([index, problem]) => `element ${index} has no effect: ${problem}`),
              ...now.remarks,
            ],
            (line) => Effect.logWarning(`${path}: ${line}`),
            { discard: true },
          ),
      });
      return ClusterMapping.from(table);
    });

  /** This mapping and no file, for tests. */
  static readonly layerOf = (table: MappingTable): Layer.Layer<ClusterMapping> =>
    Layer.sync(ClusterMapping, () => ClusterMapping.from(Effect.succeed(table)));
}
