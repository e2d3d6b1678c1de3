/**
 * Keeps chains of clones short: asks the manager to flatten, or flattens in the background where the manager can't.
 *
 * Not here: which image may be flattened. Callers name only images that the user named in the request or made before.
 *
 * 1. Asking is quick and may be repeated. Nothing waits for a flatten but the caller whose request needs it.
 */
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Manager } from "../ceph/manager.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { NotReadyYet } from "../csi/errors.ts";
import { Metrics } from "../telemetry/metrics.ts";
import { makeBackground } from "./background-queue.ts";

/** Milliseconds for which a progress is kept, because a caller that waits for it asks again sooner. */
const PROGRESS_KEPT = 10 * 60_000;

export class Flatten extends Context.Service<
  Flatten,
  {
    /** Queues a flatten of the image. */
    readonly request: (pool: PoolRef, image: string) => Effect.Effect<void, CephError>;
    /**
     * Queues a flatten of the image where the chain behind it comes near the limit with the parents that the caller adds.
     * At the limit it fails: `NotReadyYet` says how far the flatten is.
     */
    readonly keepShort: (pool: PoolRef, image: string, adds: number) => Effect.Effect<void, CephError | NotReadyYet>;
    readonly pending: () => readonly string[];
  }
>()("csi-rbd/Flatten") {
  static readonly layer: Layer.Layer<Flatten, never, Ceph | DriverSettings> = Layer.effect(
    Flatten,
    Effect.gen(function* () {
      const clock = yield* Clock.Clock;
      const rbd = yield* Rbd;
      const manager = yield* Manager;
      const { softDepth, hardDepth } = (yield* DriverSettings).cloneDepth;
      const own = yield* makeBackground("flatten");
      const waitedFor = new Map<string, { readonly progress: number; readonly at: number }>();
      const forgetOld = () => {
        for (const [image, { at }] of waitedFor)
          if (clock.currentTimeMillisUnsafe() - at > PROGRESS_KEPT) waitedFor.delete(image);
      };
      yield* (yield* Metrics).add(() => {
        forgetOld();
        return [...waitedFor].map(([image, { progress: value }]) => ({
          name: "csi_rbd_flatten_progress",
          help: "How far images are flattened that callers wait for, 0 to 1.",
          labels: { image },
          value,
        }));
      });

      const request = (pool: PoolRef, image: string) =>
        manager.managerFlatten(pool, image).pipe(
          Effect.catchTag("ManagerUnavailable", (error) =>
            Effect.gen(function* () {
              yield* Effect.logWarning(`the driver flattens the image itself: ${error.message}`);
              yield* own.offer(pool, image, rbd.imageFlatten(pool, image));
            }),
          ),
        );

      const progress = (pool: PoolRef, image: string) =>
        manager.managerTasks(pool.access).pipe(
          Effect.map((tasks) => {
            const task = tasks.find(
              ({ action, pool: at, namespace, image: name }) =>
                action === "flatten" && at === pool.pool && namespace === pool.namespace && name === image,
            );
            forgetOld();
            waitedFor.set(imageLabel(pool, image), {
              progress: task?.progress ?? 0,
              at: clock.currentTimeMillisUnsafe(),
            });
            if (task?.failure !== undefined) return `its last try failed: ${task.failure}`;
            return task?.progress === undefined ? "waiting for its turn" : `${Math.floor(task.progress * 100)} % done`;
          }),
          Effect.catch(() => Effect.succeed("done by this driver in the background")),
        );

      const keepShort = Effect.fn("images.keepShort")(function* (
        pool: PoolRef,
        image: string,
        adds: number,
      ): Effect.fn.Return<void, CephError | NotReadyYet> {
        const subject = imageLabel(pool, image);
        const depth = yield* rbd.cloneDepth(pool, image);
        if (depth === 0 || depth < Math.max(1, softDepth - adds)) {
          waitedFor.delete(subject);
          return;
        }
        yield* request(pool, image);
        const allowed = Math.max(1, hardDepth - adds) - 1;
        if (depth <= allowed) return;
        const state = yield* progress(pool, image);
        const limit = `--rbdhardmaxclonedepth=${hardDepth}, and the request adds ${adds} of these levels`;
        return yield* new NotReadyYet({
          subject: `image ${subject}`,
          problem: `is a clone ${depth} levels deep, and ${allowed} are allowed here (${limit}). It is being flattened: ${state}`,
          remedy: "Retry later",
        });
      });

      return Flatten.of({ request, keepShort, pending: own.pending });
    }),
  );
}
