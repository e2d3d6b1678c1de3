/**
 * image-meta.json: what is known of a staged volume on its node, in the form of ceph-csi, which reads ours and whose
 * we read. Pure: text in, data out.
 *
 * 1. Written bytes are those that Go writes: all keys, in this order, compact, with Go's escapes.
 * 2. Read as Go reads: keys in any letter case, unknown ones ignored, missing ones empty. A text that names no image
 *    is corrupt, and never a reason to believe that nothing is staged.
 */
import * as Result from "effect/Result";
import { fieldsOf, isObject } from "../text/go-json.ts";

export interface Stash {
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
  /** Of the mounter alone: no `krbd:` in front. */
  readonly unmapOptions: string;
  /** Mapped with rbd-nbd rather than by the kernel's own client. */
  readonly nbd: boolean;
  /** LUKS lies between device and filesystem. */
  readonly encrypted: boolean;
  /** These three: rbd-nbd only. */
  readonly device: string;
  readonly logDir: string;
  readonly logFileStrategy: string;
}

const VERSION = 3;
const KEYS = [
  "pool",
  "radosNamespace",
  "image",
  "unmapOptions",
  "accessType",
  "encrypted",
  "device",
  "logDir",
  "logFileStrategy",
];

export const encodeStash = (stash: Stash): string =>
  JSON.stringify({
    Version: VERSION,
    pool: stash.pool,
    radosNamespace: stash.namespace,
    image: stash.image,
    unmapOptions: stash.unmapOptions,
    accessType: stash.nbd,
    encrypted: stash.encrypted,
    device: stash.device,
    logDir: stash.logDir,
    logFileStrategy: stash.logFileStrategy,
  }).replaceAll(/[<>&\u2028\u2029]/g, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** The failure says what is wrong with the text. */
export const decodeStash = (text: string): Result.Result<Stash, string> => {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return Result.fail("it is no JSON");
  }
  if (!isObject(value)) return Result.fail("it is no JSON object");
  const fields = fieldsOf(value, KEYS);
  for (const key of KEYS) {
    const wanted = key === "accessType" || key === "encrypted" ? "boolean" : "string";
    const found = fields[key] ?? undefined;
    if (found !== undefined && typeof found !== wanted) return Result.fail(`its "${key}" is no ${wanted}`);
  }
  const string = (key: string): string => (fields[key] as string | undefined) ?? "";
  const boolean = (key: string): boolean => (fields[key] as boolean | undefined) ?? false;
  if (string("image") === "" || string("pool") === "") return Result.fail("it names no image");
  return Result.succeed({
    pool: string("pool"),
    namespace: string("radosNamespace"),
    image: string("image"),
    unmapOptions: string("unmapOptions"),
    nbd: boolean("accessType"),
    encrypted: boolean("encrypted"),
    device: string("device"),
    logDir: string("logDir"),
    logFileStrategy: string("logFileStrategy"),
  });
};
