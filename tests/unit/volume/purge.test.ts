/** The way out of the trash: by the manager, or by the driver's own queue where the manager can't. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import * as TestClock from "effect/testing/TestClock";
import { type CephCalls, cephLayer } from "../../../lib/ceph/ceph.ts";
import { AccessDenied, HasSnapshots, PoolNotFound, TimedOut } from "../../../lib/ceph/errors.ts";
import type { PoolRef } from "../../../lib/ceph/rados.ts";
import { DRIVERS_MARKS } from "../../../lib/ceph/rbd.ts";
import { DriverSettings } from "../../../lib/config/settings.ts";
import { markFor, Purge } from "../../../lib/images/purge.ts";
import { removeImages } from "../../../lib/images/removal.ts";
import { intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, MEMORY_KEY, memoryAccess, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { hanging } from "../../support/hanging.ts";
import { aDriver, flagsOf } from "../../support/one-world.ts";
import { after, purgeWithin, settle } from "../../support/purge-world.ts";
import { aCluster, seed, seedImage } from "../../support/world.ts";

const UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const IMAGE = `csi-vol-${UUID}`;
const POOL: PoolRef = { access: memoryAccess, pool: "rbd", namespace: "" };

/** Puts an image of that name into the trash -> its id. */
const trashed = async (
  cluster: MemoryCluster,
  name = IMAGE,
  keepSeconds: number = DRIVERS_MARKS.large,
): Promise<string> => {
  const id = await seedImage(cluster, name);
  await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, name, keepSeconds));
  return id;
};
/** Somebody has an image in the trash open -> closes it. */
const watched = (cluster: MemoryCluster, id: string): (() => void) => {
  const watchers = cluster.namespace("rbd", "")?.trash.get(id)?.image.watchers;
  watchers?.add("127.0.0.1:0/1/client.1");
  return () => void watchers?.delete("127.0.0.1:0/1/client.1");
};
const removals = (calls: readonly { readonly method: string; readonly subject: string }[]) =>
  calls.flatMap(({ method, subject }) => (method === "trashRemove" ? [subject] : []));
/** One that the driver does not remove itself where there is a manager. */
const large = (id: string) => ({ pool: POOL, id, name: IMAGE, mark: "large" as const });
/** One that a person, or another driver, moved to the trash. */
const unmarked = (id: string) => ({ pool: POOL, id, name: IMAGE, mark: undefined });
const idsIn = (cluster: MemoryCluster) => [...(cluster.namespace("rbd", "")?.trash.keys() ?? [])];
const noManager = (): MemoryCluster => {
  const cluster = aCluster();
  cluster.managerUp = false;
  return cluster;
};

const inProcess = purgeWithin("2 seconds");

/** After it the mark protects no image any more. */
const unprotected = Effect.andThen(TestClock.adjust("5 seconds"), settle);

