/** What a driver finds in the trash of a pool that it uses: it removes what drivers left there, and nothing else. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as ManagedRuntime from "effect/ManagedRuntime";
import * as Redacted from "effect/Redacted";
import { cephLayerLive } from "../../lib/ceph/live/live.ts";
import { DRIVERS_MARKS, type DriversMark, Rbd } from "../../lib/ceph/rbd.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { makePool, tool } from "./inventory.ts";
import { CLUSTER, createRequest } from "./requests.ts";

const ceph = ManagedRuntime.make(cephLayerLive({ cells: 1, cephConf: "/absent.conf" }));
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  const dir = testFolder("trash-sweep");
  pool = await makePool("trash-sweep");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  driver = await startDriver({ dir });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  await ceph.dispose();
  await pool?.remove();
}, 60_000);

/** As a driver moves it. */
const discarded = async (name: string, mark: DriversMark = "small", snapshot?: string): Promise<string> => {
  await tool("rbd", "create", `${pool.name}/${name}`, "--size=64M");
  if (snapshot !== undefined) await tool("rbd", "snap", "create", `${pool.name}/${name}@${snapshot}`);
  const access = { monitors: rig().monitors, user: rig().user, key: Redacted.make(rig().key) };
  const where = { access, pool: pool.name, namespace: "" };
  await ceph.runPromise(Effect.flatMap(Rbd, (rbd) => rbd.trashMove(where, name, DRIVERS_MARKS[mark])));
  return name;
};
const trashed = async (name: string, size: string, ...how: readonly string[]): Promise<string> => {
  await tool("rbd", "create", `${pool.name}/${name}`, `--size=${size}`);
  await tool("rbd", "trash", "mv", ...how, `${pool.name}/${name}`);
  return name;
};
const named = (kind: "vol" | "snap" = "vol") => `csi-${kind}-${crypto.randomUUID()}`;
const inTrash = async (): Promise<readonly string[]> => {
  const entries = JSON.parse(await tool("rbd", "trash", "ls", "--all", "--format=json", pool.name)) as {
    name: string;
  }[];
  return entries.map(({ name }) => name).toSorted();
};

/** As ceph-csi moves the image that a copy goes through, with its snapshot, and has the manager remove it. */
const leftByCephCsi = async (name: string): Promise<void> => {
  await tool("rbd", "create", `${pool.name}/${name}-temp`, "--size=64M");
  await tool("rbd", "snap", "create", `${pool.name}/${name}-temp@${name}`);
  const { id } = JSON.parse(await tool("rbd", "info", `${pool.name}/${name}-temp`, "--format=json")) as { id: string };
  await tool("rbd", "trash", "mv", `${pool.name}/${name}-temp`);
  await tool("ceph", "rbd", "task", "add", "trash", "remove", `${pool.name}/${id}`);
};

test("A driver that uses a pool removes what dead drivers left in its trash, with the snapshots that are theirs, and keeps what a person put there, and what has a journal entry or another name", async () => {
  for (const name of [named(), named("snap"), `${named()}-temp`]) await discarded(name);
  for (const name of [named(), `team-${crypto.randomUUID()}`]) await discarded(name, "large");
  const [volume, snapshot] = [named(), named("snap")];
  await discarded(`${volume}-temp`, "small", volume);
  await discarded(snapshot, "small", snapshot);
  await leftByCephCsi(named());
  const owned = await discarded(named());
  await tool("rados", "--pool", pool.name, "setomapval", owned.replace("csi-vol-", "csi.volume."), "csi.volname", "x");
  const kept = [
    owned,
    await discarded(named(), "small", "mine"),
    await discarded("volume-1"),
    await discarded(crypto.randomUUID(), "large"),
    await trashed(named(), "64M"),
    await trashed(`volume-${crypto.randomUUID()}`, "64M"),
    await trashed(named(), "64M", "--expires-at", "2099-01-01"),
  ];
  await driver.controller.createVolume(createRequest("pvc-use", { pool: pool.name, clusterID: CLUSTER }), {
    timeoutMs: 30_000,
  });
  for (let tries = 0; tries < 500 && (await inTrash()).length > kept.length; tries++) await Bun.sleep(300);
  expect(await inTrash()).toEqual(kept.toSorted());
}, 240_000);
