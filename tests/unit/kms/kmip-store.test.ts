/** The key store `kmip`: what a wrong option says, and how long it waits for a server that does not answer. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { Socket, TCPSocketListener } from "bun";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as TestClock from "effect/testing/TestClock";
import type { KmsError } from "../../../lib/kms/errors.ts";
import type { WrappingStore } from "../../../lib/kms/key-store.ts";
import { kmipSettings } from "../../../lib/kms/kmip/settings.ts";
import { keyOf } from "../../../lib/kms/new-key.ts";
import { openKmipStore } from "../../../lib/kms/stores/kmip.ts";
import golden from "../../golden/kms/kmip.json";
import { type Certified, selfSigned } from "../../support/certificates.ts";
import { storeContext, type Values } from "../../support/store-context.ts";

const PLACE = "storage/ceph-csi-kmip-credentials";

let own: Certified;
let other: Certified;
beforeAll(() => {
  [own, other] = [selfSigned(), selfSigned()];
});

const contextOf = (options: Readonly<Record<string, unknown>> = {}, values: Values = {}) => {
  const secret = {
    CA_CERT: own.certificate,
    CLIENT_CERT: own.certificate,
    CLIENT_KEY: own.key,
    UNIQUE_IDENTIFIER: "7",
  };
  const secrets = { [PLACE]: { ...secret, ...values } };
  return storeContext({ options: { KMIP_ENDPOINT: "127.0.0.1:5696", ...options }, secrets });
};
const open = (options: Readonly<Record<string, unknown>> = {}, values: Values = {}) =>
  Effect.map(openKmipStore(contextOf(options, values)), (store) => store as WrappingStore);
const wrap = (store: Effect.Effect<WrappingStore, KmsError>) =>
  Effect.flatMap(store, ({ wrap }) => wrap("vol-1", keyOf(golden.key)));
const errorOf = <A>(effect: Effect.Effect<A, KmsError>) => Effect.runPromise(Effect.flip(effect));

test.each([
  [{ KMIP_ENDPOINT: "kmip.example.com" }, "KMIP_ENDPOINT", "HOST:PORT"],
  [{ KMIP_ENDPOINT: "https://kmip.example.com:5696" }, "KMIP_ENDPOINT", "HOST:PORT"],
  [{ KMIP_ENDPOINT: "kmip.example.com:70000" }, "KMIP_ENDPOINT", "HOST:PORT"],
  [{ KMIP_ENDPOINT: "" }, "KMIP_ENDPOINT", "is missing"],
  [{ KMIP_ENDPOINT: 5696 }, "KMIP_ENDPOINT", "a text"],
  [{ TLS_MIN_VERSION: "1.1" }, "TLS_MIN_VERSION", '"1.2" or "1.3"'],
  [{ READ_TIMEOUT: "10" }, "READ_TIMEOUT", "a number"],
  [{ USE_CRYPTO_RPC: "no" }, "USE_CRYPTO_RPC", '"false"'],
  [{ KMIP_SECRET_NAME: "nowhere" }, "KMIP_SECRET_NAME", "Secret storage/nowhere does not exist"],
])("The options %p are refused with the file, the section and the key", async (options, key, reason) => {
  const error = await errorOf(wrap(open(options)));
  expect(error._tag).toBe("KmsConfigInvalid");
  expect(error.message).toStartWith(`/etc/kms/config.json, section "my-kms", key ${key}: `);
  expect(error.message).toContain(reason);
});

test.each([
  ["CA_CERT", "", "is missing: add it"],
  ["UNIQUE_IDENTIFIER", " \n", "is missing: add it"],
  ["UNIQUE_IDENTIFER", "7", "write UNIQUE_IDENTIFIER"],
  ["CA_CERT", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "is not a certificate in PEM"],
  ["CLIENT_CERT", "a certificate", "is not a certificate in PEM"],
  ["CLIENT_KEY", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----", "is not a private key"],
])("A Secret whose %s is %p is refused with its name and the key", async (key, value, reason) => {
  const error = await errorOf(wrap(open({}, { [key]: value })));
  expect(error._tag).toBe("KmsConfigInvalid");
  expect(error.message).toStartWith(`Secret ${PLACE}, key ${key}: `);
  expect(error.message).toContain(reason);
  expect(error.message).not.toContain("c2VjcmV0");
});

test("A key that is not that of the certificate is refused before anything is asked", async () => {
  const error = await errorOf(wrap(open({}, { CLIENT_KEY: other.key })));
  expect(error.message).toBe(
    `Secret ${PLACE}, key CLIENT_KEY: is not the key of the certificate in CLIENT_CERT: write both anew`,
  );
});

test.each(["[::1]:1", "localhost:1", "127.0.0.1:1", ":1"])("%s is an address", async (address) => {
  const error = await errorOf(wrap(open({ KMIP_ENDPOINT: address })));
  expect(error.message).toStartWith(`KMIP server ${address} does not answer: `);
});

test.each([
  [undefined, 10],
  [30, 30],
  [1.9, 1],
  [0, 120],
  [0.5, 120],
  [-1, 120],
  [256, 120],
])("A timeout of %p, where ceph-csi cuts to whole seconds and 0 has no end, is %d s", async (READ_TIMEOUT, seconds) => {
  const timeout = READ_TIMEOUT === undefined ? {} : { READ_TIMEOUT };
  const settings = await Effect.runPromise(kmipSettings(contextOf(timeout)));
  expect(Duration.toSeconds(settings.endpoint.readLimit)).toBe(seconds);
});

test("White space around the texts of the Secret does no harm", async () => {
  const values = { UNIQUE_IDENTIFIER: "7\n", CLIENT_KEY: `\n${own.key}\n` };
  expect((await errorOf(wrap(open({ KMIP_ENDPOINT: "127.0.0.1:1" }, values))))._tag).toBe("KmsUnreachable");
});

test.each(["", "{}", "AAAA", '{"dek":"AAAA","nonce":"AAAA"}', '{"dek":"rP7d6dwKNAzy+6UHRaGYiA==","nonce":"AAAA"}'])(
  "The text %p is not a wrapped key, and no server is asked",
  async (text) => {
    const error = await errorOf(Effect.flatMap(open(), (store) => store.unwrap("vol-1", text)));
    expect(error._tag).toBe("KeyDamaged");
  },
);

/** A server that takes connections and never says a word. */
let silent: TCPSocketListener<undefined>;
let connected = Promise.withResolvers<void>();
const sockets: Socket[] = [];
beforeAll(() => {
  silent = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: { open: (socket) => (sockets.push(socket), connected.resolve()), data: () => {} },
  });
});
afterAll(() => {
  for (const socket of sockets) socket.terminate();
  silent.stop(true);
});

