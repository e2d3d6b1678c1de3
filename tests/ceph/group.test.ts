/** Group snapshots of a real driver on a real Ceph: one moment of two images that are written to, restored and deleted. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { GroupController } from "../../lib/gen/csi_pb.ts";
import { type Client, client } from "../support/grpc-client.ts";
import { Code } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Bytes, bytesOf } from "./bytes.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { STEP } from "./group-writer.ts";
import { inventory, makePool, omapOf, tool } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest, failureOf, isFailed, MIB, RETRIED, secrets } from "./requests.ts";

const dir = testFolder("grp");
const SIZE = 64n * MIB;
const LIMIT = 120_000;
let driver: Driver;
let groups: Client<typeof GroupController>;
let pool: Awaited<ReturnType<typeof makePool>>;
let other: Awaited<ReturnType<typeof makePool>>;
let bytes: Bytes;

const start = async (): Promise<void> => {
  driver = await startDriver({ dir });
  groups = client(GroupController, `unix://${driver.socket}`);
};

beforeAll(async () => {
  [pool, other] = await Promise.all([makePool("grp"), makePool("grp-other")]);
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  bytes = bytesOf(rig());
  await start();
}, 60_000);

afterAll(async () => {
  await watchTimeout(30);
  groups?.close();
  await driver?.end();
  bytes?.close();
  await pool?.remove();
  await other?.remove();
}, 60_000);

/** Seconds for which a client that has died is still seen watching an image; 30 by default. */
const watchTimeout = (seconds: number) =>
  tool("ceph", "tell", "osd.0", "config", "set", "osd_client_watch_timeout", `${seconds}`);

interface Volume {
  readonly id: string;
  readonly image: string;
}

const volume = async (name: string, inPool = pool.name, snapshotId = ""): Promise<Volume> => {
  const { volume: made } = await driver.controller.createVolume({
    ...createRequest(name, { pool: inPool }, SIZE),
    ...(snapshotId !== "" && { volumeContentSource: { type: { case: "snapshot", value: { snapshotId } } } }),
  });
  return { id: made?.volumeId ?? "", image: made?.volumeContext["imageName"] ?? "" };
};

const drop = (volumes: readonly Volume[]) =>
  Promise.all(volumes.map(({ id }) => driver.controller.deleteVolume(deleteRequest(id))));

const grouping = (name: string, volumes: readonly Volume[]) => ({
  name,
  sourceVolumeIds: volumes.map(({ id }) => id),
  parameters: { clusterID: CLUSTER, pool: pool.name },
  secrets: secrets(),
});

/** As the sidecar asks: until it is ready, and again after a failure that may pass. As kubelet, starts what has died. */
const taken = async (name: string, volumes: readonly Volume[]) => {
  for (;;) {
    const answer = await groups.createVolumeGroupSnapshot(grouping(name, volumes)).catch(async (error: unknown) => {
      if (!isFailed(error) || !RETRIED.has(error.code)) throw error;
      await Bun.sleep(500);
      if (await hasDied()) await start();
      return { groupSnapshot: undefined };
    });
    if (answer.groupSnapshot?.readyToUse === true) return answer.groupSnapshot;
    await Bun.sleep(50);
  }
};

const hasDied = (): Promise<boolean> => Promise.race([driver.exited.then(() => true), Bun.sleep(1).then(() => false)]);

const ungroup = async ({ groupSnapshotId, snapshots }: Awaited<ReturnType<typeof taken>>): Promise<void> => {
  const snapshotIds = snapshots.map(({ snapshotId }) => snapshotId);
  await groups.deleteVolumeGroupSnapshot({ groupSnapshotId, snapshotIds, secrets: secrets() });
};

const at = (name: string) => ({
  access: { monitors: [], user: "", key: undefined as never },
  pool: name,
  namespace: "",
});

