/**
 * Encrypted volumes on the controller's side: what the journal, the image and the key store hold of them, from the
 * creation to the deletion, with each kind of key store.
 *
 * Not here: a driver that dies on the way (tests/unit/crash/encrypted-crash.test.ts), and the bytes of each store
 * (tests/unit/kms).
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { KmsDenied, KmsUnreachable } from "../../../lib/kms/errors.ts";
import type { KeyStore } from "../../../lib/kms/key-store.ts";
import { keyOf } from "../../../lib/kms/new-key.ts";
import { metadataStore } from "../../../lib/kms/stores/metadata.ts";
import { cephMemoryService, memoryAccess, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
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
import { interceptedStore, type Kept, keepingStore, wrappingStore } from "../../support/key-stores.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aCluster,
  codeOf,
  creation,
  deletion,
  failureOf,
  MIB,
  objectsOf,
  PARAMETERS,
  poolDump,
  SECRETS,
  uuidOf,
} from "../../support/world.ts";

const DEK = "rbd.csi.ceph.com/dek";
const STATE = "rbd.csi.ceph.com/encrypted";
const PASSPHRASE = "correct horse";
const secrets = { ...SECRETS, encryptionPassphrase: PASSPHRASE };
const OWNER = { "csi.storage.k8s.io/pvc/namespace": "tenant" };

const parametersFor = (kmsId: string) => ({
  ...PARAMETERS,
  ...OWNER,
  encrypted: "true",
  ...(kmsId !== "" && { encryptionKMSID: kmsId }),
});

/** A world with a store of each kind under the IDs `keeper` and `wrapper`. */
const aWorld = () => {
  const cluster = aCluster();
  const kept: Kept = new Map();
  const stores = { keeper: keepingStore(kept), wrapper: wrappingStore(), other: wrappingStore("other") };
  return { cluster, kept, stores };
};
type World = ReturnType<typeof aWorld>;

/** The passphrase that a node would open it with. */
const keyOfVolume = async ({ cluster, stores }: World, kmsId: string, handle: string, image: string) => {
  const store = (stores as Readonly<Record<string, KeyStore>>)[kmsId];
  if (store?.kind === undefined || store.kind === "passphrase") return PASSPHRASE;
  const read =
    store.kind === "keeping" ? store.read(handle) : store.unwrap(handle, metaOf(cluster, image)[DEK] ?? "none");
  return Redacted.value(await Effect.runPromise(read));
};

const created = async (driver: Driver, kmsId: string, more: Parameters<typeof creation>[0] = {}) => {
  const { volume } = await driver.createVolume(creation({ parameters: parametersFor(kmsId), secrets, ...more }));
  return volume;
};

/** A volume with data, as after its first stage. */
const staged = async (driver: Driver, { cluster }: World, kmsId: string, more: Parameters<typeof creation>[0] = {}) => {
  const id = await aVolume(driver, cluster, { parameters: parametersFor(kmsId), secrets, ...more });
  cluster.image("rbd", imageOf(id)).meta.set(STATE, "encrypted");
  return id;
};

const entryOf = (cluster: MemoryCluster, kind: string, id: string) =>
  Object.fromEntries(objectsOf(cluster).get(`${kind}.${uuidOf(id)}`) ?? []);

const KINDS = ["", "wrapper", "keeper"];

