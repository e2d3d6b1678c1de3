// cluster-mapping.json: both directions, the order of places, bad elements, and fuzz.
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import { ClusterMapping, mapped, mappedClusters, NO_MAPPING, parseMapping } from "../../../lib/config/mapping.ts";

const golden = Result.getOrThrow(
  parseMapping(await Bun.file(`${import.meta.dir}/../../golden/config/cluster-mapping.json`).text()),
);
const places = (clusterId: string, poolId: bigint) =>
  mapped(golden, clusterId, poolId).map((place) => `${place.clusterId}/${place.poolId}`);

describe("golden cluster-mapping.json", () => {
  test.each([
    // Pool 1 is a key in the first map of the first element and a value in its second.
    ["east", 1n, ["west/2", "west/3", "north/5", "south/5"]],
    ["east", 2n, ["west/1"]],
    ["east", 7n, ["west/9"]],
    ["west", 2n, ["east/1"]],
    ["west", 9n, ["east/7"]],
    ["south", 5n, ["east/1"]],
    ["north", 1n, ["east/5"]],
    ["east", 4n, []],
    ["nowhere", 1n, []],
    ["lone", 1n, []],
    ["broken", 1n, []],
  ])("The mapping of cluster %s, pool %p lists the golden places", (clusterId, poolId, expected) => {
    expect(places(clusterId, poolId)).toEqual(expected);
  });

  test("Volumes without a pool id are mapped by clusters alone", () => {
    expect(mappedClusters(golden, "east")).toEqual(["west", "north", "south", "broken"]);
    expect(mappedClusters(golden, "twin")).toEqual(["lone"]);
    expect(mappedClusters(NO_MAPPING, "east")).toEqual([]);
  });

  test("A pair that is not one of pool ids is remarked, and the clusters of its element count", () => {
    expect([...golden.problems]).toEqual([]);
    expect(golden.remarks).toEqual([
      'element 2: RBDPoolIDMapping.0: the pair of "1" has no effect: it must hold pool ids as decimal strings',
    ]);
    expect(golden.elements).toHaveLength(4);
  });
});

test("The mapping lists a place once, and never the place of the request", () => {
  const text = '[{"clusterIDMapping":{"a":"a","b":"a"},"RBDPoolIDMapping":[{"1":"1"},{"1":"1"}]}]';
  const table = Result.getOrThrow(parseMapping(text));
  expect(mapped(table, "a", 1n)).toEqual([{ clusterId: "b", poolId: 1n }]);
});

test.each<[unknown, string]>([
  [1, "the element: "],
  [{ clusterIDMapping: "x" }, "clusterIDMapping: must be an object of strings"],
  [{ RBDPoolIDMapping: { "1": "2" } }, "RBDPoolIDMapping: must be an array of objects"],
  [{ RBDPoolIDMapping: ["1"] }, "RBDPoolIDMapping.0: must be an object of strings"],
])("The reader refuses the element %j", (element, problem) => {
  const table = Result.getOrThrow(parseMapping(JSON.stringify([element])));
  expect(table.elements).toEqual([]);
  expect(table.problems.get(0)).toContain(problem);
});

const CLUSTERS = { clusterIDMapping: { a: "b" } };
test.each<[object, ReadonlyArray<string>]>([
  [{ ...CLUSTERS, RBDPoolIDMapping: [{ "1": "2" }, null] }, []],
  [{ ...CLUSTERS, RBDPoolIDMapping: [{ "": "" }, { "1": "2" }] }, ['RBDPoolIDMapping.0: the pair of ""']],
  [{ ...CLUSTERS, RBDPoolIDMapping: [{ "1": "2", "3": null }] }, ['RBDPoolIDMapping.0: the pair of "3"']],
  [{ ...CLUSTERS, RBDPoolIDMapping: [{ "1": "2", "9223372036854775808": "4" }] }, ["must hold pool ids"]],
  [{ ...CLUSTERS, RBDPoolIDMapping: [{ "1": "2", a: "1" }] }, ['the pair of "a" has no effect']],
  [
    { clusterIDMapping: { a: "b", "": "" }, RBDPoolIDMapping: [{ "1": "2" }] },
    ['clusterIDMapping: the pair of "" has no effect: it must not be empty'],
  ],
  [
    { clusterIDMapping: { a: "b", c: 1 }, RBDPoolIDMapping: [{ "1": "2" }] },
    ['the pair of "c" has no effect: it must'],
  ],
])("A bad pair of %j takes no failover with it", (element, remarks) => {
  const table = Result.getOrThrow(parseMapping(JSON.stringify([element])));
  expect(mapped(table, "a", 1n)).toEqual([{ clusterId: "b", poolId: 2n }]);
  expect([...table.problems]).toEqual([]);
  expect(table.remarks).toHaveLength(remarks.length);
  for (const [i, remark] of remarks.entries()) expect(table.remarks[i]).toContain(remark);
});

test("The reader remarks a key that is almost the right one, and keeps the rest of its element", () => {
  const table = Result.getOrThrow(
    parseMapping('[{"clusterIDMapping":{"a":"b"},"RBDPoolIDMaping":[]},{"CephFSFscIDMapping":[]}]'),
  );
  expect(table.remarks).toEqual([
    'element 0: "RBDPoolIDMaping" is not a key and has no effect: write RBDPoolIDMapping',
  ]);
  expect(mappedClusters(table, "a")).toEqual(["b"]);
});

test("The ClusterMapping service answers from its table", async () => {
  const ask = Effect.flatMap(ClusterMapping, (mapping) => mapping.mapped("west", 2n));
  const found = await Effect.runPromise(Effect.provide(ask, ClusterMapping.layerOf(golden)));
  expect(found).toEqual([{ clusterId: "east", poolId: 1n }]);
});

test("No text makes the reader of cluster-mapping.json throw, and the mapping goes both ways", () => {
  const name = fc.constantFrom("a", "b", "c", "__proto__");
  const pool = fc.constantFrom("1", "2", "3", "x", "");
  const element = fc.record(
    {
      clusterIDMapping: fc.dictionary(name, name),
      RBDPoolIDMapping: fc.array(fc.dictionary(pool, pool), { maxLength: 2 }),
    },
    { requiredKeys: [] },
  );
  const text = fc.oneof(
    fc.json(),
    fc.string(),
    fc.array(fc.oneof(element, fc.jsonValue())).map((it) => JSON.stringify(it)),
  );
  fc.assert(
    fc.property(text, (file) => {
      const parsed = parseMapping(file);
      if (Result.isFailure(parsed)) return;
      for (const there of mapped(parsed.success, "a", 1n)) {
        expect(mapped(parsed.success, there.clusterId, there.poolId)).toContainEqual({ clusterId: "a", poolId: 1n });
      }
    }),
    { numRuns: 1000 },
  );
});
