/** How long a process takes from SIGTERM to its end, with an operation that does not end. */
import { afterEach, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as TestClock from "effect/testing/TestClock";
import { Controller } from "../../../lib/gen/csi_pb.ts";
import { Code } from "../../../lib/grpc/status.ts";
import { makeGrace } from "../../../lib/process/grace.ts";
import { startController } from "../../support/driver-process.ts";
import { client } from "../../support/grpc-client.ts";
import { failure, temporaryDirectory } from "../../support/grpc-serving.ts";
import { creation } from "../../support/world.ts";

const LIMIT = 90_000;

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

/** A driver with a CreateVolume that never ends, and its caller, who waits that long. */
const stuck = async (gracePeriod: string, callerWaits: number, environment: Record<string, string> = {}) => {
  const directory = temporaryDirectory();
  const path = join(directory, "csi.sock");
  const entry = join(import.meta.dir, "stuck-driver.ts");
  const child = await startController(path, [`--grace-period=${gracePeriod}`], { entry, environment });
  const controller = client(Controller, path);
  ends.push(
    () => child.kill("SIGKILL"),
    controller.close,
    () => rmSync(directory, { recursive: true }),
  );
  const call = failure(controller.createVolume(creation(), { timeoutMs: callerWaits }));
  const { value } = await child.stdout.getReader().read();
  expect(new TextDecoder().decode(value)).toBe("stuck\n");
  const stop = async () => {
    const since = performance.now();
    child.kill("SIGTERM");
    const code = await child.exited;
    return { code, seconds: (performance.now() - since) / 1000, log: await new Response(child.stderr).text() };
  };
  return { child, call, stop };
};

/** A busy machine is given two seconds. */
const between = (seconds: number, from: number, to: number) => {
  expect(seconds).toBeGreaterThan(from - 0.05);
  expect(seconds).toBeLessThan(to + 2);
};

describe("a process that is asked to end while an operation does not", () => {
  test(
    "A process that is asked to end interrupts an operation before its budget is over, and answers its caller UNAVAILABLE",
    async () => {
      const { call, stop } = await stuck("4s", 60_000);
      const { code, seconds, log } = await stop();
      expect(code).toBe(0);
      between(seconds, 3, 4);
      expect(await call).toMatchObject({ code: Code.UNAVAILABLE, details: "driver is stopping, retry" });
      expect(log).toMatch(/1 running calls have [23]\.\d s to finish/);
    },
    LIMIT,
  );

  test(
    "A process that is asked to end gives an operation no extra time when its caller has left",
    async () => {
      const { call, stop } = await stuck("2s", 5_000);
      await call;
      const { code, seconds, log } = await stop();
      expect(code).toBe(0);
      between(seconds, 1.5, 2);
      expect(log).toMatch(/operations have 1\.\d s to end: CreateVolume of pvc-1/);
    },
    LIMIT,
  );

  test(
    "A process that can't interrupt an operation ends with its budget and code 1",
    async () => {
      const { stop } = await stuck("2s", 60_000, { STUCK: "uninterruptible" });
      const { code, seconds } = await stop();
      expect(code).toBe(1);
      between(seconds, 2, 2);
    },
    LIMIT,
  );

  test(
    "A process that is asked to end ends at once at the second SIGTERM",
    async () => {
      const { child, stop } = await stuck("30s", 60_000);
      const stopped = stop();
      await Bun.sleep(200);
      child.kill("SIGTERM");
      const { code, seconds } = await stopped;
      expect(code).toBe(1);
      between(seconds, 0.2, 0.2);
    },
    LIMIT,
  );
});

describe("the grace budget", () => {
  const moments = (period: Duration.Duration) =>
    Effect.gen(function* () {
      const grace = makeGrace(period);
      yield* TestClock.adjust(1000);
      const first = yield* grace.begin;
      yield* TestClock.adjust(5000);
      return [first, yield* grace.begin];
    }).pipe(Effect.provide(TestClock.layer()), Effect.runPromise);

  test("The grace budget is fixed when it is first asked for, and keeps two seconds for the end", async () => {
    const expected = { drainBy: 24_000, closeBy: 25_000, exitBy: 26_000 };
    expect(await moments(Duration.seconds(25))).toEqual([expected, expected]);
  });

  test("A short grace budget keeps a quarter for the end", async () => {
    const [first] = await moments(Duration.seconds(2));
    expect(first).toEqual({ drainBy: 2500, closeBy: 2750, exitBy: 3000 });
  });
});
