/** The chart on a real Kubernetes with a real kubelet: what `npm run cluster` shows, kinds of claims, and what goes wrong. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { rig } from "../rig/cluster.ts";
import { access } from "./access.ts";
import { type Cluster, startCluster, tell } from "./cluster.ts";
import { devices } from "./devices.ts";
import { failures } from "./failures.ts";
import { steps } from "./steps.ts";

const MINUTES = 900_000;
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

for (const [what, scenarios] of Object.entries({
  "devices other than the kernel's mapping": devices,
  "several pods at once": access,
  "what goes wrong": failures,
})) {
  describe(what, () => {
    for (const { title, act } of scenarios) {
      test(
        title,
        toldOnFailure(() => act(cluster)),
        MINUTES,
      );
    }
  });
}
