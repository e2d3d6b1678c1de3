/** What an informer keeps, and that it comes through everything that can happen to a watch. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as z from "zod";
import { KubeFailed } from "../../../lib/kube/errors.ts";
import { type Change, type Informer, informer } from "../../../lib/kube/informer.ts";
import type { AroundKube } from "../../support/kube-memory.ts";
import { kubeWorld } from "../../support/kube-world.ts";
import { settled } from "../../support/virtual-time.ts";

const PATH = "/api/v1/persistentvolumes";
const schema = z
  .object({
    metadata: z.object({ resourceVersion: z.string() }),
    spec: z.object({ driver: z.string(), size: z.number().default(0) }),
  })
  .transform(({ metadata, spec }) => ({ ...metadata, ...spec }));
type Slim = z.infer<typeof schema>;

const pv = (name: string, driver = "ours", more = {}) => ({
  metadata: { name, labels: { not: "kept" } },
  spec: { driver, ...more },
});

const started = async (around?: AroundKube) => {
  const world = kubeWorld();
  const changes: string[] = [];
  const told = ({ key, before, now }: Change<Slim>) =>
    changes.push(`${before === undefined ? "new" : now === undefined ? "gone" : "changed"} ${key}`);
  let found: Informer<Slim> | undefined;
  const resource = { path: PATH, schema, wanted: ({ driver }: Slim) => driver === "ours" };
  const begin = () =>
    world.start(
      Effect.map(informer(resource, told), (made) => (found = made)),
      around,
    );
  const names = () => Array.from(found?.entries() ?? [], ([key]) => key).toSorted();
  return { ...world, begin, changes, names, informer: () => found as Informer<Slim> };
};

describe("an informer", () => {
  test("It keeps the named fields of wanted objects, from a list of many pages, and follows changes", async () => {
    const { memory, begin, names, changes, informer: store } = await started();
    for (let n = 0; n < 1200; n++) memory.create(PATH, pv(`pv-${n}`, n % 2 === 0 ? "ours" : "theirs"));
    await begin();
    expect(names()).toHaveLength(600);
    expect(memory.requests.filter((request) => request.startsWith("list"))).toHaveLength(3);
    expect(Object.keys(store().get("pv-0") ?? {}).toSorted()).toEqual(["driver", "resourceVersion", "size"]);
    changes.length = 0;
    memory.merge(`${PATH}/pv-2`, { spec: { size: 5 } });
    memory.remove(`${PATH}/pv-4`);
    memory.merge(`${PATH}/pv-6`, { spec: { driver: "theirs" } });
    memory.create(PATH, pv("pv-new"));
    await settled();
    expect(changes).toEqual(["changed pv-2", "gone pv-4", "gone pv-6", "new pv-new"]);
    expect(store().get("pv-2")?.size).toBe(5);
  });

  test("A watch that breaks goes on from where it was, after a wait, without another list", async () => {
    let broken = false;
    const { memory, time, begin, changes } = await started(({ verb, path }, act) =>
      verb === "watch" && broken ? Effect.fail(new KubeFailed({ verb, path, reason: "reset" })) : act,
    );
    await begin();
    broken = true;
    // Ends the watch that is open: its version is forgotten only once it has moved on.
    memory.endWatches();
    memory.create(PATH, pv("pv-1"));
    await time.pass("30 seconds");
    expect(changes).toEqual([]);
    broken = false;
    await time.pass("20 seconds");
    expect(changes).toEqual(["new pv-1"]);
    expect(memory.requests.filter((request) => request.startsWith("list"))).toHaveLength(1);
  });

  test("A watch that the server refuses again and again is told, and the list is made again", async () => {
    const state = { refused: false };
    const { memory, time, begin, changes } = await started(({ verb, path }, act) =>
      verb === "watch" && state.refused
        ? Effect.fail(new KubeFailed({ verb, path, status: 403, code: "Forbidden", reason: "HTTP 403" }))
        : act,
    );
    const { log } = await begin();
    state.refused = true;
    memory.endWatches();
    memory.create(PATH, pv("pv-1"));
    await time.pass("2 minutes");
    expect(changes).toEqual(["new pv-1"]);
    expect(log.join("\n")).toContain('Grant the service account the verb "watch"');
  });

  test("After a compaction it lists again, and finds what went and what came meanwhile", async () => {
    const { memory, time, begin, changes } = await started();
    for (const name of ["stays", "goes"]) memory.create(PATH, pv(name));
    await begin();
    changes.length = 0;
    memory.endWatches(() => {
      memory.remove(`${PATH}/goes`);
      memory.create(PATH, pv("comes"));
      memory.compact();
    });
    await time.pass("20 seconds");
    expect(changes.toSorted()).toEqual(["gone goes", "new comes"]);
    memory.merge(`${PATH}/stays`, { spec: { size: 1 } });
    await settled();
    expect(changes).toContain("changed stays");
  });

  test("A server that was restored from a backup is followed back, and from there on", async () => {
    const { memory, time, begin, changes, informer: store } = await started();
    for (const name of ["stays", "changes"]) memory.create(PATH, pv(name));
    const restore = memory.backup();
    const { log } = await begin();
    for (let n = 1; n <= 20; n++) memory.merge(`${PATH}/changes`, { spec: { size: n } });
    await settled();
    expect(store().get("changes")?.size).toBe(20);
    restore();
    await time.pass("2 minutes");
    expect(store().get("changes")?.size).toBe(0);
    expect(log.join("\n")).toContain("the API server went back from");
    changes.length = 0;
    memory.merge(`${PATH}/changes`, { spec: { size: 7 } });
    await settled();
    expect([changes, store().get("changes")?.size]).toEqual([["changed changes"], 7]);
  });

  test("A server that forgets each version at once is asked for its list less and less often", async () => {
    const { memory, time, begin } = await started(({ verb, path }, act) =>
      verb === "watch" ? Effect.fail(new KubeFailed({ verb, path, status: 410, reason: "too old" })) : act,
    );
    const { log } = await begin();
    await time.pass("2 minutes");
    expect(memory.requests.filter((request) => request.startsWith("list")).length).toBeLessThan(30);
    expect(log.join("\n")).toContain("too old");
  });

  test("A server that is away at the start is waited for", async () => {
    let away = true;
    const { memory, time, begin, names } = await started(({ verb, path }, act) =>
      away ? Effect.fail(new KubeFailed({ verb, path, reason: "refused" })) : act,
    );
    memory.create(PATH, pv("pv-1"));
    const running = await begin();
    await time.pass("2 minutes");
    // Waits grow to ten seconds, so this is some fifteen attempts, not hundreds.
    expect(memory.requests.length).toBeLessThan(30);
    expect(running.log.length).toBeGreaterThan(3);
    away = false;
    await time.pass("20 seconds");
    expect(names()).toEqual(["pv-1"]);
  });

  test("An object that lacks a named field is left out, and the log names both", async () => {
    const { memory, begin, names } = await started();
    memory.create(PATH, { metadata: { name: "odd" }, spec: {} });
    memory.create(PATH, pv("even"));
    const { log } = await begin();
    expect(names()).toEqual(["even"]);
    expect(log.join("\n")).toContain("odd: spec.driver");
  });

  test("The answer to a write counts at once; an older event and a late answer do not take it back", async () => {
    const { memory, begin, names, informer: store } = await started();
    memory.create(PATH, pv("pv-1"));
    await begin();
    const old = structuredClone(memory.get(`${PATH}/pv-1`));
    store().learn({ ...old, metadata: { ...old.metadata, resourceVersion: "900" }, spec: { driver: "ours", size: 9 } });
    memory.merge(`${PATH}/pv-1`, { spec: { size: 2 } });
    await settled();
    expect(store().get("pv-1")?.size).toBe(9);
    memory.remove(`${PATH}/pv-1`);
    await settled();
    store().learn({ ...old, metadata: { ...old.metadata, resourceVersion: "950" } });
    expect(names()).toEqual([]);
  });
});
