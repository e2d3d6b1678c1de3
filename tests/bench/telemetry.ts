/**
 * Telemetry: what metrics and traces add to a repeated CreateVolume, over the model of Ceph, where nothing else takes
 * long.
 *
 * Off, too little is added to show next to a whole call. So the hooks of one call are run around nothing, with and
 * without the telemetry in them, and the difference is held against the call.
 */
import * as Effect from "effect/Effect";
import * as ManagedRuntime from "effect/ManagedRuntime";
import * as Scope from "effect/Scope";
import * as Tracer from "effect/Tracer";
import { CurrentOperation } from "../../lib/operations/operation.ts";
import { stage } from "../../lib/operations/pipeline.ts";
import { arm, isArmed } from "../../lib/telemetry/armed.ts";
import { makeMetrics, Timings } from "../../lib/telemetry/metrics.ts";
import { childSpan, type Collector, rpcSpan, SpanCollector } from "../../lib/telemetry/tracing.ts";
import { controller, controllerRole } from "../../services/controller.ts";
import { intercepted } from "../support/ceph-faults.ts";
import { cephMemoryService } from "../support/ceph-memory/memory.ts";
import { flagsOf, memoryWorld } from "../support/one-world.ts";
import { aCluster, creation } from "../support/world.ts";
import { column, judged, type Line } from "./report.ts";

const TARGETS = { offPercent: 1 };
const CALLS_A_ROUND = 100;

