/** The chart on a real Kubernetes with a real kubelet: what `npm run cluster` shows, and what then goes wrong. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { rig } from "../rig/cluster.ts";
import { type Cluster, startCluster, tell } from "./cluster.ts";
import { failures } from "./failures.ts";
import { steps } from "./steps.ts";

const MINUTES = 600_000;
let cluster: Cluster;
let broken = false;

beforeAll(async () => {
  cluster = await startCluster(join(rig().dir, "cluster"), console.log);
}, MINUTES);
afterAll(() => cluster?.stop(), MINUTES);

/** The log shows what a person would look at first. What comes after a failure would begin with what that one left. */
const toldOnFailure = (act: () => Promise<void>) => async () => {
  if (broken) throw new Error("an earlier step failed");
  await act().catch(async (error: unknown) => {
    broken = true;
    await tell(cluster.plane, console.log);
    throw error;
  });
};

describe("a claim's life", () => {
  for (const { title, act } of steps) {
    test(
      title,
      toldOnFailure(async () => {
        expect(await act(cluster)).not.toBe("");
      }),
      MINUTES,
    );
  }
});

describe("what goes wrong", () => {
  for (const { title, act } of failures) {
    test(
      title,
      toldOnFailure(() => act(cluster)),
      MINUTES,
    );
  }
});
