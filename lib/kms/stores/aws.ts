/**
 * `aws-metadata` and `aws-sts-metadata`: wrap keys with a key of AWS KMS, through AWS's own client (../aws/clients.ts).
 *
 * The wrapped text is ceph-csi's: the CiphertextBlob of KMS Encrypt, without an encryption context, in standard base64. It
 * names its key itself, so Decrypt is asked without one.
 *
 * `aws-metadata` has static credentials, in a Secret of the driver's namespace. `aws-sts-metadata` takes a role of the
 * tenant, by the ServiceAccount token of this pod; the Secret is the tenant's.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { type AwsCredentials, type AwsPlace, assumeRole, endpointIn, kmsClient, type Kms } from "../aws/clients.ts";
import { type AwsService, awsFailure, isBadCiphertext } from "../aws/failures.ts";
import { bytesOfBase64 } from "../base64.ts";
import { KeyDamaged, KmsConfigInvalid, type KmsError } from "../errors.ts";
import { DEK_PLACE } from "../image-keys.ts";
import type { OpenStore, StoreContext, WrappingStore } from "../key-store.ts";
import { keyFrom, newKey } from "../new-key.ts";
import { readStoreSecret } from "../store-secret.ts";
import { wrappingOnUse } from "../wrapping-store.ts";

const TOKEN_FILE = "/run/secrets/tokens/oidc-token";
const SESSION_NAME = "ceph-csi-aws-sts-metadata";

/** What both stores wrap with. */
interface Account {
  readonly service: AwsService;
  readonly place: AwsPlace;
  readonly masterKey: string;
  readonly credentials: Effect.Effect<AwsCredentials, KmsError>;
}

export const openAwsStore: OpenStore = (context) =>
  wrappingOnUse(context, newKey("url"), Effect.map(staticAccount(context), awsStore));
export const openAwsStsStore: OpenStore = (context) =>
  wrappingOnUse(context, newKey("url"), Effect.map(roleAccount(context), awsStore));

const staticAccount = Effect.fnUntraced(function* (context: StoreContext): Effect.fn.Return<Account, KmsError> {
  const { section, env, podNamespace } = context;
  const region = yield* section.required("AWS_REGION");
  if (!isRegion(region)) return yield* section.wrong("AWS_REGION", NOT_A_REGION);
  const { place, texts } = yield* readStoreSecret(context, {
    option: "KMS_SECRET_NAME",
    byDefault: "ceph-csi-aws-credentials",
    namespace: podNamespace,
    required: ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CMK_ARN"],
    optional: ["AWS_SESSION_TOKEN"],
  });
  const endpoint = endpointIn(env, "KMS");
  return {
    place: { region, endpoint },
    service: kmsService(region, endpoint, {
      credential: `Write a valid AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if they are temporary) into ${place}`,
      user: `the user of AWS_ACCESS_KEY_ID in ${place}`,
      key: `AWS_CMK_ARN in ${place}`,
    }),
    masterKey: Redacted.value(texts.AWS_CMK_ARN),
    credentials: Effect.succeed({
      accessKeyId: Redacted.value(texts.AWS_ACCESS_KEY_ID),
      secretAccessKey: texts.AWS_SECRET_ACCESS_KEY,
      sessionToken: texts.AWS_SESSION_TOKEN,
    }),
  };
});

const roleAccount = Effect.fnUntraced(function* (context: StoreContext): Effect.fn.Return<Account, KmsError> {
  const { env } = context;
  const secret = yield* readStoreSecret(context, {
    option: "secretName",
    byDefault: "ceph-csi-aws-credentials",
    namespace: ownerOf(context),
    required: ["awsRoleARN", "awsCMKARN", "awsRegion"],
  });
  const { place, texts } = secret;
  const region = Redacted.value(texts.awsRegion);
  if (!isRegion(region)) return yield* secret.wrong("awsRegion", NOT_A_REGION);
  const endpoint = endpointIn(env, "KMS");
  const role = `the role awsRoleARN in ${place}`;
  return {
    place: { region, endpoint },
    service: kmsService(region, endpoint, {
      credential: `Check ${role}, whose temporary credentials it does not know`,
      user: role,
      key: `awsCMKARN in ${place}`,
    }),
    masterKey: Redacted.value(texts.awsCMKARN),
    credentials: roleCredentials(context, region, Redacted.value(texts.awsRoleARN), role),
  };
});