describe("removal by the manager", () => {
  test("the manager removes an image when its mark protects it no longer, and the driver removes nothing itself", async () => {
    const cluster = aCluster();
    const id = await trashed(cluster);
    const { service, calls } = recorded(cephMemoryService(cluster));
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard([large(id)]);
          yield* TestClock.adjust("4999 millis");
          expect(calls()).toEqual([]);
          expect(purge.pending()).toEqual([`rbd/${id}`]);
          yield* TestClock.adjust("1 millis");
          yield* settle;
          expect(purge.pending()).toEqual([]);
        }),
      service,
    );
    expect(calls().map(({ method }) => method)).toEqual(["managerTrashRemove"]);
    expect(idsIn(cluster)).toEqual([]);
  });

  test("the manager gets an image that a process has not given to it when it ends", async () => {
    const cluster = aCluster();
    cluster.managerHeld = true;
    const id = await trashed(cluster);
    await inProcess(cluster, (purge) => purge.discard([large(id)]));
    expect(cluster.queued()).toEqual([id]);
  });

  test("an image without the driver's mark is the manager's at once", async () => {
    const cluster = aCluster();
    const id = await trashed(cluster, IMAGE, 0);
    await inProcess(cluster, (purge) => Effect.andThen(purge.discard([unmarked(id)]), settle));
    expect(idsIn(cluster)).toEqual([]);
  });

  test("an image without the driver's mark is not discarded while there is no manager, until the driver has removed it", async () => {
    const cluster = noManager();
    const id = await trashed(cluster, IMAGE, 0);
    await inProcess(cluster, (purge) =>
      Effect.gen(function* () {
        expect(yield* Effect.flip(purge.discard([unmarked(id)]))).toMatchObject({ _tag: "ManagerUnavailable" });
        yield* settle;
      }),
    );
    expect(idsIn(cluster)).toEqual([]);
  });

  test("the removal of an image that is gone succeeds", async () => {
    const cluster = aCluster();
    await inProcess(cluster, (purge) => purge.discard([large("0000000000ff")]));
  });

  test("a removal that the manager denies fails the caller's request, and the driver does not remove the image itself", async () => {
    const cluster = aCluster();
    const id = await trashed(cluster, IMAGE, 0);
    const error = new AccessDenied({ op: "task", subject: "rbd", user: "x" });
    const ceph = { ...cephMemoryService(cluster), managerTrashRemove: () => Effect.fail(error) };
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          expect(yield* Effect.flip(purge.discard([unmarked(id)]))).toBe(error);
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
          yield* purge.discard([large(id)]);
          yield* purge.discard([large(id)]);
          yield* unprotected;
          expect(purge.pending()).toHaveLength(1);
          expect(log[0]).toContain("the driver removes the image itself: ");
          yield* TestClock.adjust("9 minutes");
          expect(idsIn(cluster)).toEqual([id]);
          yield* TestClock.adjust("1 minute");
          expect(idsIn(cluster)).toEqual([]);
          expect(purge.pending()).toHaveLength(0);
          expect(log).toContain(`removal from the trash of image rbd/${id} is over`);
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
    await inProcess(cluster, (purge) => Effect.andThen(purge.discard([{ ...large(id), pool }]), unprotected));
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
          for (const id of ids) yield* purge.discard([large(id)]);
          yield* unprotected;
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
    await Effect.runPromise(cephMemoryService(cluster).trashMove(POOL, IMAGE, DRIVERS_MARKS.large));
    const { service, calls } = recorded(cephMemoryService(cluster));
    const tries = () => calls().filter(({ method }) => method === "trashRemove").length;
    await inProcess(
      cluster,
      (purge, log) =>
        Effect.gen(function* () {
          yield* purge.discard([large(id)]);
          yield* unprotected;
          for (const [n, wait] of [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300].entries()) {
            expect(tries()).toBe(n + 1);
            expect(log.at(-1)).toStartWith(
              `removal from the trash of image rbd/${id} is tried again in ${wait} s: rbd/${id} is in use`,
            );
            yield* TestClock.adjust((wait - 1) * 1000);
            expect(tries()).toBe(n + 1);
            // Who asks again meanwhile changes nothing.
            yield* purge.discard([large(id)]);
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

  test("the driver does not try again where the pool is gone", async () => {
    const cluster = noManager();
    const id = await trashed(cluster);
    const gone = new PoolNotFound({ op: "rados_ioctx_create", subject: "rbd" });
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "trashRemove" ? Effect.fail(gone) : act,
    );
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard([large(id)]);
          yield* unprotected;
          expect(purge.pending()).toEqual([]);
        }),
      ceph,
    );
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
          yield* purge.discard([large(first)]);
          yield* purge.discard([large(second)]);
          yield* unprotected;
          expect(idsIn(cluster)).toEqual([first]);
          broken = false;
          yield* TestClock.adjust("30 seconds");
        }),
      ceph,
    );
    expect(idsIn(cluster)).toEqual([]);
  });
});

