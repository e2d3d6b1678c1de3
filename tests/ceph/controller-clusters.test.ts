/** Clusters that are there, wrong, closed, away or silent: each its own clear answer within its limit. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { MOMENT_MS } from "../../lib/config/reread.ts";
import { Code } from "../../lib/grpc/status.ts";
import { HELD_SECONDS } from "../../lib/images/quick-purge.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { EMPTY, makePool, settledInventory } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest, failureOf, RETRIED, secrets } from "./requests.ts";

const dir = testFolder("clusters");
const LIMIT_S = 3;
const UNAVAILABLE: number = Code.UNAVAILABLE;
/** A wrong key of the right form. */
const WRONG_KEY = "AQBnUbVkAAAAABAAVVCqMHYjHmRxX0mUqqfyGA==";
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;

const good = () => ({ clusterID: CLUSTER, monitors: rig().monitors });

beforeAll(async () => {
  pool = await makePool("clusters");
  // nobody listens on port 1
  const away = { clusterID: "away", monitors: ["127.0.0.1:1"] };
  writeConfig(dir, [{ clusterID: "bad", monitors: "a string" }, good(), away, { monitors: [] }, 17]);
  const limits = ["osd", "mon", "connect"].map((what) => `--${what}-timeout=${LIMIT_S}s`);
  driver = await startDriver({ dir, flags: limits });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  await pool?.remove();
}, 60_000);

const create = (name: string, clusterID = CLUSTER, withSecrets = secrets(), timeoutMs = 30_000) =>
  driver.controller.createVolume(
    { ...createRequest(name, { pool: pool.name, clusterID }), secrets: withSecrets },
    { timeoutMs },
  );
const cleanUp = async (name: string) => {
  const { volume } = await create(name);
  await driver.controller.deleteVolume(deleteRequest(volume?.volumeId ?? ""));
};

test("The error of a bad entry in config.json names it, and the good entry beside it works", async () => {
  const bad = await failureOf(create("pvc-bad", "bad"));
  expect(bad.code).toBe(Code.FAILED_PRECONDITION);
  expect(bad.details).toContain("monitors");
  await cleanUp("pvc-beside");
}, 30_000);

test("The driver reads config.json again when it changes", async () => {
  const missing = await failureOf(create("pvc-late", "late"));
  expect(missing.code).toBe(Code.INVALID_ARGUMENT);
  expect(missing.details).toContain("late");
  writeConfig(dir, [good(), { ...good(), clusterID: "late" }, { clusterID: "away", monitors: ["127.0.0.1:1"] }]);
  await Bun.sleep(2 * MOMENT_MS);
  const { volume } = await create("pvc-late", "late");
  expect(volume?.volumeId).toStartWith("0001-0004-late-");
  await driver.controller.deleteVolume(deleteRequest(volume?.volumeId ?? ""));
}, 30_000);

/** As a CO asks: a client of Ceph 20 may lose the refusal of its login, and then the driver cannot tell. */
const refusalOf = async (userID: string, userKey: string) => {
  for (let tries = 1; ; tries++) {
    const refused = await failureOf(create("pvc-key", CLUSTER, { userID, userKey }));
    if (refused.code !== UNAVAILABLE || tries === 5 || rig().release < 20) return refused;
  }
};

test("A wrong key is refused, is not shown, and does not disturb the right key", async () => {
  await cleanUp("pvc-key");
  const refused = await refusalOf(rig().user, WRONG_KEY);
  expect(refused.code).toBe(Code.PERMISSION_DENIED);
  expect(refused.details).toContain(`client.${rig().user}`);
  const nobody = await refusalOf("nobody", rig().key);
  expect(nobody.code).toBe(Code.PERMISSION_DENIED);
  const garbled = await refusalOf(rig().user, "no key at all");
  expect(garbled.code).toBe(Code.PERMISSION_DENIED);
  await cleanUp("pvc-key");
  const seen = [refused.details, nobody.details, garbled.details, driver.log()].join("\n");
  for (const key of [WRONG_KEY, rig().key, "no key at all"]) expect(seen.includes(key)).toBe(false);
  const argv =
    readFileSync(`/proc/${driver.pid}/cmdline`, "utf8") + readFileSync(`/proc/${driver.pid}/environ`, "utf8");
  expect(argv.includes(rig().key)).toBe(false);
}, 90_000);

