/** Group snapshots of encrypted volumes: each member has its volume's key under its own ID. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { metaOf, restoreOf, settled } from "../../support/copies-world.ts";
import { aVolume, DIRECTORY, grouping, holderNow, imageOf, readyGroup, ungrouping } from "../../support/group-world.ts";
import { dyingAt, type Kept, keepingStore, wrappingStore } from "../../support/key-stores.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { aCluster, deletion, failureOf, PARAMETERS, poolDump, SECRETS } from "../../support/world.ts";

const secrets = { ...SECRETS, encryptionPassphrase: "unused" };
const parametersFor = (encryptionKMSID: string) => ({ ...PARAMETERS, encrypted: "true", encryptionKMSID });

/** A volume of each kind of key store, and a plain one. */
const aWorld = async () => {
  const cluster = aCluster();
  const kept: Kept = new Map();
  const stores = () => ({ keeper: keepingStore(kept), wrapper: wrappingStore() });
  await using driver = aDriver(cluster, { stores: stores() });
  const volumeOf = (name: string, parameters: Record<string, string>) =>
    aVolume(driver, cluster, name, { parameters, secrets });
  const ids = [
    await volumeOf("pvc-keeper", parametersFor("keeper")),
    await volumeOf("pvc-wrapper", parametersFor("wrapper")),
    await volumeOf("pvc-plain", PARAMETERS),
  ];
  const keyOf = (kms: string, handle: string, image: string): Promise<string> => {
    const { keeper, wrapper } = stores();
    const wrapped = () => metaOf(cluster, image)["rbd.csi.ceph.com/dek"] ?? "[]";
    return Effect.runPromise(
      Effect.map(kms === "keeper" ? keeper.read(handle) : wrapper.unwrap(handle, wrapped()), Redacted.value),
    );
  };
  return { cluster, kept, stores, ids, keyOf };
};
type World = Awaited<ReturnType<typeof aWorld>>;

const group = (driver: Driver, { ids }: World) => readyGroup(driver, grouping(ids, { secrets }));

/** The members in the order of the volumes: keeper, wrapper, plain. */
const proveKeys = async ({ ids, keyOf, cluster }: World, made: Awaited<ReturnType<typeof group>>) => {
  const memberOf = (at: number) =>
    made.snapshots.find(({ sourceVolumeId }) => sourceVolumeId === ids[at])?.snapshotId ?? "";
  for (const [at, kms] of ["keeper", "wrapper"].entries()) {
    const source = await keyOf(kms, ids[at] ?? "", imageOf(ids[at] ?? ""));
    expect(await keyOf(kms, memberOf(at), holderNow(cluster, memberOf(at)))).toBe(source);
  }
  expect(metaOf(cluster, holderNow(cluster, memberOf(2)))["rbd.csi.ceph.com/encrypted"]).toBeUndefined();
  return memberOf;
};

describe("group snapshots of encrypted volumes", () => {
  test("Each member has its volume's key, and a restore of it has it in turn", async () => {
    const world = await aWorld();
    await using driver = aDriver(world.cluster, { stores: world.stores() });
    const made = await group(driver, world);
    const memberOf = await proveKeys(world, made);
    const key = await world.keyOf("keeper", memberOf(0), holderNow(world.cluster, memberOf(0)));
    for (const id of world.ids) await driver.deleteVolume(deletion(id, { secrets }));
    const request = restoreOf(memberOf(0), { parameters: parametersFor("wrapper"), secrets });
    const { volumeId } = (await driver.createVolume(request)).volume;
    expect(await world.keyOf("wrapper", volumeId, imageOf(volumeId))).toBe(key);
    await driver.deleteGroup(ungrouping(made.groupSnapshotId, { secrets }));
    expect([...world.kept]).toEqual([]);
  });

  test("A key that is out of reach fails the call before anything is made", async () => {
    const world = await aWorld();
    await using driver = aDriver(world.cluster, { stores: world.stores() });
    world.kept.clear();
    const failure = await failureOf(driver.createGroup(grouping(world.ids, { secrets })));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("no key of") });
    expect(poolDump(world.cluster).objects[DIRECTORY] ?? {}).toEqual({});
  });

  test("A key that is out of reach fails the retry of a call that was cut off, and leaves nothing of that one", async () => {
    const world = await aWorld();
    const { cluster } = world;
    const dying = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "groupSnapshotMembers" ? Effect.die("the driver died") : act,
    );
    {
      await using driver = aDriver(cluster, { ceph: dying, stores: world.stores() });
      await group(driver, world).catch(() => undefined);
    }
    expect(Object.keys(poolDump(cluster).groups ?? {})).toHaveLength(1);
    world.kept.clear();
    await using driver = aDriver(cluster, { stores: world.stores() });
    expect(await failureOf(driver.createGroup(grouping(world.ids, { secrets })))).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining("no key of"),
    });
    const { groups, objects } = poolDump(cluster);
    expect(groups).toBeUndefined();
    expect(Object.keys(objects).filter((name) => /^csi\.(snap|volume\.group)\./.test(name))).toEqual([]);
    expect([objects[DIRECTORY], objects["csi.snaps.default"]]).toEqual([{}, {}]);
  });

  test("The next driver finishes it with the same keys after a death at each call", async () => {
    let deaths = 0;
    for (let k = 1; k < 120; k++) {
      const world = await aWorld();
      const dying = dyingAt(k, k % 2 === 0 ? "before" : "after");
      {
        const { keeper, wrapper } = world.stores();
        const stores = { keeper: dying.store(keeper), wrapper: dying.store(wrapper) };
        await using driver = aDriver(world.cluster, { ceph: dying.ceph(cephMemoryService(world.cluster)), stores });
        await group(driver, world).catch(() => undefined);
      }
      if (dying.died() === undefined) break;
      await using driver = aDriver(world.cluster, { stores: world.stores() });
      const made = await group(driver, world);
      await proveKeys(world, made);
      await driver.deleteGroup(ungrouping(made.groupSnapshotId, { secrets }));
      await settled(world.cluster);
      expect([...world.kept.keys()]).toEqual([world.ids[0] ?? ""]);
      deaths = k;
    }
    expect(deaths).toBeGreaterThan(20);
  }, 120_000);
});
