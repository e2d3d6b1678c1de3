/** Tests of operations in virtual time, without a driver around them. */
import { test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as TestClock from "effect/testing/TestClock";
import type { Request } from "../../lib/operations/pipeline.ts";

type Body = (log: readonly string[]) => Effect.Effect<unknown, unknown>;

/** Runs a body whose clock stands still but for `TestClock.adjust`. -> the lines that it logged. */
const inTestTime = async (body: Body): Promise<readonly string[]> => {
  const log: string[] = [];
  const recorder = Logger.make<unknown, void>(({ message }) => void log.push([message].flat().map(String).join(" ")));
  const run = Effect.suspend(() => body(log)).pipe(
    Effect.provide(Layer.merge(Logger.layer([recorder]), TestClock.layer())),
  );
  await Effect.runPromise(run);
  return log;
};

/** A test in virtual time; its body reads what it has logged. */
export const virtual = (name: string, body: Body): void => test(name, () => inTestTime(body), 20_000);

export const request = (more: Partial<Request> = {}): Request => ({
  rpc: "CreateVolume",
  subject: "pvc-1",
  identity: "digest",
  deadline: undefined,
  ...more,
});

/** Lets every fiber that can run do so. */
export const settle = TestClock.adjust(0);
