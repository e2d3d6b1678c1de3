/**
 * What the failures of AWS mean to an administrator, by the names that KMS and STS give them.
 *
 * Not here: what is asked (../stores/aws.ts).
 */
import * as z from "zod";
import { fieldsOf } from "../client-calls.ts";
import { KmsDenied, type KmsError, KmsRefused, KmsUnreachable } from "../errors.ts";

/** Whom was asked, and what to change when it refuses. */
export interface AwsService {
  /** As messages name it, with its address: `AWS KMS at https://…`. */
  readonly store: string;
  /** For a credential that is not valid. */
  readonly credential: string;
  /** For one that is valid, and not permitted to do this. */
  readonly permission: string;
  /** For a key that does not exist, is disabled, or does not encrypt. */
  readonly key: string;
}

const BAD_CREDENTIAL = new Set([
  "ExpiredToken",
  "ExpiredTokenException",
  "IncompleteSignature",
  "IncompleteSignatureException",
  "InvalidClientTokenId",
  "InvalidIdentityToken",
  "InvalidIdentityTokenException",
  "InvalidSignatureException",
  "InvalidTokenException",
  "MissingAuthenticationToken",
  "MissingAuthenticationTokenException",
  "OptInRequired",
  "SignatureDoesNotMatch",
  "UnrecognizedClientException",
]);
const NOT_PERMITTED = new Set(["AccessDenied", "AccessDeniedException", "NotAuthorized"]);
/** KMS answers so, and means that it could not do it now. */
const TRANSIENT = new Set([
  "DependencyTimeoutException",
  "IDPCommunicationError",
  "KeyUnavailableException",
  "KMSInternalException",
  "LimitExceededException",
  "RequestTimeout",
  "ThrottlingException",
]);

const shape = z.object({
  name: z.string(),
  message: z.string(),
  /** On errors that the service named. */
  $fault: z.string().optional(),
  $metadata: z.object({ httpStatusCode: z.number().optional() }).default({}),
});

export const awsFailure = (service: AwsService, error: unknown): KmsError => {
  const { store, credential, permission, key: remedy } = service;
  const { data } = shape.safeParse(fieldsOf(error));
  if (data === undefined) return new KmsUnreachable({ store, reason: "it gives no reason" });
  const { name, $fault } = data;
  const status = data.$metadata.httpStatusCode;
  const reason = reasonOf(data);
  if (BAD_CREDENTIAL.has(name)) return new KmsDenied({ store, reason, remedy: credential });
  if (NOT_PERMITTED.has(name)) return new KmsDenied({ store, reason, remedy: permission });
  if ($fault === undefined && (status === 401 || status === 403)) {
    return new KmsDenied({ store, reason, remedy: `${credential}. If it is valid: ${permission}` });
  }
  const isDefinite = $fault !== undefined && status !== undefined && status < 500 && status !== 429;
  return isDefinite && !TRANSIENT.has(name)
    ? new KmsRefused({ store, reason, remedy })
    : new KmsUnreachable({ store, reason });
};

/** On one line, not too long. Where the answer was not read, its status says more than the parser. */
const reasonOf = ({ name, message, $fault, $metadata }: z.infer<typeof shape>): string =>
  $fault === undefined && $metadata.httpStatusCode !== undefined
    ? `HTTP ${$metadata.httpStatusCode}, and the answer is not one of AWS`
    : `${name}: ${message.split("\n")[0]?.slice(0, 300).replace(/\.$/, "") ?? ""}`;

/** Whether KMS says that a ciphertext is not one of its own. */
export const isBadCiphertext = (error: unknown): boolean =>
  error instanceof Error && error.name === "InvalidCiphertextException";
