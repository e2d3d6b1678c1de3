/**
 * The key stores of AWS against a server that answers as the HTTP API of KMS and STS is documented: the requests that they
 * send, what each refusal says, and how long they wait. That they work with a whole KMS is shown in tests/kms.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Redacted from "effect/Redacted";
import * as TestClock from "effect/testing/TestClock";
import type { KmsError } from "../../../lib/kms/errors.ts";
import type { WrappingStore } from "../../../lib/kms/key-store.ts";
import { keyOf } from "../../../lib/kms/new-key.ts";
import { awsName, openAwsStore, openAwsStsStore } from "../../../lib/kms/stores/aws.ts";
import golden from "../../golden/kms/aws.json";
import { storeContext, type Values } from "../../support/store-context.ts";

const PLACE = "storage/ceph-csi-aws-credentials";
const TENANT_PLACE = "tenant/ceph-csi-aws-credentials";
const TOKEN_FILE = "/run/secrets/tokens/oidc-token";
const REGION = "eu-central-1";

interface Asked {
  readonly target: string;
  readonly authorization: string;
  readonly body: string;
}

let asked: Asked[] = [];
let answer: (asked: Asked) => Response | Promise<Response> = () => new Response("", { status: 500 });
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  idleTimeout: 0,
  fetch: async (request) => {
    const { headers } = request;
    const one = {
      target: headers.get("x-amz-target") ?? "",
      authorization: headers.get("authorization") ?? "",
      body: await request.text(),
    };
    asked.push(one);
    return answer(one);
  },
});
afterAll(() => server.stop(true));
beforeAll(() => {
  asked = [];
});

const url = `http://127.0.0.1:${server.port}`;
const json = (value: unknown, status = 200) =>
  new Response(JSON.stringify(value), { status, headers: { "content-type": "application/x-amz-json-1.1" } });
const refusal = (type: string, status = 400) => json({ __type: type, message: `${type} it is` }, status);
const xml = (text: string, status = 200) => new Response(text, { status, headers: { "content-type": "text/xml" } });

const SECRET = { AWS_ACCESS_KEY_ID: "AKIA1", AWS_SECRET_ACCESS_KEY: "hush", AWS_CMK_ARN: golden.encrypt.KeyId };
const statics = (values: Values = {}, options: Readonly<Record<string, unknown>> = { AWS_REGION: REGION }) => {
  const secrets = { [PLACE]: { ...SECRET, ...values } };
  const context = storeContext({ options, secrets, env: { AWS_ENDPOINT_URL_KMS: url } });
  return Effect.map(openAwsStore(context), (store) => store as WrappingStore);
};
const byRole = (parts: { readonly owner?: string; readonly values?: Values } = { owner: "tenant" }) => {
  const secret = { awsRoleARN: "arn:aws:iam::1:role/r", awsCMKARN: golden.encrypt.KeyId, awsRegion: REGION };
  const secrets = { [TENANT_PLACE]: { ...secret, ...parts.values } };
  const files = { [TOKEN_FILE]: "a.b.c\n" };
  const context = storeContext({ options: {}, owner: parts.owner, secrets, files, env: { AWS_ENDPOINT_URL: url } });
  return Effect.map(openAwsStsStore(context), (store) => store as WrappingStore);
};

const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect);
const wrap = (store: Effect.Effect<WrappingStore, KmsError>) =>
  Effect.flatMap(store, ({ wrap }) => wrap("vol-1", keyOf(golden.key)));
const unwrap = (store: Effect.Effect<WrappingStore, KmsError>, wrapped = golden.wrapped) =>
  Effect.flatMap(store, ({ unwrap }) => unwrap("vol-1", wrapped));
const errorOf = <A>(effect: Effect.Effect<A, KmsError>) => run(Effect.flip(effect));

test("A key is wrapped by Encrypt with the key of the Secret, and kept as base64", async () => {
  asked = [];
  answer = () => json(golden.encrypted);
  expect(await run(wrap(statics()))).toBe(golden.wrapped);
  expect(asked.map(({ target }) => target)).toEqual(["TrentService.Encrypt"]);
  expect(JSON.parse(asked[0]?.body ?? "")).toEqual(golden.encrypt);
  expect(asked[0]?.authorization).toContain(`Credential=AKIA1/`);
  expect(asked[0]?.authorization).toContain(`/${REGION}/kms/aws4_request`);
});

test("A key is unwrapped by Decrypt, which is not told the key of KMS", async () => {
  asked = [];
  answer = () => json(golden.decrypted);
  expect(Redacted.value(await run(unwrap(statics())))).toBe(golden.key);
  expect(asked.map(({ target }) => target)).toEqual(["TrentService.Decrypt"]);
  expect(JSON.parse(asked[0]?.body ?? "")).toEqual(golden.decrypt);
});

test("A role is taken with the pod's token, and its credentials sign the request to KMS", async () => {
  asked = [];
  const credentials =
    "<AccessKeyId>ASIA2</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2040-01-01T00:00:00Z</Expiration>";
  answer = ({ target }) =>
    target === ""
      ? xml(
          `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>${credentials}</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
        )
      : json(golden.decrypted);
  expect(Redacted.value(await run(unwrap(byRole())))).toBe(golden.key);
  const form = Object.fromEntries(new URLSearchParams(asked[0]?.body));
  expect(form).toEqual({
    Action: "AssumeRoleWithWebIdentity",
    Version: "2011-06-15",
    RoleArn: "arn:aws:iam::1:role/r",
    RoleSessionName: "ceph-csi-aws-sts-metadata",
    WebIdentityToken: "a.b.c",
  });
  expect(asked[0]?.authorization).toBe("");
  expect(asked[1]?.authorization).toContain("Credential=ASIA2/");
});

test.each([
  [
    "UnrecognizedClientException",
    "KmsDenied",
    `AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if they are temporary) into Secret ${PLACE}`,
  ],
  ["InvalidSignatureException", "KmsDenied", `into Secret ${PLACE}`],
  ["ExpiredTokenException", "KmsDenied", "AWS_SESSION_TOKEN"],
  [
    "AccessDeniedException",
    "KmsDenied",
    `Permit kms:Encrypt and kms:Decrypt with the key AWS_CMK_ARN in Secret ${PLACE}`,
  ],
  ["NotFoundException", "KmsRefused", `AWS_CMK_ARN in Secret ${PLACE} exists in ${REGION}`],
  ["DisabledException", "KmsRefused", "is enabled"],
  ["KMSInvalidStateException", "KmsRefused", "is enabled"],
] as const)("%s of KMS is %s, and the message says what to change", async (type, tag, remedy) => {
  answer = () => refusal(type);
  const error = await errorOf(wrap(statics()));
  expect(error._tag).toBe(tag);
  expect(error.message).toContain(`AWS KMS at ${url}`);
  expect(error.message).toContain(type);
  expect(error.message).toContain(remedy);
  expect(error.message).not.toContain("hush");
});

test("A ciphertext that KMS does not know is a damaged key, which is not the same as a wrong credential", async () => {
  answer = () => refusal("InvalidCiphertextException");
  expect((await errorOf(unwrap(statics())))._tag).toBe("KeyDamaged");
});

test("A server error is asked again, and is unreachable when it stays", async () => {
  asked = [];
  answer = () => refusal("KMSInternalException", 500);
  const error = await errorOf(wrap(statics()));
  expect(error._tag).toBe("KmsUnreachable");
  expect(asked.length).toBe(4);
}, 30_000);

test("A role that STS does not give is refused, and the message says what to check", async () => {
  const body = (code: string) =>
    `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>${code}</Code><Message>no</Message></Error></ErrorResponse>`;
  for (const [code, status] of [
    ["InvalidIdentityToken", 400],
    ["ExpiredTokenException", 400],
    ["AccessDenied", 403],
  ] as const) {
    answer = () => xml(body(code), status);
    const error = await errorOf(unwrap(byRole()));
    expect(error._tag).toBe("KmsDenied");
    expect(error.message).toContain(`awsRoleARN in Secret ${TENANT_PLACE} exists, and that its trust policy admits`);
    expect(error.message).toContain(TOKEN_FILE);
    expect(error.message).not.toContain("a.b.c");
  }
});

test("A page of a proxy is not an answer of AWS", async () => {
  answer = () => new Response("<html>Forbidden</html>", { status: 403 });
  const error = await errorOf(wrap(statics()));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain("HTTP 403, and the answer is not one of AWS");
});

test("KMS that does not answer is unreachable after a minute, and the message has its address", async () => {
  const arrived = Promise.withResolvers<void>();
  answer = () => (arrived.resolve(), new Promise<Response>(() => {}));
  const waiting = Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(Effect.flip(wrap(statics())));
    yield* Effect.promise(() => arrived.promise);
    yield* TestClock.adjust("60 seconds");
    return yield* Fiber.join(fiber);
  });
  const error = await run(Effect.provide(waiting, TestClock.layer()));
  expect(error._tag).toBe("KmsUnreachable");
  expect(error.message).toContain(`AWS KMS at ${url} does not answer: no answer within 60 s`);
});

test.each([
  [{}, {}, '/etc/kms/config.json, section "my-kms", key AWS_REGION: is missing'],
  [{ AWS_REGION: "eu central" }, {}, "key AWS_REGION: is not a region"],
  [{ AWS_REGION: REGION, KMS_SECRET_NAME: "x" }, {}, "key KMS_SECRET_NAME: Secret storage/x does not exist"],
  [{ AWS_REGION: REGION }, { AWS_CMK_ARN: "" }, `Secret ${PLACE}, key AWS_CMK_ARN: is missing`],
  [
    { AWS_REGION: REGION },
    { AWS_SESION_TOKEN: "t" },
    `Secret ${PLACE}, key AWS_SESION_TOKEN: is not a key of this Secret`,
  ],
])("The options %p with the keys %p are refused, and the message names the key", async (options, values, message) => {
  const error = await errorOf(wrap(statics(values, options)));
  expect(error._tag).toBe("KmsConfigInvalid");
  expect(error.message).toContain(message);
});

test("Without the namespace of the claim there is no Secret of a tenant", async () => {
  const error = await errorOf(wrap(byRole({})));
  expect(error.message).toContain("key secretName: names a Secret of the claim's namespace");
});

test("AWS is named by the address of its region, which China has in a domain of its own", () => {
  expect(awsName("KMS", REGION, undefined)).toBe("AWS KMS at kms.eu-central-1.amazonaws.com");
  expect(awsName("STS", "cn-north-1", undefined)).toBe("AWS STS at sts.cn-north-1.amazonaws.com.cn");
  expect(awsName("KMS", REGION, "http://kms")).toBe("AWS KMS at http://kms");
});
