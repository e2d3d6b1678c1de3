/** Locks by key: order, modes, deadlines, and that nothing is left of them. */
import { describe, expect, test } from "bun:test";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as TestClock from "effect/testing/TestClock";
import { LockHeld } from "../../../lib/csi/errors.ts";
import { inOrder, LockKey, type LockMode, shared } from "../../../lib/operations/lock-keys.ts";
import { type LocksService, makeLocks } from "../../../lib/operations/locks.ts";
import { makeOperations, stage } from "../../../lib/operations/pipeline.ts";

const KEY = "volume v1";
const lock = (mode: LockMode, key = LockKey.volume("v1")): LockKey => (mode === "shared" ? shared(key) : key);

/** A test in virtual time, after which no lock is held or waited for. */
const virtual = (name: string, body: (locks: LocksService) => Effect.Effect<unknown, unknown>) =>
  test(name, async () => {
    const locks = makeLocks();
    await Effect.runPromise(Effect.suspend(() => body(locks)).pipe(Effect.provide(TestClock.layer())));
    expect(locks.table()).toEqual([]);
  }, 20_000);

const settle = TestClock.adjust(0);

/** Holders of one key that come one after the other, each holding until it is let go. */
const queueOn = (locks: LocksService) => {
  const trace: string[] = [];
  const come = (name: string, mode: LockMode) =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>();
      const held = Effect.andThen(
        Effect.sync(() => void trace.push(name)),
        Deferred.await(gate),
      );
      const fiber = yield* Effect.forkChild(locks.with([lock(mode)], held));
      yield* settle;
      const leave = Effect.gen(function* () {
        yield* Deferred.succeed(gate, undefined);
        yield* Fiber.join(fiber);
        yield* settle;
      });
      return { fiber, leave };
    });
  return { trace, come };
};

describe("the queue of a lock", () => {
  virtual("Exclusive holders of a lock are served one at a time, in order", (locks) =>
    Effect.gen(function* () {
      const { trace, come } = queueOn(locks);
      const holders = yield* Effect.forEach(["a", "b", "c", "d"], (name) => come(name, "exclusive"));
      expect(locks.table()).toMatchObject([{ key: KEY, waiting: 3 }]);
      for (const [at, { leave }] of holders.entries()) {
        expect(trace).toEqual(["a", "b", "c", "d"].slice(0, at + 1));
        yield* leave;
      }
    }),
  );

  virtual("A lock is shared by shared holders, and held by one exclusive holder alone", (locks) =>
    Effect.gen(function* () {
      const { trace, come } = queueOn(locks);
      const [r1, r2] = [yield* come("r1", "shared"), yield* come("r2", "shared")];
      const w = yield* come("w", "exclusive");
      expect(trace).toEqual(["r1", "r2"]);
      expect(locks.table()).toMatchObject([{ holders: [undefined, undefined], waiting: 1 }]);
      yield* r2.leave;
      expect(trace).toEqual(["r1", "r2"]);
      yield* r1.leave;
      expect(trace).toEqual(["r1", "r2", "w"]);
      yield* w.leave;
    }),
  );

  virtual("Later readers do not pass a waiting writer, and get the lock together after it", (locks) =>
    Effect.gen(function* () {
      const { trace, come } = queueOn(locks);
      const first = yield* come("r1", "shared");
      const writer = yield* come("w", "exclusive");
      const later = [yield* come("r2", "shared"), yield* come("r3", "shared")];
      expect(trace).toEqual(["r1"]);
      yield* first.leave;
      expect(trace).toEqual(["r1", "w"]);
      yield* writer.leave;
      expect(trace).toEqual(["r1", "w", "r2", "r3"]);
      for (const { leave } of later) yield* leave;
    }),
  );

  virtual("Each key has a queue of its own", (locks) =>
    Effect.gen(function* () {
      const { come } = queueOn(locks);
      const holder = yield* come("a", "exclusive");
      expect(yield* locks.with([LockKey.volume("v2")], Effect.succeed("free"))).toBe("free");
      yield* holder.leave;
    }),
  );

  virtual("The queue closes up when a waiting caller leaves it", (locks) =>
    Effect.gen(function* () {
      const { trace, come } = queueOn(locks);
      const reader = yield* come("r1", "shared");
      const writer = yield* come("w", "exclusive");
      const behind = yield* come("r2", "shared");
      yield* Fiber.interrupt(writer.fiber);
      yield* settle;
      expect(trace).toEqual(["r1", "r2"]);
      yield* reader.leave;
      yield* behind.leave;
    }),
  );
});