const roleCredentials = Effect.fnUntraced(function* (
  { env, readFile }: StoreContext,
  region: string,
  RoleArn: string,
  role: string,
): Effect.fn.Return<AwsCredentials, KmsError> {
  const token = (yield* readFile(TOKEN_FILE))?.trim();
  if (token === undefined || token === "") {
    const reason = `${token === "" ? "is empty" : "does not exist"}: mount a projected ServiceAccount token there, with the audience ceph-csi-kms, in the pods of the controller and of the nodes`;
    return yield* new KmsConfigInvalid({ place: TOKEN_FILE, reason });
  }
  const endpoint = endpointIn(env, "STS");
  const remedy = `Check that ${role} exists, and that its trust policy admits the ServiceAccount whose token is in ${TOKEN_FILE}`;
  const service = { store: awsName("STS", region, endpoint), credential: remedy, permission: remedy, key: remedy };
  const input = { RoleArn, RoleSessionName: SESSION_NAME, WebIdentityToken: token };
  return yield* assumeRole(service, { region, endpoint }, input);
});

const ownerOf = ({ owner, section }: StoreContext): Effect.Effect<string, KmsError> =>
  owner === undefined || owner === ""
    ? Effect.fail(
        section.wrong("secretName", "names a Secret of the claim's namespace, which the journal does not have"),
      )
    : Effect.succeed(owner);

const NOT_A_REGION = "is not a region of AWS: write one, such as eu-central-1";
const isRegion = (text: string): boolean => /^[a-z\d](?:[a-z\d-]{0,61}[a-z\d])?$/i.test(text);

/** As messages name it. */
export const awsName = (service: "KMS" | "STS", region: string, endpoint: string | undefined): string =>
  `AWS ${service} at ${endpoint ?? `${service.toLowerCase()}.${region}.${domainOf(region)}`}`;

/** Regions of other partitions have the same name in another domain. */
const domainOf = (region: string): string => (region.startsWith("cn-") ? "amazonaws.com.cn" : "amazonaws.com");

interface Owners {
  readonly credential: string;
  readonly user: string;
  readonly key: string;
}

const kmsService = (region: string, endpoint: string | undefined, { credential, user, key }: Owners): AwsService => ({
  store: awsName("KMS", region, endpoint),
  credential,
  permission: `Permit kms:Encrypt and kms:Decrypt with the key ${key} to ${user}`,
  key: `Check that the key ${key} exists in ${region}, is enabled and encrypts`,
});

const awsStore = (account: Account): Pick<WrappingStore, "wrap" | "unwrap"> => ({
  wrap: (_volumeId, key) =>
    withClient(account, ({ encrypt }) => encrypt(account.masterKey, Buffer.from(Redacted.value(key)))).pipe(
      Effect.map((sealed) => Buffer.from(sealed).toString("base64")),
    ),
  unwrap: (volumeId, wrapped) => {
    const damaged = (reason: string) => new KeyDamaged({ volumeId, place: DEK_PLACE, reason });
    const sealed = bytesOfBase64(wrapped);
    if (sealed === undefined) return Effect.fail(damaged("it is not the base64 of a key that AWS KMS wrapped"));
    const onError = (error: unknown) =>
      isBadCiphertext(error)
        ? damaged(
            `${account.service.store} knows no key that wrapped it: another account or region did, or it is cut off`,
          )
        : awsFailure(account.service, error);
    return withClient(account, ({ decrypt }) => decrypt(sealed, onError)).pipe(
      Effect.flatMap((text) => {
        const key = keyFrom(text);
        return key === undefined ? Effect.fail(damaged("it holds bytes that are not text")) : Effect.succeed(key);
      }),
    );
  },
});

const withClient = <A>(
  { service, place, credentials }: Account,
  use: (kms: Kms) => Effect.Effect<A, KmsError>,
): Effect.Effect<A, KmsError> =>
  Effect.scoped(Effect.flatMap(credentials, (found) => Effect.flatMap(kmsClient(service, place, found), use)));