describe("CreateVolume with encryption", () => {
  test.each(KINDS)(
    "The journal and the image say that a volume of KMS %p is encrypted, and not yet formatted",
    async (kms) => {
      const world = aWorld();
      await using driver = aDriver(world.cluster, world);
      const { volumeId, volumeContext } = await created(driver, kms);
      expect(entryOf(world.cluster, "csi.volume", volumeId)).toMatchObject({
        "csi.volume.encryptKMS": kms || "default",
        "csi.volume.encryptionType": "block",
        "csi.volume.owner": "tenant",
      });
      expect(metaOf(world.cluster, imageOf(volumeId))[STATE]).toBe("encryptionPrepared");
      expect(metaOf(world.cluster, imageOf(volumeId))[DEK] !== undefined).toBe(kms === "wrapper");
      expect([...world.kept.keys()]).toEqual(kms === "keeper" ? [volumeId] : []);
      expect(volumeContext).toMatchObject({ encrypted: "true", ...(kms !== "" && { encryptionKMSID: kms }) });
    },
  );

  test("A key of the store metadata is wrapped with the passphrase of the request", async () => {
    const cluster = aCluster();
    const store = metadataStore(keyOf(PASSPHRASE), "the secrets of the request");
    await using driver = aDriver(cluster, { stores: { meta: store } });
    const { volumeId } = await created(driver, "meta");
    const wrapped = metaOf(cluster, imageOf(volumeId))[DEK] ?? "";
    expect(Redacted.value(await Effect.runPromise(store.unwrap(volumeId, wrapped)))).toMatch(/^[A-Za-z0-9_-]{27}=$/);
  });

  test.each(KINDS)("A repeated CreateVolume of KMS %p leaves the key of a volume that is formatted", async (kms) => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world, kms);
    const before = [await keyOfVolume(world, kms, id, imageOf(id)), metaOf(world.cluster, imageOf(id))];
    expect((await created(driver, kms)).volumeId).toBe(id);
    expect([await keyOfVolume(world, kms, id, imageOf(id)), metaOf(world.cluster, imageOf(id))]).toEqual(before);
  });

  test("A deletion that was cut off in front of the key is finished by the next CreateVolume of the name", async () => {
    const world = aWorld();
    const stuck = { ...world.stores, keeper: { ...world.stores.keeper, remove: () => Effect.die("dead") } };
    let id = "";
    {
      await using driver = aDriver(world.cluster, { stores: stuck });
      id = (await created(driver, "keeper")).volumeId;
      await driver.deleteVolume(deletion(id)).catch(() => undefined);
      expect([...world.kept.keys()]).toEqual([id]);
    }
    await using driver = aDriver(world.cluster, world);
    const { volumeId: again } = await created(driver, "keeper");
    expect(again).not.toBe(id);
    expect([...world.kept.keys()]).toEqual([again]);
  });

  test("No key is made for an image that is formatted and whose key is lost", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world, "wrapper");
    world.cluster.image("rbd", imageOf(id)).meta.delete(DEK);
    objectsOf(world.cluster)
      .get(`csi.volume.${uuidOf(id)}`)
      ?.delete("csi.imageid");
    const failure = await failureOf(created(driver, "wrapper"));
    expect(failure).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("no key of") });
    expect(metaOf(world.cluster, imageOf(id))[DEK]).toBeUndefined();
  });

  test.each([
    ["a plain volume of an encrypted one's name", parametersFor("wrapper"), { ...PARAMETERS, ...OWNER }],
    ["an encrypted volume of a plain one's name", { ...PARAMETERS, ...OWNER }, parametersFor("wrapper")],
    ["another KMS", parametersFor("wrapper"), parametersFor("keeper")],
  ])("CreateVolume refuses to make %s", async (_, first, second) => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    await driver.createVolume(creation({ parameters: first, secrets }));
    const before = [world.cluster.dump(), [...world.kept]];
    const failure = await failureOf(driver.createVolume(creation({ parameters: second, secrets })));
    expect(failure).toMatchObject({ code: "ALREADY_EXISTS", message: expect.stringContaining("it is ") });
    expect([world.cluster.dump(), [...world.kept]]).toEqual(before);
  });

  const refused: readonly (readonly [
    what: string,
    more: Parameters<typeof creation>[0],
    code: string,
    says: string,
  ])[] = [
    [
      "a request without a passphrase",
      { secrets: SECRETS },
      "INVALID_ARGUMENT",
      "secret encryptionPassphrase: is missing",
    ],
    ["an unknown KMS", { parameters: parametersFor("nowhere") }, "INVALID_ARGUMENT", 'no KMS "nowhere"'],
    [
      "a volume that its header would fill",
      { capacityRange: { requiredBytes: 16n * MIB } },
      "INVALID_ARGUMENT",
      "needs 16777216 for its header",
    ],
  ];
  test.each(refused)("CreateVolume refuses %s, and leaves nothing", async (_, more, code, says) => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const failure = await failureOf(created(driver, "", more));
    expect(failure).toMatchObject({ code, message: expect.stringContaining(says) });
    expect(poolDump(world.cluster)).toMatchObject({ images: {}, trash: {} });
    expect(poolDump(world.cluster).objects["csi.volumes.default"] ?? {}).toEqual({});
  });

  test("A store that refuses the credential ends the call with PERMISSION_DENIED, and nothing is left", async () => {
    const world = aWorld();
    const denied = new KmsDenied({ store: "Vault", reason: "permission denied", remedy: "Correct the policy" });
    const keeper = { ...world.stores.keeper, write: () => Effect.fail(denied) };
    await using driver = aDriver(world.cluster, { stores: { keeper } });
    expect(await failureOf(created(driver, "keeper"))).toMatchObject({
      code: "PERMISSION_DENIED",
      message: expect.stringContaining("Correct the policy"),
    });
    world.cluster.runManager();
    expect(poolDump(world.cluster)).toMatchObject({ images: {}, trash: {} });
  });

  test("A store that does not answer leaves the volume half made, and the next call finishes it with one key", async () => {
    const world = aWorld();
    let silent = true;
    const lost = new KmsUnreachable({ store: "Vault", reason: "no answer" });
    const { write } = world.stores.keeper;
    const keeper = {
      ...world.stores.keeper,
      write: (...args: Parameters<typeof write>) =>
        Effect.flatMap(write(...args), () => (silent ? Effect.fail(lost) : Effect.void)),
    };
    await using driver = aDriver(world.cluster, { stores: { keeper } });
    expect(await codeOf(created(driver, "keeper"))).toBe("UNAVAILABLE");
    const before = [...world.kept];
    silent = false;
    const { volumeId } = await created(driver, "keeper");
    expect([...world.kept]).toEqual(before);
    expect([...world.kept.keys()]).toEqual([volumeId]);
  });

  test("No key and no passphrase is in the log", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world, "wrapper");
    await driver.createVolume(cloneOf(id, { parameters: parametersFor("keeper"), secrets }));
    await codeOf(driver.deleteVolume(deletion(id, { secrets })));
    const key = await keyOfVolume(world, "wrapper", id, imageOf(id)).catch(() => "gone");
    expect(driver.log.filter((line) => line.includes(PASSPHRASE) || line.includes(key))).toEqual([]);
  });
});

