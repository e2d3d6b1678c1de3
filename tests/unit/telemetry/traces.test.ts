/** Traces as a collector receives them: which spans there are, how they hang together, and what they never show. */
import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as Deferred from "effect/Deferred";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as Scope from "effect/Scope";
import { type CellPool, makeCellPool } from "../../../lib/cells/pool.ts";
import { NotReadyYet } from "../../../lib/csi/errors.ts";
import { Controller, CreateVolumeRequestSchema, Identity } from "../../../lib/gen/csi_pb.ts";
import { serve } from "../../../lib/grpc/server.ts";
import { served } from "../../../lib/grpc/service.ts";
import { Code } from "../../../lib/grpc/status.ts";
import { Operations, stage } from "../../../lib/operations/pipeline.ts";
import { mutating } from "../../../lib/operations/rpc.ts";
import { tracesLayer } from "../../../lib/telemetry/traces.ts";
import { childSpan } from "../../../lib/telemetry/tracing.ts";
import { grace } from "../../support/grpc-serving.ts";
import { startController } from "../../support/driver-process.ts";
import { client } from "../../support/grpc-client.ts";
import { eventually, failure } from "../../support/grpc-serving.ts";

const cleanup: (() => Promise<unknown> | void)[] = [];
afterEach(async () => {
  for (const end of cleanup.splice(0).toReversed()) await end();
});

interface Attribute {
  readonly key: string;
  readonly value: { readonly stringValue?: string; readonly intValue?: number };
}

/** A span as OTLP has it. */
interface Sent {
  readonly name: string;
  readonly kind: number;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly status: { readonly code: number; readonly message?: string };
  readonly attributes: readonly Attribute[];
  readonly links: readonly { readonly spanId: string }[];
}

interface Sending {
  readonly resourceSpans: readonly {
    readonly resource: { readonly attributes: readonly Attribute[] };
    readonly scopeSpans: readonly { readonly spans: readonly Sent[] }[];
  }[];
}

const SERVER = 2;
const CLIENT = 3;
const ERROR = 2;

const valuesOf = (attributes: readonly Attribute[]): Readonly<Record<string, unknown>> =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, value.stringValue ?? value.intValue]));

/** Takes what is sent to it; answers each request as `answer` says. */
const aCollector = (answer: () => Promise<Response> | Response = () => new Response("{}")) => {
  const bodies: string[] = [];
  const requests: Request[] = [];
  const server = Bun.serve({
    port: 0,
    async fetch(request) {
      requests.push(request);
      bodies.push(await request.text());
      return answer();
    },
  });
  cleanup.push(() => server.stop(true));
  const sendings = () => bodies.map((body) => JSON.parse(body) as Sending);
  const environment = {
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${server.port}`,
    OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
  };
  return {
    environment,
    requests,
    text: () => bodies.join("\n"),
    resource: () => valuesOf(sendings()[0]?.resourceSpans[0]?.resource.attributes ?? []),
    spans: (): readonly Sent[] =>
      sendings().flatMap(({ resourceSpans }) =>
        resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap((of) => of.spans)),
      ),
  };
};

type Environment = Readonly<Record<string, string>>;
type Recipe = (pool: CellPool) => Effect.Effect<unknown, NotReadyYet>;

const SECRETS = { userID: "admin", userKey: "c3VwZXItc2VjcmV0" };

/** A Controller whose CreateVolume runs the recipe, with traces as the environment asks for them. */
const aDriver = async (environment: Environment, recipe: Recipe) => {
  const directory = mkdtempSync(join(tmpdir(), "csi-rbd-"));
  const log: string[] = [];
  const recorder = Logger.make<unknown, void>(({ message }) => void log.push([message].flat().map(String).join(" ")));
  const scope = Scope.makeUnsafe();
  const run = Effect.gen(function* () {
    const telemetry = yield* Layer.build(
      tracesLayer(environment, "1.2.3").pipe(Layer.provideMerge(Logger.layer([recorder]))),
    );
    const start = Effect.gen(function* () {
      const url = new URL("../cells/toy-cell.ts", import.meta.url).href;
      const pool = yield* makeCellPool({ name: "toy", url, size: 1 });
      const createVolume = mutating(
        "CreateVolume",
        CreateVolumeRequestSchema,
        ({ name }) => name,
        () => Effect.as(recipe(pool), { volume: { volumeId: "v" } }),
      );
      const operations = yield* Layer.build(Operations.layer);
      const endpoint = `unix://${join(directory, "csi.sock")}`;
      const serving = serve({ endpoint, services: [served(Controller, { createVolume })], stop: grace(1) });
      return yield* Effect.provideContext(serving, operations);
    });
    return yield* Effect.provideContext(start, telemetry);
  });
  const { endpoint, running } = await Effect.runPromise(run.pipe(Scope.provide(scope)));
  const controller = client(Controller, endpoint);
  let stopped = false;
  const stop = async () => {
    if (stopped) return;
    stopped = true;
    controller.close();
    await Effect.runPromise(Scope.close(scope, Exit.void));
    rmSync(directory, { recursive: true });
  };
  cleanup.push(stop);
  const call = (name: string, metadata: Readonly<Record<string, string>> = {}) =>
    controller.createVolume({ name, secrets: SECRETS }, { timeoutMs: 5_000, metadata });
  return { log, call, running, stop };
};

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const CALLER = "b7ad6b7169203331";

