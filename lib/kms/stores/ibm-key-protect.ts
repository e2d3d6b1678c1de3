/**
 * `ibmkeyprotect`: wraps keys with a root key of IBM Key Protect, bound to the ID of the volume.
 *
 * Own code (../ibm/ask.ts): IBM's package for Key Protect (@ibm-cloud/ibm-key-protect) brings an HTTP client and a token
 * manager of its own for what are three requests: a token, wrap, unwrap.
 *
 * The wrapped text is ceph-csi's: the `ciphertext` of Key Protect, which is base64 itself, in standard base64 once more.
 *
 * 1. New keys have the standard alphabet of base64, because Key Protect decodes them: with "-" or "_" it refuses more than
 *    half of them.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as z from "zod";
import { bytesOfBase64 } from "../base64.ts";
import { KeyDamaged, type KmsError, KmsRefused, KmsUnreachable } from "../errors.ts";
import { ask, type IbmCall } from "../ibm/ask.ts";
import { DEK_PLACE } from "../image-keys.ts";
import type { Key, OpenStore, Section, StoreContext, WrappingStore } from "../key-store.ts";
import { keyOf, newKey } from "../new-key.ts";
import { readStoreSecret, sectionPlace } from "../store-secret.ts";
import { wrappingOnUse } from "../wrapping-store.ts";

const DEFAULT_BASE = "https://us-south.kms.cloud.ibm.com";
const DEFAULT_TOKEN_URL = "https://iam.cloud.ibm.com/oidc/token";

interface Instance {
  readonly id: string;
  /** Without a slash at its end. */
  readonly base: string;
  readonly tokenUrl: string;
  readonly apiKey: Redacted.Redacted;
  readonly rootKey: string;
  /** Of the credentials, and of the section, for messages. */
  readonly secretPlace: string;
  readonly section: string;
}

export const openIbmKeyProtectStore: OpenStore = (context) =>
  wrappingOnUse(context, newKey("standard"), Effect.map(instanceOf(context), keyProtectStore));

const instanceOf = Effect.fnUntraced(function* (context: StoreContext): Effect.fn.Return<Instance, KmsError> {
  const { section } = context;
  const id = yield* instanceIdOf(section);
  const base = yield* urlOf(section, "IBM_KP_BASE_URL", DEFAULT_BASE);
  const tokenUrl = yield* urlOf(section, "IBM_KP_TOKEN_URL", DEFAULT_TOKEN_URL);
  const { place, texts } = yield* readStoreSecret(context, {
    option: "IBM_KP_SECRET_NAME",
    byDefault: "ceph-csi-kp-credentials",
    namespace: context.podNamespace,
    required: ["IBM_KP_SERVICE_API_KEY", "IBM_KP_CUSTOMER_ROOT_KEY"],
    optional: ["IBM_KP_SESSION_TOKEN", "IBM_KP_CRK_ARN"],
  });
  return {
    id,
    base: base.replace(/\/+$/, ""),
    tokenUrl,
    apiKey: texts.IBM_KP_SERVICE_API_KEY,
    rootKey: Redacted.value(texts.IBM_KP_CUSTOMER_ROOT_KEY),
    secretPlace: place,
    section: sectionPlace(section),
  };
});

/** A sample that ceph-csi ships has the option under a name that it never reads. */
const SAMPLE_NAME = "keyProtectServiceInstanceID";

const instanceIdOf = (section: Section): Effect.Effect<string, KmsError> =>
  section.has(SAMPLE_NAME) && !section.has("IBM_KP_SERVICE_INSTANCE_ID")
    ? Effect.fail(section.wrong(SAMPLE_NAME, "is not an option: write IBM_KP_SERVICE_INSTANCE_ID"))
    : section.required("IBM_KP_SERVICE_INSTANCE_ID");

