/**
 * The key store `azure-kv`, with Microsoft's own client, against a server that is true to the HTTP API of Entra ID and of
 * Key Vault (tests/support/azure-server.ts).
 */
import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { inspect } from "node:util";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { keyOf } from "../../../lib/kms/new-key.ts";
import { azureKeyVaultStore } from "../../../lib/kms/stores/azure-key-vault.ts";
import { type AzureServer, azureServer, CLIENT, TENANT, TOKEN } from "../../support/azure-server.ts";
import { type Certified, pkcs12, selfSigned } from "../../support/certificates.ts";
import { storeContext } from "../../support/store-context.ts";

const PLACE = "storage/ceph-csi-azure-credentials";
const VOLUME = "0001-0009-rook-ceph-0000000000000002-0b8f5b9c-5d6f-11ee-8c99-0242ac120002";
const KEY = "Zm9vYmFyLWJhel9xdXV4LTEyMzQ=";

let azure: AzureServer;
let tls: Certified;
let application: Certified;
let stranger: Certified;
beforeAll(() => {
  [tls, application, stranger] = [selfSigned(), selfSigned(), selfSigned()];
  azure = azureServer(tls, application.certificate);
});
beforeEach(() => {
  azure.secrets.clear();
  azure.deleted.clear();
  azure.permits = true;
  azure.requests.length = 0;
});
afterAll(() => azure.stop());

const pem = ({ certificate, key }: Certified) => `${key}${certificate}`;
const open = (options: Readonly<Record<string, unknown>> = {}, certificate: string | Uint8Array = pem(application)) => {
  const section = { AZURE_VAULT_URL: `${azure.url}/`, AZURE_CLIENT_ID: CLIENT, AZURE_TENANT_ID: TENANT, ...options };
  const context = storeContext({ options: section, secrets: { [PLACE]: { CLIENT_CERT: certificate } } });
  return azureKeyVaultStore(context, { authorityHost: azure.url, ca: tls.certificate });
};

const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect);
const write = (store: ReturnType<typeof open>, key = KEY) =>
  Effect.flatMap(store, (it) => it.write(VOLUME, keyOf(key)));
const read = (store: ReturnType<typeof open>) => Effect.flatMap(store, (it) => it.read(VOLUME));
/** The failure, which shows no key and no token. */
const errorOf = async <A, E>(effect: Effect.Effect<A, E>) => {
  const error = await run(Effect.flip(effect));
  const shown = inspect(error, { depth: 8 });
  for (const secret of [KEY, TOKEN, application.key.slice(40, 100), stranger.key.slice(40, 100)]) {
    expect(shown).not.toContain(secret);
  }
  return error as E & { readonly _tag: string; readonly message: string };
};

test("A key that ceph-csi keeps is read: the secret has the ID of the volume, and its value is the key", async () => {
  azure.secrets.set(VOLUME, KEY);
  expect(Redacted.value(await run(read(open())))).toBe(KEY);
});

test("The scheme of the vault's address may have capital letters", async () => {
  azure.secrets.set(VOLUME, KEY);
  const options = { AZURE_VAULT_URL: azure.url.replace("https", "HTTPS") };
  expect(Redacted.value(await run(read(open(options))))).toBe(KEY);
});

test("A key is written as the plain value of a secret, after a look", async () => {
  await run(write(open()));
  expect([...azure.secrets]).toEqual([[VOLUME, KEY]]);
  const path = `/secrets/${VOLUME}`;
  expect(azure.requests.filter((each) => each.includes("/secrets/"))).toEqual([
    `GET ${path}/ 7.5`,
    `GET ${path}/ 7.5`,
    `PUT ${path} 7.5`,
  ]);
});

test("A key that is there is not overwritten", async () => {
  await run(write(open()));
  expect((await errorOf(write(open(), "another")))._tag).toBe("KeyExists");
  expect(azure.secrets.get(VOLUME)).toBe(KEY);
});

test("A key is replaced only in the place of the one that is there", async () => {
  azure.secrets.set(VOLUME, KEY);
  const replace = (old: string) => Effect.flatMap(open(), (it) => it.replace(VOLUME, keyOf(old), keyOf("new")));
  expect((await errorOf(replace("other")))._tag).toBe("KeyExists");
  expect(azure.secrets.get(VOLUME)).toBe(KEY);
  await run(replace(KEY));
  expect(azure.secrets.get(VOLUME)).toBe("new");
});

test("A key that is not there is not found, and its removal succeeds", async () => {
  const error = await errorOf(read(open()));
  expect(error._tag).toBe("KeyNotFound");
  expect(error.message).toContain(`${azure.url}/secrets/${VOLUME}`);
  await run(Effect.flatMap(open(), (it) => it.remove(VOLUME)));
});

