/** The way out of the trash: by the manager, or by the driver's own queue where the manager can't. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as Redacted from "effect/Redacted";
import * as TestClock from "effect/testing/TestClock";
import { type CephCalls, cephLayer } from "../../../lib/ceph/ceph.ts";
import { AccessDenied, TimedOut } from "../../../lib/ceph/errors.ts";
import type { PoolRef } from "../../../lib/ceph/rados.ts";
import { Purge } from "../../../lib/images/purge.ts";
import { intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, MEMORY_KEY, memoryAccess, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aCluster, seed, seedImage } from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const IMAGE = `csi-vol-${UUID}`;
const POOL: PoolRef = { access: memoryAccess, pool: "rbd", namespace: "" };

/** Puts an image of that name into the trash -> its id. */
const trashed = async (cluster: MemoryCluster, name = IMAGE): Promise<string> => {
  const id = await seedImage(cluster, name);
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, name));
  return id;
};
const idsIn = (cluster: MemoryCluster) => [...(cluster.namespace("rbd", "")?.trash.keys() ?? [])];
const noManager = (): MemoryCluster => {
  const cluster = aCluster();
  cluster.managerUp = false;
  return cluster;
};

type Body = (purge: Purge["Service"], log: readonly string[]) => Effect.Effect<unknown, unknown>;

/** A process with its purge queue, in virtual time. */
const inProcess = (cluster: MemoryCluster, body: Body, ceph: CephCalls = cephMemoryService(cluster)) => {
  const log: string[] = [];
  const recorder = Logger.make<unknown, void>(({ message }) => void log.push([message].flat().map(String).join(" ")));
  const layer = Purge.layer.pipe(
    Layer.provideMerge(Layer.mergeAll(cephLayer(ceph), TestClock.layer(), Logger.layer([recorder]))),
  );
  return Effect.runPromise(
    Effect.flatMap(Purge, (purge) => body(purge, log)).pipe(Effect.provide(layer), Effect.timeout("2 seconds")),
  );
};
/** Lets everything run that does not wait for time. */
const settle = Effect.forEach(
  Array.from({ length: 50 }, () => TestClock.adjust(0)),
  (turn) => turn,
  { discard: true },
);

describe("removal by the manager", () => {
  test("the manager removes an image, and the driver removes nothing itself", async () => {
    const cluster = aCluster();
    const id = await trashed(cluster);
    const { service, calls } = recorded(cephMemoryService(cluster));
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard(POOL, id);
          expect(purge.pending()).toHaveLength(0);
          yield* settle;
        }),
      service,
    );
    expect(calls().map(({ method }) => method)).toEqual(["managerTrashRemove"]);
    expect(idsIn(cluster)).toEqual([]);
  });

  test("the removal of an image that is gone succeeds", async () => {
    const cluster = aCluster();
    await inProcess(cluster, (purge) => purge.discard(POOL, "0000000000ff"));
  });

  test("a removal that the manager denies fails the caller's request, and the driver does not remove the image itself", async () => {
    const cluster = aCluster();
    const id = await trashed(cluster);
    const error = new AccessDenied({ op: "task", subject: "rbd", user: "x" });
    const ceph = { ...cephMemoryService(cluster), managerTrashRemove: () => Effect.fail(error) };
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          expect(yield* Effect.flip(purge.discard(POOL, id))).toBe(error);
          expect(purge.pending()).toHaveLength(0);
        }),
      ceph,
    );
    expect(idsIn(cluster)).toEqual([id]);
  });
});

