/** Volumes of a real driver on a real Ceph, over gRPC: made, asked for again, grown, looked at, deleted. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Code } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { EMPTY, inventory, makePool, settledInventory, tool } from "./inventory.ts";
import {
  CLUSTER,
  createRequest,
  deleteRequest,
  expandRequest,
  failureOf,
  filesystem,
  GIB,
  MIB,
  rawBlock,
  secrets,
} from "./requests.ts";

const dir = testFolder("ctl");
const NAMESPACED = "with-namespace";
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;
let dataPool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  [pool, dataPool] = await Promise.all([makePool("ctl"), makePool("ctl-data")]);
  await tool("rbd", "namespace", "create", `${pool.name}/tenant`);
  const { monitors } = rig();
  writeConfig(dir, [
    { clusterID: CLUSTER, monitors },
    { clusterID: NAMESPACED, monitors, rbd: { radosNamespace: "tenant" } },
  ]);
  driver = await startDriver({ dir });
}, 60_000);

afterAll(async () => {
  expect(await driver?.end()).toBe(0);
  await pool?.remove();
  await dataPool?.remove();
}, 60_000);

const create = async (name: string, parameters: Record<string, string> = {}, bytes = GIB) => {
  const { volume } = await driver.controller.createVolume(
    createRequest(name, { pool: pool.name, ...parameters }, bytes),
  );
  if (volume === undefined) throw new Error("no volume in the response");
  return volume;
};

const imageInfo = async (spec: string) =>
  JSON.parse(await tool("rbd", "info", spec, "--format=json")) as {
    id: string;
    size: number;
    features: string[];
    data_pool?: string;
    object_size: number;
    stripe_unit?: number;
    stripe_count?: number;
  };

test("A volume is created, found again, grown, confirmed and deleted, and leaves nothing", async () => {
  const made = await create("pvc-life");
  expect(made.capacityBytes).toBe(GIB);
  const image = made.volumeContext["imageName"] ?? "";
  expect(made.volumeContext).toEqual({
    clusterID: CLUSTER,
    pool: pool.name,
    journalPool: pool.name,
    imageName: image,
  });
  const uuid = image.slice("csi-vol-".length);
  const poolId = pool.id.toString(16).padStart(16, "0");
  expect(made.volumeId).toBe(`0001-000c-${CLUSTER}-${poolId}-${uuid}`);

  expect(await create("pvc-life")).toEqual(made);
  expect((await inventory(pool.name)).images).toEqual([image]);

  const grown = await driver.controller.controllerExpandVolume(expandRequest(made.volumeId, GIB + 1n));
  expect([grown.capacityBytes, grown.nodeExpansionRequired]).toEqual([2n * GIB, true]);
  const again = await driver.controller.controllerExpandVolume(expandRequest(made.volumeId, GIB));
  expect(again.capacityBytes).toBe(2n * GIB);
  const block = await driver.controller.controllerExpandVolume({
    ...expandRequest(made.volumeId, 2n * GIB),
    volumeCapability: rawBlock,
  });
  expect(block.nodeExpansionRequired).toBe(false);
  expect((await imageInfo(`${pool.name}/${image}`)).size).toBe(Number(2n * GIB));
  expect((await create("pvc-life")).capacityBytes).toBe(2n * GIB);

  const asked = { volumeId: made.volumeId, volumeContext: made.volumeContext, secrets: secrets() };
  const confirmed = await driver.controller.validateVolumeCapabilities({ ...asked, volumeCapabilities: [filesystem] });
  expect(confirmed.confirmed?.volumeCapabilities).toHaveLength(1);

  await driver.controller.deleteVolume(deleteRequest(made.volumeId));
  await driver.controller.deleteVolume(deleteRequest(made.volumeId));
  const gone = await failureOf(
    driver.controller.validateVolumeCapabilities({ ...asked, volumeCapabilities: [filesystem] }),
  );
  expect(gone.code).toBe(Code.NOT_FOUND);
  expect((await failureOf(driver.controller.controllerExpandVolume(expandRequest(made.volumeId, GIB)))).code).toBe(
    Code.NOT_FOUND,
  );
  expect(await settledInventory(pool.name)).toEqual(EMPTY);
}, 60_000);

test("CreateVolume tells a pool that cannot hold the volume by its type, though nothing can be read from it", async () => {
  const coded = `${pool.name}-coded`;
  // One OSD cannot hold the parts of an object: the pool is never active, and every operation in it would hang.
  await tool("ceph", "osd", "pool", "create", coded, "1", "1", "erasure");
  try {
    const asPool = await failureOf(create("pvc-coded", { pool: coded }));
    expect(asPool.code).toBe(Code.FAILED_PRECONDITION);
    expect(asPool.details).toStartWith(`pool ${coded} is erasure-coded, and`);
    const asData = await failureOf(create("pvc-coded", { dataPool: coded }));
    expect(asData.code).toBe(Code.FAILED_PRECONDITION);
    expect(asData.details).toContain(`"ceph osd pool set ${coded} allow_ec_overwrites true"`);
    const absent = await failureOf(create("pvc-coded", { dataPool: "no-such-pool" }));
    expect(absent.code).toBe(Code.INVALID_ARGUMENT);
    expect(absent.details).toStartWith("data pool no-such-pool does not exist");
    expect(await settledInventory(pool.name)).toEqual(EMPTY);
  } finally {
    await tool("ceph", "osd", "pool", "rm", coded, coded, "--yes-i-really-really-mean-it");
  }
}, 60_000);

test("ValidateVolumeCapabilities confirms a static volume by its volume_context, as Nomad registers one", async () => {
  await tool("rbd", "create", "--size=1G", `${pool.name}/registered`);
  const volumeContext = { clusterID: CLUSTER, pool: pool.name, staticVolume: "true", imageFeatures: "layering" };
  const asked = { volumeCapabilities: [filesystem], secrets: secrets() };
  const validate = (volumeId: string, more: Record<string, string> = {}) =>
    driver.controller.validateVolumeCapabilities({
      ...asked,
      volumeId,
      volumeContext: { ...volumeContext, ...more },
    });
  expect((await validate("registered")).confirmed?.volumeContext).toEqual(volumeContext);
  expect((await failureOf(validate("unregistered"))).code).toBe(Code.NOT_FOUND);
  expect((await failureOf(validate("registered", { pool: "no-such-pool" }))).code).toBe(Code.NOT_FOUND);
  await tool("rbd", "rm", "--no-progress", `${pool.name}/registered`);
}, 60_000);

test("CreateVolume with a deleted name makes a new volume", async () => {
  const first = await create("pvc-again");
  await driver.controller.deleteVolume(deleteRequest(first.volumeId));
  const second = await create("pvc-again");
  expect(second.volumeId).not.toBe(first.volumeId);
  await driver.controller.deleteVolume(deleteRequest(second.volumeId));
  expect(await settledInventory(pool.name)).toEqual(EMPTY);
}, 60_000);

test("CreateVolume refuses a known name with another specification, and the volume stays as it is", async () => {
  const made = await create("pvc-other", { imageFeatures: "layering" });
  const refused = (parameters: Record<string, string>, bytes = GIB) =>
    failureOf(create("pvc-other", parameters, bytes));
  expect((await refused({ imageFeatures: "layering" }, 3n * GIB)).code).toBe(Code.ALREADY_EXISTS);
  expect((await refused({ imageFeatures: "layering,exclusive-lock" })).details).toContain("features");
  expect((await refused({ imageFeatures: "layering", dataPool: dataPool.name })).code).toBe(Code.ALREADY_EXISTS);
  expect((await refused({ imageFeatures: "layering", objectSize: "1048576" })).code).toBe(Code.ALREADY_EXISTS);
  expect(await create("pvc-other", { imageFeatures: "layering" })).toEqual(made);
  await driver.controller.deleteVolume(deleteRequest(made.volumeId));
}, 60_000);

test("A volume has the features, object size, striping and data pool of its parameters", async () => {
  const made = await create("pvc-layout", {
    imageFeatures: "layering,exclusive-lock,object-map,fast-diff,deep-flatten",
    objectSize: "8388608",
    stripeUnit: "65536",
    stripeCount: "4",
    dataPool: dataPool.name,
  });
  const info = await imageInfo(`${pool.name}/${made.volumeContext["imageName"]}`);
  expect(info.features.toSorted()).toEqual(
    ["data-pool", "deep-flatten", "exclusive-lock", "fast-diff", "layering", "object-map", "striping"].toSorted(),
  );
  expect(info).toMatchObject({ data_pool: dataPool.name, object_size: 8388608, stripe_unit: 65536, stripe_count: 4 });
  expect(made.volumeContext["dataPool"]).toBe(dataPool.name);
  await driver.controller.deleteVolume(deleteRequest(made.volumeId));
  const plain = await create("pvc-layering", { imageFeatures: "layering" });
  expect((await imageInfo(`${pool.name}/${plain.volumeContext["imageName"]}`)).features).toEqual(["layering"]);
  await driver.controller.deleteVolume(deleteRequest(plain.volumeId));
  expect(await settledInventory(pool.name)).toEqual(EMPTY);
}, 60_000);

test("Sizes are rounded, bounded by the limit, and refused where none fits", async () => {
  const small = await create("pvc-small", {}, 3n * MIB + 1n);
  expect(small.capacityBytes).toBe(4n * MIB);
  await driver.controller.deleteVolume(deleteRequest(small.volumeId));
  const request = createRequest("pvc-bounds", { pool: pool.name });
  const bounded = (requiredBytes: bigint, limitBytes: bigint) =>
    driver.controller.createVolume({ ...request, capacityRange: { requiredBytes, limitBytes } });
  expect((await failureOf(bounded(GIB + 1n, GIB + 2n))).code).toBe(Code.OUT_OF_RANGE);
  const { volume } = await bounded(GIB + 1n, GIB + 10n * MIB);
  expect(volume?.capacityBytes).toBe(GIB + MIB);
  await driver.controller.deleteVolume(deleteRequest(volume?.volumeId ?? ""));
}, 60_000);

test("An entry with a namespace keeps images and journal in the namespace", async () => {
  const made = await create("pvc-tenant", { clusterID: NAMESPACED });
  const image = made.volumeContext["imageName"] ?? "";
  expect(made.volumeContext["radosNamespace"]).toBe("tenant");
  expect((await inventory(pool.name)).images).toEqual([]);
  const inside = await inventory(pool.name, "default", "tenant");
  expect(inside.images).toEqual([image]);
  expect([...inside.names]).toEqual([["csi.volume.pvc-tenant", image.slice("csi-vol-".length)]]);
  await driver.controller.controllerExpandVolume(expandRequest(made.volumeId, 2n * GIB));
  await driver.controller.deleteVolume(deleteRequest(made.volumeId));
  expect(await settledInventory(pool.name, 20_000, "tenant")).toEqual(EMPTY);
}, 60_000);

test("DeleteVolume refuses an image in use, and keeps its journal", async () => {
  const made = await create("pvc-used");
  const image = made.volumeContext["imageName"] ?? "";
  const watcher = Bun.spawn(["rbd", "watch", `${pool.name}/${image}`], {
    env: { ...process.env, CEPH_CONF: rig().conf },
    stdin: "pipe",
    stdout: "pipe",
  });
  await watcher.stdout.getReader().read();
  const refused = await failureOf(driver.controller.deleteVolume(deleteRequest(made.volumeId)));
  expect(refused.code).toBe(Code.FAILED_PRECONDITION);
  expect(refused.details).toContain("client.");
  expect(await create("pvc-used")).toEqual(made);
  await watcher.stdin.end();
  await watcher.exited;
  await driver.controller.deleteVolume(deleteRequest(made.volumeId));
  expect(await settledInventory(pool.name)).toEqual(EMPTY);
}, 60_000);

test("DeleteVolume of a missing volume succeeds, and the error of a missing pool names the pool", async () => {
  const unknown = `0001-000c-${CLUSTER}-${pool.id.toString(16).padStart(16, "0")}-${crypto.randomUUID()}`;
  await driver.controller.deleteVolume(deleteRequest(unknown));
  await driver.controller.deleteVolume(deleteRequest("not-one-of-ours"));
  await driver.controller.deleteVolume(deleteRequest(unknown.replace(/-0{13}/, "-0000000000fff")));
  const nowhere = await failureOf(create("pvc-nowhere", { pool: "no-such-pool" }));
  expect(nowhere.code).toBe(Code.INVALID_ARGUMENT);
  expect(nowhere.details).toContain("no-such-pool");
  expect((await failureOf(create("pvc-nowhere", { dataPool: "no-such-pool" }))).details).toContain("no-such-pool");
  expect(await settledInventory(pool.name)).toEqual(EMPTY);
}, 60_000);
