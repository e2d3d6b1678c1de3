/** Full pools on a real Ceph: what adds data fails at once and leaves nothing, and deletions make room. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { connect, shutdown, withPool } from "../../lib/ceph/cell/rados.ts";
import { move } from "../../lib/ceph/cell/trash-move.ts";
import { Code } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { tool as hands, timed } from "./hands.ts";
import { EMPTY, inventory, makePool, settledInventory, tool, untilFull } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest, expandRequest, failureOf, GIB, MIB } from "./requests.ts";

const LIMIT = 100_000;
/** A call that waits for room waits for 30 s. */
const AT_ONCE_MS = 5000;
/** More objects than the driver removes itself while the manager works. */
const BIG = 32n * GIB;
const USER = "full-pool";

let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;
let roomy: Awaited<ReturnType<typeof makePool>>;
let data: Awaited<ReturnType<typeof makePool>>;
let secrets: Record<string, string>;

beforeAll(async () => {
  const profile = "profile rbd";
  const user = hands.userOf(rig(), USER, ["mon", profile, "osd", profile, "mgr", profile]);
  const dir = testFolder("full");
  [pool, roomy, data] = await Promise.all([makePool("full"), makePool("roomy"), makePool("full-data")]);
  secrets = { userID: USER, userKey: (await user).key };
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  driver = await startDriver({ dir });
}, LIMIT);

afterAll(async () => {
  expect(await driver?.end()).toBe(0);
  for (const each of [pool, roomy, data]) await each?.remove();
  await tool("ceph", "auth", "rm", `client.${USER}`);
}, LIMIT);

interface Wanted {
  readonly in?: typeof pool;
  readonly bytes?: bigint;
  readonly dataPool?: string;
  readonly snapshotId?: string;
}

const requestOf = (name: string, { in: at = pool, bytes = GIB, dataPool, snapshotId }: Wanted) => ({
  ...createRequest(name, { pool: at.name, ...(dataPool !== undefined && { dataPool }) }, bytes),
  ...(snapshotId !== undefined && {
    volumeContentSource: { type: { case: "snapshot" as const, value: { snapshotId } } },
  }),
  secrets,
});

/** A volume with 4 MiB of data. */
const create = async (name: string, wanted: Wanted = {}): Promise<string> => {
  const { volume } = await driver.controller.createVolume(requestOf(name, wanted));
  const volumeId = volume?.volumeId ?? "";
  await tool("rbd", "bench", ...WRITE, `${(wanted.in ?? pool).name}/csi-vol-${volumeId.slice(-36)}`);
  return volumeId;
};
const WRITE = ["--io-type=write", "--io-size=1M", "--io-threads=1", "--io-total=4M"];

const snapshot = async (name: string, sourceVolumeId: string): Promise<string> => {
  for (;;) {
    const { snapshot: taken } = await driver.controller.createSnapshot({ name, sourceVolumeId, secrets });
    if (taken?.readyToUse === true) return taken.snapshotId;
  }
};

const setQuota = async (objects: number): Promise<void> => {
  for (const { name } of [pool, data])
    await tool("ceph", "osd", "pool", "set-quota", name, "max_objects", String(objects));
  for (const { name } of [pool, data]) await untilFull(name, objects > 0);
};

const refused = async (call: Promise<unknown>): Promise<void> => {
  const { value, ms } = await timed(failureOf(call));
  expect([value.code, value.details]).toEqual([
    Code.RESOURCE_EXHAUSTED,
    expect.stringContaining(`pool ${pool.name} is full`),
  ]);
  expect(ms).toBeLessThan(AT_ONCE_MS);
};

const atOnce = async (call: Promise<unknown>): Promise<void> => {
  expect((await timed(call)).ms).toBeLessThan(AT_ONCE_MS);
};

/** An image that librbd moves to the trash, because somebody has its lock. */
const makeLocked = async (image: string): Promise<void> => {
  await tool("rbd", "create", "--size=1G", "--image-feature=layering", image);
  await tool("rbd", "lock", "add", image, "by-hand");
};

/** Moves an image to the trash as a cell does. */
const moveInCell = (at: string, image: string): void => {
  const { user, conf, monitors, key } = rig();
  const settings = [["mon_host", monitors.join(",")] as const, ["key", key] as const];
  const cluster = connect({ user, confFile: conf, settings });
  try {
    withPool({ cluster, pool: at, namespace: "" }, (io) => move(io, image));
  } finally {
    shutdown(cluster);
  }
};

const emptied = async (at: string): Promise<void> => {
  for (let tries = 0; tries < 40 && (await inventory(at)).trash.length > 0; tries++) await Bun.sleep(250);
};

const inFullPools = async (body: () => Promise<void>): Promise<void> => {
  await setQuota(1);
  try {
    await body();
  } finally {
    await setQuota(0);
  }
};

test(
  "In a full pool nothing is made or grown, everything can be deleted, and the manager gets no task",
  async () => {
    // a second attempt finds what the first one has left
    const mark = crypto.randomUUID().slice(0, 6);
    const plain = await create(`plain-${mark}`);
    const big = await create(`big-${mark}`, { bytes: BIG });
    const elsewhere = await create(`elsewhere-${mark}`, { in: roomy, bytes: BIG, dataPool: data.name });
    const source = await create(`source-${mark}`);
    const snapshotId = await snapshot(`kept-${mark}`, source);
    const restored = await create(`restored-${mark}`, { snapshotId });
    const locked = `locked-${mark}`;
    await makeLocked(`${data.name}/${locked}`);
    const { controller } = driver;

    await inFullPools(async () => {
      const before = await inventory(pool.name);
      await refused(controller.createVolume(requestOf(`later-${mark}`, {})));
      await refused(controller.createVolume(requestOf(`copy-${mark}`, { snapshotId })));
      await refused(controller.createSnapshot({ name: `later-${mark}`, sourceVolumeId: source, secrets }));
      await refused(controller.controllerExpandVolume({ ...expandRequest(plain, 2n * GIB), secrets }));
      expect(await inventory(pool.name)).toEqual(before);
      // no flag says that its object map is invalid
      expect(await tool("rbd", "info", `${pool.name}/csi-vol-${plain.slice(-36)}`)).toMatch(/size 1 GiB[^]*flags: \n/);

      // neither pool has a trash yet, unless Ceph made it with the pool
      moveInCell(data.name, locked);
      expect((await inventory(data.name)).trash).toEqual([locked]);
      await tool("rbd", "trash", "purge", data.name);
      for (const volumeId of [plain, big, elsewhere, restored]) {
        await atOnce(controller.deleteVolume({ ...deleteRequest(volumeId), secrets }));
      }
      await emptied(pool.name);
      await atOnce(controller.deleteSnapshot({ snapshotId, secrets }));
      await emptied(pool.name);
      await atOnce(controller.deleteVolume({ ...deleteRequest(source), secrets }));
      for (const { name } of [pool, roomy, data]) expect(await settledInventory(name)).toEqual(EMPTY);
    });

    for (const { name } of [pool, roomy]) expect(await tool("rados", "--pool", name, "ls")).not.toContain("rbd_task");
    const again = await create(`later-${mark}`, { bytes: 4n * MIB });
    await controller.deleteVolume({ ...deleteRequest(again), secrets });
    expect(await settledInventory(pool.name)).toEqual(EMPTY);
  },
  LIMIT,
);
