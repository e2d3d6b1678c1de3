/** The faults themselves: a call that was cut off was not made, or was made; and a dead driver does nothing more. */
import { describe, expect, test } from "bun:test";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import { TimedOut } from "../../lib/ceph/errors.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import { Crash, crashAt, failAt, latency, observed, recorded } from "../support/ceph-faults.ts";
import { cephMemoryService, makeCephMemory, memoryAccess } from "../support/ceph-memory/memory.ts";

const LIMIT = 5_000;
const pool: PoolRef = { access: memoryAccess, pool: "rbd", namespace: "" };
const lost = new TimedOut({ op: "rbd_create4", subject: "rbd/b" });

/** Three calls, and an undo step should one of them fail. */
const steps = (ceph: CephCalls) =>
  Effect.forEach(["a", "b", "c"], (image) => ceph.imageCreate(pool, image, { sizeBytes: 4096n }), {
    discard: true,
  }).pipe(Effect.onError(() => Effect.ignore(ceph.trashMove(pool, "a"))));

/** `clone`, of `parent@s` -> the parent's id. */
const aClone = async (ceph: CephCalls): Promise<string> => {
  await Effect.runPromise(ceph.imageCreate(pool, "parent", { sizeBytes: 1_048_576n }));
  await Effect.runPromise(ceph.snapshotCreate(pool, "parent", "s"));
  await Effect.runPromise(ceph.imageClone({ pool, image: "parent", snapshot: "s" }, pool, "clone", {}));
  return (await Effect.runPromise(ceph.imageStatus(pool, "parent"))).id;
};

const images = (cluster: ReturnType<typeof makeCephMemory>["cluster"]): readonly string[] => [
  ...(cluster.namespace("rbd", "")?.images.keys() ?? []),
];

describe("crash", () => {
  for (const [moment, left] of [
    ["before", ["a"]],
    ["after", ["a", "b"]],
  ] as const) {
    test(
      `After a crash ${moment} the second call nothing later happens, not even undo`,
      async () => {
        const { service, cluster } = makeCephMemory();
        const dying = crashAt(service, 2, moment);
        const exit = await Effect.runPromiseExit(steps(dying.service));
        expect(Exit.isFailure(exit) && Cause.squash(exit.cause)).toBeInstanceOf(Crash);
        expect(dying.crashed()).toBe(true);
        expect(images(cluster)).toEqual([...left]);
        // the next driver finds the same cluster
        expect(await Effect.runPromise(cephMemoryService(cluster).imageId(pool, "a"))).toBeDefined();
      },
      LIMIT,
    );
  }

  test(
    "A crash after the last call never happens",
    async () => {
      const { service, cluster } = makeCephMemory();
      const dying = crashAt(service, 4, "before");
      await Effect.runPromise(steps(dying.service));
      expect(dying.crashed()).toBe(false);
      expect(images(cluster)).toEqual(["a", "b", "c"]);
    },
    LIMIT,
  );

  test(
    "A call that runs beside the fatal call gets no answer",
    async () => {
      const { service } = makeCephMemory();
      const dying = crashAt(service, 2, "after");
      const both = ["a", "b"].map((image) => Effect.exit(dying.service.imageCreate(pool, image, { sizeBytes: 1n })));
      const exits = await Effect.runPromise(Effect.all(both, { concurrency: "unbounded" }));
      expect(exits.filter(Exit.isSuccess)).toEqual([]);
    },
    LIMIT,
  );
});

describe("failure", () => {
  for (const [moment, left] of [
    ["before", []],
    ["after", ["b"]],
  ] as const) {
    test(
      `After a failure ${moment} taking effect the caller goes on and undoes`,
      async () => {
        const { service, cluster } = makeCephMemory();
        const error = await Effect.runPromise(Effect.flip(steps(failAt(service, 2, lost, moment))));
        expect(error).toBe(lost);
        expect(images(cluster)).toEqual([...left]);
      },
      LIMIT,
    );
  }
});

