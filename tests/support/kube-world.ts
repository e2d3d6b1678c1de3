/** Work of a controller over the API in memory, in virtual time. */
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import type * as Scope from "effect/Scope";
import type { Kube } from "../../lib/kube/kube.ts";
import { Elections } from "../../lib/kube/lease.ts";
import { type AroundKube, KubeMemory, kubeMemoryLayer } from "./kube-memory.ts";
import { settled, type VirtualTime, virtualTime } from "./virtual-time.ts";

export interface Running {
  /** Interrupts it, and ends when it has ended. */
  readonly stop: () => Promise<void>;
  readonly log: readonly string[];
}

export interface KubeWorld {
  readonly memory: KubeMemory;
  readonly time: VirtualTime;
  /** Starts work as one process would; each has a client and elections of its own. */
  readonly start: (
    work: Effect.Effect<unknown, { readonly message: string }, Kube | Elections | Scope.Scope>,
    around?: AroundKube,
  ) => Promise<Running>;
}

export const kubeWorld = (): KubeWorld => {
  const memory = new KubeMemory();
  const time = virtualTime();
  memory.now = time.now;
  return {
    memory,
    time,
    start: async (work, around) => {
      const log: string[] = [];
      const recorder = Logger.make<unknown, void>(
        ({ message }) => void log.push([message].flat().map(String).join(" ")),
      );
      const outside = Layer.mergeAll(kubeMemoryLayer(memory, around), Elections.layer, Logger.layer([recorder])).pipe(
        Layer.provideMerge(time.layer),
      );
      const fiber = Effect.runFork(
        Effect.scoped(Effect.andThen(work, Effect.never)).pipe(
          Effect.provide(outside),
          Effect.tapCause((cause) => Effect.sync(() => void log.push(String(cause)))),
        ),
      );
      await settled();
      return {
        log,
        stop: async () => {
          const ended = Effect.runPromise(Fiber.interrupt(fiber));
          await time.until(ended);
        },
      };
    },
  };
};
