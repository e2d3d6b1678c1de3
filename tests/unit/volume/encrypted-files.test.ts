/**
 * Volumes whose files are encrypted, on the controller's side: which key stores serve them, and what becomes of their
 * keys, which a node makes, from the creation to the deletion.
 *
 * Not here: whole devices (./encrypted-volumes.test.ts), and nodes (tests/unit/node/node-encrypted-files.test.ts).
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { metadataStore } from "../../../lib/kms/stores/metadata.ts";
import { KmsUnreachable } from "../../../lib/kms/errors.ts";
import { keyOf } from "../../../lib/kms/new-key.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import {
  aVolume,
  cloneOf,
  holderOf,
  imageOf,
  metaOf,
  readySnapshot,
  restoreOf,
  snapshotDeletion,
  snapshotOf,
} from "../../support/copies-world.ts";
import { everyDeath } from "../../support/every-death.ts";
import { dyingAt, type Kept, keepingStore, wrappingStore } from "../../support/key-stores.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aCluster,
  asBlock,
  creation,
  deletion,
  failureOf,
  formatted,
  MIB,
  MOUNT,
  objectsOf,
  PARAMETERS,
  poolDump,
  SECRETS,
  uuidOf,
} from "../../support/world.ts";

const OWNER = { "csi.storage.k8s.io/pvc/namespace": "tenant" };
const KEY = "the key that a node has made";
/** Without a passphrase: a provisioner needs none. */
const secrets = SECRETS;

const filesOf = (kmsId: string) => ({
  ...PARAMETERS,
  ...OWNER,
  encrypted: "true",
  encryptionType: "file",
  ...(kmsId !== "" && { encryptionKMSID: kmsId }),
});

/** `keeper` and `safe` keep keys, `words` and `more-words` have a passphrase, `wrapper` only wraps. */
const aWorld = () => {
  const cluster = aCluster();
  const [kept, safe]: readonly [Kept, Kept] = [new Map(), new Map()];
  const stores = {
    keeper: keepingStore(kept),
    safe: keepingStore(safe, "safe"),
    words: metadataStore(keyOf("words"), "a Secret"),
    "more-words": metadataStore(keyOf("words"), "a Secret"),
    wrapper: wrappingStore(),
  };
  return { cluster, kept, safe, stores };
};
type World = ReturnType<typeof aWorld>;

const make = (driver: Driver, world: World, kmsId: string) =>
  aVolume(driver, world.cluster, { parameters: filesOf(kmsId), secrets });
const entryOf = ({ cluster }: World, kind: string, id: string) =>
  Object.fromEntries(objectsOf(cluster).get(`${kind}.${uuidOf(id)}`) ?? []);

const SERVED = ["", "keeper", "words"];

describe("CreateVolume with encrypted files", () => {
  test.each(SERVED)("The journal says so of a volume of KMS %p, and no key is made yet", async (kms) => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await make(driver, world, kms);
    expect(entryOf(world, "csi.volume", id)).toMatchObject({
      "csi.volume.encryptKMS": kms || "default",
      "csi.volume.encryptionType": "file",
      "csi.volume.owner": "tenant",
    });
    const own = Object.keys(metaOf(world.cluster, imageOf(id))).filter((name) => name.startsWith("rbd.csi.ceph.com/"));
    expect([own, [...world.kept]]).toEqual([[], []]);
    const again = await driver.createVolume(creation({ parameters: filesOf(kms), secrets }));
    expect(again.volume).toMatchObject({ volumeId: id, volumeContext: { encrypted: "true", encryptionType: "file" } });
  });

  test("It takes nothing of the size for a header", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const request = creation({ parameters: filesOf(""), secrets, capacityRange: { requiredBytes: 16n * MIB } });
    expect((await driver.createVolume(request)).volume.capacityBytes).toBe(16n * MIB);
  });

  test("A store that only wraps keys is refused with what to name instead, and nothing is left", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    expect(await failureOf(make(driver, world, "wrapper"))).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringMatching(/encrypts no files.*encryptionType: block/),
    });
    expect(poolDump(world.cluster).images).toEqual({});
    expect(poolDump(world.cluster).objects["csi.volumes.default"] ?? {}).toEqual({});
  });

  test("A volume of that name that is encrypted as a whole is another one", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    await make(driver, world, "keeper");
    const block = creation({ parameters: { ...filesOf("keeper"), encryptionType: "block" }, secrets });
    expect(await failureOf(driver.createVolume(block))).toMatchObject({ code: "ALREADY_EXISTS" });
  });

  test("ValidateVolumeCapabilities confirms ext4, and neither xfs nor raw block", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const volumeId = await make(driver, world, "");
    const ask = (volumeCapability: typeof MOUNT) =>
      driver.validate({
        volumeId,
        volumeContext: filesOf(""),
        volumeCapabilities: [volumeCapability],
        secrets,
      });
    expect((await ask(MOUNT)).confirmed).toBeDefined();
    for (const [capability, says] of [
      [formatted("xfs"), "asks for xfs"],
      [asBlock(Mode.SINGLE_NODE_WRITER), "asks for raw block"],
    ] as const) {
      const answer = await ask(capability);
      expect([answer.confirmed, answer.message]).toEqual([undefined, expect.stringContaining(says)]);
    }
  });
});

