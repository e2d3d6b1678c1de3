/**
 * The bytes on disk: what our driver writes is what ceph-csi would have, and volumes that ceph-csi made, or began to,
 * are ours to continue. The other driver's part is played by `rados` and `rbd`.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Code } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { EMPTY, makePool, omapOf, settledInventory, tool } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest, expandRequest, failureOf, GIB } from "./requests.ts";

const dir = testFolder("compat");
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  pool = await makePool("compat");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  driver = await startDriver({ dir, flags: ["--clustername=here"] });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  await pool?.remove();
}, 60_000);

const hex16 = (id: bigint) => id.toString(16).padStart(16, "0");
const handleOf = (uuid: string, poolId = pool.id) => `0001-000c-${CLUSTER}-${hex16(poolId)}-${uuid}`;
const rados = (...command: string[]) => tool("rados", "--pool", pool.name, ...command);
const setKeys = async (object: string, keys: Readonly<Record<string, string>>) => {
  for (const [key, value] of Object.entries(keys)) await rados("setomapval", object, key, value);
};
const imageIdOf = async (image: string) =>
  (JSON.parse(await tool("rbd", "info", `${pool.name}/${image}`, "--format=json")) as { id: string }).id;
const create = async (name: string, parameters: Record<string, string> = {}) => {
  const { volume } = await driver.controller.createVolume(createRequest(name, { pool: pool.name, ...parameters }));
  if (volume === undefined) throw new Error("no volume in the response");
  return volume;
};
const leavesNothing = async (volumeId: string) => {
  await driver.controller.deleteVolume(deleteRequest(volumeId));
  expect(await settledInventory(pool.name)).toEqual(EMPTY);
};

/** What ceph-csi leaves of a volume, up to the step where it died. */
const layDown = async (name: string, uuid: string, upTo: "object" | "name" | "attributes" | "image" | "imageid") => {
  const steps = ["object", "name", "attributes", "image", "imageid"];
  const done = (step: string) => steps.indexOf(upTo) >= steps.indexOf(step);
  const image = `csi-vol-${uuid}`;
  await rados("create", `csi.volume.${uuid}`);
  if (done("name")) await setKeys("csi.volumes.default", { [`csi.volume.${name}`]: uuid });
  if (done("attributes")) {
    await setKeys(`csi.volume.${uuid}`, {
      "csi.volname": name,
      "csi.imagename": image,
      "csi.volume.owner": "team-a",
    });
  }
  if (done("image")) {
    await tool("rbd", "create", "--size=1G", "--image-feature=layering", `${pool.name}/${image}`);
  }
  if (done("imageid")) await setKeys(`csi.volume.${uuid}`, { "csi.imageid": await imageIdOf(image) });
  return image;
};

