/**
 * How a call can end: the codes, the one error that a handler may fail with, and the status made of either.
 *
 * Not here: which domain error gets which code (lib/operations/outcomes.ts) and how a status travels (./bridge.ts, tests/support/grpc-client.ts).
 *
 * 1. The text of a defect never leaves the process: the caller reads "internal error" and the id of the call.
 * 2. A status can always be sent: its text is well-formed Unicode of bounded length (grpc-js percent-encodes it, and
 *    throws on half a surrogate pair; HTTP/2 peers drop calls with oversized trailers).
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";
import { status as Code, Metadata } from "@grpc/grpc-js";
import * as Cause from "effect/Cause";
import * as Data from "effect/Data";
import * as Option from "effect/Option";
import { StatusSchema } from "../gen/status_pb.ts";

export { Code };

/** For logs and messages: `NOT_FOUND`, or the number when there is no such code. */
export const codeName = (code: number): string => Code[code] ?? String(code);

/** What a handler fails with. `message` goes to the caller and to the log: no secrets. */
export class RpcError extends Data.TaggedError("RpcError")<{
  readonly code: number;
  readonly message: string;
  /** Messages for machines (`anyPack`); they travel as a google.rpc.Status in grpc-status-details-bin. */
  readonly details?: readonly Any[];
}> {}

/** The end of one call, as it is sent, logged and counted. */
export interface CallStatus {
  readonly code: number;
  readonly message: string;
  readonly details?: readonly Any[] | undefined;
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
    return { code, message: error.message, details: error.details };
  }
  if (Cause.hasInterruptsOnly(cause)) return { code: Code.CANCELLED, message: "operation interrupted" };
  return { code: Code.INTERNAL, message: `internal error (call ${callId} in the driver's log)` };
};

export const isDefect = (cause: Cause.Cause<RpcError>): boolean =>
  Option.isNone(Cause.findErrorOption(cause)) && !Cause.hasInterruptsOnly(cause);

const MAX_MESSAGE = 4096;

const sendable = (text: string): string =>
  (text.length > MAX_MESSAGE ? `${text.slice(0, MAX_MESSAGE)}…` : text).toWellFormed();

const DETAILS = "grpc-status-details-bin";

/** In the form that grpc-js sends. */
export const wireStatus = (status: CallStatus): { code: number; details: string; metadata: Metadata } => {
  const metadata = new Metadata();
  const message = sendable(status.message);
  if (status.details !== undefined && status.details.length > 0) {
    const rich = create(StatusSchema, { code: status.code, message, details: [...status.details] });
    metadata.set(DETAILS, Buffer.from(toBinary(StatusSchema, rich)));
  }
  return { code: status.code, details: message, metadata };
};

/** The details that came with a failed call; empty when there are none. */
export const detailsOf = (metadata: Metadata): readonly Any[] => {
  const [bytes] = metadata.get(DETAILS);
  return bytes instanceof Uint8Array ? fromBinary(StatusSchema, bytes).details : [];
};
