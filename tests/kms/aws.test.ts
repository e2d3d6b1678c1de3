/** The key stores of AWS against moto: keys that boto3 wrapped open, and a wrong credential is refused. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { inspect } from "node:util";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { KmsError } from "../../lib/kms/errors.ts";
import type { WrappingStore } from "../../lib/kms/key-store.ts";
import { keyOf } from "../../lib/kms/new-key.ts";
import { openAwsStore, openAwsStsStore } from "../../lib/kms/stores/aws.ts";
import { storeContext, type Values } from "../support/store-context.ts";
import { type Moto, REGION, startMoto } from "./moto.ts";

const KEY = "Zm9vYmFyLWJhel9xdXV4LTEyMzQ=";
const PLACE = "storage/ceph-csi-aws-credentials";
const TENANT_PLACE = "tenant/ceph-csi-aws-credentials";
const TOKEN_FILE = "/run/secrets/tokens/oidc-token";
const TOKEN = `${Buffer.from('{"alg":"none"}').toString("base64url")}.${Buffer.from('{"sub":"node"}').toString("base64url")}.`;

let aws: Moto;
beforeAll(async () => {
  aws = await startMoto(KEY);
}, 300_000);
afterAll(() => aws.stop());

const env = () => ({ AWS_ENDPOINT_URL: aws.url });
const statics = (values: Values = {}, endpoint: Readonly<Record<string, string>> = env()) => {
  const { user, key } = aws;
  const secret = { AWS_ACCESS_KEY_ID: user.id, AWS_SECRET_ACCESS_KEY: user.secret, AWS_CMK_ARN: key, ...values };
  const context = storeContext({ options: { AWS_REGION: REGION }, secrets: { [PLACE]: secret }, env: endpoint });
  return Effect.map(openAwsStore(context), (store) => store as WrappingStore);
};
const byRole = (values: Values = {}, files: Readonly<Record<string, string>> = { [TOKEN_FILE]: TOKEN }) => {
  const secret = { awsRoleARN: aws.role, awsCMKARN: aws.key, awsRegion: REGION, ...values };
  const context = storeContext({
    options: {},
    owner: "tenant",
    secrets: { [TENANT_PLACE]: secret },
    files,
    env: env(),
  });
  return Effect.map(openAwsStsStore(context), (store) => store as WrappingStore);
};

const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect);
const wrap = (store: Effect.Effect<WrappingStore, KmsError>) =>
  Effect.flatMap(store, ({ wrap }) => wrap("vol-1", keyOf(KEY)));
const unwrap = (store: Effect.Effect<WrappingStore, KmsError>, wrapped: string) =>
  Effect.flatMap(store, ({ unwrap }) => unwrap("vol-1", wrapped));
/** The failure, which shows no key. */
const errorOf = async (effect: Effect.Effect<unknown, KmsError>) => {
  const error = await run(Effect.flip(effect));
  for (const secret of [KEY, aws.user.secret, aws.stranger.secret, TOKEN]) {
    expect(inspect(error, { depth: 8 })).not.toContain(secret);
  }
  return error;
};

/** The next request, which is for the role, has no signature. */
const BEFORE = { "static credentials": 0, "a role": 1 } as const;

test.each([
  ["static credentials", () => statics()],
  ["a role", () => byRole()],
] as const)("A key that boto3 wrapped is unwrapped with %s", async (who, store) => {
  await aws.guardAfter(BEFORE[who]);
  expect(Redacted.value(await run(unwrap(store(), aws.wrapped)))).toBe(KEY);
});

test.each([
  ["static credentials", () => statics()],
  ["a role", () => byRole()],
] as const)("A key that was wrapped with %s is base64, and opens", async (who, store) => {
  await aws.guardAfter(BEFORE[who]);
  const wrapped = await run(wrap(store()));
  expect(wrapped).toMatch(/^[A-Za-z0-9+/]+={0,2}$/);
  expect(Redacted.value(await run(unwrap(statics(), wrapped)))).toBe(KEY);
});

test("A wrong secret key is refused, and the message says where the right one belongs", async () => {
  const error = await errorOf(wrap(statics({ AWS_SECRET_ACCESS_KEY: "wrong" })));
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toStartWith(`AWS KMS at ${aws.url} refuses: `);
  expect(error.message).toContain(`AWS_SECRET_ACCESS_KEY`);
  expect(error.message).toContain(`into Secret ${PLACE}`);
});

test("A user without permission is refused, and the message says what to permit", async () => {
  const error = await errorOf(
    wrap(statics({ AWS_ACCESS_KEY_ID: aws.stranger.id, AWS_SECRET_ACCESS_KEY: aws.stranger.secret })),
  );
  expect(error._tag).toBe("KmsDenied");
  expect(error.message).toContain(`Permit kms:Encrypt and kms:Decrypt with the key AWS_CMK_ARN in Secret ${PLACE}`);
});

test("A key of KMS that does not exist is named by its place", async () => {
  const missing = aws.key.replace(/\/.*/, "/00000000-0000-0000-0000-000000000000");
  const error = await errorOf(wrap(statics({ AWS_CMK_ARN: missing })));
  expect(error._tag).toBe("KmsRefused");
  expect(error.message).toContain(`AWS_CMK_ARN in Secret ${PLACE}`);
});

test("A text that KMS did not wrap is damaged", async () => {
  expect((await errorOf(unwrap(statics(), "not base64!")))._tag).toBe("KeyDamaged");
  expect((await errorOf(unwrap(statics(), "")))._tag).toBe("KeyDamaged");
});

test("An address at which nobody listens is unreachable, and the message has it", async () => {
  const error = await errorOf(wrap(statics({}, { AWS_ENDPOINT_URL_KMS: "http://127.0.0.1:1" })));
  expect(error._tag).toBe("KmsUnreachable");
  expect(error.message).toContain("AWS KMS at http://127.0.0.1:1 does not answer");
});

test("Without the pod's token no role is taken, and the message says what to mount", async () => {
  const error = await errorOf(wrap(byRole({}, {})));
  expect(error._tag).toBe("KmsConfigInvalid");
  expect(error.message).toContain(`${TOKEN_FILE}: does not exist: mount a projected ServiceAccount token there`);
});
