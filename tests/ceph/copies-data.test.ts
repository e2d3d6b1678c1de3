/** Whose bytes are where: of snapshots, restores and clones, while their sources change, go, and chains are cut. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rig } from "../rig/cluster.ts";
import { type Bytes, bytesOf } from "./bytes.ts";
import {
  askSnapshot,
  cloneRequest,
  dropSnapshot,
  dropVolume,
  holderOf,
  infoOf,
  makeVolume,
  poolAt,
  readySnapshot,
  restoreRequest,
  settledRemains,
  SIZE,
  type Volume,
} from "./copies.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { makePool } from "./inventory.ts";
import { CLUSTER, createRequest, MIB } from "./requests.ts";

const dir = testFolder("copies");
const LIMIT = 240_000;
const MEBI = Number(MIB);
let pool: Awaited<ReturnType<typeof makePool>>;
let bytes: Bytes;
let driver: Driver;

beforeAll(async () => {
  pool = await makePool("copies");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  bytes = bytesOf(rig());
  driver = await startDriver({ dir });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  bytes?.close();
  await pool?.remove();
}, 60_000);

const volume = (name: string): Promise<Volume> =>
  makeVolume(driver.controller, createRequest(name, { pool: pool.name }, SIZE));
const restore = (name: string, snapshotId: string, size = SIZE): Promise<Volume> =>
  makeVolume(driver.controller, restoreRequest(name, pool.name, snapshotId, size));
const clone = (name: string, { id }: Volume): Promise<Volume> =>
  makeVolume(driver.controller, cloneRequest(name, pool.name, id));

/** In the first object and across the border of two others. */
const PLACES = [
  [0, MEBI],
  [7 * MEBI, 2 * MEBI],
] as const;

const write = ({ image }: Volume, value: number): void => {
  for (const [offset, length] of PLACES) bytes.write(poolAt(pool.name), image, offset, length, value);
};

/** The values in those places, and whether the rest of the image is empty. */
const valuesIn = (
  image: string,
  size = Number(SIZE),
): { readonly values: readonly number[]; readonly rest: boolean } => {
  const found = bytes.read(poolAt(pool.name), image, 0, size);
  const values = new Set<number>();
  for (const [offset, length] of PLACES) {
    for (const value of found.subarray(offset, offset + length)) values.add(value);
    found.fill(0, offset, offset + length);
  }
  return { values: [...values], rest: found.every((value) => value === 0) };
};
const only = (value: number) => ({ values: [value], rest: true });

describe("the data of copies", () => {
  test(
    "Copies hold what was written before them and never later writes, and keep it when their sources are gone",
    async () => {
      const source = await volume("pvc-source");
      write(source, 1);
      const snapshot = await readySnapshot(driver.controller, "snap-1", source.id);
      write(source, 2);
      const early = await restore("pvc-early", snapshot);
      const copy = await clone("pvc-copy", source);
      write(source, 3);
      const late = await restore("pvc-late", snapshot, 2n * SIZE);
      const expected = [
        [early, SIZE, 1],
        [copy, SIZE, 2],
        [late, 2n * SIZE, 1],
      ] as const;
      const check = () => {
        for (const [{ image }, size, value] of expected) expect(valuesIn(image, Number(size))).toEqual(only(value));
      };
      check();
      expect(valuesIn(source.image)).toEqual(only(3));
      // each is its own: what is written to one is in no other
      write(early, 4);
      expect(valuesIn(late.image, Number(2n * SIZE))).toEqual(only(1));
      expect(valuesIn(source.image)).toEqual(only(3));
      write(early, 1);
      await dropVolume(driver.controller, source);
      check();
      const afterwards = await restore("pvc-afterwards", snapshot);
      expect(valuesIn(afterwards.image)).toEqual(only(1));
      await dropSnapshot(driver.controller, snapshot);
      check();
      const second = await clone("pvc-second", copy);
      await dropVolume(driver.controller, copy);
      expect(valuesIn(second.image)).toEqual(only(2));
      for (const each of [early, late, afterwards, second]) await dropVolume(driver.controller, each);
    },
    LIMIT,
  );

  test(
    "A copy has the data of a moment before the first answer, also when that answer says that the snapshot is not ready",
    async () => {
      const source = await volume("pvc-moment");
      const made: [Volume, number, string][] = [];
      let early = 0;
      for (let round = 1; round <= 6; round++) {
        write(source, round);
        const { id, ready } = await askSnapshot(driver.controller, `snap-moment-${round}`, source.id);
        write(source, 100 + round);
        if (!ready) early += 1;
        // what was answered is kept by a driver that dies there, too
        if (round % 2 === 0) {
          await driver.end("SIGKILL");
          driver = await startDriver({ dir });
        }
        expect(await readySnapshot(driver.controller, `snap-moment-${round}`, source.id)).toBe(id);
        made.push([await restore(`pvc-moment-${round}`, id), round, id]);
      }
      expect(early).toBeGreaterThan(0);
      for (const [{ image }, value] of made) expect(valuesIn(image)).toEqual(only(value));
      for (const [copy, , id] of made) {
        await patiently(() => dropSnapshot(driver.controller, id));
        await patiently(() => dropVolume(driver.controller, copy));
      }
      await patiently(() => dropVolume(driver.controller, source));
    },
    LIMIT,
  );
});