describe("record", () => {
  test(
    "Calls are recorded when they run, with method and subject",
    async () => {
      const { service, calls, forget } = recorded(makeCephMemory().service);
      const unused = service.imageId(pool, "unused");
      await Effect.runPromise(steps(service));
      expect(calls().map(({ method, subject, n }) => `${n} ${method} ${subject}`)).toEqual([
        "1 imageCreate rbd/a",
        "2 imageCreate rbd/b",
        "3 imageCreate rbd/c",
      ]);
      forget();
      await Effect.runPromise(Effect.andThen(unused, unused));
      expect(calls().map(({ n }) => n)).toEqual([4, 5]);
    },
    LIMIT,
  );

  test(
    "Calls are named by what they change or read",
    async () => {
      const { service, calls, forget } = recorded(makeCephMemory().service);
      await aClone(service);
      forget();
      const group = { pool: { ...pool, namespace: "n" }, name: "g" };
      const acts = [
        service.imageClone({ pool, image: "parent", snapshot: "s" }, group.pool, "other", {}),
        service.diff({ pool, image: "parent", snapshot: 3n }, undefined, 0n, 1),
        service.managerTasks(memoryAccess),
        service.pools(memoryAccess),
        service.poolSpace(memoryAccess, "rbd"),
        service.omapFollow(pool, "object", "k", { prefix: "", tail: 1, keys: [] }),
        service.omapList(pool, "object", { prefix: "", after: "", limit: 1 }),
        service.omapGetMany(pool, [{ object: "object", keys: [] }]),
        service.imageBriefs(pool, ["a", "b"], []),
        service.groupCreate(group.pool, group.name),
        service.groupAdd(group.pool, group.name, { pool: group.pool, image: "other" }),
      ];
      for (const act of acts) await Effect.runPromise(act);
      expect(calls().map(({ method, subject }) => `${method} ${subject}`)).toEqual([
        "imageClone rbd/n/other",
        "diff rbd/parent@3",
        "managerTasks 127.0.0.1:6789",
        "pools 127.0.0.1:6789",
        "poolSpace rbd",
        "omapFollow rbd/object",
        "omapList rbd/object",
        "omapGetMany 1 of rbd",
        "imageBriefs 2 of rbd",
        "groupCreate rbd/n/g",
        "groupAdd rbd/n/g",
      ]);
    },
    LIMIT,
  );

  test(
    "Every method of the service can be observed",
    async () => {
      const inner = makeCephMemory().service;
      expect(Object.keys(recorded(inner).service).toSorted()).toEqual(Object.keys(inner).toSorted());
    },
    LIMIT,
  );

  test(
    "An observer gets each call before it is made",
    async () => {
      const { service, cluster } = makeCephMemory();
      const seen: string[] = [];
      const watched = observed(service, (method, subject, n) =>
        Effect.sync(() => void seen.push(`${n} ${method} ${subject} after ${images(cluster).length}`)),
      );
      await Effect.runPromise(steps(watched));
      expect(seen).toEqual([
        "1 imageCreate rbd/a after 0",
        "2 imageCreate rbd/b after 1",
        "3 imageCreate rbd/c after 2",
      ]);
    },
    LIMIT,
  );

  test(
    "Latency delays each call",
    async () => {
      const started = performance.now();
      await Effect.runPromise(steps(latency(makeCephMemory().service, 20)));
      expect(performance.now() - started).toBeGreaterThanOrEqual(58);
    },
    LIMIT,
  );
});

