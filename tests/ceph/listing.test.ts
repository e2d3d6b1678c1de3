/** What a real driver on a real Ceph lists over gRPC: 2,000 volumes in pages, snapshots, conditions, capacity. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import {
  ControllerServiceCapability_RPC_Type as Offered,
  VolumeHealthErrorType as Status,
} from "../../lib/gen/csi_pb.ts";
import { Code } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, startDriver, testFolder, writeConfig, writeSecrets } from "./driver.ts";
import { makePool, tool, untilFull } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest, failureOf, GIB, MIB, secrets } from "./requests.ts";
import { caller12, type Condition, conditionOf } from "../support/csi-1.12.ts";

const LIMIT = 60_000;
const LONG = 180_000;
const MANY = 2000;
const dir = testFolder("list");
const secretsDir = join(dir, "secrets");
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;
let other: Awaited<ReturnType<typeof makePool>>;

/** Other tests' pools are none of ours. */
const administrator = () => ({
  userID: `${rig().user}\n`,
  userKey: `${rig().key}\n`,
  pools: `${pool.name}\n${other.name}\n`,
});

beforeAll(async () => {
  // in this order: lists go by the pools' ids, and the volumes of the second fill more than a page
  other = await makePool("list-other");
  pool = await makePool("list");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  writeSecrets(secretsDir, CLUSTER, administrator());
  driver = await startDriver({ dir, flags: [`--secrets-dir=${secretsDir}`] });
}, LIMIT);

afterAll(async () => {
  expect(await driver?.end()).toBe(0);
  await pool?.remove();
  await other?.remove();
}, LIMIT);

const offered = async ({ controller }: Driver): Promise<readonly string[]> => {
  const { capabilities } = await controller.controllerGetCapabilities({});
  return capabilities.map(({ type }) => (type.case === "rpc" ? (Offered[type.value.type] ?? "?") : "?"));
};

const create = async (name: string, parameters: Record<string, string> = {}, bytes = GIB): Promise<string> => {
  const { volume } = await driver.controller.createVolume(
    createRequest(name, { pool: pool.name, ...parameters }, bytes),
  );
  return volume?.volumeId ?? "";
};

const pages = async (maxEntries: number) => {
  const found: { readonly ids: readonly string[]; readonly ms: number }[] = [];
  for (let startingToken = ""; ; ) {
    const since = performance.now();
    const { entries, nextToken } = await driver.controller.listVolumes({ maxEntries, startingToken });
    found.push({ ids: entries.map(({ volume }) => volume?.volumeId ?? ""), ms: performance.now() - since });
    if (nextToken === "") return found;
    startingToken = nextToken;
  }
};

const allIds = async (maxEntries = 0): Promise<readonly string[]> =>
  (await pages(maxEntries)).flatMap(({ ids }) => ids);

const conditionsOf = async (volumeId: string) => {
  const { status } = await driver.controller.controllerGetVolume({ volumeId });
  const listed = (await driver.controller.listVolumes({})).entries.find(({ volume }) => volume?.volumeId === volumeId);
  return [conditionOf(status)?.message, conditionOf(listed?.status)?.message];
};

