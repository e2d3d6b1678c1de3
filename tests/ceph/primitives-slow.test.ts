/** Slow calls: they have cells of their own, and one that hangs keeps every other change off its image. */
import { expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Schedule from "effect/Schedule";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import type { CephError } from "../../lib/ceph/errors.ts";
import { cephLayerLive, type CephLiveOptions, makeCephLive } from "../../lib/ceph/live/live.ts";
import { LONG_LIMIT, MIB } from "../contract/harness.ts";
import { wholeCeph } from "../support/whole-ceph.ts";
import { frozen, timed } from "./hands.ts";
import { primitives } from "./primitives.ts";

primitives("slow calls", ({ session: at, rig }) => {
  const over = <A>(options: CephLiveOptions, act: (ceph: CephCalls) => Effect.Effect<A, CephError>): Promise<A> =>
    Effect.runPromise(
      Effect.flatMap(wholeCeph, act).pipe(
        Effect.provide(
          cephLayerLive({ cephConf: `${rig.dir}/absent.conf`, connectTimeout: Duration.millis(5_000), ...options }),
        ),
        Effect.orDie,
      ),
    );

  /** What `act` gives, while the monitors do not answer. */
  const frozenDuring = async <A>(act: () => Promise<A>): Promise<A> => {
    const given: A[] = [];
    await frozen(rig, "mon.a", async () => void given.push(await act()));
    const [first] = given;
    if (first === undefined) throw new Error("nothing was given");
    return first;
  };

  test(
    "Quick calls do not wait behind slow calls, however many there are",
    async () => {
      const { pool, anImage } = at();
      const images: string[] = [];
      for (let i = 0; i < 12; i++) images.push(await anImage());
      const left = await over({ cells: 1, waitingCells: 1 }, (ceph) =>
        Effect.gen(function* () {
          yield* ceph.imageId(pool, "warm");
          let waiting = images.length;
          const slow = yield* Effect.forkChild(
            Effect.forEach(images, (image) => Effect.map(ceph.snapshotCreate(pool, image, "s"), () => (waiting -= 1)), {
              concurrency: "unbounded",
            }),
          );
          for (const image of images) yield* ceph.imageStatus(pool, image);
          const then = waiting;
          yield* Fiber.join(slow);
          return then;
        }),
      );
      expect(left).toBeGreaterThan(0);
    },
    LONG_LIMIT,
  );

  test(
    "Forty snapshots wait for the monitors at once, and a change of another image goes on meanwhile",
    async () => {
      const { pool, anImage } = at();
      const images: string[] = [];
      for (let i = 0; i < 40; i++) images.push(await anImage());
      const other = await anImage();
      const made = Effect.gen(function* () {
        const { service, state } = yield* makeCephLive({ cephConf: `${rig.dir}/absent.conf`, cells: 1 });
        yield* service.imageStatus(pool, other);
        const snapshots = yield* Effect.promise(() =>
          frozenDuring(async () => {
            const all = Effect.runPromise(
              Effect.forEach(images, (image) => service.snapshotCreate(pool, image, "s"), { concurrency: "unbounded" }),
            );
            while (state().waiting.running.length < images.length) await Bun.sleep(20);
            expect((await Effect.runPromise(service.imageGrow(pool, other, 32n * MIB))).sizeBytes).toBe(32n * MIB);
            return () => all;
          }),
        );
        yield* Effect.promise(snapshots);
        return yield* Effect.forEach(images, (image) => service.snapshots(pool, image));
      });
      const kept = await Effect.runPromise(made.pipe(Effect.scoped, Effect.orDie));
      expect(kept.map((snapshots) => snapshots.map(({ name }) => name))).toEqual(images.map(() => ["s"]));
    },
    LONG_LIMIT,
  );

  test(
    "While a slow call hangs, no other call changes its image, and calls change another image",
    async () => {
      const { pool, anImage } = at();
      const [image, other] = [await anImage(), await anImage()];
      // three times the OSDs' second and ten more: then a call is taken to hang
      await over({ osdTimeout: Duration.millis(1_000) }, (ceph) =>
        Effect.gen(function* () {
          yield* ceph.imageGrow(pool, image, 16n * MIB);
          yield* Effect.promise(() =>
            frozen(rig, "mon.a", async () => {
              const stuck = await Effect.runPromise(Effect.flip(ceph.snapshotCreate(pool, image, "s")));
              expect(stuck._tag).toBe("CallStuck");
              const { value, ms } = await timed(Effect.runPromise(Effect.flip(ceph.imageGrow(pool, image, 32n * MIB))));
              expect([value._tag, value.message.includes("snapshotCreate")]).toEqual(["CallStuck", true]);
              // at once: the call that hangs does so until the monitor goes on
              expect(ms).toBeLessThan(10_000);
              expect((await Effect.runPromise(ceph.imageGrow(pool, other, 32n * MIB))).sizeBytes).toBe(32n * MIB);
            }),
          );
          // the monitor goes on, the snapshot comes about, and the image is free again
          const grown = yield* ceph
            .imageGrow(pool, image, 32n * MIB)
            .pipe(Effect.retry({ times: 100, schedule: Schedule.spaced("200 millis") }));
          expect(grown.sizeBytes).toBe(32n * MIB);
        }),
      );
    },
    LONG_LIMIT,
  );
});