/** Everything that one way of running a call needs around it. */
type Around = <A, E, R>(call: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>;

const metrics = makeMetrics();

/** Makes spans and keeps none: sending is not the RPC's time. */
const collector = (names: string[]): Collector => ({
  tracer: Tracer.make({
    span: (options) => {
      names.push(options.name);
      return new Tracer.NativeSpan(options);
    },
  }),
  parent: () => undefined,
  sampled: () => true,
});

const ABOUT = {
  name: "csi.v1.Controller/CreateVolume",
  attributes: { "rpc.system": "grpc", "rpc.service": "csi.v1.Controller", "rpc.method": "CreateVolume", call: "-" },
  lastAttributes: () => ({ "rpc.grpc.status_code": 0 }),
};
const OPERATION = { name: "operation CreateVolume", attributes: { subject: "pvc-1" } };

const asRpc: Around = (call) => Effect.suspend(() => rpcSpan(() => undefined, ABOUT, call));

const armed: Around = (call) => Effect.scopedWith((scope) => Effect.andThen(Scope.provide(arm, scope), call));

const ways: Readonly<Record<string, Around>> = {
  off: (call) => call,
  metrics: (call) => armed(Effect.provideService(call, Timings, metrics.timings)),
  traces: (call) => armed(Effect.provideService(call, SpanCollector, collector([]))),
};

/** As lib/cells/pool.ts does for a call in a cell, which the model has none of. */
const callInCell = <A, E>(op: string, subject: string, act: Effect.Effect<A, E>): Effect.Effect<A, E> => {
  const since = performance.now();
  const timed = isArmed()
    ? Effect.ensuring(
        act,
        Effect.sync(() => metrics.timings.call("Ceph", op, (performance.now() - since) / 1000)),
      )
    : act;
  return childSpan("client", { name: op, attributes: { cells: "Ceph", subject } }, timed);
};

/** The hooks of one RPC around nothing, and the same nest of effects with nothing in it. */
const hooksOf = (stages: number, calls: number) => {
  const bareStage = (name: string) =>
    Effect.withFiber((fiber) => {
      const operation = fiber.getRef(CurrentOperation);
      if (operation !== undefined) operation.stage = name;
      return Effect.void;
    });
  const nest = (one: (name: string) => Effect.Effect<void>, call: Effect.Effect<void>) =>
    Effect.gen(function* () {
      for (let i = 0; i < stages; i += 1) yield* one("reserve");
      for (let i = 0; i < calls; i += 1) yield* call;
    });
  const call = Effect.suspend(() => callInCell("omapGet", "rbd/csi.volumes.default", Effect.void));
  const hooked = nest((name) => stage(name, Effect.void), call);
  const bare = nest(
    bareStage,
    Effect.suspend(() => Effect.void),
  );
  return {
    hooked: asRpc(Effect.suspend(() => childSpan("internal", OPERATION, hooked))),
    bare: Effect.suspend(() => Effect.suspend(() => bare)),
  };
};

const middle = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

/** Of this process: what others do on the machine does not count. */
const cpuMicroseconds = (): number => {
  const { user, system } = process.cpuUsage();
  return user + system;
};

/** Times each of the ways, a round of each in turn -> microseconds of CPU per call of each round. */
const alternately = async (
  rounds: number,
  run: Readonly<Record<string, () => Promise<void>>>,
): Promise<Readonly<Record<string, readonly number[]>>> => {
  const taken = Object.fromEntries(Object.keys(run).map((name): [string, number[]] => [name, []]));
  for (let round = -5; round < rounds; round += 1) {
    const names = Object.keys(run);
    // Each comes first as often as the others: a pause for garbage is nobody's.
    const order = names.map((_, i) => names[(i + Math.abs(round)) % names.length] ?? "");
    for (const name of order) {
      const since = cpuMicroseconds();
      await run[name]?.();
      // The first rounds warm up.
      if (round >= 0) taken[name]?.push((cpuMicroseconds() - since) / CALLS_A_ROUND);
    }
  }
  return taken;
};

export const telemetry = async (rounds: number): Promise<readonly Line[]> => {
  const cluster = aCluster({ pools: ["rbd"] });
  const ceph = intercepted(cephMemoryService(cluster), ({ method, subject }, act) => callInCell(method, subject, act));
  const runtime = ManagedRuntime.make(controllerRole(flagsOf(), memoryWorld(cluster, flagsOf(), { ceph })).layer);
  const { createVolume } = controller();
  const request = creation();
  const repeated = asRpc(Effect.asVoid(Effect.suspend(() => createVolume(request))));
  await runtime.runPromise(repeated);

  const spans: string[] = [];
  await runtime.runPromise(armed(Effect.provideService(repeated, SpanCollector, collector(spans))));
  const calls = spans.filter((name) => name in ceph).length;
  const stages = spans.length - calls - 2;

  const manyOf = <E, R>(call: Effect.Effect<unknown, E, R>): Effect.Effect<void, E, R> =>
    Effect.gen(function* () {
      for (let i = 0; i < CALLS_A_ROUND; i += 1) yield* call;
    });
  const whole = await alternately(
    rounds,
    Object.fromEntries(
      Object.entries(ways).map(([name, way]) => {
        return [name, () => runtime.runPromise(Effect.orDie(way(manyOf(repeated))))];
      }),
    ),
  );
  await runtime.dispose();
  const { hooked, bare } = hooksOf(stages, calls);
  const hooks = await alternately(rounds, {
    hooked: () => Effect.runPromise(Effect.orDie(manyOf(hooked))),
    bare: () => Effect.runPromise(Effect.orDie(manyOf(bare))),
  });

  const off = middle(whole["off"] ?? []);
  const added = middle((hooks["hooked"] ?? []).map((us, i) => us - (hooks["bare"]?.[i] ?? Number.NaN)));
  const over = (name: string) => 100 * (middle((whole[name] ?? []).map((us, i) => us / (whole["off"]?.[i] ?? us))) - 1);
  console.log(
    `\nA repeated CreateVolume over the model: ${column(off, 7, 1)} us with ${stages} stages and ${calls} calls, ${rounds} rounds of ${CALLS_A_ROUND}`,
  );
  console.log(
    `hooks with nobody to read them add ${column(added, 6)} us; metrics add ${column(over("metrics"), 6)} %, traces ${column(over("traces"), 6)} %`,
  );
  return [
    judged("telemetry that is off, % of a repeated CreateVolume", (100 * added) / off, "at most", TARGETS.offPercent),
  ];
};