describe("removal of small images by the driver", () => {
  /** After it no deletion has come for so long that the driver begins with its removals. */
  const pause = Effect.andThen(TestClock.adjust("500 millis"), settle);
  const uuidOf = (n: number) => UUID.replace(/^b0/, n.toString(16).padStart(2, "0"));
  const discarded = async (cluster: MemoryCluster, n: number) => {
    const name = `csi-vol-${uuidOf(n)}`;
    const id = await trashed(cluster, name, DRIVERS_MARKS.small);
    return { pool: POOL, id, name, mark: "small" as const };
  };
  const methods = (calls: readonly { readonly method: string }[]) => calls.map(({ method }) => method);

  test("the driver removes a small image itself, and does not ask the manager", async () => {
    const cluster = aCluster();
    const image = await discarded(cluster, 1);
    const { service, calls } = recorded(cephMemoryService(cluster));
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard([image]);
          expect(purge.pending()).toEqual([`rbd/${image.id}`]);
          yield* pause;
          expect(purge.pending()).toEqual([]);
        }),
      service,
    );
    expect(methods(calls())).toEqual(["trashRemove"]);
    expect(idsIn(cluster)).toEqual([]);
  });

  test("the driver removes images of at most 4,096 objects with a default name, and marks all whose name a driver gives", () => {
    const names = [`csi-vol-${UUID}`, `csi-snap-${UUID}`, `csi-vol-${UUID}-temp`];
    for (const name of names) expect([4096n, 4097n].map((n) => markFor(name, n))).toEqual(["small", "large"]);
    for (const name of [...names, `team-${UUID}`, `kubernetes-dynamic-pvc-${UUID}`, `team-${UUID}-temp`]) {
      expect(markFor(name)).toBe("large");
    }
    for (const name of [UUID, `${UUID}-temp`, "csi-vol-1", `csi-vol-${UUID}-copy`]) {
      expect(markFor(name, 1n)).toBeUndefined();
    }
  });

  test("the manager removes an image without the driver's mark, and one that comes when many wait", async () => {
    const cluster = aCluster();
    const without = { ...(await discarded(cluster, 1)), mark: undefined };
    const last = await discarded(cluster, 3);
    const asked: string[] = [];
    const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method === "managerTrashRemove") asked.push(call.subject);
      return call.method === "trashRemove" ? Effect.never : act;
    });
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard([without]);
          for (let n = 0; n < 1024; n++) yield* purge.discard([{ ...last, id: `id-${n}` }]);
          expect(asked).toEqual([`rbd/${without.id}`]);
          yield* purge.discard([last]);
          expect(asked.at(-1)).toBe(`rbd/${last.id}`);
        }),
      ceph,
    );
  });

  test("the driver removes four chains at a time, and in each the child before its parent", async () => {
    const cluster = aCluster();
    const ids: string[] = [];
    const chains = await Promise.all(
      Array.from({ length: 6 }, async (_, n) => [await discarded(cluster, 2 * n), await discarded(cluster, 2 * n + 1)]),
    );
    let at = 0;
    let most = 0;
    const counting = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method !== "trashRemove") return act;
      const begun = Effect.sync(() => {
        ids.push(call.subject.slice("rbd/".length));
        most = Math.max(most, ++at);
      });
      return Effect.ensuring(
        Effect.andThen(begun, Effect.delay(act, "1 second")),
        Effect.sync(() => void at--),
      );
    });
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (const chain of chains) yield* purge.discard(chain);
          yield* pause;
          yield* TestClock.adjust("4 seconds");
          expect(purge.pending()).toEqual([]);
        }),
      counting,
    );
    expect(most).toBe(4);
    for (const [child, parent] of chains) {
      expect(ids.indexOf(child?.id ?? "")).toBeLessThan(ids.indexOf(parent?.id ?? ""));
    }
  });

  test("removals begin when no deletion has come for half a second", async () => {
    const cluster = aCluster();
    const { service, calls } = recorded(cephMemoryService(cluster));
    const images = await Promise.all(Array.from({ length: 6 }, (_, n) => discarded(cluster, n)));
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (const image of images) {
            yield* purge.discard([image]);
            yield* TestClock.adjust("499 millis");
            expect(removals(calls())).toEqual([]);
          }
          yield* TestClock.adjust("1 millis");
          yield* settle;
          expect(removals(calls())).toHaveLength(6);
        }),
      service,
    );
  });

  test("one removal at a time goes on beside deletions that do not pause, of what has waited for five seconds", async () => {
    const cluster = aCluster();
    let [now, most] = [0, 0];
    const slow = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method !== "trashRemove") return act;
      most = Math.max(most, ++now);
      return Effect.ensuring(
        Effect.andThen(Effect.sleep("1 second"), act),
        Effect.sync(() => void now--),
      );
    });
    const images = await Promise.all(Array.from({ length: 40 }, (_, n) => discarded(cluster, n)));
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (const image of images) {
            yield* purge.discard([image]);
            yield* TestClock.adjust("250 millis");
            yield* settle;
          }
          expect(most).toBe(1);
          // ten seconds have passed, and the first removal began after five
          expect(idsIn(cluster)).toHaveLength(40 - 5);
          yield* TestClock.adjust("20 seconds");
          yield* settle;
          expect(most).toBe(4);
          expect(purge.pending()).toEqual([]);
        }),
      slow,
    );
  });

  test("an image whose snapshot has clones, and its parents, are the manager's", async () => {
    const cluster = aCluster();
    const [child, parent] = [await discarded(cluster, 1), await discarded(cluster, 2)];
    cluster.managerHeld = true;
    const cloned = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "trashRemove" ? Effect.fail(new HasSnapshots({ op: "rbd_trash_remove", subject: "rbd" })) : act,
    );
    const { service, calls } = recorded(cloned);
    await inProcess(cluster, (purge) => Effect.andThen(purge.discard([child, parent]), pause), service);
    expect(methods(calls())).toEqual(["trashRemove", "trashSnapshots", "managerTrashRemove", "managerTrashRemove"]);
    expect(idsIn(cluster)).toEqual([child.id, parent.id]);
  });

  test("an image that is busy is tried again after 35 s, 60 s and 120 s, then it is the manager's; its parent waits", async () => {
    const cluster = aCluster();
    const [child, parent] = [await discarded(cluster, 1), await discarded(cluster, 2)];
    cluster.managerHeld = true;
    const close = watched(cluster, child.id);
    const { service, calls } = recorded(cephMemoryService(cluster));
    await inProcess(
      cluster,
      (purge, log) =>
        Effect.gen(function* () {
          yield* purge.discard([child, parent]);
          yield* pause;
          for (const [n, wait] of [35, 60, 120].entries()) {
            expect(removals(calls())).toHaveLength(n + 1);
            expect(log.at(-1)).toStartWith(
              `removal from the trash of image rbd/${child.id} is tried again in ${wait} s: rbd/${child.id} is in use`,
            );
            yield* TestClock.adjust((wait - 1) * 1000);
            expect(removals(calls())).toHaveLength(n + 1);
            yield* TestClock.adjust(1000);
            yield* settle;
          }
          expect(removals(calls())).toEqual(Array.from({ length: 4 }, () => `rbd/${child.id}`));
          expect(purge.pending()).toEqual([]);
          expect(cluster.queued()).toEqual([child.id, parent.id]);
          close();
        }),
      service,
    );
  });

  test("an image that is busy at first leaves the trash at a later try, and its parent after it", async () => {
    const cluster = noManager();
    const [child, parent] = [await discarded(cluster, 1), await discarded(cluster, 2)];
    const close = watched(cluster, child.id);
    await inProcess(cluster, (purge) =>
      Effect.gen(function* () {
        yield* purge.discard([child, parent]);
        yield* pause;
        close();
        expect(purge.pending()).toEqual([`rbd/${child.id}`, `rbd/${parent.id}`]);
        yield* TestClock.adjust("35 seconds");
        yield* settle;
        expect(purge.pending()).toEqual([]);
      }),
    );
    expect(idsIn(cluster)).toEqual([]);
  });

  test("an image that somebody else removes between two tries is gone", async () => {
    const cluster = aCluster();
    const image = await discarded(cluster, 1);
    const close = watched(cluster, image.id);
    const { service, calls } = recorded(cephMemoryService(cluster));
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard([image]);
          yield* pause;
          close();
          yield* cephMemoryService(cluster).managerTrashRemove(POOL, image.id);
          yield* TestClock.adjust("35 seconds");
          yield* settle;
          expect(purge.pending()).toEqual([]);
        }),
      service,
    );
    expect(methods(calls()).filter((method) => method === "managerTrashRemove")).toEqual([]);
  });

  test("a new image does not wait for images that are tried again", async () => {
    const cluster = aCluster();
    const late = await Promise.all(Array.from({ length: 8 }, (_, n) => discarded(cluster, n)));
    const fresh = await discarded(cluster, 9);
    const tries = new Map<string, number>();
    const hanging = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method !== "trashRemove" || call.subject.endsWith(fresh.id)) return act;
      tries.set(call.subject, (tries.get(call.subject) ?? 0) + 1);
      return tries.get(call.subject) === 1 ? Effect.fail(new TimedOut({ op: "a_call", subject: "rbd" })) : Effect.never;
    });
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (const image of late) yield* purge.discard([image]);
          yield* pause;
          yield* TestClock.adjust("35 seconds");
          yield* settle;
          expect([...tries.values()].filter((n) => n === 2)).toHaveLength(2);
          yield* purge.discard([fresh]);
          yield* pause;
          expect(idsIn(cluster)).not.toContain(fresh.id);
        }),
      hanging,
    );
  });

  test("an image that was found in the trash is tried when no dead driver has it open any more", async () => {
    const cluster = aCluster();
    const image = await discarded(cluster, 1);
    const { service, calls } = recorded(cephMemoryService(cluster));
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard([{ ...image, found: true }]);
          yield* purge.discard([{ ...image, found: true }]);
          yield* TestClock.adjust("34 seconds");
          expect(methods(calls())).toEqual([]);
          yield* TestClock.adjust("1 second");
          yield* settle;
        }),
      service,
    );
    expect(removals(calls())).toHaveLength(1);
    expect(idsIn(cluster)).toEqual([]);
  });

  test("an image that neither the driver nor the manager can remove is tried again for ever", async () => {
    const cluster = noManager();
    const image = await discarded(cluster, 1);
    let broken = true;
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      broken && call.method === "trashRemove" ? Effect.die(new Error("a bug")) : act,
    );
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard([image]);
          yield* TestClock.adjust("1 hour");
          yield* settle;
          expect(purge.pending()).toEqual([`rbd/${image.id}`]);
          broken = false;
          yield* TestClock.adjust("5 minutes");
          yield* settle;
          expect(purge.pending()).toEqual([]);
        }),
      ceph,
    );
    expect(idsIn(cluster)).toEqual([]);
  });

  test("the driver removes all small images that come when many wait and there is no manager", async () => {
    const cluster = noManager();
    const images = await Promise.all(Array.from({ length: 3 }, (_, n) => discarded(cluster, n)));
    let held = true;
    const slow = intercepted(cephMemoryService(cluster), (call, act) =>
      held && call.method === "trashRemove" ? Effect.andThen(Effect.sleep("1 second"), act) : act,
    );
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (let n = 0; n < 1024; n++) yield* purge.discard([{ ...large(`id-${n}`), mark: "small" }]);
          for (const image of images) yield* purge.discard([image]);
          expect(purge.pending()).toHaveLength(1027);
          held = false;
          yield* TestClock.adjust("2 seconds");
          yield* settle;
          expect(purge.pending()).toEqual([]);
        }),
      slow,
    );
    expect(idsIn(cluster)).toEqual([]);
  });

  test("the driver removes a small image itself that comes when many wait, whatever the manager fails with", async () => {
    const cluster = aCluster();
    const last = await discarded(cluster, 1);
    let isHeld = true;
    const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method === "managerTrashRemove") return Effect.fail(new TimedOut({ op: "a_call", subject: "rbd" }));
      return isHeld && call.method === "trashRemove" ? Effect.andThen(Effect.sleep("1 second"), act) : act;
    });
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (let n = 0; n < 1024; n++) yield* purge.discard([{ ...large(`id-${n}`), mark: "small" }]);
          yield* purge.discard([last]);
          isHeld = false;
          yield* TestClock.adjust("2 seconds");
          yield* settle;
          expect(purge.pending()).toEqual([]);
        }),
      ceph,
    );
    expect(idsIn(cluster)).toEqual([]);
  });

  test("a process that ends gives the manager what waits in its queue", async () => {
    const cluster = aCluster();
    cluster.managerHeld = true;
    const [busy, ...waiting] = await Promise.all(Array.from({ length: 6 }, (_, n) => discarded(cluster, n)));
    const close = watched(cluster, busy?.id ?? "");
    const latch = Promise.withResolvers<void>();
    let given = 0;
    const slow = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method === "managerTrashRemove" && ++given === 2) latch.resolve();
      return call.method === "trashRemove" && call.subject !== `rbd/${busy?.id}`
        ? Effect.andThen(Effect.uninterruptible(Effect.promise(() => latch.promise)), act)
        : act;
    });
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (const image of busy === undefined ? [] : [busy, ...waiting]) yield* purge.discard([image]);
          yield* pause;
        }),
      slow,
    );
    // the one that is tried later, and the one for which there was no worker; the manager knows them now
    expect(cluster.queued().toSorted()).toEqual([busy?.id, waiting.at(-1)?.id].map((id) => id ?? ""));
    close();
  });
});

