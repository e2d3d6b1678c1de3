/**
 * Which calls of Ceph each RPC of group snapshots makes, one by one (tests/golden/group-calls.json), with two members.
 * Calls for members are side by side; those of each member are in their order.
 */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import table from "../../golden/group-calls.json";
import {
  asking,
  type GroupDriver,
  groupDriverOn,
  grouping,
  readyGroup,
  twoVolumes,
  ungrouping,
} from "../../support/group-world.ts";
import { aCluster, codeOf } from "../../support/world.ts";

interface Case {
  /** Before the call; -> IDs that the call needs. */
  readonly prepare?: (driver: GroupDriver, volumes: string[]) => Promise<readonly string[]>;
  readonly call: (driver: GroupDriver, volumes: string[], ids: readonly string[]) => Promise<unknown>;
  readonly code?: string;
}

const create = (driver: GroupDriver, volumes: string[]) => driver.createGroup(grouping(volumes));
const aGroup: Case["prepare"] = async (driver, volumes) => {
  const { groupSnapshotId, snapshots } = await readyGroup(driver, grouping(volumes));
  return [groupSnapshotId, ...snapshots.map(({ snapshotId }) => snapshotId)];
};

const cases: Readonly<Record<string, Case>> = {
  "CreateVolumeGroupSnapshot: a new name, two volumes": { call: create },
  "CreateVolumeGroupSnapshot: one that is there": { prepare: aGroup, call: create },
  "CreateVolumeGroupSnapshot: other volumes": {
    prepare: aGroup,
    call: (driver, volumes) => driver.createGroup(grouping(volumes.slice(1))),
    code: "ALREADY_EXISTS",
  },
  "DeleteVolumeGroupSnapshot: one that is there": {
    prepare: aGroup,
    call: (driver, _volumes, [id = ""]) => driver.deleteGroup(ungrouping(id)),
  },
  "DeleteVolumeGroupSnapshot: one that is gone": {
    prepare: async (driver, volumes) => {
      const ids = (await aGroup(driver, volumes)) ?? [];
      await driver.deleteGroup(ungrouping(ids[0] ?? ""));
      return ids;
    },
    call: (driver, _volumes, [id = ""]) => driver.deleteGroup(ungrouping(id)),
  },
  "DeleteVolumeGroupSnapshot: no group snapshot ID": { call: (driver) => driver.deleteGroup(ungrouping("nonsense")) },
  "GetVolumeGroupSnapshot: one that is there": {
    prepare: aGroup,
    call: (driver, _volumes, [id = ""]) => driver.getGroup(asking(id)),
  },
  "DeleteSnapshot: a member of a group snapshot": {
    prepare: aGroup,
    call: (driver, _volumes, [, member = ""]) => driver.deleteSnapshot(member),
    code: "INVALID_ARGUMENT",
  },
  "GroupControllerGetCapabilities: always": { call: (driver) => driver.capabilities() },
};

const made = async (cluster: MemoryCluster, { prepare, call, code }: Case): Promise<readonly string[]> => {
  const { service, calls, forget } = recorded(cephMemoryService(cluster));
  await using driver = groupDriverOn(cluster, { ceph: service });
  const volumes = await twoVolumes(driver, cluster);
  const ids = (await prepare?.(driver, volumes)) ?? [];
  forget();
  expect(await codeOf(call(driver, volumes, ids))).toBe(code ?? "OK");
  await Effect.runPromise((await driver.operations()).drain(5000));
  return calls().map(({ method }) => method);
};

test("the table has every case, and every case is in the table", () => {
  expect(table.map(({ rpc, case: name }) => `${rpc}: ${name}`).toSorted()).toEqual(Object.keys(cases).toSorted());
});

for (const { rpc, case: name, calls: expected } of table) {
  test(`${rpc}, ${name}: ${expected.length} calls`, async () => {
    const one = cases[`${rpc}: ${name}`];
    if (one === undefined) throw new Error("no such case");
    expect(await made(aCluster(), one)).toEqual(expected);
  });
}