test("Journal, image name and metadata of a volume are ceph-csi's, byte for byte", async () => {
  const made = await create("pvc-bytes", {
    "csi.storage.k8s.io/pvc/name": "data",
    "csi.storage.k8s.io/pvc/namespace": "team-a",
    "csi.storage.k8s.io/pv/name": "pvc-bytes",
  });
  const image = made.volumeContext["imageName"] ?? "";
  const uuid = image.slice("csi-vol-".length);
  expect(uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(made.volumeId).toBe(handleOf(uuid));
  expect(await omapOf(pool.name, "csi.volumes.default")).toEqual(new Map([["csi.volume.pvc-bytes", uuid]]));
  expect(await omapOf(pool.name, `csi.volume.${uuid}`)).toEqual(
    new Map([
      ["csi.imageid", await imageIdOf(image)],
      ["csi.imagename", image],
      ["csi.volname", "pvc-bytes"],
      ["csi.volume.owner", "team-a"],
    ]),
  );
  for (const object of ["csi.volumes.default", `csi.volume.${uuid}`]) {
    expect(await rados("stat", object)).toMatch(/, size 0\s*$/);
  }
  const metadata: unknown = JSON.parse(await tool("rbd", "image-meta", "ls", `${pool.name}/${image}`, "--format=json"));
  expect(metadata).toEqual({
    "csi.ceph.com/cluster/name": "here",
    "csi.storage.k8s.io/pv/name": "pvc-bytes",
    "csi.storage.k8s.io/pvc/name": "data",
    "csi.storage.k8s.io/pvc/namespace": "team-a",
  });
  expect(Object.keys(made.volumeContext).filter((key) => key.startsWith("csi.storage.k8s.io/"))).toEqual([]);
  await leavesNothing(made.volumeId);
}, 60_000);

test("A volume that ceph-csi made is found by its name, grown and deleted", async () => {
  const uuid = crypto.randomUUID();
  const image = await layDown("pvc-theirs", uuid, "imageid");
  const found = await create("pvc-theirs");
  expect(found.volumeId).toBe(handleOf(uuid));
  expect(found.volumeContext["imageName"]).toBe(image);
  const grown = await driver.controller.controllerExpandVolume(expandRequest(found.volumeId, 2n * GIB));
  expect(grown.capacityBytes).toBe(2n * GIB);
  await leavesNothing(found.volumeId);
}, 60_000);

test("A volume with a prefix of its own is deleted by its handle alone", async () => {
  const uuid = crypto.randomUUID();
  const image = `team-a-${uuid}`;
  await tool("rbd", "create", "--size=1G", `${pool.name}/${image}`);
  await setKeys("csi.volumes.default", { "csi.volume.pvc-prefix": uuid });
  await setKeys(`csi.volume.${uuid}`, {
    "csi.volname": "pvc-prefix",
    "csi.imagename": image,
    "csi.imageid": await imageIdOf(image),
  });
  const grown = await driver.controller.controllerExpandVolume(expandRequest(handleOf(uuid), 3n * GIB));
  expect(grown.capacityBytes).toBe(3n * GIB);
  await leavesNothing(handleOf(uuid));
}, 60_000);

for (const upTo of ["name", "attributes", "image"] as const) {
  test(`A creation that ceph-csi did not finish (${upTo} was its last write) is finished with its UUID`, async () => {
    const uuid = crypto.randomUUID();
    const image = await layDown(`pvc-${upTo}`, uuid, upTo);
    const made = await create(`pvc-${upTo}`);
    expect(made.volumeId).toBe(handleOf(uuid));
    const attributes = await omapOf(pool.name, `csi.volume.${uuid}`);
    expect(attributes?.get("csi.imagename")).toBe(image);
    expect(attributes?.get("csi.imageid")).toBe(await imageIdOf(image));
    await leavesNothing(made.volumeId);
  }, 60_000);
}

test("A creation that was cut off before the attributes is finished with the image that was made meanwhile", async () => {
  const uuid = crypto.randomUUID();
  const image = `csi-vol-${uuid}`;
  await setKeys("csi.volumes.default", { "csi.volume.pvc-cut": uuid });
  await tool("rbd", "create", "--size=1G", `${pool.name}/${image}`);
  const id = await imageIdOf(image);
  const made = await create("pvc-cut");
  expect(made.volumeId).toBe(handleOf(uuid));
  const attributes = await omapOf(pool.name, `csi.volume.${uuid}`);
  expect(["csi.volname", "csi.imagename", "csi.imageid"].map((key) => attributes?.get(key))).toEqual([
    "pvc-cut",
    image,
    id,
  ]);
  await leavesNothing(made.volumeId);
}, 60_000);

test("A deletion that ceph-csi did not finish is finished, from any point where it stopped", async () => {
  // the image is gone, the journal is whole
  const first = crypto.randomUUID();
  await tool("rbd", "rm", `${pool.name}/${await layDown("pvc-gone-1", first, "imageid")}`);
  await driver.controller.deleteVolume(deleteRequest(handleOf(first)));
  // the image is in the trash, and nobody was asked to remove it
  const second = crypto.randomUUID();
  await tool("rbd", "trash", "mv", `${pool.name}/${await layDown("pvc-gone-2", second, "imageid")}`);
  await driver.controller.deleteVolume(deleteRequest(handleOf(second)));
  // the object of the UUID is gone, the name is left: the name can be used again
  const third = crypto.randomUUID();
  await setKeys("csi.volumes.default", { "csi.volume.pvc-gone-3": third });
  await driver.controller.deleteVolume(deleteRequest(handleOf(third)));
  const made = await create("pvc-gone-3");
  await leavesNothing(made.volumeId);
}, 60_000);

test("A complete volume whose image somebody removed makes room for a new one", async () => {
  const uuid = crypto.randomUUID();
  await tool("rbd", "rm", `${pool.name}/${await layDown("pvc-lost", uuid, "imageid")}`);
  const made = await create("pvc-lost");
  expect(made.volumeId).not.toBe(handleOf(uuid));
  await leavesNothing(made.volumeId);
}, 60_000);

test("The driver follows an entry that names the image's pool", async () => {
  const other = await makePool("compat-image");
  try {
    const uuid = crypto.randomUUID();
    const image = `csi-vol-${uuid}`;
    await tool("rbd", "create", "--size=1G", `${other.name}/${image}`);
    await tool("rados", "--pool", other.name, "create", `csi.volume.${uuid}`);
    await setKeys("csi.volumes.default", { "csi.volume.pvc-split": `${hex16(other.id)}/${uuid}` });
    await setKeys(`csi.volume.${uuid}`, {
      "csi.volname": "pvc-split",
      "csi.imagename": image,
      "csi.journalpool": hex16(pool.id),
    });
    const found = await create("pvc-split");
    expect(found.volumeId).toBe(handleOf(uuid, other.id));
    expect(found.volumeContext).toMatchObject({ journalPool: pool.name, imageName: image });
    await driver.controller.controllerExpandVolume(expandRequest(found.volumeId, 2n * GIB));
    await driver.controller.deleteVolume(deleteRequest(found.volumeId));
    expect(await settledInventory(other.name)).toEqual(EMPTY);
    expect(await settledInventory(pool.name)).toEqual(EMPTY);
  } finally {
    await other.remove();
  }
}, 60_000);

test("An entry that no driver writes is reported, and not touched", async () => {
  await setKeys("csi.volumes.default", { "csi.volume.pvc-odd": "neither-uuid-nor-pool" });
  const odd = await failureOf(create("pvc-odd"));
  expect(odd.code).toBe(Code.INTERNAL);
  expect(odd.details).toContain("rmomapkey");
  const theirs = crypto.randomUUID();
  await layDown("pvc-theirs", theirs, "imageid");
  await setKeys("csi.volumes.default", { "csi.volume.pvc-thief": theirs });
  expect((await failureOf(create("pvc-thief"))).code).toBe(Code.INTERNAL);
  expect((await create("pvc-theirs")).volumeId).toBe(handleOf(theirs));
  await rados("rmomapkey", "csi.volumes.default", "csi.volume.pvc-odd");
  await rados("rmomapkey", "csi.volumes.default", "csi.volume.pvc-thief");
  await leavesNothing(handleOf(theirs));
}, 60_000);