/** `name < parent`, for each span. */
const tree = (spans: readonly Sent[]): readonly string[] =>
  spans
    .map(({ name, parentSpanId }) => {
      const parent = spans.find(({ spanId }) => spanId === parentSpanId)?.name ?? parentSpanId ?? "nothing";
      return `${name} < ${parent}`;
    })
    .toSorted();

const echo = (pool: CellPool) =>
  Effect.orDie(pool.call("echo", 1, { limit: Duration.seconds(5), subject: "rbd/csi-vol-1" }));

describe("the trace of an RPC", () => {
  const twoStages: Recipe = (pool) =>
    Effect.gen(function* () {
      yield* stage("wait for lock", Effect.void);
      yield* stage("reserve", Effect.andThen(echo(pool), echo(pool)));
      yield* stage("create image", echo(pool));
    });

  test("The trace of an RPC continues the caller's trace, with operation, stages and calls below one another", async () => {
    const collector = aCollector();
    const driver = await aDriver(collector.environment, twoStages);
    await driver.call("pvc-1", { traceparent: `00-${TRACE}-${CALLER}-01` });
    await driver.stop();
    const spans = collector.spans();
    expect(tree(spans)).toEqual([
      "create image < operation CreateVolume",
      `csi.v1.Controller/CreateVolume < ${CALLER}`,
      "echo < create image",
      "echo < reserve",
      "echo < reserve",
      "operation CreateVolume < csi.v1.Controller/CreateVolume",
      "reserve < operation CreateVolume",
      "wait for lock < operation CreateVolume",
    ]);
    expect(new Set(spans.map(({ traceId }) => traceId))).toEqual(new Set([TRACE]));
    const called = spans.find(({ kind }) => kind === CLIENT);
    expect(valuesOf(called?.attributes ?? [])).toEqual({ cells: "toy", subject: "rbd/csi-vol-1" });
    const rpc = spans.find(({ kind }) => kind === SERVER);
    expect(rpc?.name).toBe("csi.v1.Controller/CreateVolume");
    expect(valuesOf(rpc?.attributes ?? [])).toMatchObject({
      "rpc.system": "grpc",
      "rpc.service": "csi.v1.Controller",
      "rpc.method": "CreateVolume",
      "rpc.grpc.status_code": Code.OK,
    });
    expect(collector.resource()).toMatchObject({ "service.name": "csi-rbd", "service.version": "1.2.3" });
  });

  test("An RPC begins a trace where the caller sends none, or one that cannot be read", async () => {
    const collector = aCollector();
    const driver = await aDriver(collector.environment, () => Effect.void);
    await driver.call("pvc-1");
    await driver.call("pvc-2", { traceparent: "00-nonsense" });
    await driver.stop();
    const roots = collector.spans().filter(({ parentSpanId }) => parentSpanId === undefined);
    expect(roots.map(({ name }) => name)).toEqual(Array<string>(2).fill("csi.v1.Controller/CreateVolume"));
    expect(new Set(roots.map(({ traceId }) => traceId)).size).toBe(2);
  });

  test("A stage that fails marks its span, its operation's and its RPC's with the message of the error", async () => {
    const collector = aCollector();
    const driver = await aDriver(collector.environment, () =>
      Effect.andThen(
        stage("reserve", Effect.void),
        stage("clone", Effect.fail(new NotReadyYet({ subject: "pvc-1", problem: "the image is being flattened" }))),
      ),
    );
    expect((await failure(driver.call("pvc-1"))).code).toBe(Code.ABORTED);
    await driver.stop();
    const failed = collector.spans().filter(({ status }) => status.code === ERROR);
    expect(failed.map(({ name }) => name)).toEqual([
      "clone",
      "operation CreateVolume",
      "csi.v1.Controller/CreateVolume",
    ]);
    expect(failed.map(({ status }) => status.message)).toEqual(
      failed.map(() => expect.stringContaining("the image is being flattened") as unknown as string),
    );
    expect(valuesOf(failed.at(-1)?.attributes ?? [])).toMatchObject({ "rpc.grpc.status_code": Code.ABORTED });
  });

  test("Spans show no secret of the request, no text of a defect and no header of the exporter", async () => {
    const collector = aCollector();
    const environment = { ...collector.environment, OTEL_EXPORTER_OTLP_HEADERS: "authorization=Bearer%20t0ken" };
    const driver = await aDriver(environment, () =>
      stage("probe", Effect.die(new Error(`cannot encode ${JSON.stringify(SECRETS)}`))),
    );
    expect((await failure(driver.call("pvc-1"))).code).toBe(Code.INTERNAL);
    await driver.stop();
    expect(collector.requests[0]?.headers.get("authorization")).toBe("Bearer t0ken");
    expect(collector.spans().find(({ name }) => name === "probe")?.status.code).toBe(ERROR);
    for (const secret of [SECRETS.userKey, "cannot encode", "t0ken"]) {
      expect(collector.text()).not.toContain(secret);
    }
    expect(driver.log.join("\n")).not.toContain("t0ken");
  });

  test("A span and the answer show no key that a tool or a library has quoted in its error", async () => {
    const collector = aCollector();
    const key = "AQBabcdeAAAAABAAYWJjZGVmZ2hpamtsbW5vcA==";
    const driver = await aDriver(collector.environment, () =>
      stage("map", Effect.fail(new NotReadyYet({ subject: "pvc-1", problem: `failed to decode key '${key}'` }))),
    );
    expect((await failure(driver.call("pvc-1"))).details).toContain("failed to decode key '***'");
    await driver.stop();
    expect(collector.text()).toContain("failed to decode key '***'");
    expect(collector.text()).not.toContain(key);
  });

  test("A retry that joins is linked to the operation that it waits for", async () => {
    const collector = aCollector();
    const began = Deferred.makeUnsafe<void>();
    const goOn = Deferred.makeUnsafe<void>();
    const driver = await aDriver(collector.environment, () =>
      Effect.andThen(Deferred.succeed(began, undefined), Deferred.await(goOn)),
    );
    const first = driver.call("pvc-1");
    await Effect.runPromise(Deferred.await(began));
    const second = driver.call("pvc-1");
    await eventually(() => driver.running() === 2, "the retry has arrived, and so has joined");
    await Effect.runPromise(Deferred.succeed(goOn, undefined));
    await Promise.all([first, second]);
    await driver.stop();
    const spans = collector.spans();
    const operations = spans.filter(({ name }) => name === "operation CreateVolume");
    const linked = spans.flatMap(({ kind, links }) => (kind === SERVER ? links.map(({ spanId }) => spanId) : []));
    expect(operations.map(({ spanId }) => spanId)).toEqual(linked);
  });
});

