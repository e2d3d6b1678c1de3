/**
 * Two hundred lives of volumes under a driver that keeps being killed: nothing is lost, nothing is left, and no name
 * ever has two IDs. CSI_RBD_LIFECYCLES and CSI_RBD_SEED make a shorter run, and an earlier one's moments.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { rig } from "../rig/cluster.ts";
import { testFolder, writeConfig } from "./driver.ts";
import { directoryKeys, EMPTY, inventory, makePool, omapOf, settledInventory } from "./inventory.ts";
import { type Mortal, patientCallers, startMortal } from "./kill.ts";
import { random } from "./random.ts";
import { CLUSTER, createRequest, deleteRequest, expandRequest, GIB } from "./requests.ts";

const LIVES = Number(process.env["CSI_RBD_LIFECYCLES"] ?? 200);
const AT_ONCE = 12;
/** Of one call, with all its retries: a watch of a killed driver holds its image for half a minute. */
const CALL_LIMIT = 120_000;
const seed = Number(process.env["CSI_RBD_SEED"] ?? Date.now() % 1_000_000);
const dir = testFolder("lives");
let pool: Awaited<ReturnType<typeof makePool>>;
let mortal: Mortal | undefined;

beforeAll(async () => {
  pool = await makePool("lives");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
}, 60_000);

afterAll(async () => {
  await (await mortal?.spare())?.end("SIGKILL");
  await pool?.remove();
}, 60_000);

const { insist, report } = patientCallers(() => (mortal as Mortal).current(), {
  limit: CALL_LIMIT,
  slow: 10_000,
  names: /pvc-life-\d+|lives-\w+/g,
});

test(
  `${LIVES} lives of volumes under a driver that is killed`,
  async () => {
    const started = Date.now();
    console.log(`seed ${seed}`);
    const chance = random(seed);
    // a second attempt begins with the first one's driver
    await (await mortal?.spare())?.end("SIGKILL");
    mortal = await startMortal({ dir, chance, life: [20, 1500] });
    const ids = new Map<string, Set<string>>();
    const saw = (name: string, id: string) => {
      ids.set(name, (ids.get(name) ?? new Set<string>()).add(id));
    };
    const settings = { timeoutMs: 10_000 };
    const create = (name: string, size: bigint) =>
      insist(`create ${name}`, async ({ controller }) => {
        const { volume } = await controller.createVolume(createRequest(name, { pool: pool.name }, size), settings);
        if (volume === undefined) throw new Error("no volume in the response");
        saw(name, volume.volumeId);
        expect(volume.capacityBytes).toBeGreaterThanOrEqual(size);
        return volume.volumeId;
      });
    const expand = (id: string) =>
      insist(`expand ${id}`, async ({ controller }) => {
        const { capacityBytes } = await controller.controllerExpandVolume(expandRequest(id, 2n * GIB), settings);
        expect(capacityBytes).toBe(2n * GIB);
      });
    const remove = (id: string) =>
      insist(`delete ${id}`, ({ controller }) => controller.deleteVolume(deleteRequest(id), settings));

    const live = async (name: string) => {
      const id = await create(name, GIB);
      expect(await create(name, GIB)).toBe(id);
      await expand(id);
      if (chance() < 0.3) expect(await create(name, 2n * GIB)).toBe(id);
      await remove(id);
      if (chance() < 0.3) await remove(id);
    };
    const left = Array.from({ length: LIVES }, (_, i) => `pvc-life-${i}`);
    const caller = async () => {
      for (let name = left.shift(); name !== undefined; name = left.shift()) await live(name);
    };
    /** What the journal itself says, while all this goes on. */
    const watching = { now: true };
    const watcher = (async () => {
      while (watching.now) {
        const names = await omapOf(pool.name, "csi.volumes.default");
        for (const [key, uuid] of names ?? []) saw(key.slice("csi.volume.".length), uuid);
        await Bun.sleep(200);
      }
    })();
    await Promise.all(Array.from({ length: AT_ONCE }, caller)).finally(() => {
      watching.now = false;
    });
    await watcher;
    const driver = await mortal.spare();
    console.log(
      `${LIVES} lives, ${mortal.deaths()} deaths, ${((Date.now() - started) / 1000).toFixed(0)} s; told besides OK:`,
    );
    console.log(report());

    // the journal knows UUIDs, callers know handles that end in them
    const uuids = [...ids].map(([name, seen]) => [name, new Set([...seen].map((id) => id.slice(-36)))] as const);
    expect(uuids.filter(([, seen]) => seen.size !== 1)).toEqual([]);
    expect(mortal.deaths()).toBeGreaterThan(LIVES / 20);
    expect((await inventory(pool.name)).names).toEqual(new Map());
    expect(await settledInventory(pool.name, 60_000)).toEqual(EMPTY);
    expect(await directoryKeys(pool.name)).toEqual([]);
    await driver.end();
  },
  // bun's own limit: the test ends long before
  15 * 60_000,
);
