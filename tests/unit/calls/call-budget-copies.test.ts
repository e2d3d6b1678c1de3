/**
 * Which calls of Ceph each RPC of snapshots and copies makes, one by one (tests/golden/copies-calls.json, a table to be
 * quoted): one more fails here, and so does one fewer. Those behind CreateSnapshot's answer included.
 */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import table from "../../golden/copies-calls.json";
import {
  aVolume,
  byHand,
  cloneOf,
  imageOf,
  readySnapshot,
  restoreOf,
  snapshotDeletion,
  snapshotOf,
} from "../../support/copies-world.ts";
import { idle } from "../../support/crash-copies-world.ts";
import { aCluster, codeOf, deletion, type Driver, driverOn, GIB } from "../../support/world.ts";

interface Ids {
  volumeId: string;
  snapshotId: string;
  copyId: string;
}

interface Case {
  readonly prepare?: (driver: Driver, ids: Ids, cluster: MemoryCluster) => Promise<unknown>;
  readonly call: (driver: Driver, ids: Ids) => Promise<unknown>;
  readonly code?: string;
}

const withSnapshot = async (driver: Driver, ids: Ids) => {
  ids.snapshotId = (await readySnapshot(driver, snapshotOf(ids.volumeId))).snapshotId;
};
const withRestore = async (driver: Driver, ids: Ids) => {
  await withSnapshot(driver, ids);
  ids.copyId = (await driver.createVolume(restoreOf(ids.snapshotId))).volume.volumeId;
};
const withClone = async (driver: Driver, ids: Ids) => {
  ids.copyId = (await driver.createVolume(cloneOf(ids.volumeId))).volume.volumeId;
};
const larger = { capacityRange: { requiredBytes: 2n * GIB } };

const take = (driver: Driver, { volumeId }: Ids) => driver.createSnapshot(snapshotOf(volumeId));
const dropSnapshot = (driver: Driver, { snapshotId }: Ids) => driver.deleteSnapshot(snapshotDeletion(snapshotId));
const restore = (driver: Driver, { snapshotId }: Ids) => driver.createVolume(restoreOf(snapshotId));
const clone = (driver: Driver, { volumeId }: Ids) => driver.createVolume(cloneOf(volumeId));
const dropCopy = (driver: Driver, { copyId }: Ids) => driver.deleteVolume(deletion(copyId));

const cases: Readonly<Record<string, Case>> = {
  "CreateSnapshot: a new name": { call: take },
  "CreateSnapshot: a snapshot that is there": { prepare: withSnapshot, call: take },
  "CreateSnapshot: a snapshot of a clone": {
    prepare: withClone,
    call: (driver, { copyId }) => driver.createSnapshot(snapshotOf(copyId)),
  },
  "DeleteSnapshot: a snapshot that is there": { prepare: withSnapshot, call: dropSnapshot },
  "DeleteSnapshot: a snapshot that is gone": {
    prepare: async (driver, ids) => {
      await withSnapshot(driver, ids);
      await dropSnapshot(driver, ids);
    },
    call: dropSnapshot,
  },
  "DeleteSnapshot: no snapshot ID": { call: (driver) => driver.deleteSnapshot(snapshotDeletion("nonsense")) },
  "CreateVolume: from a snapshot": { prepare: withSnapshot, call: restore },
  "CreateVolume: from a snapshot, larger": {
    prepare: withSnapshot,
    call: (driver, { snapshotId }) => driver.createVolume(restoreOf(snapshotId, larger)),
  },
  "CreateVolume: from a snapshot, a volume that is there": { prepare: withRestore, call: restore },
  "CreateVolume: from a snapshot that is gone": {
    prepare: async (driver, ids) => {
      await withSnapshot(driver, ids);
      await dropSnapshot(driver, ids);
    },
    call: restore,
    code: "NOT_FOUND",
  },
  "CreateVolume: from a volume": { call: clone },
  "CreateVolume: from a volume, larger": {
    call: (driver, { volumeId }) => driver.createVolume(cloneOf(volumeId, larger)),
  },
  "CreateVolume: from a volume, a volume that is there": { prepare: withClone, call: clone },
  "CreateVolume: from a volume that was a clone and was flattened": {
    prepare: async (driver, ids, cluster) => {
      await withClone(driver, ids);
      await byHand(cluster).flatten(imageOf(ids.copyId));
    },
    call: (driver, { copyId }) => driver.createVolume(cloneOf(copyId, { name: "pvc-3" })),
  },
  "DeleteVolume: a restore": { prepare: withRestore, call: dropCopy },
  "DeleteVolume: a clone": { prepare: withClone, call: dropCopy },
  "DeleteVolume: a volume with a snapshot": {
    prepare: withSnapshot,
    call: (driver, { volumeId }) => driver.deleteVolume(deletion(volumeId)),
  },
};

test("the table has every case, and every case is in the table", () => {
  expect(table.map(({ rpc, case: name }) => `${rpc}: ${name}`).toSorted()).toEqual(Object.keys(cases).toSorted());
});

const measured = async ({ prepare, call, code }: Case) => {
  const cluster = aCluster();
  const { service, calls, forget } = recorded(cephMemoryService(cluster));
  await using driver = driverOn(cluster, { ceph: service });
  const ids = { volumeId: await aVolume(driver, cluster), snapshotId: "", copyId: "" };
  await prepare?.(driver, ids, cluster);
  await idle(cluster);
  forget();
  expect(await codeOf(call(driver, ids))).toBe(code ?? "OK");
  // What runs behind an answer comes to its end, too.
  await idle(cluster);
  return calls().map(({ method }): string => method);
};

test("CreateSnapshot answers after its tenth call", async () => {
  const cluster = aCluster();
  const { service, calls, forget } = recorded(cephMemoryService(cluster));
  // What runs behind the answer never comes to its first call.
  const { promise } = Promise.withResolvers<void>();
  const ceph = intercepted(service, (call, act) =>
    call.method === "snapshotCreate" && call.subject.includes("csi-snap-")
      ? Effect.andThen(
          Effect.promise(() => promise),
          act,
        )
      : act,
  );
  await using driver = driverOn(cluster, { ceph });
  const volumeId = await aVolume(driver, cluster);
  forget();
  await driver.createSnapshot(snapshotOf(volumeId));
  await idle(cluster);
  const [first] = table;
  expect(calls().map(({ method }): string => method)).toEqual(first?.calls.slice(0, 10) ?? []);
});

for (const { rpc, case: name, calls: expected } of table) {
  test(`${rpc}, ${name}: ${expected.length} calls`, async () => {
    const one = cases[`${rpc}: ${name}`];
    if (one === undefined) throw new Error("no such case");
    expect(await measured(one)).toEqual(expected);
  });
}
