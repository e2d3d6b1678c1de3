/**
 * Encrypted volumes on a real cluster: what Ceph's own tools see of them, from the creation over a snapshot and its
 * restore to the deletion.
 *
 * Not here: LUKS (tests/vm), and other key stores (tests/unit/kms).
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { keyOf } from "../../lib/kms/new-key.ts";
import { metadataStore } from "../../lib/kms/stores/metadata.ts";
import { rig } from "../rig/cluster.ts";
import { vaultServer, type VaultServerMemory } from "../support/vault-server.ts";
import { cloneRequest, dropRequest, restoreRequest, SIZE, snapshotRequest } from "./copies.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { makePool, omapOf, tool } from "./inventory.ts";
import { CLUSTER, createRequest, deleteRequest, failureOf, secrets } from "./requests.ts";

const PASSPHRASE = "correct horse battery staple";
const STATE = "rbd.csi.ceph.com/encrypted";
const DEK = "rbd.csi.ceph.com/dek";
const timeoutMs = 60_000;
const encrypted = { encrypted: "true", encryptionKMSID: "passphrases", "csi.storage.k8s.io/pvc/namespace": "tenant" };
const store = metadataStore(keyOf(PASSPHRASE), "this test");

const files = { ...encrypted, encryptionType: "file", encryptionKMSID: "vault" };

let dir: string;
let vault: VaultServerMemory;
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;

beforeAll(async () => {
  dir = testFolder("encryption");
  pool = await makePool("encryption");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  const kmsConfig = join(dir, "kms.json");
  vault = vaultServer();
  const sections = {
    passphrases: { encryptionKMSType: "metadata" },
    vault: {
      encryptionKMSType: "vault",
      vaultAddress: vault.url,
      vaultAuthPath: "kubernetes",
      vaultRole: "unused",
      vaultPassphrasePath: "",
      vaultBackend: "kv-v2",
    },
  };
  writeFileSync(kmsConfig, JSON.stringify(sections));
  process.env["VAULT_TOKEN"] = "root";
  driver = await startDriver({ dir, flags: [`--kms-config=${kmsConfig}`] });
  delete process.env["VAULT_TOKEN"];
}, 60_000);

afterAll(async () => {
  await driver?.end();
  await pool?.remove();
  await vault?.stop();
}, 60_000);

const withPassphrase = <R extends object>(request: R) => ({
  ...request,
  secrets: { ...secrets(), encryptionPassphrase: PASSPHRASE },
});

const metadataOf = async (image: string): Promise<Record<string, string>> => {
  const listed = await tool("rbd", "image-meta", "ls", "--format=json", `${pool.name}/${image}`);
  return listed.trim() === "" ? {} : (JSON.parse(listed) as Record<string, string>);
};

/** The passphrase that a node would open the LUKS device with. */
const keyIn = async (handle: string, image: string): Promise<string> => {
  const wrapped = (await metadataOf(image))[DEK] ?? "";
  return Redacted.value(await Effect.runPromise(store.unwrap(handle, wrapped)));
};

const make = async (request: ReturnType<typeof createRequest>) => {
  const { volume } = await driver.controller.createVolume(withPassphrase(request), { timeoutMs });
  const image = volume?.volumeContext["imageName"] ?? "";
  return { id: volume?.volumeId ?? "", image, uuid: image.slice(-36) };
};

const copyOf = <R extends ReturnType<typeof createRequest>>(request: R): R => ({
  ...request,
  parameters: { ...request.parameters, ...encrypted },
});

test("A volume, its snapshot, a restore of that and a clone have one key, each under its own ID", async () => {
  const volume = await make(createRequest("pvc-1", { pool: pool.name, ...encrypted }, SIZE));
  const omap = await omapOf(pool.name, `csi.volume.${volume.uuid}`);
  expect(omap?.get("csi.volume.encryptKMS")).toBe("passphrases");
  expect(omap?.get("csi.volume.encryptionType")).toBe("block");
  expect(omap?.get("csi.volume.owner")).toBe("tenant");
  const fresh = await metadataOf(volume.image);
  expect(fresh[STATE]).toBe("encryptionPrepared");
  expect(fresh[DEK]).toMatch(/^\{"dek":"[A-Za-z0-9+/]{59}=","nonce":"[A-Za-z0-9+/]{16}"\}$/);
  const key = await keyIn(volume.id, volume.image);
  expect(key).toMatch(/^[A-Za-z0-9_-]{27}=$/);

  expect((await make(createRequest("pvc-1", { pool: pool.name, ...encrypted }, SIZE))).id).toBe(volume.id);
  expect(await metadataOf(volume.image)).toEqual(fresh);

  await tool("rbd", "image-meta", "set", `${pool.name}/${volume.image}`, STATE, "encrypted");
  const taken = withPassphrase(snapshotRequest("snap-1", volume.id));
  let snapshot = (await driver.controller.createSnapshot(taken, { timeoutMs })).snapshot;
  while (snapshot?.readyToUse === false)
    snapshot = (await driver.controller.createSnapshot(taken, { timeoutMs })).snapshot;
  const snapshotId = snapshot?.snapshotId ?? "";
  const holder = `csi-snap-${snapshotId.slice(-36)}`;
  expect(await keyIn(snapshotId, holder)).toBe(key);
  const clone = await make(copyOf(cloneRequest("pvc-clone", pool.name, volume.id)));
  expect(await keyIn(clone.id, clone.image)).toBe(key);
  await driver.controller.deleteVolume(withPassphrase(deleteRequest(volume.id)), { timeoutMs });
  const restore = await make(copyOf(restoreRequest("pvc-restore", pool.name, snapshotId)));
  expect(await keyIn(restore.id, restore.image)).toBe(key);
  expect((await metadataOf(restore.image))[STATE]).toBe("encrypted");

  for (const { id } of [clone, restore]) {
    await driver.controller.deleteVolume(withPassphrase(deleteRequest(id)), { timeoutMs });
  }
  await driver.controller.deleteSnapshot(withPassphrase(dropRequest(snapshotId)), { timeoutMs });
  expect((await omapOf(pool.name, "csi.volumes.default"))?.size).toBe(0);
  expect((await omapOf(pool.name, "csi.snaps.default"))?.size).toBe(0);
}, 180_000);

