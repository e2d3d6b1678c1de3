/**
 * Two hundred lives of volumes under a driver that keeps being killed: nothing is lost, nothing is left, and no name
 * ever has two IDs. CSI_RBD_LIFECYCLES and CSI_RBD_SEED make a shorter run, and an earlier one's moments.
 */
import { afterAll, expect, test } from "bun:test";
import { directoryKeys, EMPTY, inventory, omapOf, settledInventory } from "./inventory.ts";
import { type Attempt, attempts, patientCallers, startMortal } from "./kill.ts";
import { random } from "../support/random.ts";
import { createRequest, deleteRequest, expandRequest, GIB } from "./requests.ts";

const LIVES = Number(process.env["CSI_RBD_LIFECYCLES"] ?? 200);
const AT_ONCE = 12;
/** Of one call, with all its retries: a watch of a killed driver holds its image for half a minute. */
const CALL_LIMIT = 120_000;
/** Of one attempt. In the second half of it nobody is killed, so that what is left gets through. */
const LIMIT = 15 * 60_000;
const seed = Number(process.env["CSI_RBD_SEED"] ?? Date.now() % 1_000_000);

const lives = attempts("lives");
afterAll(() => lives.end(), 60_000);

const liveAll = async ({ dir, pool, mark, signal, together, atEnd }: Attempt): Promise<void> => {
  const started = Date.now();
  console.log(`seed ${seed}`);
  const chance = random(seed);
  const mortal = await startMortal({
    dir,
    chance,
    longest: { ms: 1500, calls: 10 },
    killUntil: started + LIMIT / 2,
  });
  atEnd(async () => (await mortal.spare()).end("SIGKILL"));
  const { insist, report } = patientCallers(mortal, {
    limit: CALL_LIMIT,
    slow: 10_000,
    names: /lives\d*-\w+/g,
    signal,
  });
  const ids = new Map<string, Set<string>>();
  const saw = (name: string, id: string) => {
    ids.set(name, (ids.get(name) ?? new Set<string>()).add(id));
  };
  const settings = { timeoutMs: 10_000 };
  const create = (name: string, size: bigint) =>
    insist(`create ${name}`, async ({ controller }) => {
      const { volume } = await controller.createVolume(createRequest(name, { pool }, size), settings);
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
    handles.push(id);
    expect(await create(name, GIB)).toBe(id);
    await expand(id);
    if (chance() < 0.3) expect(await create(name, 2n * GIB)).toBe(id);
    await remove(id);
    if (chance() < 0.3) await remove(id);
  };
  const handles: string[] = [];
  const left = Array.from({ length: LIVES }, (_, i) => `${mark}-${i}`);
  const at = { work: AT_ONCE };
  const caller = async () => {
    try {
      for (let name = left.shift(); name !== undefined; name = left.shift()) await live(name);
    } finally {
      at.work -= 1;
    }
  };
  /** What the journal itself says, while all this goes on. */
  const watcher = async () => {
    while (at.work > 0) {
      const names = await omapOf(pool, "csi.volumes.default");
      for (const [key, uuid] of names ?? []) saw(key.slice("csi.volume.".length), uuid);
      await Bun.sleep(200);
    }
  };
  await together([...Array.from({ length: AT_ONCE }, () => caller), watcher]).finally(() => {
    const seconds = ((Date.now() - started) / 1000).toFixed(0);
    console.log(`${LIVES - left.length} lives begun, ${mortal.deaths()} deaths, ${seconds} s; told besides OK:`);
    console.log(report());
  });
  const driver = await mortal.spare();
  // when the pool is used next, the driver looks for what those left in the trash that died behind their answer
  await remove(handles[0] ?? "");

  // the journal knows UUIDs, callers know handles that end in them
  const uuids = [...ids].map(([name, seen]) => [name, new Set([...seen].map((id) => id.slice(-36)))] as const);
  expect(uuids.filter(([, seen]) => seen.size !== 1)).toEqual([]);
  expect(ids.size).toBe(LIVES);
  expect(mortal.deaths()).toBeGreaterThan(LIVES / 20);
  expect((await inventory(pool)).names).toEqual(new Map());
  expect(await settledInventory(pool, 120_000)).toEqual(EMPTY);
  expect(await directoryKeys(pool)).toEqual([]);
  await driver.end();
};

test(
  `${LIVES} lives of volumes leave nothing, although the driver is killed again and again`,
  () => lives.begin(liveAll),
  // bun's own limit: the attempt ends before
  LIMIT,
);
