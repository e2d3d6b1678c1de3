/**
 * The parameters by which a StorageClass chooses the cipher of its encrypted volumes, as arguments of cryptsetup. They
 * have an effect when a volume is first staged; later its LUKS header says how it is encrypted.
 *
 * 1. Without `encryptionCipher` the others have no effect, as in ceph-csi.
 * 2. `integrityMode` is no argument among the others: it writes all of a new device before a header goes on it (see
 *    lib/node/crypt-wipe.ts).
 */
import * as Result from "effect/Result";
import * as z from "zod";
import type { InvalidParameter } from "./errors.ts";
import { type ParameterMap, readParameters, text } from "./parameter-kinds.ts";

export interface Cipher {
  readonly arguments: readonly string[];
  /** What finds out that stored data were changed, as cryptsetup names it; absent: nothing does. */
  readonly integrity?: string;
}

/** The names that cryptsetup knows; which hashes there are is the kernel's. */
const INTEGRITY = /^(|none|aead|poly1305|cmac-aes|p?hmac-[a-z0-9-]+)$/;

const schema = z.object({
  encryptionCipher: text
    .refine((value) => !/null/i.test(value), "must be a cipher that encrypts: with a null cipher the data lies open")
    .default(""),
  encryptionKeySize: text.refine((value) => /^\d*$/.test(value), "must be a number of bits, as in 512").default(""),
  encryptionSectorSize: text
    .refine((value) => ["", "512", "1024", "2048", "4096"].includes(value), "must be 512, 1024, 2048 or 4096")
    .default(""),
  integrityMode: text
    .refine(
      (value) => INTEGRITY.test(value),
      "must be hmac-sha256, hmac-sha512, aead with a cipher that has it, or another mode of cryptsetup",
    )
    .default(""),
});

export const CIPHER_PARAMETERS: readonly string[] = Object.keys(schema.shape);

export const readCipher = (parameters: ParameterMap): Result.Result<Cipher, InvalidParameter> => {
  if ((parameters["encryptionCipher"] ?? "") === "") return Result.succeed({ arguments: [] });
  return Result.map(readParameters(schema, parameters), (given) => {
    const option = (name: string, value: string): readonly string[] => (value === "" ? [] : [name, value]);
    return {
      arguments: [
        ...option("--cipher", given.encryptionCipher),
        ...option("--key-size", given.encryptionKeySize),
        ...option("--sector-size", given.encryptionSectorSize),
      ],
      ...(!["", "none"].includes(given.integrityMode) && { integrity: given.integrityMode }),
    };
  });
};