const urlOf = Effect.fnUntraced(function* (section: Section, key: string, byDefault: string) {
  const text = (yield* section.optional(key)) || byDefault;
  if (/^https?:\/\//i.test(text) && URL.canParse(text)) return text;
  return yield* section.wrong(key, `is not an address: write one such as ${byDefault}`);
});

const keyProtectStore = (instance: Instance): Pick<WrappingStore, "wrap" | "unwrap"> => ({
  wrap: (volumeId, key) => wrap(instance, volumeId, key),
  unwrap: (volumeId, wrapped) => unwrap(instance, volumeId, wrapped),
});

const storeOf = ({ base }: Instance): string => `IBM Key Protect ${base}`;

const wrap = Effect.fnUntraced(function* (
  instance: Instance,
  volumeId: string,
  key: Key,
): Effect.fn.Return<string, KmsError> {
  const plaintext = Redacted.value(key);
  if (bytesOfBase64(plaintext) === undefined) {
    const reason = `it wraps only keys in standard base64, and that of ${volumeId} is of another form`;
    const remedy = "Name the KMS of the source for a copy of it, or one that wraps any key";
    return yield* new KmsRefused({ store: storeOf(instance), reason, remedy });
  }
  const answer = yield* act(instance, "wrap", { plaintext, aad: [volumeId] });
  const ciphertext = yield* textIn(instance, answer, "ciphertext");
  return Buffer.from(ciphertext).toString("base64");
});

const unwrap = Effect.fnUntraced(function* (
  instance: Instance,
  volumeId: string,
  wrapped: string,
): Effect.fn.Return<Key, KmsError> {
  const ciphertext = bytesOfBase64(wrapped);
  if (ciphertext === undefined) {
    const reason = "it is not the base64 of a key that IBM Key Protect wrapped";
    return yield* new KeyDamaged({ volumeId, place: DEK_PLACE, reason });
  }
  const answer = yield* act(instance, "unwrap", { ciphertext: ciphertext.toString("utf8"), aad: [volumeId] });
  return keyOf(yield* textIn(instance, answer, "plaintext"));
});

const textIn = (instance: Instance, answer: unknown, field: "ciphertext" | "plaintext") => {
  const text = z.object({ [field]: z.string().min(1) }).safeParse(answer).data?.[field];
  if (text !== undefined) return Effect.succeed(text);
  return Effect.fail(new KmsUnreachable({ store: storeOf(instance), reason: `its answer has no ${field}` }));
};

const act = Effect.fnUntraced(function* (instance: Instance, action: "wrap" | "unwrap", body: object) {
  const { id, base, rootKey, secretPlace, section } = instance;
  const call: IbmCall = {
    store: storeOf(instance),
    url: `${base}/api/v2/keys/${encodeURIComponent(rootKey)}/actions/${action}`,
    headers: {
      accept: "application/json",
      "content-type": "application/json",
      authorization: Redacted.value(yield* tokenOf(instance)),
      "bluemix-instance": id,
      "correlation-id": crypto.randomUUID(),
    },
    body: JSON.stringify(body),
    credential: `Give the owner of IBM_KP_SERVICE_API_KEY in ${secretPlace} the role Reader of the instance IBM_KP_SERVICE_INSTANCE_ID in ${section}`,
    request: `Check IBM_KP_CUSTOMER_ROOT_KEY in ${secretPlace}: the root key with which the volume was made, in the instance IBM_KP_SERVICE_INSTANCE_ID in ${section}`,
    denied: [401, 403],
  };
  return yield* ask(call);
});

const tokenShape = z.object({ token_type: z.string().default("Bearer"), access_token: z.string().min(1) });

/** The header that authorizes a request. */
const tokenOf = Effect.fnUntraced(function* ({ tokenUrl, apiKey, secretPlace, section }: Instance) {
  const store = `IBM token service ${tokenUrl}`;
  const form = { grant_type: "urn:ibm:params:oauth:grant-type:apikey", apikey: Redacted.value(apiKey) };
  const answer = yield* ask({
    store,
    url: tokenUrl,
    headers: { accept: "application/json", "content-type": "application/x-www-form-urlencoded" },
    body: new URLSearchParams(form).toString(),
    credential: `Write a valid IBM_KP_SERVICE_API_KEY into ${secretPlace}`,
    request: `Check IBM_KP_TOKEN_URL in ${section}`,
    denied: [400, 401, 403],
  });
  const { data } = tokenShape.safeParse(answer);
  if (data === undefined) return yield* new KmsUnreachable({ store, reason: "its answer has no token" });
  return Redacted.make(`${data.token_type} ${data.access_token}`, { label: "token" });
});
