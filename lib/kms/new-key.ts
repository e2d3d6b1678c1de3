/** The text of a data key. A new one has 20 random bytes, 28 characters, the form that ceph-csi gives its keys. */
import { randomBytes } from "node:crypto";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { Key } from "./key-store.ts";

const KEY_BYTES = 20;

/** `url`: with "-" and "_", as ceph-csi has it. `standard`: with "+" and "/", for stores that decode it. */
export const newKey = (alphabet: "url" | "standard", bytes = KEY_BYTES): Effect.Effect<Key> =>
  Effect.sync(() => {
    const text = randomBytes(bytes).toString("base64");
    return keyOf(alphabet === "standard" ? text : text.replaceAll("+", "-").replaceAll("/", "_"));
  });

export const keyOf = (text: string): Key => Redacted.make(text, { label: "key of a volume" });

export const isSameKey = (one: Key, other: Key): boolean => Redacted.value(one) === Redacted.value(other);

/** A key as a store gave it back; `undefined`: the bytes are not UTF-8, so that they are not the text of a key. */
export const keyFrom = (bytes: Uint8Array): Key | undefined => {
  try {
    return keyOf(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    return undefined;
  }
};
