/** The host's own layer over loop devices, for tests that need a kernel but no cluster. Loops and layer end with the file. */
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as ManagedRuntime from "effect/ManagedRuntime";
import { afterAll } from "bun:test";
import type { HostError } from "../../lib/host/errors.ts";
import { Host, type HostService } from "../../lib/host/host.ts";
import { hostLayerLive } from "../../lib/host/live.ts";
import { loopDevices } from "./loop.ts";

export const hostOnLoops = () => {
  const runtime = ManagedRuntime.make(hostLayerLive({ cells: 2 }));
  const loops = loopDevices();
  afterAll(async () => {
    loops.end();
    await runtime.dispose();
  });
  return {
    loops,
    host: (): Promise<HostService> => runtime.runPromise(Effect.map(Host, (service) => service)),
    run: <A>(effect: Effect.Effect<A, HostError>): Promise<A> => runtime.runPromise(effect),
    errorOf: async (effect: Effect.Effect<unknown, HostError>): Promise<HostError> => {
      const exit = await runtime.runPromiseExit(Effect.flip(effect));
      if (Exit.isSuccess(exit)) return exit.value;
      throw new Error("it did not fail");
    },
  };
};