describe("release of a lock", () => {
  const ends: readonly (readonly [string, Effect.Effect<unknown, unknown>])[] = [
    ["success", Effect.void],
    ["failure", Effect.fail("no")],
    ["defect", Effect.die(new Error("bug"))],
    ["interrupt", Effect.interrupt],
  ];
  for (const [what, end] of ends) {
    virtual(`The lock is released after ${what}`, (locks) =>
      Effect.gen(function* () {
        yield* Effect.exit(locks.with([lock("exclusive")], end));
        expect(locks.table()).toEqual([]);
        expect(yield* locks.with([lock("exclusive")], Effect.succeed("next"))).toBe("next");
      }),
    );
  }

  virtual("A holder that is interrupted from outside releases the lock to the next in the queue", (locks) =>
    Effect.gen(function* () {
      const { trace, come } = queueOn(locks);
      const holder = yield* come("a", "exclusive");
      const next = yield* come("b", "exclusive");
      yield* Fiber.interrupt(holder.fiber);
      yield* settle;
      expect(trace).toEqual(["a", "b"]);
      yield* next.leave;
    }),
  );
});

describe("a caller that waits for a lock", () => {
  /** Two operations that want one lock: the first holds it for `seconds`. */
  const two = (locks: LocksService, seconds: number) => {
    const operations = makeOperations();
    const run = (rpc: string, identity: string, deadline: number, body: Effect.Effect<string>) =>
      operations.run({ rpc, subject: "pvc-1", identity, deadline }, () =>
        locks.with([LockKey.volumeName("east", "pvc-1")], body),
      );
    const hold = stage("create image", Effect.delay(Effect.succeed("made"), seconds * 1000));
    return {
      holder: Effect.forkChild(run("CreateVolume", "one", 60_000, hold)),
      waiter: (deadline: number) =>
        Effect.forkChild(Effect.exit(run("DeleteVolume", "two", deadline, Effect.succeed("got it")))),
    };
  };

  virtual("A caller that waits until its deadline learns who holds the lock, where and for how long", (locks) =>
    Effect.gen(function* () {
      const { holder, waiter } = two(locks, 10);
      const first = yield* holder;
      yield* settle;
      const second = yield* waiter(1000);
      yield* settle;
      expect(locks.table()).toMatchObject([
        {
          key: "volume name pvc-1 in cluster east",
          holders: [{ rpc: "CreateVolume", stage: "create image" }],
          waiting: 1,
        },
      ]);
      // 0.95 of what is left to "it still runs", so that the caller reads of the lock instead
      yield* TestClock.adjust(759);
      expect(second.pollUnsafe()).toBeUndefined();
      yield* TestClock.adjust(1);
      const exit = yield* Fiber.join(second);
      const error = yield* Effect.flip(exit);
      expect(error).toBeInstanceOf(LockHeld);
      expect(error.message).toBe(
        'volume name pvc-1 in cluster east is busy: CreateVolume of pvc-1 has been running for 0.8 s (stage "create image"). It continues; the automatic retry waits for it',
      );
      expect(locks.table()).toMatchObject([{ waiting: 0 }]);
      yield* TestClock.adjust("10 seconds");
      expect(yield* Fiber.join(first)).toBe("made");
    }),
  );

  virtual("A caller that waits gets the lock when it becomes free in time", (locks) =>
    Effect.gen(function* () {
      const { holder, waiter } = two(locks, 0.7);
      yield* holder;
      yield* settle;
      const second = yield* waiter(1000);
      yield* TestClock.adjust("700 millis");
      expect(yield* Fiber.join(second)).toEqual(Exit.succeed("got it"));
    }),
  );

  virtual("An operation waits on for its lock when a retry with a later deadline joins it", (locks) =>
    Effect.gen(function* () {
      const { holder, waiter } = two(locks, 2);
      yield* holder;
      yield* settle;
      const second = yield* waiter(1000);
      yield* TestClock.adjust("500 millis");
      const retry = yield* waiter(10_000);
      yield* TestClock.adjust("500 millis");
      expect(Exit.isFailure(yield* Fiber.join(second))).toBe(true);
      yield* TestClock.adjust("1 second");
      expect(yield* Fiber.join(retry)).toEqual(Exit.succeed("got it"));
    }),
  );

  virtual("A task outside of an operation waits for its lock without a limit", (locks) =>
    Effect.gen(function* () {
      const { come } = queueOn(locks);
      const holder = yield* come("a", "exclusive");
      const next = yield* come("b", "exclusive");
      yield* TestClock.adjust("1 hour");
      expect(next.fiber.pollUnsafe()).toBeUndefined();
      yield* holder.leave;
      yield* next.leave;
    }),
  );

  virtual("An operation that waits for a task without an operation learns so", (locks) =>
    Effect.gen(function* () {
      const { come } = queueOn(locks);
      const task = yield* come("task", "shared");
      const operations = makeOperations();
      const waiting = operations.run({ rpc: "DeleteVolume", subject: "v1", identity: "d", deadline: 1000 }, () =>
        locks.with([lock("exclusive")], Effect.void),
      );
      const caller = yield* Effect.forkChild(Effect.flip(waiting));
      yield* TestClock.adjust("1 second");
      expect((yield* Fiber.join(caller)).message).toBe(
        `${KEY} is busy: an unnamed task holds it. It continues; the automatic retry waits for it`,
      );
      yield* task.leave;
    }),
  );
});