test("A server that does not answer is unreachable after ten seconds, and the message has its address", async () => {
  connected = Promise.withResolvers();
  const address = `127.0.0.1:${silent.port}`;
  const asked = Effect.gen(function* () {
    const store = yield* open({ KMIP_ENDPOINT: address });
    const fiber = yield* Effect.forkChild(Effect.flip(store.unwrap("vol-1", golden.wrappedByServer)));
    yield* Effect.promise(() => connected.promise);
    yield* TestClock.adjust("10 seconds");
    return yield* Fiber.join(fiber);
  });
  const error = await Effect.runPromise(Effect.provide(asked, TestClock.layer()));
  expect(error._tag).toBe("KmsUnreachable");
  expect(error.message).toContain(`KMIP server ${address} does not answer: no connection within 10 s`);
});

test("A server that is not there is unreachable at once", async () => {
  const gone = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => {} } });
  const address = `127.0.0.1:${gone.port}`;
  gone.stop(true);
  const error = await errorOf(wrap(open({ KMIP_ENDPOINT: address })));
  expect(error._tag).toBe("KmsUnreachable");
  expect(error.message).toContain(address);
});

test("A volume is removed without the Secret: the store opens, and fails when a key is wrapped", async () => {
  const store = await Effect.runPromise(open({ KMIP_SECRET_NAME: "nowhere" }));
  expect(store.kind).toBe("wrapping");
  expect((await errorOf(store.wrap("vol-1", keyOf("k"))))._tag).toBe("KmsConfigInvalid");
});