describe("Copies of encrypted volumes", () => {
  const PAIRS = KINDS.flatMap((from) => KINDS.map((to) => [from, to] as const)).filter(
    ([from, to]) => to !== "" || from === "",
  );

  test.each([...PAIRS, ["wrapper", "other"] as const])(
    "A clone of a volume of KMS %p has its source's key, kept by KMS %p under its own ID",
    async (from, to) => {
      const world = aWorld();
      await using driver = aDriver(world.cluster, world);
      const id = await staged(driver, world, from);
      const { volumeId } = (await driver.createVolume(cloneOf(id, { parameters: parametersFor(to), secrets }))).volume;
      const key = await keyOfVolume(world, from, id, imageOf(id));
      expect(await keyOfVolume(world, to, volumeId, imageOf(volumeId))).toBe(key);
      expect(metaOf(world.cluster, imageOf(volumeId))[STATE]).toBe("encrypted");
      expect(entryOf(world.cluster, "csi.volume", volumeId)).toMatchObject({
        "csi.volume.encryptKMS": to || "default",
      });
    },
  );

  test.each(KINDS)(
    "A snapshot of a volume of KMS %p has its key under its own ID, and outlives the volume",
    async (kms) => {
      const world = aWorld();
      await using driver = aDriver(world.cluster, world);
      const id = await staged(driver, world, kms);
      const key = await keyOfVolume(world, kms, id, imageOf(id));
      const { snapshotId } = await readySnapshot(driver, snapshotOf(id, { secrets }));
      expect(entryOf(world.cluster, "csi.snap", snapshotId)).toMatchObject({
        "csi.volume.encryptKMS": kms || "default",
        "csi.volume.encryptionType": "block",
        "csi.volume.owner": "tenant",
      });
      expect(await keyOfVolume(world, kms, snapshotId, holderOf(snapshotId))).toBe(key);
      await driver.deleteVolume(deletion(id, { secrets }));
      const { volumeId } = (
        await driver.createVolume(restoreOf(snapshotId, { parameters: parametersFor(kms), secrets }))
      ).volume;
      expect(await keyOfVolume(world, kms, volumeId, imageOf(volumeId))).toBe(key);
      await driver.deleteSnapshot(snapshotDeletion(snapshotId, { secrets }));
      expect([...world.kept.keys()]).toEqual(kms === "keeper" ? [volumeId] : []);
    },
  );

  test("A copy of a volume that was never staged is not formatted either", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const { volumeId: id } = await created(driver, "wrapper");
    const { volumeId } = (await driver.createVolume(cloneOf(id, { parameters: parametersFor("wrapper"), secrets })))
      .volume;
    expect(metaOf(world.cluster, imageOf(volumeId))[STATE]).toBe("encryptionPrepared");
  });

  test("A copy whose KMS is the passphrase of the request is refused, because its key is its source's", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world, "wrapper");
    const request = cloneOf(id, { parameters: parametersFor(""), secrets });
    expect(await failureOf(driver.createVolume(request))).toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("encryptionKMSID"),
    });
    expect(Object.keys(poolDump(world.cluster).images)).toEqual([imageOf(id)]);
  });

  test.each([
    ["an encrypted copy of a plain volume", PARAMETERS, parametersFor("wrapper")],
    ["a plain copy of an encrypted volume", parametersFor("wrapper"), PARAMETERS],
  ])("CreateVolume refuses %s", async (_, from, to) => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await aVolume(driver, world.cluster, { parameters: from, secrets });
    const failure = await failureOf(driver.createVolume(cloneOf(id, { parameters: to, secrets })));
    expect(failure).toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("parameter encrypted"),
    });
  });

  test("A key that is out of reach fails CreateSnapshot before anything is made", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world, "keeper");
    world.kept.clear();
    const before = world.cluster.dump();
    expect(await failureOf(driver.createSnapshot(snapshotOf(id, { secrets })))).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining(`no key of ${id} in keeper/${id}`),
    });
    expect(world.cluster.dump()).toEqual(before);
  });
});