describe("removal by the driver, without a manager", () => {
  test("the driver removes an image itself, and the answer does not wait for the removal", async () => {
    const cluster = noManager();
    const id = await trashed(cluster);
    const slow = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "trashRemove" ? Effect.delay(act, "10 minutes") : act,
    );
    await inProcess(
      cluster,
      (purge, log) =>
        Effect.gen(function* () {
          yield* purge.discard(POOL, id);
          yield* purge.discard(POOL, id);
          expect(purge.pending()).toHaveLength(1);
          expect(log[0]).toContain("no manager answers; the driver removes the image itself");
          yield* TestClock.adjust("9 minutes");
          expect(idsIn(cluster)).toEqual([id]);
          yield* TestClock.adjust("1 minute");
          expect(idsIn(cluster)).toEqual([]);
          expect(purge.pending()).toHaveLength(0);
          expect(log).toContain(`removal from the trash of image rbd/${id} is done`);
        }),
      slow,
    );
  });

  test("the driver removes an image itself for a user without caps for the manager", async () => {
    const users = {
      admin: { key: MEMORY_KEY, manager: true },
      limited: { key: "bGltaXRlZA==", manager: false },
    };
    const cluster = aCluster({ users });
    const id = await trashed(cluster);
    const pool = { ...POOL, access: { ...memoryAccess, user: "limited", key: Redacted.make("bGltaXRlZA==") } };
    await inProcess(cluster, (purge) => Effect.andThen(purge.discard(pool, id), settle));
    expect(idsIn(cluster)).toEqual([]);
  });

  test("the driver removes images one at a time", async () => {
    const cluster = noManager();
    const ids = [await trashed(cluster), await trashed(cluster, "second"), await trashed(cluster, "third")];
    let at = 0;
    let most = 0;
    const counting = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method !== "trashRemove"
        ? act
        : Effect.sync(() => void (most = Math.max(most, ++at))).pipe(
            Effect.andThen(Effect.delay(act, "1 second")),
            Effect.ensuring(Effect.sync(() => void at--)),
          ),
    );
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (const id of ids) yield* purge.discard(POOL, id);
          expect(purge.pending()).toHaveLength(3);
          yield* TestClock.adjust("3 seconds");
          expect(purge.pending()).toHaveLength(0);
        }),
      counting,
    );
    expect(most).toBe(1);
    expect(idsIn(cluster)).toEqual([]);
  });

  test("the driver tries again to remove an image in use after 30 s, 60 s, and so on to 300 s", async () => {
    const cluster = noManager();
    const id = await seedImage(cluster, IMAGE);
    const close = cluster.watch("rbd", IMAGE);
    await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, IMAGE));
    const { service, calls } = recorded(cephMemoryService(cluster));
    const tries = () => calls().filter(({ method }) => method === "trashRemove").length;
    await inProcess(
      cluster,
      (purge, log) =>
        Effect.gen(function* () {
          yield* purge.discard(POOL, id);
          yield* settle;
          for (const [n, wait] of [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300].entries()) {
            expect(tries()).toBe(n + 1);
            expect(log.at(-1)).toStartWith(
              `removal from the trash of image rbd/${id} is tried again in ${wait} s: rbd/${id} is in use`,
            );
            yield* TestClock.adjust((wait - 1) * 1000);
            expect(tries()).toBe(n + 1);
            // Who asks again meanwhile changes nothing.
            yield* purge.discard(POOL, id);
            yield* TestClock.adjust(1000);
          }
          expect(purge.pending()).toHaveLength(1);
          close();
          yield* TestClock.adjust("300 seconds");
          expect(purge.pending()).toHaveLength(0);
        }),
      service,
    );
    expect(idsIn(cluster)).toEqual([]);
  });

  test("a bug in one removal does not end the queue", async () => {
    const cluster = noManager();
    const [first, second] = [await trashed(cluster), await trashed(cluster, "second")];
    let broken = true;
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      broken && call.method === "trashRemove" && call.subject.endsWith(first) ? Effect.die(new Error("a bug")) : act,
    );
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard(POOL, first);
          yield* purge.discard(POOL, second);
          yield* settle;
          expect(idsIn(cluster)).toEqual([first]);
          broken = false;
          yield* TestClock.adjust("30 seconds");
        }),
      ceph,
    );
    expect(idsIn(cluster)).toEqual([]);
  });
});

describe("images that a dead process left in the trash", () => {
  const OTHER = "8f2b1c44-5d0e-4c1a-9a57-3d2f6e0b7a11";

  test("the next process that removes an image itself removes the images that a dead process left", async () => {
    const cluster = noManager();
    for (const name of [`csi-vol-${OTHER}`, `csi-snap-${OTHER}`, `csi-vol-${OTHER}-temp`]) await trashed(cluster, name);
    const mine = await trashed(cluster);
    await inProcess(cluster, (purge) => Effect.andThen(purge.discard(POOL, mine), settle));
    expect(idsIn(cluster)).toEqual([]);
  });

  test("the search for left images keeps those with a journal entry, another name or another owner", async () => {
    const cluster = noManager();
    seed(cluster, { [`csi.volume.${OTHER}`]: {} });
    const kept = [
      await trashed(cluster, `csi-vol-${OTHER}`),
      await trashed(cluster, "csi-vol-1"),
      await trashed(cluster, `csi-vol-${UUID}-copy`),
      await trashed(cluster, `my-csi-vol-${UUID}`),
      await trashed(cluster, `team-${UUID}`),
    ];
    const mirrored = await trashed(cluster, `csi-vol-${UUID.replace("b", "c")}`);
    const trash = cluster.namespace("rbd", "")?.trash;
    const entry = trash?.get(mirrored);
    if (entry !== undefined) trash?.set(mirrored, { ...entry, source: "mirroring" });
    const mine = await trashed(cluster);
    await inProcess(cluster, (purge) => Effect.andThen(purge.discard(POOL, mine), settle));
    expect(idsIn(cluster)).toEqual([...kept, mirrored]);
  });

  test("a process searches each pool and namespace once for left images", async () => {
    const cluster = noManager();
    const { service, calls } = recorded(cephMemoryService(cluster));
    const elsewhere = { ...POOL, namespace: "tenant" };
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (let n = 0; n < 3; n++) {
            const id = yield* Effect.promise(() => trashed(cluster, `image-${n}`));
            yield* purge.discard(POOL, id);
            yield* settle;
          }
          yield* purge.discard(elsewhere, "00000000ffff");
          yield* settle;
        }),
      service,
    );
    expect(calls().filter(({ method }) => method === "trashList")).toHaveLength(2);
  });

  test("a failed search for left images is repeated later, and fails no request", async () => {
    const cluster = noManager();
    await trashed(cluster, `csi-vol-${OTHER}`);
    const [first, second] = [await trashed(cluster), await trashed(cluster, "second")];
    let failing = true;
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      failing && call.method === "trashList"
        ? Effect.fail(new TimedOut({ op: "rbd_trash_list", subject: "rbd" }))
        : act,
    );
    await inProcess(
      cluster,
      (purge, log) =>
        Effect.gen(function* () {
          yield* purge.discard(POOL, first);
          yield* settle;
          expect(log.some((line) => line.startsWith("could not look for left-over images"))).toBe(true);
          expect(idsIn(cluster)).toHaveLength(2);
          failing = false;
          yield* purge.discard(POOL, second);
          yield* settle;
        }),
      ceph,
    );
    expect(idsIn(cluster)).toEqual([]);
  });
});
