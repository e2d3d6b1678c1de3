/** From where snapshots can be used, on a real Ceph with a pool for each of two zones. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { PluginCapability_Service_Type as Offered } from "../../lib/gen/csi_pb.ts";
import { Code } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { EMPTY, inventory, makePool, settledInventory } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest, failureOf, secrets } from "./requests.ts";

const LIMIT = 60_000;
const dir = testFolder("snaptopo");
let driver: Driver;
let west: Awaited<ReturnType<typeof makePool>>;
let east: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  [west, east] = await Promise.all([makePool("snaptopo-west"), makePool("snaptopo-east")]);
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  driver = await startDriver({ dir });
}, LIMIT);

afterAll(async () => {
  expect(await driver?.end()).toBe(0);
  await west?.remove();
  await east?.remove();
}, LIMIT);

const zone = (value: string) => ({ segments: { "topology.rbd.csi.ceph.com/zone": value } });
const required = (value: string) => ({ requisite: [zone(value)], preferred: [zone(value)] });
const constrained = () =>
  JSON.stringify(
    [
      [west.name, "west"],
      [east.name, "east"],
    ].map(([poolName, value]) => ({ poolName, domainSegments: [{ domainLabel: "zone", value }] })),
  );

test(
  "A snapshot is usable from the zone of its volume's pool, and is refused for another zone",
  async () => {
    const plugin = await driver.identity.getPluginCapabilities({});
    expect(plugin.capabilities.map(({ type }) => (type.case === "service" ? type.value.type : undefined))).toContain(
      Offered.SNAPSHOT_ACCESSIBILITY_CONSTRAINTS,
    );
    const parameters = { clusterID: CLUSTER, topologyConstrainedPools: constrained() };
    const { volume } = await driver.controller.createVolume({
      ...createRequest("pvc-east", parameters),
      accessibilityRequirements: required("east"),
    });
    const sourceVolumeId = volume?.volumeId ?? "";
    expect(volume?.volumeContext["pool"]).toBe(east.name);
    const take = (name: string, place?: string) =>
      driver.controller.createSnapshot({
        name,
        sourceVolumeId,
        secrets: secrets(),
        parameters,
        ...(place !== undefined && { accessibilityRequirements: required(place) }),
      });

    const before = await inventory(east.name);
    expect((await failureOf(take("snap", "west"))).code).toBe(Code.RESOURCE_EXHAUSTED);
    expect(await inventory(east.name)).toEqual(before);

    const { snapshot } = await take("snap", "east");
    expect(snapshot?.accessibleTopology).toMatchObject([zone("east")]);
    let again = await take("snap");
    while (again.snapshot?.readyToUse !== true) again = await take("snap");
    expect(again.snapshot).toMatchObject({ snapshotId: snapshot?.snapshotId, accessibleTopology: [zone("east")] });

    const restored = await driver.controller.createVolume({
      ...createRequest("pvc-restored", parameters),
      accessibilityRequirements: required("east"),
      volumeContentSource: { type: { case: "snapshot", value: { snapshotId: snapshot?.snapshotId ?? "" } } },
    });
    expect(restored.volume?.accessibleTopology).toMatchObject([zone("east")]);
    for (const id of [restored.volume?.volumeId ?? "", sourceVolumeId]) {
      await driver.controller.deleteVolume(deleteRequest(id));
    }
    await driver.controller.deleteSnapshot({ snapshotId: snapshot?.snapshotId ?? "", secrets: secrets() });
    expect(await settledInventory(east.name, LIMIT)).toEqual(EMPTY);
  },
  LIMIT * 3,
);