describe("Copies of volumes with encrypted files", () => {
  /** As after its first stage. */
  const staged = async (driver: Driver, world: World, kms = "keeper") => {
    const id = await make(driver, world, kms);
    if (kms === "keeper") world.kept.set(id, KEY);
    return id;
  };

  test("A clone, a snapshot and its restore have the key of their source, each under its own ID, until they go", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world);
    const clone = (await driver.createVolume(cloneOf(id, { parameters: filesOf("safe"), secrets }))).volume.volumeId;
    expect([...world.safe]).toEqual([[clone, KEY]]);
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id, { secrets }));
    expect(entryOf(world, "csi.snap", snapshotId)).toMatchObject({ "csi.volume.encryptionType": "file" });
    await driver.deleteVolume(deletion(id, { secrets }));
    expect([...world.kept]).toEqual([[snapshotId, KEY]]);
    const request = restoreOf(snapshotId, { name: "pvc-restore", parameters: filesOf("keeper"), secrets });
    const restore = (await driver.createVolume(request)).volume.volumeId;
    await driver.deleteSnapshot(snapshotDeletion(snapshotId, { secrets }));
    expect([...world.kept]).toEqual([[restore, KEY]]);
    for (const each of [clone, restore]) await driver.deleteVolume(deletion(each, { secrets }));
    expect([[...world.kept], [...world.safe]]).toEqual([[], []]);
  });

  test("A source that was never staged has no key, and its copies get none", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const { volumeId: id } = (await driver.createVolume(creation({ parameters: filesOf("keeper"), secrets }))).volume;
    await driver.createVolume(cloneOf(id, { parameters: filesOf("keeper"), secrets }));
    const { snapshotId } = await readySnapshot(driver, snapshotOf(id, { secrets }));
    const request = restoreOf(snapshotId, { name: "pvc-restore", parameters: filesOf("keeper"), secrets });
    await driver.createVolume(request);
    expect([...world.kept]).toEqual([]);
  });

  const COPIES = [
    (driver: Driver, id: string) => driver.createVolume(cloneOf(id, { parameters: filesOf("keeper"), secrets })),
    (driver: Driver, id: string) => readySnapshot(driver, snapshotOf(id, { secrets })),
  ];

  test("A source that holds data, and whose key its store does not find, is not copied: the copy could never be read", async () => {
    for (const copy of COPIES) {
      const world = aWorld();
      await using driver = aDriver(world.cluster, world);
      const id = await make(driver, world, "keeper");
      world.cluster.image("rbd", imageOf(id)).write(0n, 4096n);
      expect(await failureOf(copy(driver, id))).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringContaining(`there is no key of ${id} in keeper/`),
      });
      expect(Object.keys(poolDump(world.cluster).images)).toEqual([imageOf(id)]);
      world.kept.set(id, KEY);
      await copy(driver, id);
      expect([...world.kept.values()]).toEqual([KEY, KEY]);
    }
  });

  test("A snapshot whose source and key went before it had its own is never ready, and one that has its own is", async () => {
    for (const hasOwn of [false, true]) {
      const world = aWorld();
      const { keeper } = world.stores;
      const late = new KmsUnreachable({ store: "keeper", reason: "no answer" });
      const write: typeof keeper.write = (...args) =>
        hasOwn ? Effect.andThen(keeper.write(...args), Effect.fail(late)) : Effect.fail(late);
      const stores = { ...world.stores, keeper: { ...keeper, write } };
      await using cutOff = aDriver(world.cluster, { ...world, stores });
      const id = await staged(cutOff, world);
      world.cluster.image("rbd", imageOf(id)).write(0n, 4096n);
      expect(await failureOf(readySnapshot(cutOff, snapshotOf(id, { secrets })))).toMatchObject({
        code: "UNAVAILABLE",
      });
      await using driver = aDriver(world.cluster, world);
      await driver.deleteVolume(deletion(id, { secrets }));
      expect(world.kept.has(id)).toBe(false);
      const again = readySnapshot(driver, snapshotOf(id, { secrets }));
      if (hasOwn) expect([(await again).readyToUse, [...world.kept.values()]]).toEqual([true, [KEY]]);
      else expect(await failureOf(again)).toMatchObject({ code: "FAILED_PRECONDITION" });
    }
  });

  test("A source that is first staged while it is copied has its key in the copy", async () => {
    for (const copy of COPIES) {
      const world = aWorld();
      const id = await make(aDriver(world.cluster, world), world, "keeper");
      const ceph = intercepted(cephMemoryService(world.cluster), ({ method }, act) =>
        method === "snapshotCreate"
          ? Effect.andThen(
              Effect.sync(() => world.kept.set(id, KEY)),
              act,
            )
          : act,
      );
      await using driver = aDriver(world.cluster, { ...world, ceph });
      await copy(driver, id);
      expect([...world.kept.values()]).toEqual([KEY, KEY]);
    }
  });

  test.each(["", "words"])("A copy of a volume of KMS %p needs no passphrase to be made", async (kms) => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await make(driver, world, kms);
    const request = cloneOf(id, { parameters: filesOf(kms), secrets });
    const { volumeId } = (await driver.createVolume(request)).volume;
    expect(entryOf(world, "csi.volume", volumeId)).toMatchObject({ "csi.volume.encryptionType": "file" });
  });

  test.each([
    ["keeper", ""],
    ["keeper", "words"],
    ["words", "keeper"],
    ["words", "more-words"],
    ["", "keeper"],
  ])("A copy of a volume of KMS %p is refused for KMS %p, which cannot have its key", async (from, to) => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world, from);
    const failure = await failureOf(driver.createVolume(cloneOf(id, { parameters: filesOf(to), secrets })));
    expect(failure).toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("parameter encryptionKMSID: names KMS"),
    });
    expect(Object.keys(poolDump(world.cluster).images)).toEqual([imageOf(id)]);
  });

  test.each([
    ["file", "block"],
    ["block", "file"],
  ])("A copy of a volume of encryptionType %p is refused for %p", async (from, to) => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const typed = (encryptionType: string) => ({ ...filesOf("keeper"), encryptionType });
    const id = await aVolume(driver, world.cluster, { parameters: typed(from), secrets });
    const failure = await failureOf(driver.createVolume(cloneOf(id, { parameters: typed(to), secrets })));
    expect(failure).toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining(`Use a StorageClass with encryptionType: ${from}`),
    });
  });

  test("A driver that dies at any call of a clone or a snapshot leaves what the next one completes, with one key each", async () => {
    for (const copy of [
      async (driver: Driver, id: string) =>
        (await driver.createVolume(cloneOf(id, { parameters: filesOf("keeper"), secrets }))).volume.volumeId,
      async (driver: Driver, id: string) => (await readySnapshot(driver, snapshotOf(id, { secrets }))).snapshotId,
    ]) {
      const deaths = await everyDeath(100, async (call, moment) => {
        const world = aWorld();
        const id = await staged(aDriver(world.cluster, world), world);
        const dying = dyingAt(call, moment);
        {
          const stores = { keeper: dying.store(world.stores.keeper) };
          await using driver = aDriver(world.cluster, { stores, ceph: dying.ceph(cephMemoryService(world.cluster)) });
          await copy(driver, id).catch(() => undefined);
        }
        await using driver = aDriver(world.cluster, world);
        const made = await copy(driver, id);
        expect(Object.fromEntries(world.kept)).toEqual({ [id]: KEY, [made]: KEY });
        return dying.died() !== undefined;
      });
      expect(Math.min(deaths.before, deaths.after)).toBeGreaterThan(8);
    }
  }, 60_000);

  test("Snapshots of a group have the keys of their volumes", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world);
    const ask = () => driver.createGroup({ name: "group-1", sourceVolumeIds: [id], secrets });
    let { groupSnapshot } = await ask();
    while (!groupSnapshot.readyToUse) ({ groupSnapshot } = await ask());
    const [member] = groupSnapshot.snapshots;
    expect(world.kept.get(member?.snapshotId ?? "")).toBe(KEY);
    expect(metaOf(world.cluster, holderOf(member?.snapshotId ?? ""))["rbd.csi.ceph.com/encrypted"]).toBeUndefined();
  });
});
