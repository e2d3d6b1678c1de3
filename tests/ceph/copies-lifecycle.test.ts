/**
 * Lives of volumes, snapshots, restores and clones under a driver that keeps being killed: the bytes are the right ones,
 * nothing is left, no name has two IDs. CSI_RBD_COPIES=500 makes the long run, CSI_RBD_SEED an earlier one's moments.
 */
import { afterAll, expect, test } from "bun:test";
import { rig } from "../rig/cluster.ts";
import { bytesOf } from "./bytes.ts";
import {
  askSnapshot,
  cloneRequest,
  dropRequest,
  makeVolume,
  poolAt,
  restoreRequest,
  settledRemains,
  SIZE,
  type Volume,
} from "./copies.ts";
import type { Driver } from "./driver.ts";
import { inventory, omapOf } from "./inventory.ts";
import { type Attempt, attempts, patientCallers, startMortal } from "./kill.ts";
import { random } from "../support/random.ts";
import { createRequest, deleteRequest, expandRequest } from "./requests.ts";

const LIVES = Number(process.env["CSI_RBD_COPIES"] ?? 24);
const AT_ONCE = 12;
/** Of one call with all its retries: a watch of a killed driver holds its image for half a minute. */
const CALL_LIMIT = 240_000;
/** Of one attempt. In the second half of it nobody is killed, so that what is left gets through. */
const LIMIT = 600_000 + LIVES * 20_000;
/**
 * Most drivers die within seconds, but not all: a snapshot of an image that a killed driver had open waits for that
 * one's watch, half a minute.
 */
const LONGEST = { ms: 60_000, calls: 40 };
const seed = Number(process.env["CSI_RBD_SEED"] ?? Date.now() % 1_000_000);

const lives = attempts("copylives");
afterAll(() => lives.end(), 60_000);

const liveAll = async ({ dir, pool, mark, signal, together, atEnd }: Attempt): Promise<void> => {
  const started = Date.now();
  const seconds = () => ((Date.now() - started) / 1000).toFixed(0);
  console.log(`seed ${seed}`);
  const chance = random(seed);
  const mortal = await startMortal({
    dir,
    chance: () => chance() ** 3,
    longest: LONGEST,
    killUntil: started + LIMIT / 2,
  });
  atEnd(async () => (await mortal.spare()).end("SIGKILL"));
  const bytes = bytesOf(rig());
  atEnd(async () => bytes.close());
  const { insist, report } = patientCallers(mortal, {
    limit: CALL_LIMIT,
    slow: 20_000,
    names: /(?:life|copylives)\d*-\w+/g,
    signal,
  });

  const settings = { timeoutMs: 15_000 };
  const ids = new Map<string, Set<string>>();
  const saw = (name: string, id: string): void => {
    // the journal knows UUIDs, callers know handles that end in them
    ids.set(name, (ids.get(name) ?? new Set<string>()).add(id.slice(-36)));
  };
  const create = (kind: string, name: string, request: Parameters<Driver["controller"]["createVolume"]>[0]) =>
    insist(`${kind} ${name}`, async ({ controller }) => {
      const made = await makeVolume(controller, request, settings);
      saw(name, made.id);
      return made;
    });
  const snapshot = async (name: string, { id }: Volume, atFirst: () => void): Promise<string> => {
    for (let first = true; ; first = false) {
      const answer = await insist(`snapshot ${name}`, ({ controller }) => askSnapshot(controller, name, id, settings));
      saw(name, answer.id);
      // whoever has an answer may go on to write
      if (first) atFirst();
      if (answer.ready) return answer.id;
      await Bun.sleep(50);
    }
  };
  const expand = ({ id }: Volume) =>
    insist(`expand ${id}`, async ({ controller }) => {
      const { capacityBytes } = await controller.controllerExpandVolume(expandRequest(id, 2n * SIZE), settings);
      expect(capacityBytes).toBe(2n * SIZE);
    });
  const remove = ({ id }: Volume) =>
    insist(`delete ${id}`, ({ controller }) => controller.deleteVolume(deleteRequest(id), settings));
  const drop = (id: string) =>
    insist(`drop ${id}`, ({ controller }) => controller.deleteSnapshot(dropRequest(id), settings));
  const put = ({ image }: Volume, value: number) => bytes.write(poolAt(pool), image, 4096, 8192, value);
  const valueOf = ({ image }: Volume) => bytes.read(poolAt(pool), image, 8192, 1)[0];

  let gone: Volume | undefined;
  const live = async (life: string): Promise<void> => {
    const source = await create("create", `pvc-${life}`, createRequest(`pvc-${life}`, { pool }, SIZE));
    put(source, 1);
    const taken = await snapshot(`snap-${life}`, source, () => put(source, 2));
    const asClone = cloneRequest(`clone-${life}`, pool, source.id);
    const asRestore = restoreRequest(`restore-${life}`, pool, taken);
    // both have ended when one fails: nobody goes on for an attempt that is over
    const copies = await Promise.allSettled([
      create("restore", `restore-${life}`, asRestore),
      create("clone", `clone-${life}`, asClone),
    ]);
    const [restored, cloned] = copies.map((copy) => {
      if (copy.status === "rejected") throw copy.reason;
      return copy.value;
    }) as [Volume, Volume];
    const [larger = source] = [source, restored, cloned].toSorted(() => chance() - 0.5);
    await expand(larger);
    expect([source, restored, cloned].map(valueOf)).toEqual([2, 1, 2]);
    // in any order: sources before what was made of them, too
    const steps = [() => drop(taken), ...[source, restored, cloned].map((each) => () => remove(each))];
    gone = source;
    for (const step of steps.map((run) => ({ run, at: chance() })).toSorted((a, b) => a.at - b.at)) await step.run();
  };

  const left = Array.from({ length: LIVES }, (_, i) => `${mark}-${i}`);
  const at = { work: AT_ONCE };
  const caller = async () => {
    try {
      for (let life = left.shift(); life !== undefined; life = left.shift()) await live(life);
    } finally {
      at.work -= 1;
    }
  };
  /** What the journal itself says, while all this goes on. */
  const watcher = async () => {
    while (at.work > 0) {
      for (const [object, prefix] of [
        ["csi.volumes.default", "csi.volume."],
        ["csi.snaps.default", "csi.snap."],
      ] as const) {
        for (const [key, uuid] of (await omapOf(pool, object)) ?? []) saw(key.slice(prefix.length), uuid);
      }
      await Bun.sleep(300);
    }
  };
  await together([...Array.from({ length: AT_ONCE }, () => caller), watcher]).finally(() => {
    console.log(`${LIVES - left.length} lives begun, ${mortal.deaths()} deaths, ${seconds()} s; told besides OK:`);
    console.log(report());
  });
  const driver = await mortal.spare();
  // when the pool is used next, the driver looks for what those left in the trash that died behind their answer
  await remove(gone ?? { id: "", image: "" });

  expect([...ids].filter(([, seen]) => seen.size !== 1)).toEqual([]);
  expect(ids.size).toBe(4 * LIVES);
  expect(mortal.deaths()).toBeGreaterThan(0);
  const { images, names } = await inventory(pool);
  expect([images, [...names.keys()]]).toEqual([[], []]);
  // parents wait in the trash for their children; the manager tries one again after 30 s, then 60 s, 90 s …
  expect(await settledRemains(pool, 300_000 + LIVES * 2000)).toEqual([]);
  console.log(`nothing left after ${seconds()} s`);
  await driver.end();
};

test(
  `${LIVES} lives of volumes and their copies leave nothing, although the driver is killed again and again`,
  () => lives.begin(liveAll),
  LIMIT,
);
