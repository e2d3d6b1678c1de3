/** A process with its purge queue over a cluster in memory, in virtual time. */
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as TestClock from "effect/testing/TestClock";
import { type CephCalls, cephLayer } from "../../lib/ceph/ceph.ts";
import { Purge } from "../../lib/images/purge.ts";
import { cephMemoryService, type MemoryCluster } from "./ceph-memory/memory.ts";

type Body = (purge: Purge["Service"], log: readonly string[]) => Effect.Effect<unknown, unknown>;

/** Gives how a body is run, which gets the process's queue and the lines that it logs. `limit`: of real time. */
export const purgeWithin =
  (limit: Duration.Input) =>
  (cluster: MemoryCluster, body: Body, ceph: CephCalls = cephMemoryService(cluster)): Promise<unknown> => {
    const log: string[] = [];
    const recorder = Logger.make<unknown, void>(({ message }) => void log.push([message].flat().map(String).join(" ")));
    const layer = Purge.layer.pipe(
      Layer.provideMerge(Layer.mergeAll(cephLayer(ceph), TestClock.layer(), Logger.layer([recorder]))),
    );
    return Effect.runPromise(
      Effect.flatMap(Purge, (purge) => body(purge, log)).pipe(Effect.provide(layer), Effect.timeout(limit)),
    );
  };

/** Lets everything run that does not wait for time. */
export const settle = Effect.forEach(
  Array.from({ length: 50 }, () => TestClock.adjust(0)),
  (turn) => turn,
  { discard: true },
);

export const after = (time: Duration.Input) => Effect.andThen(TestClock.adjust(time), settle);
