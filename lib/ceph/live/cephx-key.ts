/**
 * Reads the type of a cephx key, to explain why a client library refuses it. A key is base64 of a type (16 bits), a time
 * (2 x 32), a length (16) and the secret, all little-endian. No secret leaves this file.
 */
import type * as Redacted from "effect/Redacted";
import * as RedactedModule from "effect/Redacted";

const HEADER_BYTES = 12;
/** AES-128, the only type before Ceph 20. */
const AES = 1;

export type KeyKind = "usual" | "newer" | "malformed";

export const kindOfKey = (key: Redacted.Redacted): KeyKind => {
  const text = RedactedModule.value(key);
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(text)) return "malformed";
  const bytes = Buffer.from(text, "base64");
  if (bytes.length <= HEADER_BYTES || bytes.readUInt16LE(10) !== bytes.length - HEADER_BYTES) return "malformed";
  const type = bytes.readUInt16LE(0);
  if (type === AES) return bytes.length === HEADER_BYTES + 16 ? "usual" : "malformed";
  return type > AES ? "newer" : "malformed";
};
