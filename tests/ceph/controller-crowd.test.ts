/** Sixty-four callers over sixteen names: only answers that CSI allows, one volume per name, and nothing left. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Code, codeName } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { EMPTY, makePool, settledInventory } from "./inventory.ts";
import { random } from "../support/random.ts";
import { CLUSTER, createRequest, deleteRequest, expandRequest, GIB, isFailed } from "./requests.ts";

const dir = testFolder("crowd");
const SECONDS = Number(process.env["CSI_RBD_CROWD_SECONDS"] ?? 20);
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  pool = await makePool("crowd");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  driver = await startDriver({ dir });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  await pool?.remove();
}, 60_000);

test(
  "Callers that create, grow and delete the same names get only what CSI permits",
  async () => {
    const seed = Date.now() % 1_000_000;
    console.log(`seed ${seed}`);
    const chance = random(seed);
    const names = Array.from({ length: 16 }, (_, i) => `pvc-crowd-${i}`);
    const lastId = new Map<string, string>();
    const deleted = new Set<string>();
    const answers = new Map<string, number>();
    const count = (rpc: string, code: string) => {
      answers.set(`${rpc} ${code}`, (answers.get(`${rpc} ${code}`) ?? 0) + 1);
    };
    const texts = new Set<string>();
    const asked = async (rpc: string, call: () => Promise<unknown>) => {
      try {
        await call();
        count(rpc, "OK");
      } catch (error) {
        if (!isFailed(error)) throw error;
        count(rpc, codeName(error.code));
        texts.add(`${rpc} ${codeName(error.code)}: ${error.details}`);
      }
    };
    const settings = { timeoutMs: 10_000 };
    const until = Date.now() + SECONDS * 1000;
    const caller = async () => {
      while (Date.now() < until) {
        const name = names[Math.floor(chance() * names.length)] ?? "";
        const id = lastId.get(name);
        const dice = chance();
        if (id === undefined || dice < 0.5) {
          await asked("create", async () => {
            const before = new Set(deleted);
            const { volume } = await driver.controller.createVolume(createRequest(name, { pool: pool.name }), settings);
            if (volume === undefined) throw new Error("no volume in the response");
            // who asks after a deletion was answered gets another volume
            expect(before.has(volume.volumeId)).toBe(false);
            lastId.set(name, volume.volumeId);
          });
        } else if (dice < 0.65) {
          await asked("expand", () => driver.controller.controllerExpandVolume(expandRequest(id, GIB), settings));
        } else {
          await asked("delete", async () => {
            await driver.controller.deleteVolume(deleteRequest(id), settings);
            deleted.add(id);
          });
        }
      }
    };
    await Promise.all(Array.from({ length: 64 }, caller));
    const sorted = [...answers].map(([what, times]) => `${what} ${times}`).toSorted((a, b) => a.localeCompare(b));
    console.log(sorted.join(", "));

    // another caller may have deleted the volume first; ABORTED is what a caller reads who came too late in the line
    const allowed = ["create OK", "create ABORTED", "delete OK", "delete ABORTED", "expand OK", "expand ABORTED"];
    const odd = [...texts].filter((text) => ![...allowed, "expand NOT_FOUND"].some((each) => text.startsWith(each)));
    expect(odd).toEqual([]);
    expect(answers.get("create OK")).toBeGreaterThan(SECONDS);
    expect(answers.get("delete OK")).toBeGreaterThan(SECONDS);

    for (const name of names) {
      const { volume } = await driver.controller.createVolume(createRequest(name, { pool: pool.name }), settings);
      await driver.controller.deleteVolume(deleteRequest(volume?.volumeId ?? ""), settings);
    }
    expect(await settledInventory(pool.name, 120_000)).toEqual(EMPTY);
    expect(driver.log()).not.toContain(codeName(Code.INTERNAL));
  },
  (SECONDS + 200) * 1000,
);
