/** csi-sanity's Identity and Controller cases, against the real driver on a real cluster, on this machine. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { type Driver, startDriver, testFolder, writeConfig, writeSecrets } from "../ceph/driver.ts";
import { EMPTY, makePool, settledInventory } from "../ceph/inventory.ts";
import { CLUSTER, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { judgeReport, runSanity } from "./sanity.ts";

const dir = testFolder("sanity");
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  pool = await makePool("sanity");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  // Lists have no credentials in their requests: these come by file.
  writeSecrets(join(dir, "secrets"), CLUSTER, { ...secrets(), pools: pool.name });
  // its clean-up after each case asks for a Node service, too
  driver = await startDriver({ dir, flags: ["--nodeserver=true", `--secrets-dir=${join(dir, "secrets")}`] });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  await pool?.remove();
}, 60_000);

/** Without fencing nobody is asked which nodes there are: each gets the volume, and none has a limit. */
const WITHOUT_NODES = [
  "ControllerPublishVolume should fail when the node does not exist",
  "ControllerPublishVolume should fail when publishing more volumes than the node max attach limit",
];

for (const accessType of ["mount", "block"] as const) {
  test(`every case of Identity and Controller, ${accessType}`, async () => {
    const verdict = await runSanity({
      driver,
      dir,
      parameters: { clusterID: CLUSTER, pool: pool.name },
      mutableParameters: { maxReadIops: "1000", baseIops: "500" },
      snapshotParameters: { clusterID: CLUSTER },
      secrets: secrets(),
      accessType,
      skip: ["Node Service", ...WITHOUT_NODES].join("|"),
      limitMs: 100_000,
    });
    const reasons = new Set(verdict.leftOut.map((line) => line.slice(line.lastIndexOf(": ") + 2)));
    console.log(
      `csi-sanity (${accessType}): ${verdict.passed.length} passed, ${verdict.leftOut.length} left out: ${[...reasons].join("; ")}`,
    );
    expect(verdict.failed).toEqual([]);
    expect(verdict.passed.length).toBeGreaterThan(20);
    // A parent in the trash goes at the manager's next try, half a minute after its children.
    expect(await settledInventory(pool.name, 100_000)).toEqual(EMPTY);
  }, 240_000);
}

test("a skip is a failure unless the driver lacks the capability", () => {
  const spec = (State: string, Message: string) => ({
    ContainerHierarchyTexts: ["Controller"],
    LeafNodeType: "It",
    LeafNodeText: "works",
    State,
    ...(Message && { Failure: { Message } }),
  });
  const judged = (State: string, Message: string, advertises: string[] = []) =>
    judgeReport(JSON.stringify([{ SpecReports: [spec(State, Message)] }]), new Set(advertises));
  expect(judged("skipped", "ListVolumes not supported").failed).toEqual([]);
  expect(judged("skipped", "ListVolumes not supported", ["LIST_VOLUMES"]).failed).toHaveLength(1);
  expect(judged("skipped", "Required bytes not supported").failed).toHaveLength(1);
  expect(judged("panicked", "").failed).toHaveLength(1);
  expect(judged("skipped", "")).toEqual({ passed: [], failed: [], leftOut: [] });
});