test("A thousand holders of twenty keys, some of which leave early, exclude each other and leave nothing", async () => {
  const locks = makeLocks();
  const inside = new Map<string, { shared: number; exclusive: number }>();
  let entered = 0;
  const one = (n: number) => {
    const key = LockKey.volume(`${n % 20}`);
    const mode: LockMode = n % 3 === 0 ? "exclusive" : "shared";
    const now = inside.get(key.text) ?? { shared: 0, exclusive: 0 };
    inside.set(key.text, now);
    const use = Effect.gen(function* () {
      now[mode]++;
      entered++;
      expect(now.exclusive === 0 || (now.exclusive === 1 && now.shared === 0)).toBe(true);
      for (let i = 0; i < n % 4; i++) yield* Effect.yieldNow;
    }).pipe(Effect.ensuring(Effect.sync(() => void now[mode]--)));
    const held = locks.with([lock(mode, key)], use);
    return n % 7 === 0 ? Effect.race(held, Effect.yieldNow) : held;
  };
  await Effect.runPromise(
    Effect.forEach(
      Array.from({ length: 1000 }, (_, n) => n),
      one,
      { concurrency: "unbounded", discard: true },
    ),
  );
  expect(entered).toBeGreaterThan(850);
  expect(locks.table()).toEqual([]);
});

describe("several locks", () => {
  const [name, id] = [LockKey.volumeName("east", "pvc-1"), shared(LockKey.snapshot("s1"))];

  test("Several locks are taken by rank, whatever their order in the list, and by text within one rank", () => {
    const texts = (keys: readonly LockKey[]) => inOrder(keys).map(({ text }) => text);
    expect(texts([name, id])).toEqual(["snapshot s1", "volume name pvc-1 in cluster east"]);
    expect(texts([LockKey.volume("b"), LockKey.groupSnapshotName("g"), LockKey.volume("a")])).toEqual([
      "group snapshot name g",
      "volume a",
      "volume b",
    ]);
  });

  test("Two locks of one key are one lock, which is exclusive if one of them is", () => {
    const volume = LockKey.volume("a");
    expect(inOrder([shared(volume), volume, shared(volume)])).toEqual([volume]);
  });

  virtual("All locks are held while the work runs, and all are free afterwards", (locks) =>
    Effect.gen(function* () {
      yield* locks.with(
        [name, undefined, id],
        Effect.sync(() => expect(locks.table()).toHaveLength(2)),
      );
    }),
  );

  virtual("An operation that takes a lock of a lower or equal rank inside of others dies of a defect", (locks) =>
    Effect.gen(function* () {
      const wrong = yield* Effect.exit(locks.with([name], locks.with([id], Effect.void)));
      expect(Exit.isFailure(wrong) && JSON.stringify(wrong.cause.reasons)).toContain("Die");
      expect(Exit.isSuccess(yield* Effect.exit(locks.with([id], locks.with([name], Effect.void))))).toBe(true);
    }),
  );
});
