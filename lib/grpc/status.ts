/**
 * How a call can end: the codes, the one error that a handler may fail with, and the status made of either.
 *
 * Not here: which domain error gets which code (lib/operations/outcomes.ts) and how a status travels (./bridge.ts, tests/support/grpc-client.ts).
 *
 * 1. The text of a defect never leaves the process: the caller reads "internal error" and the id of the call.
 * 2. A status can always be sent: its text is well-formed Unicode of bounded length (grpc-js percent-encodes it, and
 *    throws on half a surrogate pair; HTTP/2 peers drop calls with oversized trailers).
 * 3. No cephx key is in it, whatever tool or library wrote the text.
 */
import { status as Code, Metadata } from "@grpc/grpc-js";
import * as Cause from "effect/Cause";
import * as Data from "effect/Data";
import * as Option from "effect/Option";
import { maskKeys } from "../text/mask.ts";

export { Code };

/** The name of a code for logs and messages, `NOT_FOUND`; the number of an unknown one. */
export const codeName = (code: number): string => Code[code] ?? String(code);

const GO_NAMES: Readonly<Record<string, string>> = { OK: "OK", CANCELLED: "Canceled" };

/** The name of a code as Go prints it, which is what metrics of Kubernetes' programs have: `DeadlineExceeded`. */
export const goCodeName = (code: number): string => {
  const name = codeName(code);
  const title = (word: string) => `${word.charAt(0)}${word.slice(1).toLowerCase()}`;
  return GO_NAMES[name] ?? name.split("_").map(title).join("");
};

/** The error of a handler. The message goes to the caller and to the log. */
export class RpcError extends Data.TaggedError("RpcError")<{
  readonly code: number;
  readonly message: string;
}> {}

/** The end of one call, as it is sent, logged and counted. */
export interface CallStatus {
  readonly code: number;
  readonly message: string;
}

export const OK: CallStatus = { code: Code.OK, message: "" };

/** While the driver stops: the code on which every CSI client retries. */
export const STOPPING: CallStatus = { code: Code.UNAVAILABLE, message: "driver is stopping, retry" };

/** A failed handler's status: its own error, else an interruption, else a defect whose text stays private (1). */
export const statusOf = (cause: Cause.Cause<RpcError>, callId: string): CallStatus => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause));
  if (error !== undefined) {
    // A failure that claims to be OK would read as success with no message: a bug, so INTERNAL.
    const code = error.code > 0 && error.code in Code ? error.code : Code.INTERNAL;
    return { code, message: maskKeys(error.message) };
  }
  if (Cause.hasInterruptsOnly(cause)) return { code: Code.CANCELLED, message: "operation interrupted" };
  return { code: Code.INTERNAL, message: `internal error (call ${callId} in the driver's log)` };
};

export const isDefect = (cause: Cause.Cause<RpcError>): boolean =>
  Option.isNone(Cause.findErrorOption(cause)) && !Cause.hasInterruptsOnly(cause);

const MAX_MESSAGE = 4096;

const sendable = (text: string): string =>
  (text.length > MAX_MESSAGE ? `${text.slice(0, MAX_MESSAGE)}…` : text).toWellFormed();

/** In the form that grpc-js sends: what it calls `details` is the text. */
export const wireStatus = ({ code, message }: CallStatus): { code: number; details: string; metadata: Metadata } => ({
  code,
  details: sendable(message),
  metadata: new Metadata(),
});
