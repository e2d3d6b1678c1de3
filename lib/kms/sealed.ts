/**
 * A wrapped key as JSON, `{"dek":"<base64>","nonce":"<base64>"}`, and the AES-GCM that the stores `metadata` and `kmip`
 * make it with: the tag of 16 bytes after the ciphertext, no additional data. Pure, but for the nonce.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import * as Redacted from "effect/Redacted";
import * as z from "zod";
import { jsonOf } from "../text/json.ts";
import type { Key } from "./key-store.ts";
import { keyOf } from "./new-key.ts";

export const GCM_NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** A tag, or one block of AES-CBC. */
const SHORTEST_BYTES = 16;

export interface Sealed {
  /** The ciphertext, of AES-GCM with its tag. */
  readonly text: Uint8Array;
  readonly nonce: Uint8Array;
}

const shape = z.object({ dek: z.base64(), nonce: z.base64() });

/** `undefined`: the text is not this JSON, or is cut off. */
export const parseSealed = (wrapped: string): Sealed | undefined => {
  const { data } = shape.safeParse(jsonOf(wrapped));
  if (data === undefined) return undefined;
  const [text, nonce] = [Buffer.from(data.dek, "base64"), Buffer.from(data.nonce, "base64")];
  return text.length < SHORTEST_BYTES ? undefined : { text, nonce };
};

export const printSealed = ({ text, nonce }: Sealed): string =>
  JSON.stringify({ dek: Buffer.from(text).toString("base64"), nonce: Buffer.from(nonce).toString("base64") });

type GcmCipher = "aes-128-gcm" | "aes-192-gcm" | "aes-256-gcm";
const CIPHERS: Readonly<Record<number, GcmCipher>> = { 16: "aes-128-gcm", 24: "aes-192-gcm", 32: "aes-256-gcm" };

/** The cipher for a key of that many bytes; `undefined`: AES has no such key. */
export const gcmFor = (keyBytes: number): GcmCipher | undefined => CIPHERS[keyBytes];

export const seal = (cipherName: GcmCipher, wrapping: Uint8Array, key: Key): Sealed => {
  const nonce = randomBytes(GCM_NONCE_BYTES);
  const cipher = createCipheriv(cipherName, wrapping, nonce);
  const text = Buffer.concat([cipher.update(Redacted.value(key), "utf8"), cipher.final(), cipher.getAuthTag()]);
  return { text, nonce };
};

/** `undefined`: the tag does not fit, so the wrapping key or the text is another. */
export const unseal = (cipherName: GcmCipher, wrapping: Uint8Array, { text, nonce }: Sealed): Key | undefined => {
  const end = text.length - TAG_BYTES;
  if (end < 0) return undefined;
  try {
    const decipher = createDecipheriv(cipherName, wrapping, nonce).setAuthTag(text.subarray(end));
    return keyOf(Buffer.concat([decipher.update(text.subarray(0, end)), decipher.final()]).toString("utf8"));
  } catch {
    return undefined;
  }
};
