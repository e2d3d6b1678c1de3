/** The key store `kmip` against PyKMIP: keys of ceph-csi's format open, in both modes, and a wrong credential is refused. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { inspect } from "node:util";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { KmsError } from "../../lib/kms/errors.ts";
import type { WrappingStore } from "../../lib/kms/key-store.ts";
import { keyOf } from "../../lib/kms/new-key.ts";
import { openKmipStore } from "../../lib/kms/stores/kmip.ts";
import golden from "../golden/kms/kmip.json";
import { storeContext, type Values } from "../support/store-context.ts";
import { type PyKmip, startPyKmip } from "./pykmip.ts";

const VOLUME = "0001-0009-rook-ceph-0000000000000002-0b8f5b9c-5d6f-11ee-8c99-0242ac120002";
const OTHER_KEY = "ff".repeat(32);

let server: PyKmip;
let keyId: string;
let otherId: string;
let inactiveId: string;
beforeAll(async () => {
  server = await startPyKmip();
  [keyId = "", otherId = "", inactiveId = ""] = await server.register(golden.serverKey, OTHER_KEY, `-${OTHER_KEY}`);
}, 300_000);
afterAll(() => server.stop());

const open = (options: Readonly<Record<string, unknown>> = {}, values: Values = {}) => {
  const credentials = {
    CA_CERT: server.file("ca.crt"),
    CLIENT_CERT: server.file("client.crt"),
    CLIENT_KEY: server.file("client.key"),
    UNIQUE_IDENTIFIER: keyId,
    ...values,
  };
  const secrets = { "storage/ceph-csi-kmip-credentials": credentials };
  return openKmipStore(storeContext({ options: { KMIP_ENDPOINT: server.address, ...options }, secrets })).pipe(
    Effect.map((store) => store as WrappingStore),
  );
};
const LOCAL = { USE_CRYPTO_RPC: "false" };

const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect);
const unwrap = (wrapped: string, options = {}, values: Values = {}) =>
  Effect.flatMap(open(options, values), (store) => store.unwrap(VOLUME, wrapped));
const wrap = (options = {}, values: Values = {}) =>
  Effect.flatMap(open(options, values), (store) => store.wrap(VOLUME, keyOf(golden.key)));
/** The failure, which shows no key. */
const errorOf = async (effect: Effect.Effect<unknown, KmsError>) => {
  const error = await run(Effect.flip(effect));
  const shown = inspect(error, { depth: 8 });
  for (const secret of [golden.key, golden.serverKey, server.file("client.key").slice(40, 100)]) {
    expect(shown).not.toContain(secret);
  }
  return error;
};

test.each([
  ["the server encrypts", "wrappedByServer", {}],
  ["the driver encrypts", "wrappedByDriver", LOCAL],
  ["the driver wrapped it, and the server encrypts now", "wrappedByDriver", {}],
  ["the server wrapped it, and the driver encrypts now", "wrappedByServer", LOCAL],
] as const)("A key that another program wrapped is unwrapped where %s", async (_what, name, options) => {
  expect(Redacted.value(await run(unwrap(golden[name], options)))).toBe(golden.key);
});

test.each([
  ["server", 16, 32, {}],
  ["driver", 12, 44, LOCAL],
] as const)("A key is wrapped by the %s with a nonce of %i bytes", async (_who, nonceBytes, bytes, options) => {
  const [one, other] = [await run(wrap(options)), await run(wrap(options))];
  const { dek, nonce } = JSON.parse(one) as { dek: string; nonce: string };
  expect(one).toBe(JSON.stringify({ dek, nonce }));
  expect(Buffer.from(nonce, "base64").length).toBe(nonceBytes);
  expect(Buffer.from(dek, "base64").length).toBe(bytes);
  expect(one).not.toBe(other);
  expect(Redacted.value(await run(unwrap(one, options)))).toBe(golden.key);
});

test("The name in TLS_SERVER_NAME is that of the server's certificate", async () => {
  expect(Redacted.value(await run(unwrap(golden.wrappedByServer, { TLS_SERVER_NAME: "kmip.example.com" })))).toBe(
    golden.key,
  );
  const error = await errorOf(wrap({ TLS_SERVER_NAME: "other.example.com" }));
  expect(error._tag).toBe("KmsRefused");
  expect(error.message).toContain('TLS_SERVER_NAME into /etc/kms/config.json, section "my-kms"');
});

test("A certificate that the server does not know is refused, and the message says where another one belongs", async () => {
  const stranger = { CLIENT_CERT: server.file("other/stranger.crt"), CLIENT_KEY: server.file("other/stranger.key") };
  const error = await errorOf(wrap({}, stranger));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain(`KMIP server ${server.address} refuses`);
  expect(error.message).toContain("CLIENT_CERT and CLIENT_KEY into Secret storage/ceph-csi-kmip-credentials");
});

test("A server whose certificate another authority made is not trusted", async () => {
  const error = await errorOf(wrap({}, { CA_CERT: server.file("other/ca.crt") }));
  expect(error._tag).toBe("KmsRefused");
  expect(error.message).toContain("CA_CERT into Secret storage/ceph-csi-kmip-credentials");
});

test("A key of the server that does not exist is named, with the place of its ID", async () => {
  const error = await errorOf(wrap({}, { UNIQUE_IDENTIFIER: "4711" }));
  expect(error._tag).toBe("KmsRefused");
  expect(error.message).toContain("UNIQUE_IDENTIFIER into Secret storage/ceph-csi-kmip-credentials");
});

test("A key of the server that is not active does not wrap", async () => {
  const error = await errorOf(wrap({}, { UNIQUE_IDENTIFIER: inactiveId }));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain(`the key ${inactiveId} is active, and permits Encrypt`);
});

test("A key that another key of the server wrapped is refused where the driver decrypts", async () => {
  const error = await errorOf(unwrap(golden.wrappedByDriver, LOCAL, { UNIQUE_IDENTIFIER: otherId }));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain("UNIQUE_IDENTIFIER into Secret storage/ceph-csi-kmip-credentials");
});

test("A key that another key of the server wrapped is not given out where the server decrypts", async () => {
  const error = await errorOf(unwrap(golden.wrappedByServer, {}, { UNIQUE_IDENTIFIER: otherId }));
  expect(["KmsDenied", "KmsRefused"]).toContain(error._tag);
});
