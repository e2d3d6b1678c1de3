/** What Prometheus reads, and when. */
import { describe, expect, test } from "bun:test";
import { createServer } from "node:net";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { makeCellPool } from "../../../lib/cells/pool.ts";
import { makeOperations, stage } from "../../../lib/operations/pipeline.ts";
import { arm } from "../../../lib/telemetry/armed.ts";
import { makeMetrics, Metrics, metricsLayer, Timings } from "../../../lib/telemetry/metrics.ts";

const figure = (image: string, value: number) => ({ name: "a_gauge", help: "Its help.", labels: { image }, value });

describe("gauges", () => {
  test("Gauges of one name share one help text, and have the value of the moment", async () => {
    const metrics = makeMetrics();
    let value = 0.25;
    await Effect.runPromise(
      Effect.scoped(
        Effect.gen(function* () {
          yield* metrics.add(() => [figure("rbd/a", value), { ...figure("", 3), name: "other", labels: {} }]);
          yield* metrics.add(() => [figure('odd "name"\\', 1)]);
          value = 0.5;
          expect(yield* metrics.text).toBe(
            [
              "# HELP a_gauge Its help.",
              "# TYPE a_gauge gauge",
              'a_gauge{image="rbd/a"} 0.5',
              'a_gauge{image="odd \\"name\\"\\\\"} 1',
              "# HELP other Its help.",
              "# TYPE other gauge",
              "other 3",
              "",
            ].join("\n"),
          );
        }),
      ),
    );
    expect(await Effect.runPromise(metrics.text)).toBe("");
  });

  test("A gauge whose source no longer reports it is absent from the next scrape", async () => {
    const metrics = makeMetrics();
    let images = ["rbd/a", "rbd/b"];
    const scrapes = Effect.gen(function* () {
      yield* metrics.add(() => images.map((image) => figure(image, 1)));
      const before = yield* metrics.text;
      images = ["rbd/b"];
      return [before, yield* metrics.text];
    });
    const [before, after] = await Effect.runPromise(Effect.scoped(scrapes));
    expect(before).toContain('image="rbd/a"');
    expect(after).not.toContain('image="rbd/a"');
    expect(after).toContain('image="rbd/b"');
  });
});

describe("histograms", () => {
  /** Runs the body where durations are taken -> the lines of the metrics without buckets and sums. */
  const counted = async (body: Effect.Effect<unknown, unknown>) => {
    const metrics = makeMetrics();
    await Effect.runPromise(
      Effect.andThen(arm, Effect.exit(body)).pipe(
        Effect.scoped,
        Effect.provideService(Metrics, metrics),
        Effect.provideService(Timings, metrics.timings),
      ),
    );
    const text = await Effect.runPromise(metrics.text);
    return text.split("\n").filter((line) => line.includes("_seconds_count{"));
  };

  test("A duration is counted in each bucket that it fits in", async () => {
    const metrics = makeMetrics();
    metrics.timings.rpc("CreateVolume", "OK", 0.0007);
    metrics.timings.rpc("CreateVolume", "OK", 140);
    metrics.timings.rpc("CreateVolume", "OK", 1000);
    const text = await Effect.runPromise(metrics.text);
    const bucket = (le: string) =>
      new RegExp(`^csi_rbd_rpc_seconds_bucket{rpc="CreateVolume",code="OK",le="${le}"} (.*)$`, "m").exec(text)?.[1];
    expect(["0.0005", "0.001", "60", "150", "\\+Inf"].map(bucket)).toEqual(["0", "1", "1", "2", "3"]);
    expect(text).toContain("# TYPE csi_rbd_rpc_seconds histogram");
    expect(text).toContain('csi_rbd_rpc_seconds_sum{rpc="CreateVolume",code="OK"} 1140.0007');
  });

  test("Each stage is counted with its RPC, whether it succeeds, fails or dies", async () => {
    const body = Effect.gen(function* () {
      yield* stage("reserve", Effect.void);
      yield* stage("reserve", Effect.void);
      yield* Effect.exit(stage("create image", Effect.die("a bug")));
      return yield* stage("commit", Effect.fail("no"));
    });
    const request = { rpc: "CreateVolume", subject: "pvc-1", identity: "x", deadline: undefined };
    expect(await counted(makeOperations().run(request, () => body))).toEqual([
      'csi_rbd_stage_seconds_count{rpc="CreateVolume",stage="reserve"} 2',
      'csi_rbd_stage_seconds_count{rpc="CreateVolume",stage="create image"} 1',
      'csi_rbd_stage_seconds_count{rpc="CreateVolume",stage="commit"} 1',
    ]);
  });

  test("Each call in a cell is counted once a cell took it, also when the call fails or passes its limit", async () => {
    const url = new URL("../cells/toy-cell.ts", import.meta.url).href;
    const calls = Effect.gen(function* () {
      const pool = yield* makeCellPool({ name: "toy", url, size: 1 });
      const call = (op: string, arg: unknown, limit = 5_000) =>
        Effect.exit(pool.call(op, arg, { limit: Duration.millis(limit), subject: "rbd/a", key: "rbd/a" }));
      yield* call("echo", 1);
      yield* call("echo", 2);
      yield* call("fail", { errno: 2 });
      yield* call("sleep", { ms: 200 }, 20);
      // refused, because the one before it hangs: no cell took it up
      yield* call("echo", 3);
    });
    expect(await counted(Effect.scoped(calls))).toEqual([
      'csi_rbd_call_seconds_count{cells="toy",call="echo"} 2',
      'csi_rbd_call_seconds_count{cells="toy",call="fail"} 1',
      'csi_rbd_call_seconds_count{cells="toy",call="sleep"} 1',
    ]);
  });

  test("No duration is measured where no metrics are served", async () => {
    const metrics = makeMetrics();
    await Effect.runPromise(Effect.provideService(stage("reserve", Effect.void), Metrics, metrics));
    expect(await Effect.runPromise(metrics.text)).toBe("");
  });
});

