/**
 * Two hundred lives of volumes under a driver that keeps being killed: nothing is lost, nothing is left, and no name
 * ever has two IDs. CSI_RBD_LIFECYCLES and CSI_RBD_SEED make a shorter run, and an earlier one's moments.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { codeName } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, testFolder, writeConfig } from "./driver.ts";
import { directoryKeys, EMPTY, inventory, makePool, omapOf, settledInventory } from "./inventory.ts";
import { type Mortal, startMortal } from "./kill.ts";
import { random } from "./random.ts";
import { CLUSTER, createRequest, deleteRequest, expandRequest, GIB, isFailed } from "./requests.ts";

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

/** What callers were told besides OK, counted without names and numbers. */
const told = new Map<string, number>();
const slow: string[] = [];

/** Asks until the answer is OK, as the sidecars do after each failure; -> the answer. */
const insist = async <A>(what: string, call: (driver: Driver) => Promise<A>): Promise<A> => {
  const started = Date.now();
  for (let wait = 20; ; wait = Math.min(wait * 2, 2000)) {
    const driver = await (mortal as Mortal).current();
    try {
      const answer = await call(driver);
      const ms = Date.now() - started;
      if (ms > 10_000) slow.push(`${what}: ${ms} ms`);
      return answer;
    } catch (error) {
      if (!isFailed(error)) throw error;
      const text = error.details.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}|pvc-life-\d+|lives-\w+|\d+/g, "…");
      const reason = `${what.split(" ")[0]} ${codeName(error.code)}: ${text}`;
      told.set(reason, (told.get(reason) ?? 0) + 1);
      if (Date.now() - started > CALL_LIMIT) throw new Error(`${what} never became OK`, { cause: error });
    }
    await Bun.sleep(wait);
  }
};

test(
  `${LIVES} lives of volumes under a driver that is killed`,
  async () => {
    const started = Date.now();
    console.log(`seed ${seed}`);
    const chance = random(seed);
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
    for (const [text, times] of [...told].toSorted(([, a], [, b]) => b - a)) console.log(`${times} x ${text}`);
    if (slow.length > 0) console.log(`longer than 10 s: ${slow.join(", ")}`);

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