test("Background work that an RPC leaves makes no spans once the RPC has ended", async () => {
  const collector = aCollector();
  const goOn = Deferred.makeUnsafe<void>();
  const done = Deferred.makeUnsafe<void>();
  const late = Effect.andThen(Deferred.await(goOn), stage("late", Deferred.succeed(done, undefined)));
  const driver = await aDriver(collector.environment, () => Effect.forkDetach(late));
  await driver.call("pvc-1");
  await Effect.runPromise(Effect.andThen(Deferred.succeed(goOn, undefined), Deferred.await(done)));
  await driver.stop();
  expect(collector.spans().map(({ name }) => name)).toEqual([
    "operation CreateVolume",
    "csi.v1.Controller/CreateVolume",
  ]);
});

describe("traces that are off", () => {
  const quiet = async (change: Environment, metadata: Readonly<Record<string, string>> = {}) => {
    const collector = aCollector();
    const driver = await aDriver({ ...collector.environment, ...change }, (pool) => stage("reserve", echo(pool)));
    await driver.call("pvc-1", metadata);
    await driver.stop();
    expect(collector.requests).toEqual([]);
    return driver.log;
  };

  const switches: readonly Environment[] = [
    { OTEL_EXPORTER_OTLP_ENDPOINT: "" },
    { OTEL_SDK_DISABLED: "true" },
    { OTEL_TRACES_EXPORTER: "none" },
  ];
  for (const change of switches) {
    const shown = Object.entries(change).map(([name, value]) => `${name}="${value}"`);
    test(`The driver sends no spans and logs nothing about traces with ${shown.join(" ")}`, async () => {
      expect((await quiet(change)).filter((line) => line.toLowerCase().includes("trace"))).toEqual([]);
    });
  }

  test("A wrong variable leaves traces off, and the log names the variable", async () => {
    expect((await quiet({ OTEL_TRACES_SAMPLER: "sometimes" })).join("\n")).toContain(
      "Traces are off: OTEL_TRACES_SAMPLER=sometimes is not supported",
    );
  });

  test("The driver sends no spans when the sampler keeps no trace", async () => {
    await quiet({ OTEL_TRACES_SAMPLER: "always_off" });
  });

  test("The driver sends no spans when the caller does not record its trace", async () => {
    await quiet({}, { traceparent: `00-${TRACE}-${CALLER}-00` });
  });

  test("The driver sends no spans for work that belongs to no RPC", async () => {
    const collector = aCollector();
    const work = Effect.suspend(() => stage("purge", childSpan("client", { name: "trashRemove" }, Effect.void)));
    await Effect.runPromise(
      Effect.scoped(
        Effect.flatMap(Layer.build(tracesLayer(collector.environment, "1.2.3")), (telemetry) =>
          Effect.provideContext(work, telemetry),
        ),
      ),
    );
    expect(collector.requests).toEqual([]);
  });
});