/** How a promise that must fail does. */
const failureOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => "it did not fail",
    (error: unknown) => String(error),
  );

describe("the metrics endpoint", () => {
  const flags = { enableProfiling: true, metricsPort: 0, metricsPath: "/figures" };
  const served = <A>(given: typeof flags, use: () => Promise<A>) => {
    const metrics = makeMetrics();
    return Effect.runPromise(
      Effect.scoped(
        Effect.gen(function* () {
          yield* metrics.add(() => [figure("rbd/a", 1)]);
          const context = yield* Layer.build(metricsLayer(given));
          yield* Effect.provideContext(stage("look", Effect.void), context);
          return yield* Effect.promise(use);
        }).pipe(Effect.provideService(Metrics, metrics)),
      ),
    );
  };
  const freePort = (): Promise<number> =>
    new Promise((resolve) => {
      const server = createServer().listen(0, () => {
        const address = server.address();
        server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
      });
    });

  test("Metrics are served at their path alone, and no longer than their scope lasts", async () => {
    const metricsPort = await freePort();
    const at = (path: string) => fetch(`http://127.0.0.1:${metricsPort}${path}`);
    await served({ ...flags, metricsPort }, async () => {
      const found = await at("/figures");
      const text = await found.text();
      expect(found.status).toBe(200);
      expect(found.headers.get("content-type")).toStartWith("text/plain; version=0.0.4");
      expect(text).toContain('a_gauge{image="rbd/a"} 1');
      expect(text).toContain('csi_rbd_stage_seconds_count{rpc="-",stage="look"} 1');
      expect((await at("/metrics")).status).toBe(404);
    });
    expect(await failureOf(at("/figures"))).toContain("Unable to connect");
  });

  test("Metrics are not served without --enableprofiling", async () => {
    const metricsPort = await freePort();
    await served({ ...flags, metricsPort, enableProfiling: false }, async () => {
      expect(await failureOf(fetch(`http://127.0.0.1:${metricsPort}/figures`))).toContain("Unable to connect");
    });
  });

  test("The error of a taken port names the port", async () => {
    const other = Bun.serve({ port: 0, fetch: () => new Response() });
    const metricsPort = other.port ?? 0;
    expect(await failureOf(served({ ...flags, metricsPort }, () => Promise.resolve()))).toContain(
      `--metricsport: cannot listen on 0.0.0.0:${metricsPort}`,
    );
    await other.stop(true);
  });
});
