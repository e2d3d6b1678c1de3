/**
 * The parameters by which a StorageClass asks for encryption: `encrypted`, `encryptionType` and `encryptionKMSID`.
 * CreateVolume and NodeStageVolume read them alike.
 *
 * Not here: options of the cipher, and what a KMS ID stands for (lib/kms).
 *
 * 1. Only `encrypted` turns encryption on. Where it is off, the others have no effect, whatever they say.
 */
import * as Result from "effect/Result";
import * as z from "zod";
import { oneLine } from "../text/printable.ts";
import type { InvalidParameter } from "./errors.ts";
import { bool, type ParameterMap, readParameters, text } from "./parameter-kinds.ts";

/** How a volume is encrypted. */
export interface Encryption {
  /** `default` where none was given: the text that the journal keeps. */
  readonly kmsId: string;
  readonly type: EncryptionType;
}

/** `block`: LUKS. `file`: fscrypt. */
export type EncryptionType = "block" | "file";

export const DEFAULT_KMS = "default";

/** What a LUKS2 header takes of an image: the tool's own default, and what ceph-csi asks for. */
export const LUKS_HEADER_BYTES = 16n << 20n;

const switchField = z.object({ encrypted: bool.default(false) });

const fields = z.object({
  encryptionType: z
    .enum(["block", "file"], { error: ({ input }) => `is ${oneLine(String(input))}: write block or file` })
    .default("block"),
  encryptionKMSID: text.default(""),
});

export const ENCRYPTION_PARAMETERS: readonly string[] = [switchField, fields].flatMap(({ shape }) =>
  Object.keys(shape),
);

/** `undefined`: the volume is plain. */
export const readEncryption = (parameters: ParameterMap): Result.Result<Encryption | undefined, InvalidParameter> =>
  Result.gen(function* () {
    const { encrypted } = yield* readParameters(switchField, parameters);
    if (!encrypted) return undefined;
    const { encryptionType: type, encryptionKMSID } = yield* readParameters(fields, parameters);
    return { kmsId: encryptionKMSID || DEFAULT_KMS, type };
  });

/** Whether the files in the volume are encrypted, and not its device. */
export const isOfFiles = (encryption: Encryption | undefined): boolean => encryption?.type === "file";

/** Whether an image has a LUKS header in front of what pods see. */
export const hasHeader = (encryption: Encryption | undefined): boolean => encryption?.type === "block";

/** From what the journal keeps; drivers before ceph-csi 3.8 wrote no type, and knew `block` alone. */
export const encryptionIn = (
  attributes: { readonly encryptKms: string | undefined; readonly encryptionType: string | undefined } | undefined,
): Encryption | undefined =>
  attributes?.encryptKms === undefined
    ? undefined
    : {
        kmsId: attributes.encryptKms || DEFAULT_KMS,
        type: attributes.encryptionType === "file" ? "file" : "block",
      };

/** As a clause of a message has it. */
export const encryptionLabel = (encryption: Encryption | undefined): string =>
  encryption === undefined ? "plain" : `encrypted (${encryption.type}, KMS ${encryption.kmsId})`;
