/** The configuration of key stores: from the file, from the ConfigMap where there is none, and what is wrong with either. */
import { expect, test } from "bun:test";
import * as Redacted from "effect/Redacted";
import * as Effect from "effect/Effect";
import { failing, type KmsPlaces, opened, openedWrapping, opening } from "../../support/kms-world.ts";
import golden from "../../golden/kms/metadata.json";

const METADATA = { encryptionKMSType: "metadata" };
const secrets = { encryptionPassphrase: golden.passphrase };

test.each(["", "default"])("The KMS ID %p reads no configuration, not even one that is broken", async (kmsId) => {
  const store = await opened({ config: "{" }, { kmsId, secrets });
  if (store.kind !== "passphrase") throw new Error(store.kind);
  expect(Redacted.value(await Effect.runPromise(store.passphrase))).toBe(golden.passphrase);
});

test("A passphrase is taken byte for byte", async () => {
  const store = await opened({}, { kmsId: "default", secrets: { encryptionPassphrase: " with a line end\n" } });
  if (store.kind !== "passphrase") throw new Error(store.kind);
  expect(Redacted.value(await Effect.runPromise(store.passphrase))).toBe(" with a line end\n");
});

const unwrapped = async (places: KmsPlaces, request = {}) => {
  const store = await openedWrapping(places, { secrets, ...request });
  return Redacted.value(await Effect.runPromise(store.unwrap(golden.volumeId, golden.wrapped)));
};

test("The file's section is used, and the ConfigMap is not asked where there is a file", async () => {
  const configMaps = { "rook-ceph/csi-kms-connection-details": { kms: "broken" } };
  expect(await unwrapped({ config: { kms: METADATA }, configMaps })).toBe(golden.key);
});

test("The type may be called KMS_PROVIDER, and encryptionKMSType wins", async () => {
  expect(await unwrapped({ config: { kms: { KMS_PROVIDER: "metadata" } } })).toBe(golden.key);
  expect(await unwrapped({ config: { kms: { ...METADATA, KMS_PROVIDER: "vault" } } })).toBe(golden.key);
});

test("Without a file each key of the ConfigMap is a section, and one that is broken harms no other", async () => {
  const data = { kms: JSON.stringify(METADATA), other: "{" };
  expect(await unwrapped({ configMaps: { "rook-ceph/csi-kms-connection-details": data } })).toBe(golden.key);
  const named = { configMaps: { "rook-ceph/mine": data }, env: { KMS_CONFIGMAP_NAME: "mine" } };
  expect(await unwrapped(named)).toBe(golden.key);
});

test("The passphrase of metadata is read from the Secret that the section names, in the tenant's namespace by default", async () => {
  const data = { encryptionPassphrase: golden.passphrase };
  const section = { ...METADATA, secretName: "storage" };
  expect(await unwrapped({ config: { kms: section }, secrets: { "tenant/storage": data } }, { secrets: {} })).toBe(
    golden.key,
  );
  const elsewhere = { ...section, secretNamespace: "keys" };
  expect(await unwrapped({ config: { kms: elsewhere }, secrets: { "keys/storage": data } }, { secrets: {} })).toBe(
    golden.key,
  );
});

const wrong: readonly (readonly [what: string, places: KmsPlaces, says: string])[] = [
  ["a file that is not JSON", { config: "{" }, "KmsConfigInvalid: /etc/kms/config.json: is not a JSON object"],
  ["a file that is a list", { config: "[]" }, "KmsConfigInvalid: /etc/kms/config.json: is not a JSON object"],
  [
    "a section that is a text",
    { config: { kms: "metadata" } },
    '/etc/kms/config.json, section "kms": is not a JSON object',
  ],
  [
    "a file without the section",
    { config: { a: {}, b: {} } },
    'KmsUnknown: no KMS "kms" in /etc/kms/config.json (it has a, b)',
  ],
  ["a section without a type", { config: { kms: {} } }, "key encryptionKMSType: is missing"],
  [
    "neither a file nor a ConfigMap",
    {},
    "ConfigMap rook-ceph/csi-kms-connection-details: it does not exist, and neither does the file /etc/kms/config.json",
  ],
  [
    "a ConfigMap without the section",
    { configMaps: { "rook-ceph/csi-kms-connection-details": {} } },
    "(it has none): add a section",
  ],
  [
    "a ConfigMap whose section is broken",
    { configMaps: { "rook-ceph/csi-kms-connection-details": { kms: "{" } } },
    'section "kms": is not a JSON object',
  ],
  ["no file and no namespace", { podNamespace: "" }, "POD_NAMESPACE: is not set"],
];
test.each(wrong)("The message about %s names the place", async (_, places, says) => {
  expect(await failing(opening(places))).toContain(says);
});

const wrongMetadata: readonly (readonly [what: string, places: KmsPlaces, owner: string | undefined, says: string])[] =
  [
    [
      "no passphrase at all",
      { config: { kms: METADATA } },
      "tenant",
      "InvalidSecret: secret encryptionPassphrase: is missing from the secrets",
    ],
    [
      "a Secret that does not exist",
      { config: { kms: { ...METADATA, secretName: "s" } } },
      "tenant",
      "key secretName: names Secret tenant/s, which does not exist",
    ],
    [
      "a Secret without the key",
      { config: { kms: { ...METADATA, secretName: "s" } }, secrets: { "tenant/s": {} } },
      "tenant",
      "Secret tenant/s, key encryptionPassphrase: is missing",
    ],
    [
      "no namespace",
      { config: { kms: { ...METADATA, secretName: "s" } } },
      undefined,
      "key secretNamespace: is missing",
    ],
  ];
test.each(wrongMetadata)(
  "The store metadata with %s says what to add, when the passphrase is needed",
  async (_, places, owner, says) => {
    const store = await openedWrapping(places, { owner });
    expect(await failing(store.unwrap(golden.volumeId, golden.wrapped))).toContain(says);
  },
);
