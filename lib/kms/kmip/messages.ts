/**
 * The messages of KMIP 1.4 that a key store needs: DiscoverVersions, Encrypt, Decrypt and Get, one in each request. Pure.
 *
 * Not here: bytes (./ttlv.ts), and the connection (./connection.ts).
 *
 * 1. An answer counts only if it is to the request: one batch item, with the request's operation and its ID.
 */
import {
  allBelow,
  below,
  bytes,
  bytesIn,
  decode,
  enumeration,
  type Item,
  integer,
  numberIn,
  structure,
  text,
  textIn,
} from "./ttlv.ts";

const TAG = {
  batchCount: 0x42_00_0d,
  batchItem: 0x42_00_0f,
  blockCipherMode: 0x42_00_11,
  cryptographicAlgorithm: 0x42_00_28,
  cryptographicParameters: 0x42_00_2b,
  data: 0x42_00_c2,
  ivCounterNonce: 0x42_00_3d,
  keyBlock: 0x42_00_40,
  keyMaterial: 0x42_00_43,
  keyValue: 0x42_00_45,
  operation: 0x42_00_5c,
  paddingMethod: 0x42_00_5f,
  protocolVersion: 0x42_00_69,
  versionMajor: 0x42_00_6a,
  versionMinor: 0x42_00_6b,
  requestHeader: 0x42_00_77,
  requestMessage: 0x42_00_78,
  requestPayload: 0x42_00_79,
  responseMessage: 0x42_00_7b,
  responsePayload: 0x42_00_7c,
  resultMessage: 0x42_00_7d,
  resultReason: 0x42_00_7e,
  resultStatus: 0x42_00_7f,
  symmetricKey: 0x42_00_8f,
  uniqueBatchItemId: 0x42_00_93,
  uniqueIdentifier: 0x42_00_94,
} as const;

const OPERATION = { get: 0x0a, discoverVersions: 0x1e, encrypt: 0x1f, decrypt: 0x20 } as const;
const AES = 3;
const CBC = 1;
const PKCS5 = 3;

export interface Question {
  readonly operation: number;
  /** As messages name it. */
  readonly name: string;
  readonly payload: Buffer;
}

const version = (): Buffer =>
  structure(TAG.protocolVersion, integer(TAG.versionMajor, 1), integer(TAG.versionMinor, 4));

export const discoverVersions: Question = {
  operation: OPERATION.discoverVersions,
  name: "DiscoverVersions",
  payload: structure(TAG.requestPayload, version()),
};

/** AES-CBC with PKCS5 padding, by the server, with the key of that identifier. */
const crypt =
  (operation: number, name: string) =>
  (keyId: string, data: Uint8Array, iv: Uint8Array): Question => ({
    operation,
    name,
    payload: structure(
      TAG.requestPayload,
      text(TAG.uniqueIdentifier, keyId),
      structure(
        TAG.cryptographicParameters,
        enumeration(TAG.blockCipherMode, CBC),
        enumeration(TAG.paddingMethod, PKCS5),
        enumeration(TAG.cryptographicAlgorithm, AES),
      ),
      bytes(TAG.data, data),
      bytes(TAG.ivCounterNonce, iv),
    ),
  });

export const encrypt = crypt(OPERATION.encrypt, "Encrypt");
export const decrypt = crypt(OPERATION.decrypt, "Decrypt");

export const getKey = (keyId: string): Question => ({
  operation: OPERATION.get,
  name: "Get",
  payload: structure(TAG.requestPayload, text(TAG.uniqueIdentifier, keyId)),
});

/** The bytes of a request; `batchId` comes back with its answer. */
export const requestOf = ({ operation, payload }: Question, batchId: Uint8Array): Buffer =>
  structure(
    TAG.requestMessage,
    structure(TAG.requestHeader, version(), integer(TAG.batchCount, 1)),
    structure(TAG.batchItem, enumeration(TAG.operation, operation), bytes(TAG.uniqueBatchItemId, batchId), payload),
  );

export type Answer =
  | { readonly kind: "success"; readonly payload: Item | undefined }
  | { readonly kind: "failure"; readonly reason: number | undefined; readonly message: string }
  /** The bytes are not an answer to the request. */
  | { readonly kind: "other"; readonly what: string };

const other = (what: string): Answer => ({ kind: "other", what });

/** What the bytes answer to the request of that ID. */
export const answerOf = ({ operation, name }: Question, batchId: Uint8Array, message: Uint8Array): Answer => {
  const response = decode(message);
  if (response?.tag !== TAG.responseMessage) return other("its answer is not a message of KMIP");
  const items = allBelow(response, TAG.batchItem);
  const [item] = items;
  if (items.length !== 1) return other(`its answer has ${items.length} batch items, and one was asked for`);
  if (numberIn(below(item, TAG.resultStatus)) !== 0) {
    const reason = numberIn(below(item, TAG.resultReason));
    return { kind: "failure", reason, message: textIn(below(item, TAG.resultMessage)) ?? "" };
  }
  const sameId = Buffer.compare(bytesIn(below(item, TAG.uniqueBatchItemId)) ?? new Uint8Array(), batchId) === 0;
  if (!sameId || numberIn(below(item, TAG.operation)) !== operation)
    return other(`it answers something else than ${name}`);
  return { kind: "success", payload: below(item, TAG.responsePayload) };
};

/** Whether the answer to DiscoverVersions has 1.4. */
export const speaksOurVersion = (payload: Item | undefined): boolean =>
  allBelow(payload, TAG.protocolVersion).some(
    (each) => numberIn(below(each, TAG.versionMajor)) === 1 && numberIn(below(each, TAG.versionMinor)) === 4,
  );

/** The text of an answer to Encrypt or Decrypt. */
export const dataIn = (payload: Item | undefined): Uint8Array | undefined => bytesIn(below(payload, TAG.data));

/** The bytes of the symmetric key in an answer to Get; `undefined`: it is another object, or is wrapped. */
export const keyMaterialIn = (payload: Item | undefined): Uint8Array | undefined =>
  bytesIn(below(payload, TAG.symmetricKey, TAG.keyBlock, TAG.keyValue, TAG.keyMaterial));