describe("a collector", () => {
  test("A collector that never answers holds up neither an RPC nor the end of the driver", async () => {
    const collector = aCollector(() => new Promise(() => {}));
    const driver = await aDriver({ ...collector.environment, OTEL_BSP_SCHEDULE_DELAY: "10" }, () => Effect.void);
    await driver.call("pvc-1");
    await eventually(() => collector.requests.length > 0, "the first spans were sent");
    await driver.call("pvc-2");
    const since = performance.now();
    await driver.stop();
    expect(performance.now() - since).toBeLessThan(2_500);
  });

  test("A collector that refuses spans causes a single line of the log, and fails no RPC", async () => {
    const collector = aCollector(() => new Response("", { status: 401 }));
    const driver = await aDriver({ ...collector.environment, OTEL_BSP_SCHEDULE_DELAY: "10" }, () => Effect.void);
    await driver.call("pvc-1");
    await eventually(() => collector.requests.length > 0, "the first spans were sent");
    await driver.call("pvc-2");
    await driver.stop();
    const lines = driver.log.filter((line) => line.startsWith("Traces cannot be sent"));
    expect(lines).toEqual([expect.stringContaining("/v1/traces: status 401. They are dropped meanwhile.")]);
  });
});

test("A driver that SIGTERM stops sends its last spans before it exits with 0", async () => {
  const collector = aCollector();
  const directory = mkdtempSync(join(tmpdir(), "csi-rbd-"));
  cleanup.push(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "csi.sock");
  const child = await startController(path, [], { environment: collector.environment });
  cleanup.push(() => child.kill("SIGKILL"));
  const identity = client(Identity, `unix://${path}`);
  cleanup.push(identity.close);
  await identity.probe({}, { timeoutMs: 5_000 });
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
  expect(collector.spans().map(({ name }) => name)).toEqual(["csi.v1.Identity/Probe"]);
});
