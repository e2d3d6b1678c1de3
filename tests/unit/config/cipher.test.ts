/** The cipher that a StorageClass chooses, as arguments of cryptsetup. */
import { expect, test } from "bun:test";
import * as Result from "effect/Result";
import { readCipher } from "../../../lib/config/cipher.ts";
import type { ParameterMap } from "../../../lib/config/parameter-kinds.ts";

const CIPHER = { encryptionCipher: "aes-xts-plain64" };

test.each<[ParameterMap, object]>([
  [{}, { arguments: [] }],
  [{ encryptionKeySize: "x", encryptionSectorSize: "x", integrityMode: "x" }, { arguments: [] }],
  [
    { ...CIPHER, encryptionKeySize: "512", encryptionSectorSize: "4096" },
    { arguments: ["--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "4096"] },
  ],
  [{ ...CIPHER, integrityMode: "" }, { arguments: ["--cipher", "aes-xts-plain64"] }],
  [{ ...CIPHER, integrityMode: "none" }, { arguments: ["--cipher", "aes-xts-plain64"] }],
  ...["hmac-sha1", "hmac-sha256", "hmac-sha512", "phmac-sha256", "aead", "poly1305", "cmac-aes"].map(
    (integrityMode) =>
      [
        { ...CIPHER, integrityMode },
        { arguments: ["--cipher", "aes-xts-plain64"], integrity: integrityMode },
      ] as [ParameterMap, object],
  ),
])("The parameters %j are what cryptsetup is told", (parameters, expected) => {
  expect(Result.getOrThrow(readCipher(parameters))).toEqual(expected as never);
});

test.each([
  [{ ...CIPHER, encryptionKeySize: "big" }, "encryptionKeySize"],
  [{ ...CIPHER, encryptionSectorSize: "3000" }, "encryptionSectorSize"],
  [{ encryptionCipher: "cipher_null" }, "encryptionCipher"],
  [{ ...CIPHER, integrityMode: "crc32" }, "integrityMode"],
  [{ ...CIPHER, integrityMode: "hmac-sha256 --batch-mode" }, "integrityMode"],
  [{ ...CIPHER, integrityMode: "HMAC-SHA256" }, "integrityMode"],
])("The parameters %j are refused for one of them, which the error names", (parameters, field) => {
  const read = readCipher(parameters);
  expect(Result.isFailure(read) ? read.failure.field : undefined).toBe(field);
});
