/**
 * The passphrase of the key stores `default` and `metadata`.
 *
 * 1. It is taken byte for byte: what is around it is part of it, because volumes were encrypted with it.
 */
import * as Effect from "effect/Effect";
import { InvalidSecret } from "../config/errors.ts";
import type { KmsError } from "./errors.ts";
import type { Key, Texts } from "./key-store.ts";
import { keyOf } from "./new-key.ts";

export const PASSPHRASE_KEY = "encryptionPassphrase";

/** Of the request's secrets. `mayBeEmpty`: as ceph-csi takes it to wrap a key; LUKS takes none. */
export const requestPassphrase = (secrets: Texts, mayBeEmpty = false): Effect.Effect<Key, KmsError> => {
  const text = Object.hasOwn(secrets, PASSPHRASE_KEY) ? secrets[PASSPHRASE_KEY] : undefined;
  if (text !== undefined && (text !== "" || mayBeEmpty)) return Effect.succeed(keyOf(text));
  const what = text === undefined ? "is missing from the secrets" : "is empty";
  const reason = `${what}: add it to the Secret that the StorageClass or VolumeSnapshotClass names for this call`;
  return Effect.fail(new InvalidSecret({ key: PASSPHRASE_KEY, reason }));
};
