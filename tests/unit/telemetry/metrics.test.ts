/** What Prometheus is told, and when. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { makeMetrics, Metrics, serveMetrics } from "../../../lib/telemetry/metrics.ts";

const figure = (image: string, value: number) => ({ name: "a_gauge", help: "What it is.", labels: { image }, value });

describe("figures", () => {
  test("are told with one help per name, as they are when somebody asks", async () => {
    const metrics = makeMetrics();
    let value = 0.25;
    await Effect.runPromise(
      Effect.scoped(
        Effect.gen(function* () {
          yield* metrics.add(() => [figure("rbd/a", value), { ...figure("", 3), name: "other", labels: {} }]);
          yield* metrics.add(() => [figure('odd "name"\\', 1)]);
          value = 0.5;
          expect(metrics.text()).toBe(
            [
              "# HELP a_gauge What it is.",
              "# TYPE a_gauge gauge",
              'a_gauge{image="rbd/a"} 0.5',
              'a_gauge{image="odd \\"name\\"\\\\"} 1',
              "# HELP other What it is.",
              "# TYPE other gauge",
              "other{} 3",
              "",
            ].join("\n"),
          );
        }),
      ),
    );
    expect(metrics.text()).toBe("\n");
  });
});

/** What a promise that must fail fails with. */
const failureOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => "it did not fail",
    (error: unknown) => String(error),
  );

describe("the endpoint", () => {
  const flags = { enableProfiling: true, metricsPort: 0, metricsPath: "/figures" };
  const served = <A>(given: typeof flags, use: () => Promise<A>) => {
    const metrics = makeMetrics();
    return Effect.runPromise(
      Effect.scoped(
        Effect.gen(function* () {
          yield* metrics.add(() => [figure("rbd/a", 1)]);
          yield* serveMetrics(given);
          return yield* Effect.promise(use);
        }).pipe(Effect.provideService(Metrics, metrics)),
      ),
    );
  };
  const freePort = (): number => {
    const server = Bun.serve({ port: 0, fetch: () => new Response() });
    const { port } = server;
    void server.stop(true);
    return port ?? 0;
  };

  test("answers at its path alone, and is gone with its scope", async () => {
    const metricsPort = freePort();
    const at = (path: string) => fetch(`http://127.0.0.1:${metricsPort}${path}`);
    await served({ ...flags, metricsPort }, async () => {
      const found = await at("/figures");
      expect([found.status, await found.text()]).toEqual([
        200,
        expect.stringContaining('a_gauge{image="rbd/a"} 1') as unknown as string,
      ]);
      expect((await at("/metrics")).status).toBe(404);
    });
    expect(await failureOf(at("/figures"))).toContain("Unable to connect");
  });

  test("is not there unless it is asked for", async () => {
    const metricsPort = freePort();
    await served({ ...flags, metricsPort, enableProfiling: false }, async () => {
      expect(await failureOf(fetch(`http://127.0.0.1:${metricsPort}/figures`))).toContain("Unable to connect");
    });
  });

  test("a port that is taken is named", async () => {
    const other = Bun.serve({ port: 0, fetch: () => new Response() });
    const metricsPort = other.port ?? 0;
    expect(await failureOf(served({ ...flags, metricsPort }, () => Promise.resolve()))).toContain(
      `--metricsport: cannot listen on 0.0.0.0:${metricsPort}`,
    );
    await other.stop(true);
  });
});