test("a manager that does not answer holds up the end of the process for a moment only", async () => {
  const cluster = aCluster();
  const id = await trashed(cluster);
  const hang = hanging();
  const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
    call.method === "managerTrashRemove" ? hang.around(act) : act,
  );
  const driver = aDriver(cluster, { ceph });
  const purge = await driver.purge();
  await Effect.runPromise(purge.discard([large(id)]));
  const ended = driver[Symbol.asyncDispose]().then(() => "ended");
  expect(await Promise.race([ended, Bun.sleep(3_000)])).toBe("ended");
  expect(hang.begun()).toBe(1);
  hang.end();
});

describe("images that a dead process left in the trash", () => {
  const OTHER = "8f2b1c44-5d0e-4c1a-9a57-3d2f6e0b7a11";
  const NAMES = [`csi-vol-${OTHER}`, `csi-snap-${OTHER}`, `csi-vol-${OTHER}-temp`];
  const marked = (cluster: MemoryCluster, name = IMAGE) => trashed(cluster, name, DRIVERS_MARKS.small);
  const left = (cluster: MemoryCluster) => Promise.all(NAMES.map((name) => marked(cluster, name)));
  const swept = (purge: Purge["Service"]) => Effect.andThen(purge.visit(POOL), after("35 seconds"));

  test("some time after the first use of a pool the driver removes what a dead process left, with a manager or without", async () => {
    for (const cluster of [aCluster(), noManager()]) {
      const ids = await left(cluster);
      const { service, calls } = recorded(cephMemoryService(cluster));
      await inProcess(
        cluster,
        (purge) =>
          Effect.gen(function* () {
            yield* purge.visit(POOL);
            yield* after("34 seconds");
            expect(calls()).toEqual([]);
            yield* after("1 second");
          }),
        service,
      );
      expect(idsIn(cluster)).toEqual([]);
      const methods = calls().map(({ method }) => method);
      expect(methods.slice(0, 4)).toEqual(["trashList", "managerTasks", "omapGetMany", "omapGetMany"]);
      expect(methods.filter((method) => method === "trashRemove")).toHaveLength(ids.length);
      // only an image that may hold the point in time of a CSI snapshot may have its snapshot
      expect(methods.filter((method) => method === "trashSnapshotRemove")).toHaveLength(1);
      expect(methods).toHaveLength(4 + ids.length + 1);
    }
  });

  test("an image that a dead driver still holds when it is found is removed at a later try", async () => {
    const cluster = aCluster();
    const [id = ""] = await left(cluster);
    const close = watched(cluster, id);
    await inProcess(cluster, (purge) =>
      Effect.gen(function* () {
        yield* swept(purge);
        expect(idsIn(cluster)).toEqual([id]);
        close();
        yield* after("35 seconds");
      }),
    );
    expect(idsIn(cluster)).toEqual([]);
    expect(cluster.queued()).toEqual([]);
  });

  test("the search for left images keeps what a person put there, what has a journal entry, another name or another owner", async () => {
    const cluster = aCluster();
    let now = 1_700_000_000_000;
    cluster.now = () => now;
    seed(cluster, { [`csi.volume.${OTHER}`]: {} });
    const kept = [
      await marked(cluster, `csi-vol-${OTHER}`),
      await marked(cluster, "csi-vol-1"),
      await marked(cluster, `csi-vol-${UUID}-copy`),
      await marked(cluster, UUID),
      await marked(cluster, `team-${OTHER}`),
    ];
    for (const seconds of [0, 1, 2, 5, 60]) {
      for (const name of [`csi-vol-${UUID}`, `csi-snap-${UUID}`, `csi-vol-${UUID}-temp`, `volume-${UUID}`]) {
        kept.push(await trashed(cluster, name, seconds));
      }
    }
    const mirrored = await marked(cluster, `csi-vol-${UUID.replace("b", "c")}`);
    const trash = cluster.namespace("rbd", "")?.trash;
    const entry = trash?.get(mirrored);
    if (entry !== undefined) trash?.set(mirrored, { ...entry, source: "mirroring" });
    await marked(cluster);
    const { service, calls } = recorded(cephMemoryService(cluster));
    await inProcess(cluster, swept, service);
    expect(idsIn(cluster)).toEqual([...kept, mirrored]);
    // an administrator purges it, also when its time is over
    now += 61_000;
    await inProcess(cluster, swept, service);
    expect(idsIn(cluster)).toEqual([...kept, mirrored]);
    expect(removals(calls())).toHaveLength(1);
  });

  test("what a dead process left that the driver does not remove itself goes to the manager, or to its own queue", async () => {
    for (const cluster of [aCluster(), noManager()]) {
      for (const name of [IMAGE, `team-${UUID}`, `kubernetes-dynamic-pvc-${UUID}`]) {
        await trashed(cluster, name, DRIVERS_MARKS.large);
      }
      const { service, calls } = recorded(cephMemoryService(cluster));
      await inProcess(cluster, swept, service);
      expect(idsIn(cluster)).toEqual([]);
      const given = calls().filter(({ method }) => method === "managerTrashRemove");
      expect(given).toHaveLength(3);
      expect(removals(calls())).toHaveLength(cluster.managerUp ? 0 : 3);
    }
  });

  test("an image in between that a dead process left is removed while its volume lives", async () => {
    const cluster = aCluster();
    seed(cluster, { [`csi.volume.${UUID}`]: { "csi.volname": "pvc-1" } });
    await seedImage(cluster, IMAGE);
    for (const seconds of Object.values(DRIVERS_MARKS)) await trashed(cluster, `${IMAGE}-temp`, seconds);
    await inProcess(cluster, swept);
    expect(idsIn(cluster)).toEqual([]);
    expect(cluster.image("rbd", IMAGE).id).toBeDefined();
  });

  test("the search for left images keeps those that the manager has a task for, such as a snapshot with clones", async () => {
    const cluster = aCluster();
    cluster.managerHeld = true;
    const [first = "", ...others] = await left(cluster);
    await Effect.runPromise(cephMemoryService(cluster).managerTrashRemove(POOL, first));
    const { service, calls } = recorded(cephMemoryService(cluster));
    await inProcess(cluster, swept, service);
    expect(idsIn(cluster)).toEqual([first]);
    expect(removals(calls()).toSorted()).toEqual(others.map((id) => `rbd/${id}`));
  });

  test("a process searches each pool and namespace that is used every ten minutes, and no longer than it is used", async () => {
    const cluster = aCluster();
    const { service, calls } = recorded(cephMemoryService(cluster));
    const searches = () => calls().filter(({ method }) => method === "trashList").length;
    const elsewhere = { ...POOL, namespace: "tenant" };
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (let n = 0; n < 3; n++) yield* purge.visit(POOL);
          yield* purge.visit(elsewhere);
          yield* after("35 seconds");
          expect(searches()).toBe(2);
          yield* purge.visit(POOL);
          yield* after("599 seconds");
          expect(searches()).toBe(2);
          yield* after("1 second");
          expect(searches()).toBe(3);
          yield* after("1 hour");
          expect(searches()).toBe(3);
          yield* swept(purge);
          expect(searches()).toBe(4);
        }),
      service,
    );
  });

  for (const [what, failure] of [
    ["A failed search", Effect.fail(new TimedOut({ op: "rbd_trash_list", subject: "rbd" }))],
    ["A search with a defect", Effect.die(new Error("a defect"))],
  ] as const) {
    test(`${what} for left images is repeated when the pool is used again, and fails no request`, async () => {
      const cluster = aCluster();
      await left(cluster);
      let failing = true;
      const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
        failing && call.method === "trashList" ? failure : act,
      );
      await inProcess(
        cluster,
        (purge, log) =>
          Effect.gen(function* () {
            yield* swept(purge);
            expect(log.some((line) => line.startsWith("could not look for left-over images"))).toBe(true);
            expect(idsIn(cluster)).toHaveLength(3);
            failing = false;
            yield* purge.visit(POOL);
            yield* after("10 minutes");
          }),
        ceph,
      );
      expect(idsIn(cluster)).toEqual([]);
    });
  }

  test("What waits goes on when giving an image to the manager has a defect, and the driver removes that one itself", async () => {
    const cluster = aCluster();
    for (const name of [IMAGE, `team-${UUID}`]) await trashed(cluster, name, DRIVERS_MARKS.large);
    let broken = 0;
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "managerTrashRemove" && broken++ === 0 ? Effect.die(new Error("a defect")) : act,
    );
    await inProcess(cluster, swept, ceph);
    expect(broken).toBe(2);
    expect(idsIn(cluster)).toEqual([]);
  });
});

