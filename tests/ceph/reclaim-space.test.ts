/** ControllerReclaimSpace on a real cluster, over the socket of CSI-Addons, as Ceph's own tools see the image. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import * as Redacted from "effect/Redacted";
import { Identity } from "../../lib/gen/csi_addons_identity_pb.ts";
import { ReclaimSpaceController } from "../../lib/gen/csi_addons_reclaimspace_pb.ts";
import { rig } from "../rig/cluster.ts";
import { client } from "../support/grpc-client.ts";
import { type Bytes, bytesOf } from "./bytes.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { makePool, tool } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest, secrets } from "./requests.ts";

const OBJECT = 4 << 20;
const LIMIT = { timeoutMs: 60_000 };

let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;
let bytes: Bytes;
let addons: ReturnType<typeof client<typeof ReclaimSpaceController>>;
let identity: ReturnType<typeof client<typeof Identity>>;

beforeAll(async () => {
  const dir = testFolder("reclaim");
  pool = await makePool("reclaim");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  driver = await startDriver({ dir });
  bytes = bytesOf(rig());
  const endpoint = `unix://${join(dir, "csi-addons.sock")}`;
  addons = client(ReclaimSpaceController, endpoint);
  identity = client(Identity, endpoint);
}, 60_000);

afterAll(async () => {
  addons?.close();
  identity?.close();
  bytes?.close();
  await driver?.end();
  await pool?.remove();
}, 60_000);

const make = async (name: string, parameters = {}) => {
  const request = createRequest(name, { pool: pool.name, ...parameters });
  const { volume } = await driver.controller.createVolume(request, LIMIT);
  return { id: volume?.volumeId ?? "", image: volume?.volumeContext["imageName"] ?? "" };
};

const place = () => ({
  access: { monitors: rig().monitors, user: rig().user, key: Redacted.make(rig().key) },
  pool: pool.name,
  namespace: "",
});

/** The objects that hold the image's data. */
const objectsOf = async (image: string): Promise<number> => {
  const { block_name_prefix: prefix } = JSON.parse(
    await tool("rbd", "info", "--format=json", `${pool.name}/${image}`),
  ) as { block_name_prefix: string };
  const names = (await tool("rados", "--pool", pool.name, "ls")).split("\n");
  return names.filter((name) => name.startsWith(prefix)).length;
};

test("The objects of zeros of a volume that nobody uses are gone, and its data stays", async () => {
  const { id, image } = await make("pvc-zeros");
  bytes.write(place(), image, 0, 3 * OBJECT, 0);
  bytes.write(place(), image, 3 * OBJECT, 4096, 7);
  expect(await objectsOf(image)).toBe(4);
  await addons.controllerReclaimSpace({ volumeId: id, secrets: secrets() }, LIMIT);
  expect(await objectsOf(image)).toBe(1);
  expect(bytes.read(place(), image, 3 * OBJECT, 4096).every((byte) => byte === 7)).toBe(true);
  await driver.controller.deleteVolume(deleteRequest(id), LIMIT);
}, 120_000);

test("A volume that a client has open keeps its zeros, and the call succeeds", async () => {
  const { id, image } = await make("pvc-open");
  bytes.write(place(), image, 0, OBJECT, 0);
  const child = Bun.spawn(["rbd", "-c", rig().conf, "watch", `${pool.name}/${image}`], {
    stdin: "pipe",
    stdout: "pipe",
  });
  // it says "press enter to exit" once it watches
  await child.stdout.getReader().read();
  await addons.controllerReclaimSpace({ volumeId: id, secrets: secrets() }, LIMIT);
  expect(await objectsOf(image)).toBe(1);
  expect(driver.log()).toContain("its zeros are freed when nobody uses it");
  await child.stdin.end();
  await child.exited;
  await driver.controller.deleteVolume(deleteRequest(id), LIMIT);
}, 120_000);

test("A volume is deleted while its zeros are looked for, and Probe answers meanwhile", async () => {
  // Without an object map each of its objects is asked for.
  const request = createRequest("pvc-huge", { pool: pool.name, imageFeatures: "layering" }, 1n << 38n);
  const { volume } = await driver.controller.createVolume(request, LIMIT);
  const id = volume?.volumeId ?? "";
  const reclaiming = { ended: false };
  const end = () => void (reclaiming.ended = true);
  const reclaimed = addons
    .controllerReclaimSpace({ volumeId: id, secrets: secrets() }, { timeoutMs: 170_000 })
    .then(end, end);
  const watchers = async () => {
    const status = await tool("rbd", "status", "--format=json", `${pool.name}/${volume?.volumeContext["imageName"]}`);
    return (JSON.parse(status) as { watchers: unknown[] }).watchers.length;
  };
  while ((await watchers()) === 0 && !reclaiming.ended) expect((await identity.probe({}, LIMIT)).ready).toBe(true);
  expect(reclaiming.ended).toBe(false);
  await driver.controller.deleteVolume(deleteRequest(id), LIMIT);
  expect((await tool("rbd", "ls", pool.name)).trim()).toBe("");
  await reclaimed;
}, 180_000);
