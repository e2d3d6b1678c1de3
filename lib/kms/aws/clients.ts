/**
 * The clients of AWS that the stores use: AWS's own (@aws-sdk/client-kms, @aws-sdk/client-sts), which sign requests, retry
 * and know the addresses of all regions.
 *
 * They are loaded when a volume first needs one: the libraries take 20 MB and 60 ms, which a driver without this store
 * does not pay.
 *
 * 1. Every call has a limit; past it, it is cancelled.
 * 2. Only what is given counts: no file and no variable of the pod gives a credential.
 */
import type { KMSClient } from "@aws-sdk/client-kms";
import type { AssumeRoleWithWebIdentityCommandInput } from "@aws-sdk/client-sts";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { within } from "../client-calls.ts";
import { KmsUnreachable, type KmsError } from "../errors.ts";
import { type AwsService, awsFailure } from "./failures.ts";

/** For all attempts together. */
const LIMIT = Duration.seconds(60);
const CONNECT_MS = 5000;
const ANSWER_MS = 15_000;
const ATTEMPTS = 4;

export interface AwsCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: Redacted.Redacted;
  readonly sessionToken: Redacted.Redacted | undefined;
}

export interface AwsPlace {
  readonly region: string;
  /** In place of the region's own address. */
  readonly endpoint: string | undefined;
}

type Env = Readonly<Record<string, string | undefined>>;

/** The variables that AWS's own programs read: an address for one service, or for all. */
export const endpointIn = (env: Env, service: "KMS" | "STS"): string | undefined =>
  env[`AWS_ENDPOINT_URL_${service}`] || env["AWS_ENDPOINT_URL"] || undefined;

const configOf = ({ region, endpoint }: AwsPlace) => ({
  region,
  ...(endpoint !== undefined && { endpoint }),
  maxAttempts: ATTEMPTS,
  retryMode: "standard",
  useFipsEndpoint: false,
  useDualstackEndpoint: false,
  requestHandler: { connectionTimeout: CONNECT_MS, requestTimeout: ANSWER_MS, throwOnRequestTimeout: true },
});

const call = <A>(
  { store }: AwsService,
  onError: (error: unknown) => KmsError,
  send: (signal: AbortSignal) => Promise<A>,
): Effect.Effect<A, KmsError> => Effect.tryPromise({ try: send, catch: onError }).pipe(within(LIMIT, store));

export interface Kms {
  readonly encrypt: (keyId: string, plaintext: Uint8Array) => Effect.Effect<Uint8Array, KmsError>;
  readonly decrypt: (
    ciphertext: Uint8Array,
    onError: (error: unknown) => KmsError,
  ) => Effect.Effect<Uint8Array, KmsError>;
}

/** A client for one request: it is closed with the scope. */
export const kmsClient = (service: AwsService, place: AwsPlace, credentials: AwsCredentials) =>
  Effect.gen(function* () {
    const { KMSClient, EncryptCommand, DecryptCommand } = yield* Effect.promise(() => import("@aws-sdk/client-kms"));
    const open = () => new KMSClient({ ...configOf(place), credentials: plain(credentials) });
    const client = yield* Effect.acquireRelease(Effect.sync(open), (each: KMSClient) =>
      Effect.sync(() => each.destroy()),
    );
    const failed = (error: unknown) => awsFailure(service, error);
    const bytes = (found: Uint8Array | undefined) =>
      found === undefined
        ? Effect.fail(new KmsUnreachable({ store: service.store, reason: "its answer has no data" }))
        : Effect.succeed(found);
    const kms: Kms = {
      encrypt: (KeyId, Plaintext) =>
        call(service, failed, (abortSignal) =>
          client.send(new EncryptCommand({ KeyId, Plaintext }), { abortSignal }),
        ).pipe(Effect.flatMap(({ CiphertextBlob }) => bytes(CiphertextBlob))),
      decrypt: (CiphertextBlob, onError) =>
        call(service, onError, (abortSignal) =>
          client.send(new DecryptCommand({ CiphertextBlob }), { abortSignal }),
        ).pipe(Effect.flatMap(({ Plaintext }) => bytes(Plaintext))),
    };
    return kms;
  });

const plain = ({ accessKeyId, secretAccessKey, sessionToken }: AwsCredentials) => ({
  accessKeyId,
  secretAccessKey: Redacted.value(secretAccessKey),
  ...(sessionToken !== undefined && { sessionToken: Redacted.value(sessionToken) }),
});

/** Takes the role of that name by the token of a ServiceAccount. */
export const assumeRole = Effect.fnUntraced(function* (
  service: AwsService,
  place: AwsPlace,
  input: AssumeRoleWithWebIdentityCommandInput,
): Effect.fn.Return<AwsCredentials, KmsError> {
  const { STSClient, AssumeRoleWithWebIdentityCommand } = yield* Effect.promise(() => import("@aws-sdk/client-sts"));
  const answer = yield* Effect.acquireUseRelease(
    Effect.sync(() => new STSClient(configOf(place))),
    (client) =>
      call(
        service,
        (error) => awsFailure(service, error),
        (abortSignal) => client.send(new AssumeRoleWithWebIdentityCommand(input), { abortSignal }),
      ),
    (client) => Effect.sync(() => client.destroy()),
  );
  const { AccessKeyId, SecretAccessKey, SessionToken } = answer.Credentials ?? {};
  if (AccessKeyId !== undefined && SecretAccessKey !== undefined) {
    const sessionToken = SessionToken === undefined ? undefined : Redacted.make(SessionToken);
    return { accessKeyId: AccessKeyId, secretAccessKey: Redacted.make(SecretAccessKey), sessionToken };
  }
  return yield* new KmsUnreachable({ store: service.store, reason: "its answer has no credentials" });
});
