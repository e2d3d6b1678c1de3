/**
 * The key store `ibmkeyprotect` against a server that is true to the HTTP API of IBM's token service and of Key Protect, as
 * far as it is documented: it takes only base64, and opens a key only for the volume that it was wrapped for.
 */
import { afterAll, expect, test } from "bun:test";
import { inspect } from "node:util";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Redacted from "effect/Redacted";
import * as TestClock from "effect/testing/TestClock";
import type { KmsError } from "../../../lib/kms/errors.ts";
import type { WrappingStore } from "../../../lib/kms/key-store.ts";
import { keyOf } from "../../../lib/kms/new-key.ts";
import { openIbmKeyProtectStore } from "../../../lib/kms/stores/ibm-key-protect.ts";
import golden from "../../golden/kms/ibm-key-protect.json";
import { storeContext, type Values } from "../../support/store-context.ts";

const PLACE = "storage/ceph-csi-kp-credentials";
const API_KEY = "an-api-key-that-nothing-shows";
const INSTANCE = "instance-1";
const ROOT_KEY = "root/key 1";
const TOKEN = "a-token-that-nothing-shows";

let paths: string[] = [];
/** Answers the next request in place of the service. */
let next: (() => Response | Promise<Response>) | undefined;

const json = (value: unknown, status = 200) => Response.json(value, { status });
const keyProtectError = (status: number, errorMsg: string) =>
  json({ metadata: { collectionTotal: 1 }, resources: [{ errorMsg }] }, status);

const token = async (request: Request) => {
  const form = new URLSearchParams(await request.text());
  if (form.get("grant_type") !== "urn:ibm:params:oauth:grant-type:apikey") return json({}, 400);
  return form.get("apikey") === API_KEY
    ? json({ access_token: TOKEN, token_type: "Bearer", expires_in: 3600 })
    : json({ errorCode: "BXNIM0415E", errorMessage: "Provided API key could not be found." }, 400);
};

interface Body {
  readonly plaintext?: string;
  readonly ciphertext?: string;
  readonly aad: readonly string[];
}

const act = async (request: Request, action: string) => {
  const { headers } = request;
  if (headers.get("authorization") !== `Bearer ${TOKEN}`) return keyProtectError(401, "Unauthorized: no valid token");
  if (headers.get("bluemix-instance") !== INSTANCE) return keyProtectError(403, "Forbidden: not your instance");
  if (!/^[\da-f-]{36}$/.test(headers.get("correlation-id") ?? "")) return keyProtectError(400, "Bad Request");
  const { plaintext, ciphertext, aad } = (await request.json()) as Body;
  if (action === "wrap") {
    if (!/^[A-Za-z0-9+/]+=*$/.test(plaintext ?? ""))
      return keyProtectError(400, "Bad Request: plaintext is not base64");
    return json({ ciphertext: Buffer.from(JSON.stringify({ plaintext, aad })).toString("base64") });
  }
  if (ciphertext === golden.ciphertext && aad[0] === golden.volumeId) return json({ plaintext: golden.key });
  const kept = JSON.parse(Buffer.from(ciphertext ?? "", "base64").toString() || "{}") as Body;
  return JSON.stringify(kept.aad) === JSON.stringify(aad) && kept.plaintext !== undefined
    ? json({ plaintext: kept.plaintext })
    : keyProtectError(422, "Unprocessable Entity: invalid ciphertext or AAD");
};

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  idleTimeout: 0,
  fetch: async (request) => {
    const { pathname } = new URL(request.url);
    paths.push(pathname);
    const answer = next;
    next = undefined;
    if (answer !== undefined) return answer();
    if (pathname === "/oidc/token") return token(request);
    const action = /^\/api\/v2\/keys\/root%2Fkey%201\/actions\/(wrap|unwrap)$/.exec(pathname)?.[1];
    return action === undefined ? keyProtectError(404, "Not Found: no such key") : act(request, action);
  },
});
afterAll(() => server.stop(true));

const url = `http://127.0.0.1:${server.port}`;
const OPTIONS = {
  IBM_KP_SERVICE_INSTANCE_ID: INSTANCE,
  IBM_KP_BASE_URL: `${url}/`,
  IBM_KP_TOKEN_URL: `${url}/oidc/token`,
};
const open = (values: Values = {}, options: Readonly<Record<string, unknown>> = OPTIONS) => {
  const secret = { IBM_KP_SERVICE_API_KEY: API_KEY, IBM_KP_CUSTOMER_ROOT_KEY: ROOT_KEY, ...values };
  const context = storeContext({ options, secrets: { [PLACE]: secret } });
  return Effect.map(openIbmKeyProtectStore(context), (store) => store as WrappingStore);
};

const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect);
const wrap = (values: Values = {}, options?: Readonly<Record<string, unknown>>, key: string = golden.key) =>
  Effect.flatMap(open(values, options), (store) => store.wrap(golden.volumeId, keyOf(key)));
const unwrap = (volumeId: string, wrapped: string) =>
  Effect.flatMap(open(), (store) => store.unwrap(volumeId, wrapped));
/** The failure, which shows no key and no token. */
const errorOf = async (effect: Effect.Effect<unknown, KmsError>) => {
  const error = await run(Effect.flip(effect));
  for (const secret of [golden.key, API_KEY, TOKEN]) expect(inspect(error, { depth: 8 })).not.toContain(secret);
  return error;
};

test("A key that ceph-csi wrapped is unwrapped: its text is the base64 of a ciphertext that is base64", async () => {
  expect(Redacted.value(await run(unwrap(golden.volumeId, golden.wrapped)))).toBe(golden.key);
});