test(
  "The driver offers lists as soon as there are credentials, and before that says where to put them",
  async () => {
    const own = testFolder("list-early");
    const ownSecrets = join(own, "secrets");
    writeConfig(own, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
    const early = await startDriver({ dir: own, flags: [`--secrets-dir=${ownSecrets}`] });
    expect(await offered(early)).not.toContain("LIST_VOLUMES");
    const failure = await failureOf(early.controller.listVolumes({}));
    expect(failure.code).toBe(Code.FAILED_PRECONDITION);
    expect(failure.details).toContain(join(ownSecrets, CLUSTER));
    writeSecrets(ownSecrets, CLUSTER, administrator());
    expect(await offered(early)).toEqual(
      expect.arrayContaining([
        "LIST_VOLUMES",
        "LIST_SNAPSHOTS",
        "GET_VOLUME",
        "GET_VOLUME_HEALTH",
        "LIST_VOLUME_HEALTH",
        "GET_CAPACITY",
      ]),
    );
    const older = caller12("Controller", `unix://${early.socket}`);
    expect(JSON.stringify(await older.call("controllerGetCapabilities"))).toContain('"VOLUME_CONDITION"');
    older.close();
    expect(early.log()).not.toContain(rig().key);
    expect(await early.end()).toBe(0);
  },
  LIMIT,
);

test(
  `The driver lists ${MANY} volumes in pages of any size, each volume once`,
  async () => {
    const names = Array.from({ length: MANY }, (_, i) => `pvc-${String(i).padStart(6, "0")}`);
    const made: string[] = [];
    const work = [...names.entries()];
    const makeSome = async (): Promise<void> => {
      for (;;) {
        const next = work.pop();
        if (next === undefined) return;
        const [i, name] = next;
        // every tenth has a name of its own kind, which takes a second look
        made[i] = await create(name, i % 10 === 0 ? { volumeNamePrefix: "tenant-" } : {}, BigInt(i + 1) * MIB);
      }
    };
    await Promise.all(Array.from({ length: 16 }, makeSome));
    expect(await allIds(700)).toEqual(made);
    await pages(500);
    const timed = await pages(500);
    expect(timed.flatMap(({ ids }) => ids)).toEqual(made);
    console.log(`pages of 500 of ${MANY} volumes: ${timed.map(({ ms }) => `${ms.toFixed(0)} ms`).join(", ")}`);

    const first = await driver.controller.listVolumes({ maxEntries: 500 });
    const sizes = first.entries.filter(({ volume }) => made.includes(volume?.volumeId ?? ""));
    for (const { volume, status } of sizes) {
      expect(Number(volume?.capacityBytes)).toBeGreaterThan(0);
      expect(conditionOf(status)?.abnormal).toBe(false);
    }
    // the last of the page goes, others come before and after it
    const last = first.entries.at(-1)?.volume?.volumeId ?? "";
    await driver.controller.deleteVolume(deleteRequest(last));
    const early = await create("a-comes-first");
    const late = await create("z-comes-last");
    const rest = await driver.controller.listVolumes({ maxEntries: 0, startingToken: first.nextToken });
    const ids = rest.entries.map(({ volume }) => volume?.volumeId ?? "");
    expect(ids).not.toContain(early);
    expect(ids[0]).toBe(made[made.indexOf(last) + 1] ?? "");
    const whole = await allIds();
    expect(whole).toEqual([early, ...made.filter((id) => id !== last), late]);
    for (const id of [early, late]) await driver.controller.deleteVolume(deleteRequest(id));
  },
  LONG,
);

/** The faults that both RPCs of CSI 1.13 tell of a volume: of it alone, and in the list. */
const faultsOf = async (volumeId: string) => {
  const { volumeHealth } = await driver.controller.controllerGetVolumeHealth({ volumeId });
  const { entries } = await driver.controller.controllerListVolumeHealth({});
  const listed = entries.find((entry) => entry.volumeId === volumeId);
  return [volumeHealth?.healthStatuses, listed?.healthStatuses].map((faults) =>
    faults?.map(({ status, reason }) => [status, reason]),
  );
};

test(
  "Callers of CSI 1.12 and 1.13 both learn that an image is in the trash, or that its pool is full",
  async () => {
    const older = caller12("Controller", `unix://${driver.socket}`);
    const conditionFor12 = async (volumeId: string) =>
      (await older.call("controllerGetVolume", { volumeId })) as { status: { volumeCondition?: Condition } };
    const healthy = "volume is in a healthy condition";
    const volumeId = await create("pvc-condition", { pool: other.name });
    const image = `csi-vol-${volumeId.slice(-36)}`;
    expect(await conditionsOf(volumeId)).toEqual([healthy, healthy]);
    expect(await faultsOf(volumeId)).toEqual([[], undefined]);

    await tool("rbd", "trash", "mv", `${other.name}/${image}`);
    const trashed = [[Status.INACCESSIBLE, "ImageInTrash"]];
    expect(await faultsOf(volumeId)).toEqual([trashed, trashed]);
    const { status } = await conditionFor12(volumeId);
    expect(status.volumeCondition).toEqual({
      abnormal: true,
      message: expect.stringContaining("rbd trash restore"),
    });
    const [entry] = JSON.parse(await tool("rbd", "trash", "ls", other.name, "--format=json")) as { id: string }[];
    await tool("rbd", "trash", "restore", "--pool", other.name, entry?.id ?? "");

    await tool("ceph", "osd", "pool", "set-quota", other.name, "max_bytes", "1");
    const full = [[Status.DEGRADED, "PoolFull"]];
    expect(await faultsOf(volumeId)).toEqual([full, full]);
    expect((await conditionFor12(volumeId)).status.volumeCondition?.message).toContain(`pool ${other.name} is full`);
    await tool("ceph", "osd", "pool", "set-quota", other.name, "max_bytes", "0");
    expect(await faultsOf(volumeId)).toEqual([[], undefined]);
    expect((await conditionFor12(volumeId)).status.volumeCondition).toEqual({ abnormal: false, message: healthy });
    await untilFull(other.name, false);

    await driver.controller.deleteVolume(deleteRequest(volumeId));
    expect((await failureOf(driver.controller.controllerGetVolume({ volumeId }))).code).toBe(Code.NOT_FOUND);
    expect((await failureOf(driver.controller.controllerGetVolumeHealth({ volumeId }))).code).toBe(Code.NOT_FOUND);
    older.close();
  },
  LIMIT,
);

test(
  "The driver lists snapshots by volume and by ID, with the credentials of the request or the administrator's",
  async () => {
    const one = await create("pvc-source-1", { pool: other.name });
    const two = await create("pvc-source-2", { pool: other.name });
    const snapshot = async (name: string, sourceVolumeId: string): Promise<string> => {
      for (;;) {
        const { snapshot: taken } = await driver.controller.createSnapshot({
          name,
          sourceVolumeId,
          secrets: secrets(),
        });
        if (taken?.readyToUse === true) return taken.snapshotId;
      }
    };
    const [a, b, c] = [await snapshot("a", one), await snapshot("b", two), await snapshot("c", one)];
    const list = async (request: Parameters<Driver["controller"]["listSnapshots"]>[0]) =>
      (await driver.controller.listSnapshots(request)).entries.map(({ snapshot: each }) => each?.snapshotId ?? "");
    expect(await list({})).toEqual([a, b, c]);
    expect(await list({ sourceVolumeId: one })).toEqual([a, c]);
    expect(await list({ sourceVolumeId: two, secrets: secrets() })).toEqual([b]);
    expect(await list({ snapshotId: b })).toEqual([b]);
    expect(await list({ snapshotId: b, sourceVolumeId: one })).toEqual([]);
    expect(await list({ snapshotId: "none-exist-id" })).toEqual([]);
    const { snapshot: got } = await driver.controller.getSnapshot({ snapshotId: c, secrets: secrets() });
    expect(got).toMatchObject({ snapshotId: c, sourceVolumeId: one, sizeBytes: GIB, readyToUse: true });
    expect(Math.abs(Date.now() / 1000 - Number(got?.creationTime?.seconds))).toBeLessThan(120);
    for (const snapshotId of [a, b, c]) await driver.controller.deleteSnapshot({ snapshotId, secrets: secrets() });
    expect(await list({})).toEqual([]);
    for (const id of [one, two]) await driver.controller.deleteVolume(deleteRequest(id));
  },
  LIMIT,
);

test(
  "GetCapacity answers what clients can write: to the pool, to an erasure-coded data pool, within a quota",
  async () => {
    const coded = `${pool.name}-ec`;
    const profile = `${coded}-profile`;
    await tool("ceph", "osd", "erasure-code-profile", "set", profile, "k=2", "m=1", "crush-failure-domain=osd");
    await tool("ceph", "osd", "pool", "create", coded, "8", "8", "erasure", profile);
    await tool("ceph", "osd", "pool", "application", "enable", coded, "rbd");
    try {
      const available = async (more: Record<string, string> = {}): Promise<bigint> => {
        const parameters = { clusterID: CLUSTER, pool: pool.name, ...more };
        return (await driver.controller.getCapacity({ parameters })).availableCapacity;
      };
      const own = await available();
      expect(own).toBeGreaterThan(GIB / 2n);
      // the monitors hear of a new pool's space from the manager, a few seconds later
      let data = 0n;
      for (let i = 0; i < 60 && data === 0n; i++) {
        await Bun.sleep(500);
        data = await available({ dataPool: coded });
      }
      expect(Number(data) / Number(own)).toBeCloseTo(2 / 3, 1);
      await tool("ceph", "osd", "pool", "set-quota", coded, "max_bytes", `${64n * MIB}`);
      expect(await available({ dataPool: coded })).toBe(64n * MIB);
      const answer = await driver.controller.getCapacity({
        parameters: { clusterID: CLUSTER, pool: pool.name, dataPool: coded },
      });
      expect([answer.maximumVolumeSize, answer.minimumVolumeSize]).toEqual([64n * MIB, MIB]);
      expect((await driver.controller.getCapacity({})).availableCapacity).toBeGreaterThan(0n);
    } finally {
      await tool("ceph", "osd", "pool", "delete", coded, coded, "--yes-i-really-really-mean-it");
    }
  },
  LIMIT,
);

test(
  "A user with read caps for one pool alone lists that pool's volumes",
  async () => {
    const user = "list-limited";
    const volumeId = await create("pvc-visible", { pool: other.name });
    const caps = ["mon", "profile rbd-read-only", "osd", `profile rbd-read-only pool=${other.name}`];
    const made = await tool("ceph", "auth", "get-or-create", `client.${user}`, ...caps, "--format=json");
    const [{ key }] = JSON.parse(made) as [{ key: string }];
    writeSecrets(secretsDir, CLUSTER, { userID: user, userKey: key });
    try {
      expect(await allIds()).toEqual([volumeId]);
      const { status } = await driver.controller.controllerGetVolume({ volumeId });
      expect(conditionOf(status)?.abnormal).toBe(false);
      expect((await driver.controller.getCapacity({})).availableCapacity).toBeGreaterThan(0n);
      writeSecrets(secretsDir, CLUSTER, { userID: user, userKey: key, pools: `${other.name}\n` });
      expect(await allIds()).toEqual([volumeId]);
      writeSecrets(secretsDir, CLUSTER, { userID: user, userKey: key, pools: `${pool.name}\n${other.name}\n` });
      expect((await failureOf(driver.controller.listVolumes({}))).code).toBe(Code.PERMISSION_DENIED);
      expect(driver.log()).not.toContain(key);
    } finally {
      writeSecrets(secretsDir, CLUSTER, administrator());
      await tool("ceph", "auth", "rm", `client.${user}`);
      await driver.controller.deleteVolume(deleteRequest(volumeId));
    }
  },
  LIMIT,
);
