/** What a line of the log holds, as whoever collects it reads it. */
import { expect, test } from "bun:test";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import { logLayer } from "../../../lib/telemetry/log.ts";
import { operationFields } from "../../../lib/operations/operation.ts";
import { makeOperations, stage } from "../../../lib/operations/pipeline.ts";

/** The lines that `body` writes to stderr. */
const logged = async (body: Effect.Effect<unknown>, verbosity = 0): Promise<readonly Record<string, unknown>[]> => {
  const lines: string[] = [];
  const recorded: Console.Console = { ...console, error: (line: unknown) => void lines.push(String(line)) };
  await Effect.runPromise(
    body.pipe(Effect.provide(logLayer(verbosity, operationFields)), Effect.provideService(Console.Console, recorded)),
  );
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
};

test("A log line of an operation names its RPC, its subject and the stage of that moment", async () => {
  const body = Effect.gen(function* () {
    yield* stage("reserve", Effect.logWarning("first"));
    yield* stage("create image", Effect.annotateLogs(Effect.logInfo("second"), { image: "rbd/a" }));
  });
  const request = { rpc: "CreateVolume", subject: "pvc-1", identity: "x", deadline: undefined };
  const of = { rpc: "CreateVolume", subject: "pvc-1" };
  expect(
    await logged(
      makeOperations()
        .run(request, () => body)
        .pipe(Effect.ignore),
    ),
  ).toMatchObject([
    { level: "WARN", message: "first", annotations: { ...of, stage: "reserve" } },
    { level: "INFO", message: "second", annotations: { ...of, stage: "create image", image: "rbd/a" } },
  ]);
});

test("A log line outside of operations has a time and no stage", async () => {
  const [line] = await logged(stage("look", Effect.logInfo("alone")));
  expect(line).toMatchObject({ message: "alone" });
  expect(line?.["annotations"]).toEqual({});
  expect(Date.parse(String(line?.["timestamp"]))).toBeGreaterThan(Date.now() - 60_000);
});

test("The verbosity decides what the log shows", async () => {
  const body = Effect.andThen(Effect.logDebug("each request"), Effect.logTrace("each step"));
  expect(await logged(body)).toEqual([]);
  expect((await logged(body, 4)).map(({ message }) => message)).toEqual(["each request"]);
  expect((await logged(body, 5)).map(({ message }) => message)).toEqual(["each request", "each step"]);
});
