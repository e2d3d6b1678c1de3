/**
 * image-meta.json, the file beside a staged volume that names its image. ceph-csi has the same: each of the two drivers
 * reads the other's files. All functions are pure.
 *
 * Not here: the file on the node (./staged-volume.ts).
 *
 * 1. The text is written as Go writes it: all keys, in this order, compact, with Go's escapes. Behind them come
 *    `serviceAccounts` and `encryptedFiles`, which are ours, and only where they say something: ceph-csi reads on without.
 * 2. It is read as Go reads it: keys in any letter case, unknown ones ignored, missing ones empty. A text that names no
 *    image is corrupt. It never means that nothing is staged.
 */
import * as Result from "effect/Result";
import type { ImageName, MapperName } from "../host/mapped-device.ts";
import { fieldsOf, isObject } from "../text/go-json.ts";
import { parseJson } from "../text/json.ts";

export interface ImageMeta {
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
  /** The mapper's own options, without `krbd:` in front. */
  readonly unmapOptions: string;
  /** Whether the image is mapped with rbd-nbd, and not by the kernel's client. */
  readonly nbd: boolean;
  /** Whether LUKS is between device and filesystem. */
  readonly encrypted: boolean;
  /** The ServiceAccounts to which the volume was restricted when it was staged (lib/csi/service-accounts.ts); "": to none. */
  readonly serviceAccounts: string;
  /** Whether its files are encrypted, and pods get the folder with them. */
  readonly encryptedFiles: boolean;
  /** This and the next two are for rbd-nbd only. */
  readonly device: string;
  readonly logDir: string;
  readonly logFileStrategy: string;
}

/** How the volume's context wants the parts that are its own. */
interface MetaContext {
  readonly unmapOptions: { readonly krbd: string; readonly nbd: string };
  readonly logDir: string;
  readonly logStrategy: string;
}

/** What the file says of a volume, whatever maps it. */
export type VolumeMarks = Pick<ImageMeta, "encrypted" | "encryptedFiles" | "serviceAccounts">;

/** What the file says of an image that a mapper is to map. */
export const metaOf = (
  { pool, namespace, image }: ImageName,
  { unmapOptions, logDir, logStrategy }: MetaContext,
  mapper: MapperName,
  marks: VolumeMarks,
): ImageMeta => {
  const common = { pool, namespace, image, ...marks, device: "" };
  return mapper === "rbd-nbd"
    ? { ...common, unmapOptions: unmapOptions.nbd, nbd: true, logDir, logFileStrategy: logStrategy }
    : { ...common, unmapOptions: unmapOptions.krbd, nbd: false, logDir: "", logFileStrategy: "" };
};

/** The log of a volume's rbd-nbd process; the name is ceph-csi's. */
export const logFileOf = (logDir: string, cookie: string): string => `${logDir}/rbd-nbd-${cookie}.log`;

/** The file's path, from the staging target path. */
export const imageMetaPath = (stagingPath: string): string => `${stagingPath}/image-meta.json`;

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
  "serviceAccounts",
  "encryptedFiles",
];
const BOOLEANS = ["accessType", "encrypted", "encryptedFiles"];

export const encodeImageMeta = (meta: ImageMeta): string =>
  JSON.stringify({
    Version: VERSION,
    pool: meta.pool,
    radosNamespace: meta.namespace,
    image: meta.image,
    unmapOptions: meta.unmapOptions,
    accessType: meta.nbd,
    encrypted: meta.encrypted,
    device: meta.device,
    logDir: meta.logDir,
    logFileStrategy: meta.logFileStrategy,
    ...(meta.serviceAccounts !== "" && { serviceAccounts: meta.serviceAccounts }),
    ...(meta.encryptedFiles && { encryptedFiles: true }),
  }).replaceAll(/[<>&\u2028\u2029]/g, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** The failure is what is wrong with the text. */
export const decodeImageMeta = (text: string): Result.Result<ImageMeta, string> => {
  const json = parseJson(text);
  if (Result.isFailure(json)) return Result.fail(`it is not JSON at ${json.failure}`);
  const value = json.success;
  if (!isObject(value)) return Result.fail("it is not a JSON object");
  const fields = fieldsOf(value, KEYS);
  for (const key of KEYS) {
    const wanted = BOOLEANS.includes(key) ? "boolean" : "string";
    const found = fields[key] ?? undefined;
    if (found !== undefined && typeof found !== wanted) return Result.fail(`its "${key}" is not a ${wanted}`);
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
    serviceAccounts: string("serviceAccounts"),
    encryptedFiles: boolean("encryptedFiles"),
  });
};
