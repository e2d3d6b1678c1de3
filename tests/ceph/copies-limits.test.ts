/**
 * A source of many clones, one after another: its snapshots never pass the limit, no volume is flattened for that, and
 * every clone has the source's data. CSI_RBD_CLONES=300 makes as many with the driver's own limits.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { codeName } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Bytes, bytesOf } from "./bytes.ts";
import { cloneRequest, dropVolume, infoOf, makeVolume, poolAt, settledRemains, SIZE, type Volume } from "./copies.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { makePool, tool } from "./inventory.ts";
import { CLUSTER, createRequest, isFailed } from "./requests.ts";

const MANY = process.env["CSI_RBD_CLONES"];
const CLONES = Number(MANY ?? 12);
const { lower, upper, flags } =
  MANY === undefined
    ? { lower: 6, upper: 9, flags: ["--minsnapshotsonimage=6", "--maxsnapshotsonimage=9"] }
    : { lower: 250, upper: 450, flags: [] };
const LIMIT = 180_000 + CLONES * 5000;
const dir = testFolder("copylimits");
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;
let bytes: Bytes;

beforeAll(async () => {
  pool = await makePool("copylimits");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  bytes = bytesOf(rig());
  driver = await startDriver({ dir, flags });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  bytes?.close();
  await pool?.remove();
}, 60_000);

const valueOf = (image: string) => bytes.read(poolAt(pool.name), image, 4096, 1)[0];
const snapshotsOf = async (image: string) =>
  (JSON.parse(await tool("rbd", "snap", "ls", "--all", "--format=json", `${pool.name}/${image}`)) as unknown[]).length;
const parentOf = async (image: string) => (await infoOf(pool.name, image)).parent?.image;

/** As a CO does: again, while the source has too many snapshots. */
const clone = async (name: string, source: Volume): Promise<Volume> => {
  for (;;) {
    try {
      return await makeVolume(driver.controller, cloneRequest(name, pool.name, source.id), { timeoutMs: 60_000 });
    } catch (error) {
      if (!isFailed(error) || codeName(error.code) !== "RESOURCE_EXHAUSTED") throw error;
      await Bun.sleep(500);
    }
  }
};

test(
  `${CLONES} clones of one volume keep within ${upper} snapshots, and no volume is flattened for them`,
  async () => {
    const source = await makeVolume(driver.controller, createRequest("pvc-source", { pool: pool.name }, SIZE));
    bytes.write(poolAt(pool.name), source.image, 0, 8192, 1);
    const clones: Volume[] = [];
    let most = 0;
    for (let n = 0; n < CLONES; n++) {
      clones.push(await clone(`pvc-clone-${n}`, source));
      most = Math.max(most, await snapshotsOf(source.image));
    }
    expect(most).toBeGreaterThanOrEqual(Math.min(lower, CLONES));
    expect(most).toBeLessThanOrEqual(upper + 1);
    for (const [n, { image }] of clones.entries()) {
      expect([n, await parentOf(image)]).toEqual([n, 2 * n < lower ? source.image : `${image}-temp`]);
      expect([n, valueOf(image)]).toEqual([n, 1]);
    }
    await dropVolume(driver.controller, source);
    for (const each of clones.toReversed()) await dropVolume(driver.controller, each);
    expect(await settledRemains(pool.name, LIMIT)).toEqual([]);
  },
  2 * LIMIT,
);
