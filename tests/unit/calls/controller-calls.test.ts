/**
 * Which calls of Ceph each RPC makes, one by one (tests/golden/controller-calls.json, a table to be quoted): one more
 * fails here, and so does one fewer.
 */
import { expect, test } from "bun:test";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import table from "../../golden/controller-calls.json";
import {
  aCluster,
  codeOf,
  creation,
  deletion,
  type Driver,
  driverOn,
  expansion,
  GIB,
  PARAMETERS,
  uuidOf,
  validation,
} from "../../support/world.ts";

interface Case {
  readonly metadata?: boolean;
  /** Before the call; -> the ID of a volume. */
  readonly prepare?: (driver: Driver, cluster: MemoryCluster) => Promise<string>;
  readonly call: (driver: Driver, volumeId: string) => Promise<unknown>;
  readonly code?: string;
}

const request = creation({ parameters: { ...PARAMETERS, "csi.storage.k8s.io/pv/name": "pvc-1" } });
const aVolume = async (driver: Driver): Promise<string> => (await driver.createVolume(request)).volume.volumeId;
const create = (driver: Driver) => driver.createVolume(request);
const remove = (driver: Driver, volumeId: string) => driver.deleteVolume(deletion(volumeId));

const cases: Readonly<Record<string, Case>> = {
  "CreateVolume: a new name": { call: create },
  "CreateVolume: a new name, with metadata": { metadata: true, call: create },
  "CreateVolume: a volume that is there": { prepare: aVolume, call: create },
  "CreateVolume: a volume that is there, with metadata": { metadata: true, prepare: aVolume, call: create },
  "CreateVolume: another volume of that name": {
    metadata: true,
    prepare: aVolume,
    call: (driver) => driver.createVolume(creation({ capacityRange: { requiredBytes: 2n * GIB } })),
    code: "ALREADY_EXISTS",
  },
  "DeleteVolume: a volume that is there": { prepare: aVolume, call: remove },
  "DeleteVolume: a volume in use": {
    prepare: async (driver, cluster) => {
      const id = await aVolume(driver);
      cluster.watch("rbd", `csi-vol-${uuidOf(id)}`);
      return id;
    },
    call: remove,
    code: "FAILED_PRECONDITION",
  },
  "DeleteVolume: a volume that is gone": {
    prepare: async (driver) => {
      const id = await aVolume(driver);
      await remove(driver, id);
      return id;
    },
    call: remove,
  },
  "DeleteVolume: no volume ID": { call: (driver) => remove(driver, "nonsense") },
  "ControllerExpandVolume: a larger size": {
    prepare: aVolume,
    call: (driver, id) => driver.expandVolume(expansion(id)),
  },
  "ControllerExpandVolume: a larger size, with a limit": {
    prepare: aVolume,
    call: (driver, id) =>
      driver.expandVolume(expansion(id, { capacityRange: { requiredBytes: 2n * GIB, limitBytes: 3n * GIB } })),
  },
  "ValidateVolumeCapabilities: a volume that is there": {
    prepare: aVolume,
    call: (driver, id) => driver.validate(validation(id)),
  },
  "ControllerGetCapabilities: always": { call: (driver) => driver.capabilities() },
};

test("the table has every case, and every case is in the table", () => {
  expect(table.map(({ rpc, case: name }) => `${rpc}: ${name}`).toSorted()).toEqual(Object.keys(cases).toSorted());
});

for (const { rpc, case: name, calls: expected } of table) {
  test(`${rpc}, ${name}: ${expected.length} calls`, async () => {
    const one = cases[`${rpc}: ${name}`];
    if (one === undefined) throw new Error("no such case");
    const cluster = aCluster();
    const { service, calls, forget } = recorded(cephMemoryService(cluster));
    await using driver = driverOn(cluster, { ceph: service, options: { setMetadata: one.metadata ?? false } });
    const volumeId = (await one.prepare?.(driver, cluster)) ?? "";
    forget();
    expect(await codeOf(one.call(driver, volumeId))).toBe(one.code ?? "OK");
    const made: readonly string[] = calls().map(({ method }) => method);
    expect(made).toEqual(expected);
  });
}
