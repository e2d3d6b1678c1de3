/**
 * The Kubernetes Secret that holds the credential of a key store.
 *
 * 1. It has the keys that the store knows, and no others: a key that is spelled wrong is named before anything is asked.
 * 2. White space around a text is not part of it: no credential begins or ends with it, and editors leave some.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { closest } from "../text/closest.ts";
import { oneLine } from "../text/printable.ts";
import { KmsConfigInvalid, type KmsError } from "./errors.ts";
import type { KubeSecret, Section, StoreContext } from "./key-store.ts";

export interface SecretSpec<Required extends string, Optional extends string> {
  /** The option of the section that names the Secret. */
  readonly option: string;
  /** Its name where the section does not have the option. */
  readonly byDefault: string;
  /** Where it is: the namespace of the driver's pod, or of the claim. */
  readonly namespace: Effect.Effect<string, KmsError>;
  readonly required: readonly Required[];
  readonly optional?: readonly Optional[];
}

export interface StoreSecret<Required extends string, Optional extends string> {
  /** `Secret namespace/name`, for messages. */
  readonly place: string;
  /** The texts, without the white space around them. */
  readonly texts: Readonly<Record<Required, Redacted.Redacted> & Partial<Record<Optional, Redacted.Redacted>>>;
  /** The bytes of a key, as they are. */
  readonly bytes: (key: Required) => Uint8Array;
  readonly wrong: (key: Required | Optional, reason: string) => KmsConfigInvalid;
}

export const readStoreSecret = Effect.fnUntraced(function* <Required extends string, Optional extends string = never>(
  { section, kube }: StoreContext,
  spec: SecretSpec<Required, Optional>,
): Effect.fn.Return<StoreSecret<Required, Optional>, KmsError> {
  const name = (yield* section.optional(spec.option)) ?? spec.byDefault;
  const namespace = yield* spec.namespace;
  const secret = yield* kube.secret(namespace, name);
  if (secret === undefined) {
    const keys = spec.required.join(", ");
    const reason = `Secret ${namespace}/${name} does not exist: create it with ${keys}, or name another one here`;
    return yield* section.wrong(spec.option, reason);
  }
  return yield* textsOf(secret, spec);
});

const textsOf = <Required extends string, Optional extends string>(
  secret: KubeSecret,
  { required, optional = [] }: SecretSpec<Required, Optional>,
): Effect.Effect<StoreSecret<Required, Optional>, KmsConfigInvalid> => {
  const { place } = secret;
  const wrong = (key: string, reason: string) => new KmsConfigInvalid({ place, key, reason });
  const known: readonly string[] = [...required, ...optional];
  const stranger = secret.keys.find((key) => !known.includes(key));
  if (stranger !== undefined) return Effect.fail(wrong(stranger, strangerReason(stranger, known)));
  const texts: Record<string, Redacted.Redacted> = {};
  for (const key of known) {
    const text = secret.text(key);
    const trimmed = text === undefined ? "" : Redacted.value(text).trim();
    if (trimmed !== "") texts[key] = Redacted.make(trimmed, { label: key });
  }
  const missing = required.find((key) => texts[key] === undefined);
  if (missing !== undefined) return Effect.fail(wrong(missing, "is missing: add it"));
  return Effect.succeed({
    place,
    texts: texts as StoreSecret<Required, Optional>["texts"],
    bytes: (key) => secret.bytes(key) ?? new Uint8Array(),
    wrong,
  });
};

const strangerReason = (key: string, known: readonly string[]): string => {
  const meant = closest(key, known);
  const remedy = meant === undefined ? "take it out" : `write ${meant}, or take it out`;
  return `is not a key of this Secret, which has ${known.join(", ")}: ${remedy}`;
};

/** The section as messages name it: `FILE, section ID`. */
export const sectionPlace = ({ place, kmsId }: Section): string => `${place}, section ${oneLine(kmsId)}`;
