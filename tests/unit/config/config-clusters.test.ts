// config.json: ceph-csi's fields with Go's looseness, one bad entry at a time, and fuzz.
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import { type Cluster, Clusters, type ClusterTable, findCluster, parseClusters } from "../../../lib/config/clusters.ts";

const read = (text: string): ClusterTable => Result.getOrThrow(parseClusters(text));
const one = (entry: unknown): ClusterTable => read(JSON.stringify([entry]));
const golden = read(await Bun.file(`${import.meta.dir}/../../golden/config/config.json`).text());
const find = (id: string) => findCluster(golden, id, "/c/config.json");
const messageOf = (id: string): string => {
  const found = find(id);
  return Result.isFailure(found) ? `${found.failure._tag}: ${found.failure.message}` : "(found)";
};

test("The flags decide about read affinity where an entry of config.json does not", () => {
  const entry = { clusterID: "a", monitors: ["m"] };
  const enabled = (more: object, readAffinity: boolean) => {
    const parsed = parseClusters(JSON.stringify([{ ...entry, ...more }]), "config.json", { readAffinity });
    return Result.getOrThrow(parsed).clusters.get("a")?.readAffinity.enabled;
  };
  expect(enabled({}, true)).toBe(true);
  expect(enabled({ readAffinity: { crushLocationLabels: ["zone"] } }, true)).toBe(true);
  expect(enabled({ readAffinity: { enabled: false } }, true)).toBe(false);
  expect(enabled({ readAffinity: { enabled: true } }, false)).toBe(true);
  expect(enabled({}, false)).toBe(false);
});

describe("golden config.json", () => {
  test("The reader returns every field of a full entry", () => {
    expect(Result.getOrThrow(find("east"))).toEqual({
      clusterId: "east",
      monitors: ["10.0.0.1:6789", "[v2:10.0.0.2:3300,v1:10.0.0.2:6789]"],
      radosNamespace: "k8s",
      netNamespaceFilePath: "/run/netns/east",
      mirrorDaemonCount: 3,
      readAffinity: { enabled: true, crushLocationLabels: ["topology.kubernetes.io/zone"] },
    });
  });

  test("The reader fills in defaults, and accepts keys in any letter case", () => {
    expect(Result.getOrThrow(find("plain"))).toEqual({
      clusterId: "plain",
      monitors: ["10.0.0.3"],
      radosNamespace: "ns",
      netNamespaceFilePath: "",
      mirrorDaemonCount: 1,
      readAffinity: { enabled: false, crushLocationLabels: [] },
    });
  });

  test("The reader accepts a quoted boolean, with a remark", () => {
    expect(Result.getOrThrow(find("quoted")).readAffinity.enabled).toBe(true);
    expect(golden.problems.get("quoted")).toBe("readAffinity.enabled is a string: write true or false without quotes");
  });

  test("The reader ignores a namespace in its old place, with a remark", () => {
    expect(Result.getOrThrow(find("old")).radosNamespace).toBe("");
    expect(golden.problems.get("old")).toContain("write it as rbd.radosNamespace");
  });

  test("The first of two entries with one clusterID has effect, and the second does not", () => {
    expect(golden.problems.get("east")).toBe("entry 6 repeats this clusterID and has no effect");
  });

  test("A bad entry of config.json reports what is wrong, and affects no other entry", () => {
    expect([...golden.clusters.keys()]).toEqual(["east", "plain", "quoted", "old"]);
    expect(messageOf("empty")).toBe(
      'ConfigInvalid: /c/config.json: the entry of clusterID "empty" cannot be used: monitors must name at least one monitor',
    );
    expect(messageOf("numbers")).toContain("monitors.0 must be a string; monitors.1 must be a string");
    expect(golden.problems.get(5)).toBe("clusterID must be a string");
  });

  test("The error of an unknown clusterID names the known ones", () => {
    expect(messageOf("nowhere")).toBe(
      'ConfigMissing: no cluster with clusterID "nowhere" in /c/config.json (it has east, plain, quoted, old): add an entry for it',
    );
  });
});

