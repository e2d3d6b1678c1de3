/**
 * The parameters by which a StorageClass chooses the cipher of its encrypted volumes, as arguments of cryptsetup. They
 * have an effect when a volume is first staged; later its LUKS header says how it is encrypted.
 *
 * 1. Without `encryptionCipher` the others have no effect, as in ceph-csi.
 * 2. `integrityMode` is not served: it writes all of a new device, so that nothing proves any more that it was never used.
 *    A volume that another driver has made so is opened all the same.
 */
import * as Result from "effect/Result";
import * as z from "zod";
import type { InvalidParameter } from "./errors.ts";
import { type ParameterMap, readParameters, text } from "./parameter-kinds.ts";

export interface Cipher {
  readonly arguments: readonly string[];
  /** Why this release makes no volume of it; absent: it does. */
  readonly unserved?: string;
}

const schema = z.object({
  encryptionCipher: text
    .refine((value) => !/null/i.test(value), "must be a cipher that encrypts: with a null cipher the data lies open")
    .default(""),
  encryptionKeySize: text.refine((value) => /^\d*$/.test(value), "must be a number of bits, as in 512").default(""),
  encryptionSectorSize: text
    .refine((value) => ["", "512", "1024", "2048", "4096"].includes(value), "must be 512, 1024, 2048 or 4096")
    .default(""),
  integrityMode: text.default(""),
});

export const CIPHER_PARAMETERS: readonly string[] = Object.keys(schema.shape);

const UNSERVED = "is not served: this release makes volumes without integrity. Leave it out";

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
      ...(given.integrityMode !== "" && { unserved: UNSERVED }),
    };
  });
};
