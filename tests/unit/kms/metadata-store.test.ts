/** The key store `metadata`: the bytes of ceph-csi, and what a wrong passphrase or a damaged text says. */
import { expect, test } from "bun:test";
import { createCipheriv, scryptSync } from "node:crypto";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { keyOf } from "../../../lib/kms/new-key.ts";
import { metadataStore, openMetadataStore } from "../../../lib/kms/stores/metadata.ts";
import golden from "../../golden/kms/metadata.json";
import { openedWrapping } from "../../support/kms-world.ts";
import { storeContext } from "../../support/store-context.ts";

const { passphrase, volumeId, key, wrapped } = golden;
const store = metadataStore(keyOf(passphrase), "Secret tenant/storage");
const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect);

test("A key that another program wrapped is unwrapped", async () => {
  expect(Redacted.value(await run(store.unwrap(volumeId, wrapped)))).toBe(key);
});

test("A key is wrapped as JSON with the ciphertext, its tag, and a nonce that is never the same", async () => {
  const [one, other] = [await run(store.wrap(volumeId, keyOf(key))), await run(store.wrap(volumeId, keyOf(key)))];
  expect(one).toMatch(/^\{"dek":"[A-Za-z0-9+/]{59}=","nonce":"[A-Za-z0-9+/]{16}"\}$/);
  expect(one).not.toBe(other);
  expect(Redacted.value(await run(store.unwrap(volumeId, one)))).toBe(key);
});

test("A new key has 28 characters of the URL's alphabet, and no two are the same", async () => {
  const keys = await Promise.all(Array.from({ length: 200 }, () => run(store.newKey)));
  const texts = keys.map(Redacted.value);
  expect(texts.filter((text) => !/^[A-Za-z0-9_-]{27}=$/.test(text))).toEqual([]);
  expect(new Set(texts).size).toBe(200);
});

test("A wrong passphrase is refused, and the message says where the right one belongs", async () => {
  const wrong = metadataStore(keyOf("wrong horse"), "Secret tenant/storage");
  const error = await run(Effect.flip(wrong.unwrap(volumeId, wrapped)));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain("encryptionPassphrase into Secret tenant/storage");
  expect(error.message).not.toContain("wrong horse");
});

test("An empty passphrase of the request wraps a key, as with ceph-csi, and a missing one does not", async () => {
  const places = { config: { kms: { encryptionKMSType: "metadata" } } };
  const empty = await openedWrapping(places, { secrets: { encryptionPassphrase: "" } });
  expect(Redacted.value(await run(empty.unwrap(volumeId, await run(empty.wrap(volumeId, keyOf(key))))))).toBe(key);
  const missing = await openedWrapping(places);
  expect((await run(Effect.flip(missing.wrap(volumeId, keyOf(key)))))._tag).toBe("InvalidSecret");
});

test("A passphrase that is no text wraps as ceph-csi has it, by its bytes, and encrypts no files", async () => {
  const bytes = Buffer.from([0x80, 0xff, 0x41, 0xfe, 0x00, 0x81]);
  const nonce = Buffer.alloc(12, 7);
  const wrapping = scryptSync(bytes, volumeId, 32, { N: 32_768, r: 8, p: 1, maxmem: 64 << 20 });
  const cipher = createCipheriv("aes-256-gcm", wrapping, nonce);
  const dek = Buffer.concat([cipher.update(key), cipher.final(), cipher.getAuthTag()]).toString("base64");
  const options = { encryptionKMSType: "metadata", secretName: "storage", secretNamespace: "tenant" };
  const secrets = { "tenant/storage": { encryptionPassphrase: bytes } };
  const opened = await run(openMetadataStore(storeContext({ options, secrets })));
  if (opened.kind !== "wrapping") throw new Error("it wraps no keys");
  const text = JSON.stringify({ dek, nonce: nonce.toString("base64") });
  expect(Redacted.value(await run(opened.unwrap(volumeId, text)))).toBe(key);
  expect(Redacted.value(await run(opened.unwrap(volumeId, await run(opened.wrap(volumeId, keyOf(key))))))).toBe(key);
  const refused = await run(Effect.flip(opened.passphrase ?? Effect.die("it has none")));
  expect(refused.message).toContain("is not UTF-8");
});

test("A key that was wrapped for another volume is refused", async () => {
  expect((await run(Effect.flip(store.unwrap(`${volumeId}x`, wrapped))))._tag).toBe("KmsDenied");
});

test.each(["", "{}", "not JSON", '{"dek":"AAAA","nonce":"AAAA"}', '{"dek":1,"nonce":2}', '{"dek":"*","nonce":"*"}'])(
  "The text %p is not a wrapped key, which is not the same as a wrong passphrase",
  async (text) => {
    expect((await run(Effect.flip(store.unwrap(volumeId, text))))._tag).toBe("KeyDamaged");
  },
);