describe("DeleteVolume with encryption", () => {
  test("The key goes with the volume", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world, "keeper");
    await driver.deleteVolume(deletion(id, { secrets }));
    expect([...world.kept]).toEqual([]);
  });

  test("The key stays while somebody has the image open, and with a person's snapshot", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world, "keeper");
    world.cluster.image("rbd", imageOf(id)).watchers.add("10.0.0.1:0/1/client.9");
    expect(await codeOf(driver.deleteVolume(deletion(id, { secrets })))).toBe("FAILED_PRECONDITION");
    expect([...world.kept.keys()]).toEqual([id]);
  });

  test("The key stays where removed images wait in the trash", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, { ...world, flags: { rbdtrashmaxdelay: "24h" } });
    const id = await staged(driver, world, "keeper");
    await driver.deleteVolume(deletion(id, { secrets }));
    expect([...world.kept.keys()]).toEqual([id]);
    expect(driver.log.join("\n")).toContain(`the key of ${id} stays in KMS keeper`);
  });

  test("The key stays with an image that a person has put into the trash to be kept", async () => {
    const world = aWorld();
    await using driver = aDriver(world.cluster, world);
    const id = await staged(driver, world, "keeper");
    const pool = { access: memoryAccess, pool: "rbd", namespace: "" };
    await Effect.runPromise(cephMemoryService(world.cluster).trashMove(pool, imageOf(id), 86_400));
    await driver.deleteVolume(deletion(id, { secrets }));
    expect(Object.keys(poolDump(world.cluster).trash)).toHaveLength(1);
    expect([...world.kept.keys()]).toEqual([id]);
    expect(driver.log.join("\n")).toContain("needs its key when it is restored");
  });

  test("A key that can't be removed does not keep the volume, and the log says where it is left", async () => {
    const world = aWorld();
    const lost = new KmsUnreachable({ store: "Vault", reason: "no answer" });
    const keeper = interceptedStore(world.stores.keeper, (method, act) =>
      method === "remove" ? Effect.die(new Error("unused")) : act,
    );
    const stores = { keeper: { ...keeper, remove: () => Effect.fail(lost) } };
    await using driver = aDriver(world.cluster, { stores });
    const id = await staged(driver, world, "keeper");
    await driver.deleteVolume(deletion(id, { secrets }));
    expect(poolDump(world.cluster).images).toEqual({});
    expect(driver.log.join("\n")).toContain(`the key of ${id} may be left over in KMS keeper`);
  });
});