describe("entries of config.json", () => {
  const good = { clusterID: "c", monitors: ["m"] };
  test.each<[string, unknown]>([
    ["the entry must be an object", "text"],
    ["the entry must be an object", null],
    ["the entry must be an object", []],
    ["clusterID must not be empty", { ...good, clusterID: "" }],
    ["monitors must be an array of strings", { clusterID: "c" }],
    ["monitors must be an array of strings", { ...good, monitors: "m1,m2" }],
    ["monitors must name at least one monitor", { ...good, monitors: [" ", "", null] }],
    ["monitors.0 must not hold control characters", { ...good, monitors: ["m\0"] }],
    ["rbd must be an object", { ...good, rbd: "x" }],
    ["rbd.radosNamespace must be a string", { ...good, rbd: { radosNamespace: 1 } }],
    ["rbd.radosNamespace must not hold control characters", { ...good, rbd: { radosNamespace: "a\0b" } }],
    ["rbd.mirrorDaemonCount must be a whole number", { ...good, rbd: { mirrorDaemonCount: 1.5 } }],
    ["readAffinity.enabled must be true or false", { ...good, readAffinity: { enabled: "yes" } }],
    [
      "readAffinity.crushLocationLabels must be an array of strings",
      { ...good, readAffinity: { crushLocationLabels: "a" } },
    ],
  ])(`The reader refuses an entry with the problem "%s"`, (problem, entry) => {
    const table = one(entry);
    expect([...table.problems.values()]).toEqual([problem]);
    expect(table.clusters.size).toBe(0);
  });

  test.each<[unknown, readonly string[], number]>([
    [
      { clusterID: "c", monitor: ["m"] },
      ["monitors must be an array of strings", '"monitor" is not a key and has no effect: write monitors'],
      0,
    ],
    [
      { ...good, rbd: { radosNamspace: "ns" } },
      ['"rbd.radosNamspace" is not a key and has no effect: write rbd.radosNamespace'],
      1,
    ],
    [
      { ...good, readAffinty: { enabled: true } },
      ['"readAffinty" is not a key and has no effect: write readAffinity'],
      1,
    ],
    [{ ...good, cephFS: { radosNamespace: "x" }, nfs: {}, comment: "ours" }, [], 1],
  ])("The reader names keys of %j that are almost the right ones", (entry, problems, usable) => {
    const table = one(entry);
    expect([...table.problems.values()]).toEqual(problems.length === 0 ? [] : [problems.join("; ")]);
    expect(table.clusters.size).toBe(usable);
  });

  test("Blanks and line ends around a monitor do not count, and neither does an empty one", () => {
    const monitors = (given: unknown) => one({ ...good, monitors: given }).clusters.get("c")?.monitors;
    expect(monitors([" m1:6789\n", "\tm2"])).toEqual(["m1:6789", "m2"]);
    expect(monitors(["", "m1:6789", " ", null, "m2", ""])).toEqual(["m1:6789", "m2"]);
    expect(monitors(["m1:6789,m2"])).toEqual(["m1:6789,m2"]);
  });

  test.each<[unknown, readonly string[]]>([
    [[""], []],
    [null, []],
    [[null, " "], []],
    [
      [" zone\n", "", "rack"],
      ["zone", "rack"],
    ],
    [
      ["zone, rack", ","],
      ["zone", "rack"],
    ],
  ])("Of the CRUSH labels %j those count that are not empty", (crushLocationLabels, labels) => {
    const table = one({ ...good, readAffinity: { enabled: false, crushLocationLabels } });
    expect(table.clusters.get("c")?.readAffinity.crushLocationLabels).toEqual(labels);
    expect(table.problems.size).toBe(0);
  });

  test("A negative number of mirror daemons counts as none, which is one", () => {
    const count = (rbd: object) => one({ ...good, rbd }).clusters.get("c")?.mirrorDaemonCount;
    expect([count({ mirrorDaemonCount: -1 }), count({ mirrorDaemonCount: -1, mirrorCount: 2 })]).toEqual([1, 2]);
  });

  test("The reader takes the keys of ceph-csi 3.13 to 3.18, and remarks those that have no effect yet", () => {
    const table = one({
      ...good,
      rbd: {
        mirrorCount: 3,
        controllerPublishSecretRef: { name: "s", namespace: "n" },
        nodePublishSecretRef: { secretName: "s", secretNamespace: "n" },
      },
      replicationDestination: { remoteClusterID: "west", rbd: { remotePoolMapping: { "2": { poolID: "3" } } } },
    });
    expect(table.clusters.get("c")?.mirrorDaemonCount).toBe(3);
    expect(table.clusters.get("c")?.controllerPublishSecret).toEqual({ name: "s", namespace: "n" });
    expect(table.problems.get("c")).toBe(
      "rbd.nodePublishSecretRef has no effect in this release; replicationDestination has no effect in this release",
    );
    expect(one({ ...good, rbd: { mirrorDaemonCount: 2, mirrorCount: 5 } }).clusters.get("c")?.mirrorDaemonCount).toBe(
      2,
    );
  });

  test.each([
    [
      { secretName: "s", secretNamespace: "n" },
      { name: "s", namespace: "n" },
    ],
    [
      { Name: "s", NAMESPACE: "n" },
      { name: "s", namespace: "n" },
    ],
    [{ name: "s" }, undefined],
    ["s", undefined],
    [{ name: 1, namespace: "n" }, undefined],
  ])("The Secret for attaching may be written as %j", (controllerPublishSecretRef, secret) => {
    const table = one({ ...good, rbd: { controllerPublishSecretRef } });
    expect(table.clusters.get("c")?.controllerPublishSecret ?? "none").toEqual(secret ?? "none");
    expect(table.problems.get("c") ?? "none").toBe(
      secret === undefined
        ? "rbd.controllerPublishSecretRef has no effect: write the name and the namespace of a Secret"
        : "none",
    );
  });

  test("A null counts as absent, the last of two spellings of a key applies, and 0 daemons count as one", () => {
    const text =
      '[{"clusterId":"a","CLUSTERID":"b","monitors":["m"],"rbd":{"mirrorDaemonCount":0,"radosNamespace":null},"readAffinity":null}]';
    expect(read(text).clusters.get("b")).toMatchObject({ mirrorDaemonCount: 1, radosNamespace: "" });
  });

  test("A second entry of the same clusterID does not replace a bad first entry", () => {
    const table = read('[{"clusterID":"a","monitors":[]},{"clusterID":"a","monitors":["m"]}]');
    expect(table.clusters.size).toBe(0);
    expect(table.problems.get("a")).toContain("repeats");
  });
});