/** The numbers of a writer in an image: the last, and whether none before it is missing and none is after it. */
const numbersIn = (image: string): { readonly last: number; readonly whole: boolean } => {
  const words = new BigUint64Array(bytes.read(at(pool.name), image, 0, Number(SIZE)).slice().buffer);
  const seen = Array.from({ length: Number(SIZE) / STEP }, (_, n) => Number(words[(n * STEP) / 8] ?? 0n));
  const last = seen.findLastIndex((n) => n !== 0);
  return { last, whole: seen.slice(1, last + 1).every((n, i) => n === i + 1) };
};

/** Writes to both while `during` runs, from before it begins until after it ends. */
const written = async (volumes: readonly Volume[], during: () => Promise<void>): Promise<void> => {
  const stop = join(dir, `stop-${crypto.randomUUID()}`);
  const images = volumes.map(({ image }) => image);
  const argv = [process.execPath, join(import.meta.dir, "group-writer.ts"), stop, pool.name, ...images];
  const writer = Bun.spawn(argv, { env: process.env, stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  let output = "";
  const reading = (async () => {
    for await (const chunk of writer.stdout) output += new TextDecoder().decode(chunk);
  })();
  const count = () => output.split("\n").length;
  const more = async () => {
    for (const from = count(); count() < from + 20; ) {
      if (writer.exitCode !== null) throw new Error(`the writer ended with ${writer.exitCode}`);
      await Bun.sleep(5);
    }
  };
  try {
    await more();
    await during();
    await more();
  } finally {
    // a writer that is killed would be seen watching the images for half a minute
    writeFileSync(stop, "");
    await writer.exited;
    await reading;
  }
};

/** What a pool holds but what every pool for RBD has and the empty directories of the journal. */
const leftIn = async (name: string): Promise<readonly string[]> => {
  const { images, trash, objects } = await inventory(name);
  const usual = new Set(["csi.groups.default", "csi.snaps.default", "rbd_group_directory"]);
  const names = ["csi.groups.default", "csi.snaps.default"].map(async (object) => [
    ...((await omapOf(name, object)) ?? new Map<string, string>()).keys(),
  ]);
  return [...images, ...trash, ...objects.filter((object) => !usual.has(object)), ...(await Promise.all(names)).flat()];
};

/** What was busy at first is tried again after 35 s, and after 60 s more. */
const EMPTIED_MS = 150_000;

const nothingLeft = async (): Promise<void> => {
  for (const name of [pool.name, other.name]) {
    // what a killed driver has left in the trash is found in pools that are used again
    await drop([await volume("pvc-look", name)]);
    for (const deadline = Date.now() + EMPTIED_MS; (await leftIn(name)).length > 0 && Date.now() < deadline; ) {
      await Bun.sleep(300);
    }
    expect(await leftIn(name)).toEqual([]);
    expect((await tool("rbd", "group", "ls", name)).trim()).toBe("");
  }
};

describe("the point in time of a group", () => {
  test(
    "A group snapshot of two images that are written in turn holds the same writes in both, and none is missing",
    async () => {
      for (const round of [1, 2]) {
        const volumes = [await volume(`pvc-a${round}`), await volume(`pvc-b${round}`)];
        let group: Awaited<ReturnType<typeof taken>> | undefined;
        await written(volumes, async () => {
          group = await taken(`group-${round}`, volumes);
        });
        if (group === undefined) throw new Error("no group snapshot");
        const copies = [];
        for (const [i, { snapshotId, sourceVolumeId }] of group.snapshots.entries()) {
          expect(sourceVolumeId).toBe(volumes[i]?.id ?? "");
          copies.push(await volume(`copy-${round}-${i}`, pool.name, snapshotId));
        }
        const [first, second] = copies.map(({ image }) => numbersIn(image));
        expect([first?.whole, second?.whole]).toEqual([true, true]);
        expect(first?.last).toBeGreaterThan(10);
        // Each number goes to the first image first.
        expect([0, 1]).toContain((first?.last ?? 0) - (second?.last ?? 0));
        const [now] = volumes.map(({ image }) => numbersIn(image));
        expect(now?.last).toBeGreaterThan(first?.last ?? 0);
        await drop(copies);
        await ungroup(group);
        await drop(volumes);
      }
    },
    LIMIT,
  );

  test(
    "Two single snapshots, one after the other, are of two moments, so that a common one is not by chance",
    async () => {
      const volumes = [await volume("pvc-a"), await volume("pvc-b")];
      await written(volumes, async () => {
        for (const { image } of volumes.toReversed()) {
          await tool("rbd", "snap", "create", "--no-progress", `${pool.name}/${image}@alone`);
          await Bun.sleep(200);
        }
      });
      const lasts = [];
      for (const { image } of volumes) {
        await tool(
          "rbd",
          "clone",
          "--rbd-default-clone-format=2",
          `${pool.name}/${image}@alone`,
          `${pool.name}/of-${image}`,
        );
        lasts.push(numbersIn(`of-${image}`).last);
      }
      expect((lasts[0] ?? 0) - (lasts[1] ?? 0)).toBeGreaterThan(1);
      for (const { image } of volumes) {
        await tool("rbd", "rm", "--no-progress", `${pool.name}/of-${image}`);
        await tool("rbd", "snap", "rm", "--no-progress", `${pool.name}/${image}@alone`);
      }
      await drop(volumes);
    },
    LIMIT,
  );
});

test(
  "Each member of a group snapshot is an ordinary snapshot with its bytes, volumes may be in several pools, and all is removed",
  async () => {
    const volumes = [await volume("pvc-a"), await volume("pvc-b", other.name)];
    const pools = [pool.name, other.name];
    const read = (i: number, image: string) => Buffer.from(bytes.read(at(pools[i] ?? ""), image, 0, 1 << 20));
    for (const [i, { image }] of volumes.entries()) bytes.write(at(pools[i] ?? ""), image, 4096, 500_000, i + 1);
    const before = volumes.map(({ image }, i) => read(i, image));
    const group = await taken("group-pools", volumes);
    for (const [i, { image }] of volumes.entries()) bytes.write(at(pools[i] ?? ""), image, 0, 600_000, 9);
    const copies: Volume[] = [];
    for (const [i, { snapshotId, sizeBytes, groupSnapshotId, creationTime }] of group.snapshots.entries()) {
      expect([sizeBytes, groupSnapshotId]).toEqual([SIZE, group.groupSnapshotId]);
      expect(Math.abs(Number(creationTime?.seconds) * 1000 - Date.now())).toBeLessThan(60_000);
      const holder = `csi-snap-${snapshotId.slice(-36)}`;
      const listed = JSON.parse(await tool("rbd", "snap", "ls", "--format=json", `${pools[i]}/${holder}`)) as {
        name: string;
      }[];
      expect(listed.map(({ name }) => name)).toEqual([holder]);
      const copy = await volume(`copy-${i}`, pools[i], snapshotId);
      copies.push(copy);
      expect(read(i, copy.image).equals(before[i] ?? Buffer.alloc(0))).toBe(true);
      const alone = await failureOf(driver.controller.deleteSnapshot({ snapshotId, secrets: secrets() }));
      expect(alone.code).toBe(Code.INVALID_ARGUMENT);
    }
    const { groupSnapshotId } = group;
    const { groupSnapshot } = await groups.getVolumeGroupSnapshot({ groupSnapshotId, secrets: secrets() });
    expect(groupSnapshot).toMatchObject({ readyToUse: true, creationTime: group.creationTime });
    await ungroup(group);
    await ungroup(group);
    const gone = await failureOf(groups.getVolumeGroupSnapshot({ groupSnapshotId, secrets: secrets() }));
    expect(gone.code).toBe(Code.NOT_FOUND);
    for (const [i, copy] of copies.entries()) {
      expect(read(i, copy.image).equals(before[i] ?? Buffer.alloc(0))).toBe(true);
    }
    await drop([...copies, ...volumes]);
  },
  LIMIT,
);

test(
  "The driver after a killed one finishes the group snapshot under the same ID, and leaves nothing",
  async () => {
    const volumes = [await volume("pvc-a"), await volume("pvc-b"), await volume("pvc-c")];
    for (const { image } of volumes) bytes.write(at(pool.name), image, 0, 65_536, 7);
    let ids = 0;
    await watchTimeout(3);
    // the moments are spread over the time that a whole one takes on this machine
    const since = performance.now();
    await ungroup(await taken("group-whole", volumes));
    const whole = performance.now() - since;
    for (let life = 0; life < 7 || (ids === 0 && life < 20); life++) {
      const name = `group-kill-${life}`;
      const answer = groups.createVolumeGroupSnapshot(grouping(name, volumes)).then(
        ({ groupSnapshot }) => groupSnapshot?.groupSnapshotId,
        () => undefined,
      );
      await Bun.sleep((life / 6) * whole);
      groups.close();
      await driver.end("SIGKILL");
      const told = await answer;
      await start();
      const group = await taken(name, volumes);
      if (told !== undefined) {
        ids += 1;
        expect(group.groupSnapshotId).toBe(told);
      }
      const snapshotId = group.snapshots[0]?.snapshotId ?? "";
      const entry = await omapOf(pool.name, `csi.snap.${snapshotId.slice(-36)}`);
      expect(bytes.read(at(pool.name), entry?.get("csi.imagename") ?? "", 0, 1)[0]).toBe(7);
      await ungroup(group);
    }
    expect(ids).toBeGreaterThan(0);
    await drop(volumes);
  },
  3 * LIMIT,
);

test(
  "The error of an image in another group names the image, and the attempt leaves nothing",
  async () => {
    const volumes = [await volume("pvc-a"), await volume("pvc-b")];
    const image = volumes[1]?.image ?? "";
    await tool("rbd", "group", "create", `${pool.name}/theirs`);
    await tool("rbd", "group", "image", "add", `${pool.name}/theirs`, `${pool.name}/${image}`);
    const before = await leftIn(pool.name);
    const refused = await failureOf(groups.createVolumeGroupSnapshot(grouping("group-busy", volumes)));
    expect(refused.code).toBe(Code.FAILED_PRECONDITION);
    expect(refused.details).toContain(image);
    // the trash of other tests may be emptied meanwhile
    expect((await leftIn(pool.name)).filter((left) => !before.includes(left))).toEqual([]);
    expect((await tool("rbd", "group", "ls", pool.name)).trim()).toBe("theirs");
    await tool("rbd", "group", "rm", `${pool.name}/theirs`);
    await drop(volumes);
  },
  LIMIT,
);

test(
  "A volume with a part of a group's snapshot is not deleted, and the error names the way to the snapshot",
  async () => {
    const volumes = [await volume("pvc-a"), await volume("pvc-b")];
    const [{ id, image } = { id: "", image: "" }] = volumes;
    await tool("rbd", "group", "create", `${pool.name}/kept`);
    await tool("rbd", "group", "image", "add", `${pool.name}/kept`, `${pool.name}/${image}`);
    await tool("rbd", "group", "snap", "create", `${pool.name}/kept@s`);
    const refused = await failureOf(driver.controller.deleteVolume(deleteRequest(id)));
    expect(refused.code).toBe(Code.FAILED_PRECONDITION);
    expect(refused.details).toContain(`rbd snap ls --all ${pool.name}/${image}`);
    expect(await tool("rbd", "snap", "ls", "--all", `${pool.name}/${image}`)).toContain("kept@s");
    await tool("rbd", "group", "snap", "remove", `${pool.name}/kept@s`);
    await tool("rbd", "group", "rm", `${pool.name}/kept`);
    await drop(volumes);
  },
  LIMIT,
);

test(
  "A group snapshot is there when its volumes are gone",
  async () => {
    const volumes = [await volume("pvc-a"), await volume("pvc-b")];
    const group = await taken("group-alone", volumes);
    await drop(volumes);
    expect(await taken("group-alone", volumes)).toEqual(group);
    await ungroup(group);
  },
  LIMIT,
);

test("The group snapshots of this file leave nothing once the trash is emptied", nothingLeft, LIMIT + 2 * EMPTIED_MS);