const parentless = async (image: string): Promise<void> => {
  for (const deadline = Date.now() + 60_000; (await infoOf(pool.name, image)).parent !== undefined; ) {
    if (Date.now() > deadline) throw new Error(`image ${image} was never flattened`);
    await Bun.sleep(200);
  }
};

/** As the sidecars: a source that is being flattened is waited for, and a killed driver's hold on what it had open. */
const patiently = async <A>(call: () => Promise<A>): Promise<A> => {
  for (const deadline = Date.now() + 60_000; ; ) {
    try {
      return await call();
    } catch (error) {
      if (Date.now() > deadline || !/retry later|is in use/i.test(String(error))) throw error;
      await Bun.sleep(200);
    }
  }
};

test(
  "Chains that flattening cuts keep the bytes of every link",
  async () => {
    await driver.end();
    driver = await startDriver({ dir, flags: ["--rbdsoftmaxclonedepth=1", "--rbdhardmaxclonedepth=3"] });
    const first = await volume("pvc-chain-0");
    write(first, 1);
    const links: Volume[] = [first];
    const snapshots: string[] = [];
    for (let value = 2; value <= 5; value++) {
      const last = links.at(-1) ?? first;
      const next =
        value % 2 === 0
          ? await patiently(() => clone(`pvc-chain-${value}`, last))
          : await (async () => {
              const id = await patiently(() => readySnapshot(driver.controller, `snap-chain-${value}`, last.id));
              snapshots.push(id);
              return patiently(() => restore(`pvc-chain-${value}`, id));
            })();
      expect(valuesIn(next.image)).toEqual(only(value - 1));
      write(next, value);
      links.push(next);
    }
    // a volume that was only snapshotted stays as it is: nobody named it for a copy
    for (const { image } of links.filter((_, i) => i === 0 || i === 2)) await parentless(image);
    for (const id of snapshots) await parentless(holderOf(id));
    for (const [i, { image }] of links.entries()) expect(valuesIn(image)).toEqual(only(i + 1));
    for (const [i, id] of snapshots.entries()) expect(valuesIn(holderOf(id))).toEqual(only(2 * i + 2));
    for (const id of snapshots) await dropSnapshot(driver.controller, id);
    for (const [i, link] of links.entries()) {
      await dropVolume(driver.controller, link);
      for (const [j, { image }] of links.entries()) if (j > i) expect(valuesIn(image)).toEqual(only(j + 1));
    }
  },
  LIMIT,
);

test(
  "The copies of this file leave nothing",
  async () => {
    expect(await settledRemains(pool.name, LIMIT - 20_000)).toEqual([]);
  },
  LIMIT,
);