test("A wrong passphrase is refused before a copy is made, and no passphrase and no key is in the log", async () => {
  const volume = await make(createRequest("pvc-2", { pool: pool.name, ...encrypted }, SIZE));
  const key = await keyIn(volume.id, volume.image);
  const request = copyOf(cloneRequest("pvc-wrong", pool.name, volume.id));
  const wrong = { ...request, secrets: { ...secrets(), encryptionPassphrase: "wrong horse" } };
  const failure = await failureOf(driver.controller.createVolume(wrong, { timeoutMs }));
  expect(failure).toMatchObject({ code: 7, details: expect.stringContaining("encryptionPassphrase into the secrets") });
  expect([...((await omapOf(pool.name, "csi.volumes.default"))?.keys() ?? [])]).toEqual(["csi.volume.pvc-2"]);
  for (const secret of [PASSPHRASE, "wrong horse", key]) expect(driver.log()).not.toContain(secret);
  await driver.controller.deleteVolume(withPassphrase(deleteRequest(volume.id)), { timeoutMs });
}, 120_000);

test("A volume with encrypted files has no key until it is staged; its copies have that one, each under its own ID", async () => {
  const copied = <R extends ReturnType<typeof createRequest>>(request: R): R => ({
    ...request,
    parameters: { ...request.parameters, ...files },
  });
  const keys = () => Object.keys(vault.secrets()).map((path) => path.slice("secret/data/".length));
  const volume = await make(createRequest("pvc-files", { pool: pool.name, ...files }, SIZE));
  const omap = await omapOf(pool.name, `csi.volume.${volume.uuid}`);
  expect([omap?.get("csi.volume.encryptKMS"), omap?.get("csi.volume.encryptionType")]).toEqual(["vault", "file"]);
  expect([keys(), Object.keys(await metadataOf(volume.image)).filter((key) => [STATE, DEK].includes(key))]).toEqual([
    [],
    [],
  ]);
  const early = await make(copied(cloneRequest("pvc-early", pool.name, volume.id)));
  expect(keys()).toEqual([]);

  const secret = { data: { passphrase: "k".repeat(88) } };
  vault.seed(`secret/data/${volume.id}`, secret);
  const taken = withPassphrase(snapshotRequest("snap-files", volume.id));
  let snapshot = (await driver.controller.createSnapshot(taken, { timeoutMs })).snapshot;
  while (snapshot?.readyToUse === false)
    snapshot = (await driver.controller.createSnapshot(taken, { timeoutMs })).snapshot;
  const snapshotId = snapshot?.snapshotId ?? "";
  const snapshotEntry = await omapOf(pool.name, `csi.snap.${snapshotId.slice(-36)}`);
  expect(snapshotEntry?.get("csi.volume.encryptionType")).toBe("file");
  const clone = await make(copied(cloneRequest("pvc-files-clone", pool.name, volume.id)));
  await driver.controller.deleteVolume(withPassphrase(deleteRequest(volume.id)), { timeoutMs });
  const restore = await make(copied(restoreRequest("pvc-files-restore", pool.name, snapshotId)));
  expect(keys().toSorted()).toEqual([clone.id, restore.id, snapshotId].toSorted());
  for (const id of [clone.id, restore.id, snapshotId]) expect(vault.secrets()[`secret/data/${id}`]).toEqual(secret);

  for (const { id } of [early, clone, restore]) {
    await driver.controller.deleteVolume(withPassphrase(deleteRequest(id)), { timeoutMs });
  }
  await driver.controller.deleteSnapshot(withPassphrase(dropRequest(snapshotId)), { timeoutMs });
  expect(keys()).toEqual([]);
}, 180_000);