test("The error of monitors that do not answer names them within the limit", async () => {
  const started = Date.now();
  const away = await failureOf(create("pvc-away", "away"));
  expect(Date.now() - started).toBeLessThan(2 * LIMIT_S * 1000 + 4000);
  expect(away.code).toBe(Code.UNAVAILABLE);
  expect(away.details).toContain("127.0.0.1:1");
  await cleanUp("pvc-beside");
}, 30_000);

const osdPid = () => Number(readFileSync(join(rig().dir, "run", "osd.0.pid"), "utf8"));

/** Probes while `work` runs; a loop that waited for Ceph would show as one of seconds. */
const probesAnswer = async (work: Promise<unknown>): Promise<void> => {
  const times: number[] = [];
  const running = { now: true };
  const over = work.finally(() => {
    running.now = false;
  });
  while (running.now) {
    const started = performance.now();
    await driver.identity.probe({}, { timeoutMs: 5000 });
    times.push(performance.now() - started);
    await Bun.sleep(20);
  }
  await over;
  const sorted = times.toSorted((a, b) => a - b);
  expect(sorted.length).toBeGreaterThan(20);
  // one in twenty may be late on a machine that does other things, too
  expect(sorted[Math.floor(sorted.length * 0.95)]).toBeLessThan(1000);
  expect(sorted.at(-1)).toBeLessThan(LIMIT_S * 1000);
};

const paused = async <A>(pid: number, work: () => Promise<A>): Promise<A> => {
  process.kill(pid, "SIGSTOP");
  try {
    return await work();
  } finally {
    process.kill(pid, "SIGCONT");
  }
};

test("While a monitor is frozen, new connections fail within their limit and Probe answers", async () => {
  // a second form of the same address is a connection of its own
  const monitors = rig().monitors.map((address) => `[v1:${address}]`);
  writeConfig(dir, [good(), { clusterID: "silent", monitors }]);
  await Bun.sleep(2 * MOMENT_MS);
  await paused(rig().monPid, async () => {
    const started = Date.now();
    const calls = Promise.all(Array.from({ length: 16 }, (_, i) => failureOf(create(`pvc-silent-${i}`, "silent"))));
    await probesAnswer(calls);
    // sixteen calls share one attempt to connect
    expect(Date.now() - started).toBeLessThan(2 * LIMIT_S * 1000 + 4000);
    for (const { code, details } of await calls) {
      expect(code).toBe(Code.UNAVAILABLE);
      expect(details).toContain("monitors");
    }
  });
  const { volume } = await create("pvc-silent-0", "silent");
  await driver.controller.deleteVolume(deleteRequest(volume?.volumeId ?? ""));
}, 60_000);

test("While the OSD is frozen, calls fail within their limit and Probe answers, and retries succeed later", async () => {
  await cleanUp("pvc-warm");
  const names = Array.from({ length: 16 }, (_, i) => `pvc-stuck-${i}`);
  const pid = osdPid();
  await paused(pid, async () => {
    const started = Date.now();
    const calls = Promise.all(names.map((name) => failureOf(create(name))));
    await probesAnswer(calls);
    // eight cells for sixteen calls
    expect(Date.now() - started).toBeLessThan(2 * LIMIT_S * 1000 + 4000);
    for (const { code, details } of await calls) {
      expect(RETRIED.has(code)).toBe(true);
      expect(details).toContain("stage");
    }
  });
  for (const name of names) await cleanUp(name);
  // the removal of pvc-warm begins while the OSD is frozen, fails, and is tried again after HELD_SECONDS
  expect(await settledInventory(pool.name, (HELD_SECONDS + 25) * 1000)).toEqual(EMPTY);
}, 120_000);