describe("whole files", () => {
  test.each([
    ["", "not valid JSON at line 1, column 1: a value is missing"],
    ["[", "not valid JSON at line 1, column 2: a value is missing"],
    ['[\n{"clusterID":"a","monitors":["m"]},\n]', 'not valid JSON at line 2, column 35: a comma before "]"'],
    ["{}", "not a JSON array"],
    ['"x"', "not a JSON array"],
  ])("The reader refuses the file %p", (text, reason) => {
    const parsed = parseClusters(text, "/c/config.json");
    expect(Result.isFailure(parsed) ? parsed.failure.kind : "").toBe("not-json");
    expect(Result.isFailure(parsed) ? parsed.failure.message : "").toContain(`/c/config.json: is ${reason}`);
  });

  test("The files null and [] have no cluster", () => {
    for (const text of ["null", "[]"]) expect(read(text).clusters.size).toBe(0);
  });
});

test("The in-memory Clusters service answers for the clusters that it is given", async () => {
  const cluster: Cluster = {
    clusterId: "mem",
    monitors: ["m"],
    radosNamespace: "",
    netNamespaceFilePath: "",
    mirrorDaemonCount: 1,
    readAffinity: { enabled: false, crushLocationLabels: [] },
  };
  const program = Effect.gen(function* () {
    const clusters = yield* Clusters;
    const absent = yield* Effect.flip(clusters.get("other"));
    return [yield* clusters.get("mem"), absent._tag];
  });
  const layer = Clusters.layerOf([cluster]);
  expect(await Effect.runPromise(Effect.provide(program, layer))).toEqual([cluster, "ConfigMissing"]);
});

test("No text makes the reader of config.json throw, and a good entry is read next to any others", () => {
  const good = { clusterID: "survivor", monitors: ["m"] };
  const field = fc.constantFrom(
    "clusterID",
    "CLUSTERid",
    "monitors",
    "rbd",
    "readAffinity",
    "enabled",
    "__proto__",
    "x",
  );
  const json = fc.oneof(fc.jsonValue(), fc.dictionary(field, fc.oneof(fc.jsonValue(), fc.constant("c"))));
  fc.assert(
    fc.property(fc.array(json, { maxLength: 5 }), fc.array(json, { maxLength: 5 }), (before, after) => {
      expect(read(JSON.stringify([...before, good, ...after])).clusters.get("survivor")?.monitors).toEqual(["m"]);
    }),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json(),
        fc.json().map((text) => text.slice(1)),
      ),
      (text) => {
        const parsed = parseClusters(text);
        if (Result.isFailure(parsed)) expect(parsed.failure.message).not.toContain("\n");
      },
    ),
    { numRuns: 500 },
  );
});
