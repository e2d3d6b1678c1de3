/**
 * Tests on a cluster that they share: it starts before the first and stops after the last one.
 *
 * Not here: what they do (./steps.ts, ./scenario.ts).
 *
 * 1. They fail with what a person would look at first, and none runs after the first one that fails: it would begin with what
 *    that one left.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type Cluster, tell } from "./cluster.ts";
import type { Scenario } from "./scenario.ts";
import { steps } from "./steps.ts";

/** `limitMs`: of the start, of the stop, and of each test. */
export const testsOn = (start: () => Promise<Cluster>, limitMs: number) => {
  let cluster: Cluster;
  let broken = false;
  beforeAll(async () => {
    cluster = await start();
  }, limitMs);
  afterAll(() => cluster?.stop(), limitMs);

  const one = (title: string, act: (on: Cluster) => Promise<void>): void =>
    test(
      title,
      async () => {
        if (broken) throw new Error("an earlier step failed");
        await act(cluster).catch(async (error: unknown) => {
          broken = true;
          await tell(cluster.plane, console.log);
          throw error;
        });
      },
      limitMs,
    );
  return {
    claimsLife: (what: string): void =>
      describe(what, () => {
        for (const { title, act } of steps) one(title, async (on) => expect(await act(on)).not.toBe(""));
      }),
    scenarios: (what: string, all: ReadonlyArray<Scenario>): void =>
      describe(what, () => {
        for (const { title, act } of all) one(title, act);
      }),
  };
};