test("A removed key stays in the vault until it is purged, and the message says so", async () => {
  await run(write(open()));
  await run(Effect.flatMap(open(), (it) => it.remove(VOLUME)));
  expect(azure.secrets.size).toBe(0);
  const error = await errorOf(write(open()));
  expect(error._tag).toBe("KmsRefused");
  expect(error.message).toContain("recover it, or purge it");
});

test("A certificate that the application does not have is refused, and the message says where the right one belongs", async () => {
  const error = await errorOf(read(open({}, pem(stranger))));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain("AADSTS700027");
  expect(error.message).toContain(`as CLIENT_CERT into Secret ${PLACE}`);
});

test.each([
  [{ AZURE_CLIENT_ID: "another" }, "AADSTS700016", "Correct AZURE_CLIENT_ID"],
  [{ AZURE_TENANT_ID: "another" }, `belongs to the tenant ${TENANT}`, "Write it as AZURE_TENANT_ID"],
])("With %p no token is given, and the message names the option", async (options, code, remedy) => {
  const error = await errorOf(read(open(options)));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain(code);
  expect(error.message).toContain(remedy);
  expect(error.message).toContain('/etc/kms/config.json, section "my-kms"');
});

test("An application without a role is refused, and the message says what to grant", async () => {
  azure.permits = false;
  const error = await errorOf(write(open()));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain("the role Key Vault Secrets Officer");
});

test("A volume whose ID cannot be the name of a secret is refused before anything is asked", async () => {
  const error = await errorOf(Effect.flatMap(open(), (it) => it.write("0001-0004-my.c-01-x", keyOf(KEY))));
  expect(error._tag).toBe("KmsRefused");
  expect(error.message).toContain("give the cluster a clusterID of these");
  expect(azure.requests).toEqual([]);
});

test("A vault that is not there is unreachable, and the message has its address", async () => {
  const error = await errorOf(read(open({ AZURE_VAULT_URL: "https://127.0.0.1:1" })));
  expect(error._tag).toBe("KmsUnreachable");
  expect(error.message).toContain("Azure Key Vault https://127.0.0.1:1 does not answer");
}, 40_000);

test.each([
  [{ AZURE_VAULT_URL: "name.vault.azure.net" }, "AZURE_VAULT_URL: is not an address"],
  [{ AZURE_CLIENT_ID: "" }, "AZURE_CLIENT_ID: is missing"],
  [{ AZURE_TENANT_ID: 7 }, "AZURE_TENANT_ID: write a text"],
  [{ AZURE_TENANT_ID: "my tenant" }, "AZURE_TENANT_ID: is no tenant"],
  [{ AZURE_CERT_SECRET_NAME: "x" }, "AZURE_CERT_SECRET_NAME: Secret storage/x does not exist"],
])("The options %p are refused with the file, the section and the key", async (options, message) => {
  const error = await errorOf(open(options));
  expect(error._tag).toBe("KmsConfigInvalid");
  expect(error.message).toContain(`/etc/kms/config.json, section "my-kms", key ${message}`);
});

test("An application logs in with PKCS #12 as it does with PEM, and the first certificate may be another's", async () => {
  azure.secrets.set(VOLUME, KEY);
  const files = [
    pkcs12(application, [], [stranger.certificate]),
    stranger.certificate + pem(application),
    application.key + stranger.certificate + application.certificate,
  ];
  for (const file of files) expect(Redacted.value(await run(read(open({}, file))))).toBe(KEY);
});

test("A certificate that is missing is named with the Secret and the key", async () => {
  const error = await errorOf(open({}, ""));
  expect(error._tag).toBe("KmsConfigInvalid");
  expect(error.message).toBe(`Secret ${PLACE}, key CLIENT_CERT: is missing: add it`);
});

test.each([
  ["text", "is neither PEM nor PKCS #12: write "],
  ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "is a file without a private key"],
])("The certificate %p is refused with the Secret and the key", async (text, reason) => {
  const error = await errorOf(open({}, text));
  expect(error._tag).toBe("KmsConfigInvalid");
  expect(error.message).toStartWith(`Secret ${PLACE}, key CLIENT_CERT: ${reason}`);
});

test("PKCS #12 with a password is refused, and the message says how to write it without one", async () => {
  const error = await errorOf(open({}, pkcs12(application, ["-passout", "pass:secret"])));
  expect(error._tag).toBe("KmsConfigInvalid");
  expect(error.message).toStartWith(`Secret ${PLACE}, key CLIENT_CERT: is PKCS #12 with a password`);
  expect(error.message).toContain("openssl pkcs12 -in FILE -nodes -out cert.pem");
});