test("A key is wrapped with a token, and its ciphertext is encoded once more", async () => {
  paths = [];
  const wrapped = await run(wrap());
  expect(paths).toEqual(["/oidc/token", "/api/v2/keys/root%2Fkey%201/actions/wrap"]);
  const ciphertext = Buffer.from(wrapped, "base64").toString();
  expect(JSON.parse(Buffer.from(ciphertext, "base64").toString())).toEqual({
    plaintext: golden.key,
    aad: [golden.volumeId],
  });
  expect(Redacted.value(await run(unwrap(golden.volumeId, wrapped)))).toBe(golden.key);
});

test("A key that was wrapped for another volume is not given out", async () => {
  const error = await errorOf(unwrap("another-volume", await run(wrap())));
  expect(error._tag).toBe("KmsRefused");
  expect(error.message).toContain("invalid ciphertext or AAD");
});

test("No new key has a character that Key Protect refuses, and none is made anew for it", async () => {
  const store = await run(open());
  const keys = await Promise.all(Array.from({ length: 200 }, () => run(store.newKey)));
  expect(keys.map(Redacted.value).filter((text) => !/^[A-Za-z0-9+/]{27}=$/.test(text))).toEqual([]);
});

test("A key of another alphabet is refused before anything is asked", async () => {
  paths = [];
  const error = await errorOf(wrap({}, OPTIONS, "Zm9vYmFyLWJhel9xdXV4LTEy-_Q="));
  expect(error._tag).toBe("KmsRefused");
  expect(error.message).toContain("wraps only keys in standard base64");
  expect(paths).toEqual([]);
});

test("A wrong API key is refused, and the message says where the right one belongs", async () => {
  const error = await errorOf(wrap({ IBM_KP_SERVICE_API_KEY: "wrong" }));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toBe(
    `IBM token service ${url}/oidc/token refuses: HTTP 400, BXNIM0415E: Provided API key could not be found. Write a valid IBM_KP_SERVICE_API_KEY into Secret ${PLACE}`,
  );
});

test("An instance that the API key may not use is refused, and the message says what to grant", async () => {
  const error = await errorOf(wrap({}, { ...OPTIONS, IBM_KP_SERVICE_INSTANCE_ID: "another" }));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain(`IBM_KP_SERVICE_API_KEY in Secret ${PLACE} the role Reader`);
});

test("A root key that does not exist is named by its place", async () => {
  const error = await errorOf(wrap({ IBM_KP_CUSTOMER_ROOT_KEY: "another" }));
  expect(error._tag).toBe("KmsRefused");
  expect(error.message).toContain(`Check IBM_KP_CUSTOMER_ROOT_KEY in Secret ${PLACE}`);
});

test.each([429, 500, 503])("After HTTP %i the request is sent again", async (status) => {
  paths = [];
  next = () => json({}, status);
  await run(wrap());
  expect(paths.filter((path) => path === "/oidc/token").length).toBe(2);
});

test("After HTTP 501 the request is not sent again", async () => {
  paths = [];
  next = () => json({}, 501);
  expect((await errorOf(wrap()))._tag).toBe("KmsRefused");
  expect(paths.length).toBe(1);
});

test("The scheme of an address may have capital letters", async () => {
  const options = { ...OPTIONS, IBM_KP_BASE_URL: url.replace("http", "HTTP") };
  expect(Redacted.value(await run(unwrap(golden.volumeId, await run(wrap({}, options)))))).toBe(golden.key);
});

test.each(["", "not base64!", "abc"])("The text %p is not a wrapped key, and nobody is asked", async (text) => {
  paths = [];
  expect((await errorOf(unwrap(golden.volumeId, text)))._tag).toBe("KeyDamaged");
  expect(paths).toEqual([]);
});

test.each([
  [{}, "key IBM_KP_SERVICE_INSTANCE_ID: is missing: add it"],
  [
    { keyProtectServiceInstanceID: INSTANCE },
    "key keyProtectServiceInstanceID: is not an option: write IBM_KP_SERVICE_INSTANCE_ID",
  ],
  [{ ...OPTIONS, IBM_KP_BASE_URL: "kms.cloud.ibm.com" }, "key IBM_KP_BASE_URL: is not an address"],
  [{ ...OPTIONS, IBM_KP_SECRET_NAME: "x" }, "key IBM_KP_SECRET_NAME: Secret storage/x does not exist"],
])("The options %p are refused with the file, the section and the key", async (options, message) => {
  const error = await errorOf(wrap({}, options));
  expect(error._tag).toBe("KmsConfigInvalid");
  expect(error.message).toContain(`/etc/kms/config.json, section "my-kms", ${message}`);
});

// Last, because its later attempts may still arrive when it has ended.
test("A service that does not answer is unreachable after a minute, and the message has its address", async () => {
  const arrived = Promise.withResolvers<void>();
  next = () => (arrived.resolve(), new Promise<Response>(() => {}));
  const waiting = Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(Effect.flip(wrap()));
    yield* Effect.promise(() => arrived.promise);
    // The attempts that follow find nobody either.
    next = () => new Promise<Response>(() => {});
    yield* TestClock.adjust("60 seconds");
    return yield* Fiber.join(fiber);
  });
  const error = await run(Effect.provide(waiting, TestClock.layer()));
  next = undefined;
  expect(error._tag).toBe("KmsUnreachable");
  expect(error.message).toContain(`IBM token service ${url}/oidc/token does not answer: no answer within`);
});