test("A removed clone is looked at a second time, and so is its parent that is in the trash", async () => {
  const cluster = aCluster();
  const memory = cephMemoryService(cluster);
  const parent = await seedImage(cluster, "source");
  await Effect.runPromise(
    Effect.gen(function* () {
      yield* memory.snapshotCreate(POOL, "source", "s");
      yield* memory.imageClone({ pool: POOL, image: "source", snapshot: "s" }, POOL, IMAGE, {});
      yield* memory.trashMove(POOL, "source", 0);
    }),
  );
  const { id } = await Effect.runPromise(memory.imageStatus(POOL, IMAGE));
  const looks: (readonly string[])[] = [];
  const ceph: CephCalls = {
    ...memory,
    imagesStillThere: (pool, ids) => Effect.suspend(() => (looks.push(ids), memory.imagesStillThere(pool, ids))),
  };
  const removal = Effect.provide(
    removeImages([{ pool: POOL, imageName: IMAGE }], 0),
    Layer.merge(cephLayer(ceph), DriverSettings.layer(flagsOf())),
  );
  await inProcess(
    cluster,
    (purge) =>
      Effect.gen(function* () {
        yield* Effect.provideService(removal, Purge, purge);
        yield* TestClock.adjust("1 minute");
        yield* settle;
      }),
    ceph,
  );
  expect(looks).toEqual([[id, parent]]);
});