describe("memory", () => {
  test(
    "Two clusters with the same calls have equal dumps, and a dump is plain JSON",
    async () => {
      const dumps = await Promise.all(
        [1, 2].map(async () => {
          const { service, cluster } = makeCephMemory();
          await Effect.runPromise(steps(service));
          await Effect.runPromise(service.omapWrite(pool, "o", { object: "ensure", set: { k: "v" } }));
          await Effect.runPromise(service.trashMove(pool, "c"));
          return cluster.dump();
        }),
      );
      expect(dumps[0]).toEqual(dumps[1] ?? {});
      expect(JSON.parse(JSON.stringify(dumps[0]))).toEqual(dumps[0]);
    },
    LIMIT,
  );

  test(
    "A held manager works off its queue when told, and skips an image in use",
    async () => {
      const { service, cluster } = makeCephMemory();
      const empty = cluster.dump();
      cluster.managerHeld = true;
      await Effect.runPromise(service.imageCreate(pool, "a", { sizeBytes: 1n }));
      const id = cluster.image("rbd", "a").id;
      const close = cluster.watch("rbd", "a");
      await Effect.runPromise(service.trashMove(pool, "a"));
      await Effect.runPromise(service.managerTrashRemove(pool, id));
      await Effect.runPromise(service.managerTrashRemove(pool, id));
      expect(cluster.queued()).toEqual([id]);
      expect(cluster.runManager()).toBe(0);
      close();
      expect(cluster.runManager()).toBe(1);
      expect(cluster.dump()).toEqual(empty);
    },
    LIMIT,
  );

  test(
    "The tasks of a held manager show their progress, and failed tasks show the reason",
    async () => {
      const { service, cluster } = makeCephMemory();
      cluster.managerHeld = true;
      const id = await aClone(service);
      await Effect.runPromise(service.managerFlatten(pool, "clone"));
      await Effect.runPromise(service.snapshotRemove(pool, "parent", "s"));
      await Effect.runPromise(service.trashMove(pool, "parent"));
      await Effect.runPromise(service.managerTrashRemove(pool, id));
      const tasks = async () =>
        (await Effect.runPromise(service.managerTasks(memoryAccess))).map(({ action, image, progress, failure }) => [
          action,
          image,
          progress,
          failure,
        ]);
      cluster.setProgress("clone", 0.25);
      expect(await tasks()).toEqual([
        ["flatten", "clone", 0.25, undefined],
        ["trash remove", id, undefined, undefined],
      ]);
      const close = cluster.watch("rbd", "clone");
      await Effect.runPromise(service.imageFlatten(pool, "clone"));
      close();
      await Effect.runPromise(service.imageCreate(pool, "watched", { sizeBytes: 1n }));
      const watched = cluster.image("rbd", "watched").id;
      const leave = cluster.watch("rbd", "watched");
      await Effect.runPromise(service.trashMove(pool, "watched"));
      await Effect.runPromise(service.managerTrashRemove(pool, watched));
      expect(cluster.runManager()).toBe(2);
      expect(await tasks()).toEqual([["trash remove", watched, undefined, "watchers"]]);
      leave();
      expect(cluster.runManager()).toBe(1);
    },
    LIMIT,
  );

  test(
    "A dump shows snapshots, clones, content and groups, and is equal for equal results",
    async () => {
      const dumpOf = async (other: boolean) => {
        const { service, cluster } = makeCephMemory({ now: () => (other ? 1 : 2) });
        await aClone(service);
        cluster.image("rbd", "clone").write(4096n, 4096n);
        if (other) {
          await Effect.runPromise(service.snapshotCreate(pool, "clone", "gone"));
          await Effect.runPromise(service.snapshotRemove(pool, "clone", "gone"));
        }
        await Effect.runPromise(service.snapshotRemove(pool, "parent", "s"));
        await Effect.runPromise(service.groupCreate(pool, "g"));
        await Effect.runPromise(service.groupAdd(pool, "g", { pool, image: "clone" }));
        await Effect.runPromise(service.groupSnapshotCreate(pool, "g", "point"));
        return cluster.dump();
      };
      const dump = await dumpOf(false);
      expect(JSON.parse(JSON.stringify(dump))).toEqual(dump);
      const there = dump["rbd"]?.[""];
      expect(there?.groups).toEqual({ g: { images: ["rbd/clone"], snapshots: { point: "complete" } } });
      expect(there?.images["parent"]?.snapshots).toMatchObject([{ name: "s", kind: "trash", children: ["rbd/clone"] }]);
      expect(there?.images["clone"]?.parent).toBe("rbd/parent@s");
      expect(there?.images["clone"]?.content).toHaveLength(1);
      const other = await dumpOf(true);
      expect(other["rbd"]?.[""]?.images["parent"]).toEqual(there?.images["parent"]);
      expect(other["rbd"]?.[""]?.images["clone"]?.parent).toBe("rbd/parent@s");
    },
    LIMIT,
  );

  test(
    "The cluster's clock dates images and snapshots",
    async () => {
      const { service, cluster } = makeCephMemory({ now: () => 1_000 });
      await Effect.runPromise(service.imageCreate(pool, "a", { sizeBytes: 1n }));
      cluster.now = () => 5_000;
      await Effect.runPromise(service.snapshotCreate(pool, "a", "s"));
      expect((await Effect.runPromise(service.imageStatus(pool, "a"))).createdAt).toBe(1_000);
      expect((await Effect.runPromise(service.snapshots(pool, "a")))[0]?.createdAt).toBe(5_000);
    },
    LIMIT,
  );
});

test(
  "Pages of tens of thousands of keys cost time for their own keys alone, while keys come and go",
  async () => {
    const { service, cluster } = makeCephMemory();
    const keys = Array.from({ length: 20_000 }, (_, i) => `key-${(i * 7919) % 20_000}`);
    const write = (set: Record<string, string>, remove: readonly string[] = []) =>
      Effect.runPromise(service.omapWrite(pool, "o", { object: "ensure", set, remove }));
    await write(Object.fromEntries(keys.map((key) => [key, key])));
    const found: string[] = [];
    const started = performance.now();
    for (let after = ""; ; ) {
      const page = await Effect.runPromise(service.omapList(pool, "o", { prefix: "key-", after, limit: 500 }));
      const last = [...(page?.keys() ?? [])].at(-1);
      if (last === undefined) break;
      found.push(...(page?.keys() ?? []));
      after = last;
      // behind the page and before it: neither is seen
      await write({ "a-key": "", [`${after}-`]: "" }, ["key-0", `${after}-`]);
    }
    expect(performance.now() - started).toBeLessThan(5_000);
    expect(found).toEqual(keys.toSorted());
    const whole = await Effect.runPromise(service.omapList(pool, "o", { prefix: "", after: "", limit: 100_000 }));
    expect([...(whole?.keys() ?? [])]).toEqual(
      [...(cluster.namespace("rbd", "")?.objects.get("o")?.keys() ?? [])].toSorted(),
    );
  },
  LIMIT,
);
