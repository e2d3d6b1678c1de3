/** Sixty-four callers that create, clone, snapshot, restore and delete over sixteen names; fifty restores at once. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { codeName } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import {
  askSnapshot,
  cloneRequest,
  dropRequest,
  makeVolume,
  readySnapshot,
  restoreRequest,
  settledRemains,
  SIZE,
} from "./copies.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { inventory, makePool, omapOf } from "./inventory.ts";
import { random } from "../support/random.ts";
import { CLUSTER, createRequest, deleteRequest, expandRequest, isFailed } from "./requests.ts";

const SECONDS = Number(process.env["CSI_RBD_CROWD_SECONDS"] ?? 30);
const RESTORES = 50;
const seed = Number(process.env["CSI_RBD_SEED"] ?? Date.now() % 1_000_000);
const dir = testFolder("copycrowd");
const settings = { timeoutMs: 30_000 };
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  pool = await makePool("copycrowd");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  driver = await startDriver({ dir });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  await pool?.remove();
}, 60_000);

test("Fifty restores of one snapshot at once are fifty volumes", async () => {
  const source = await makeVolume(driver.controller, createRequest("pvc-many", { pool: pool.name }, SIZE));
  const snapshot = await readySnapshot(driver.controller, "snap-many", source.id);
  const restores = Array.from({ length: RESTORES }, (_, i) => restoreRequest(`pvc-many-${i}`, pool.name, snapshot));
  const patient = { timeoutMs: 120_000 };
  const made = await Promise.all(restores.map((restore) => makeVolume(driver.controller, restore, patient)));
  const ids = made.map(({ id }) => id);
  expect(new Set(ids).size).toBe(RESTORES);
  await driver.controller.deleteSnapshot(dropRequest(snapshot), settings);
  await Promise.all([...ids, source.id].map((id) => driver.controller.deleteVolume(deleteRequest(id), patient)));
  expect(await settledRemains(pool.name, 120_000)).toEqual([]);
}, 240_000);

/** What a caller may read when another one was faster; everything else is a mistake of ours. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  create: ["OK", "ABORTED", "ALREADY_EXISTS"],
  clone: ["OK", "ABORTED", "ALREADY_EXISTS", "NOT_FOUND"],
  restore: ["OK", "ABORTED", "ALREADY_EXISTS", "NOT_FOUND"],
  snapshot: ["OK", "ABORTED", "ALREADY_EXISTS", "NOT_FOUND"],
  expand: ["OK", "ABORTED", "NOT_FOUND"],
  delete: ["OK", "ABORTED"],
  drop: ["OK", "ABORTED"],
};

test(
  "Callers that copy and delete the same names get only what CSI permits",
  async () => {
    console.log(`seed ${seed}`);
    const chance = random(seed);
    const pick = <A>(from: readonly A[]): A | undefined => from[Math.floor(chance() * from.length)];
    const names = Array.from({ length: 16 }, (_, i) => `${i}`);
    /** Last known handles by name; those of deleted ones stay, for callers come late. */
    const volumes = new Map<string, string>();
    const snapshots = new Map<string, string>();
    const answers = new Map<string, number>();
    const odd = new Map<string, number>();
    const add = (to: Map<string, number>, what: string) => to.set(what, (to.get(what) ?? 0) + 1);
    const asked = async (rpc: string, call: () => Promise<unknown>) => {
      const code = await call().then(
        () => "OK",
        (error: unknown) => {
          if (!isFailed(error)) throw error;
          const name = codeName(error.code);
          const text = error.details.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "…");
          if (!ALLOWED[rpc]?.includes(name)) add(odd, `${rpc} ${name}: ${text}`);
          return name;
        },
      );
      add(answers, `${rpc} ${code}`);
    };
    const make = (rpc: string, name: string, request: Parameters<Driver["controller"]["createVolume"]>[0]) =>
      asked(rpc, async () => volumes.set(name, (await makeVolume(driver.controller, request, settings)).id));
    const until = Date.now() + SECONDS * 1000;
    const step = async (): Promise<void> => {
      const { controller } = driver;
      const name = pick(names) ?? "";
      const volume = volumes.get(name);
      const other = pick([...volumes.values()]);
      const snapshot = pick([...snapshots.values()]);
      const pvc = `pvc-${name}`;
      const dice = chance();
      if (volume === undefined || dice < 0.2)
        return make("create", name, createRequest(pvc, { pool: pool.name }, SIZE));
      if (dice < 0.3) return make("clone", name, cloneRequest(pvc, pool.name, other ?? volume));
      if (dice < 0.5) {
        return asked("snapshot", async () =>
          snapshots.set(name, (await askSnapshot(controller, `snap-${name}`, volume, settings)).id),
        );
      }
      if (dice < 0.6 && snapshot !== undefined) return make("restore", name, restoreRequest(pvc, pool.name, snapshot));
      if (dice < 0.65) {
        return asked("expand", () => controller.controllerExpandVolume(expandRequest(volume, SIZE), settings));
      }
      if (dice < 0.8 && snapshot !== undefined) {
        return asked("drop", () => controller.deleteSnapshot(dropRequest(snapshot), settings));
      }
      return asked("delete", () => controller.deleteVolume(deleteRequest(volume), settings));
    };
    const caller = async () => {
      while (Date.now() < until) await step();
    };
    await Promise.all(Array.from({ length: 64 }, caller));
    const sorted = [...answers].map(([what, times]) => `${what} ${times}`).toSorted((a, b) => a.localeCompare(b));
    console.log(sorted.join(", "));
    expect(Object.fromEntries(odd)).toEqual({});
    for (const rpc of Object.keys(ALLOWED)) expect(answers.get(`${rpc} OK`) ?? 0).toBeGreaterThan(0);
    expect(driver.log()).not.toContain("INTERNAL");

    // the journal tells what is there
    const prefix = `0001-000c-${CLUSTER}-${pool.id.toString(16).padStart(16, "0")}-`;
    const patiently = async (call: () => Promise<unknown>) => {
      for (const deadline = Date.now() + 60_000; ; await Bun.sleep(500)) {
        const failed = await call().then(
          () => undefined,
          (error: unknown) => error,
        );
        if (failed === undefined) return;
        if (Date.now() > deadline) throw failed;
      }
    };
    for (const uuid of ((await omapOf(pool.name, "csi.snaps.default")) ?? new Map<string, string>()).values()) {
      await patiently(() => driver.controller.deleteSnapshot(dropRequest(prefix + uuid), settings));
    }
    for (const uuid of (await inventory(pool.name)).names.values()) {
      await patiently(() => driver.controller.deleteVolume(deleteRequest(prefix + uuid), settings));
    }
    expect(await settledRemains(pool.name, 300_000)).toEqual([]);
  },
  (SECONDS + 500) * 1000,
);
