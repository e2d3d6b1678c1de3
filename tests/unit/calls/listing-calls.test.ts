/**
 * Which calls of Ceph each RPC makes that only looks (tests/golden/listing-calls.json), with two pools, of which one
 * holds three volumes and two snapshots of the first. What is asked side by side is in the order of its beginning.
 */
import { expect, test } from "bun:test";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import table from "../../golden/listing-calls.json";
import { type Lister, listerOn } from "../../support/listing-world.ts";
import { aCluster, codeOf, creation, PARAMETERS, SECRETS, uuidOf } from "../../support/world.ts";

interface Ids {
  readonly volumes: readonly string[];
  readonly one: string;
  readonly two: string;
}

interface Case {
  readonly prefix?: string;
  readonly watched?: boolean;
  readonly call: (lister: Lister, ids: Ids) => Promise<unknown>;
  readonly code?: string;
}

const cases: Readonly<Record<string, Case>> = {
  "ListVolumes: all, with images of default names": { call: (lister) => lister.listVolumes() },
  "ListVolumes: all, with a prefix of their own": { prefix: "tenant-", call: (lister) => lister.listVolumes() },
  "ListVolumes: a page of two": { call: (lister) => lister.listVolumes({ maxEntries: 2 }) },
  "ListVolumes: a token of somebody else": {
    call: (lister) => lister.listVolumes({ startingToken: "1" }),
    code: "ABORTED",
  },
  "ControllerGetVolume: a volume that nobody has open": {
    call: (lister, { volumes }) => lister.getVolume(volumes[0] ?? ""),
  },
  "ControllerGetVolume: a volume in use": {
    watched: true,
    call: (lister, { volumes }) => lister.getVolume(volumes[0] ?? ""),
  },
  "ControllerGetVolume: no volume ID": { call: (lister) => lister.getVolume("nonsense"), code: "NOT_FOUND" },
  "ListSnapshots: all": { call: (lister) => lister.listSnapshots() },
  "ListSnapshots: one volume's": {
    call: (lister, { volumes }) => lister.listSnapshots({ sourceVolumeId: volumes[0] ?? "" }),
  },
  "ListSnapshots: one": { call: (lister, { one }) => lister.listSnapshots({ snapshotId: one }) },
  "GetSnapshot: one that is there": { call: (lister, { one }) => lister.getSnapshot(one, SECRETS) },
  "GetCapacity: a pool": { call: (lister) => lister.getCapacity({ parameters: PARAMETERS }) },
  "GetCapacity: a pool with a data pool": {
    call: (lister) => lister.getCapacity({ parameters: { ...PARAMETERS, dataPool: "ssd" } }),
  },
  "GetCapacity: no class": { call: (lister) => lister.getCapacity() },
  "GetMetadataAllocated: one page": { call: (lister, { one }) => lister.allocated(one) },
  "GetMetadataDelta: one page": { call: (lister, { one, two }) => lister.delta(one, two) },
};

const made = async ({ prefix, watched, call, code }: Case): Promise<readonly string[]> => {
  const cluster = aCluster({ pools: ["rbd", "ssd"] });
  const { service, calls, forget } = recorded(cephMemoryService(cluster));
  await using lister = listerOn(cluster, { ceph: service });
  const volumes: string[] = [];
  for (const name of ["a", "b", "c"]) {
    const parameters = { ...PARAMETERS, ...(prefix !== undefined && { volumeNamePrefix: prefix }) };
    volumes.push((await lister.createVolume(creation({ name, parameters }))).volume.volumeId);
  }
  const [first = ""] = volumes;
  const one = await lister.snapshot("one", first);
  const two = await lister.snapshot("two", first);
  if (watched === true) cluster.watch("rbd", `csi-vol-${uuidOf(first)}`);
  forget();
  expect(await codeOf(call(lister, { volumes, one, two }))).toBe(code ?? "OK");
  return calls().map(({ method }) => method);
};

test("the table has every case, and every case is in the table", () => {
  expect(table.map(({ rpc, case: name }) => `${rpc}: ${name}`).toSorted()).toEqual(Object.keys(cases).toSorted());
});

for (const { rpc, case: name, calls: expected } of table) {
  test(`${rpc}, ${name}: ${expected.length} calls`, async () => {
    const one = cases[`${rpc}: ${name}`];
    if (one === undefined) throw new Error("no such case");
    expect(await made(one)).toEqual(expected);
  });
}
