/**
 * The one table that turns domain errors into gRPC codes, and the errors that belong to CSI rather than to Ceph
 * or to the host.
 *
 * 1. A domain error without a code does not compile.
 * 2. What left the outcome unknown gets a code that the callers (external-provisioner, kubelet) treat as "may have
 *    happened, ask again": UNAVAILABLE, DEADLINE_EXCEEDED or ABORTED. A definite failure never does.
 */
import type { CephError } from "../ceph/errors.ts";
import type { ConfigError, InvalidParameter, InvalidSecret } from "../config/errors.ts";
import type {
  Conflict,
  InvalidRequest,
  InvalidToken,
  JournalCorrupt,
  LockHeld,
  Precondition,
  StillRunning,
  TooMany,
  Unplaceable,
  VolumeNotFound,
} from "../csi/errors.ts";
import type { InvalidSize, SizeOutOfRange } from "../csi/size.ts";
import { Code, RpcError } from "../grpc/status.ts";
import type { HostError } from "../host/errors.ts";
import type { Operation } from "./operation.ts";

export type DomainError =
  | CephError
  | HostError
  | ConfigError
  | InvalidParameter
  | InvalidSecret
  | InvalidSize
  | InvalidRequest
  | VolumeNotFound
  | Conflict
  | SizeOutOfRange
  | LockHeld
  | StillRunning
  | Precondition
  | TooMany
  | Unplaceable
  | InvalidToken
  | JournalCorrupt;

const codes: { readonly [Tag in DomainError["_tag"]]: number } = {
  ImageNotFound: Code.NOT_FOUND,
  SnapshotNotFound: Code.NOT_FOUND,
  ObjectNotFound: Code.NOT_FOUND,
  PoolNotFound: Code.INVALID_ARGUMENT,
  VolumeNotFound: Code.NOT_FOUND,
  Exists: Code.ALREADY_EXISTS,
  Conflict: Code.ALREADY_EXISTS,
  SizeOutOfRange: Code.OUT_OF_RANGE,
  InvalidRequest: Code.INVALID_ARGUMENT,
  InvalidParameter: Code.INVALID_ARGUMENT,
  InvalidSecret: Code.INVALID_ARGUMENT,
  InvalidSize: Code.INVALID_ARGUMENT,
  ConfigMissing: Code.INVALID_ARGUMENT,
  ConfigInvalid: Code.FAILED_PRECONDITION,
  InvalidCall: Code.INVALID_ARGUMENT,
  AccessDenied: Code.PERMISSION_DENIED,
  Busy: Code.FAILED_PRECONDITION,
  HasSnapshots: Code.FAILED_PRECONDITION,
  Precondition: Code.FAILED_PRECONDITION,
  ClientTooOld: Code.FAILED_PRECONDITION,
  NoSpace: Code.RESOURCE_EXHAUSTED,
  TooMany: Code.RESOURCE_EXHAUSTED,
  // CSI 1.12 CreateVolume: so the CO may try another topology.
  Unplaceable: Code.RESOURCE_EXHAUSTED,
  InvalidToken: Code.ABORTED,
  ParentLost: Code.ABORTED,
  Raced: Code.ABORTED,
  LockHeld: Code.ABORTED,
  StillRunning: Code.ABORTED,
  TimedOut: Code.DEADLINE_EXCEEDED,
  CallStuck: Code.UNAVAILABLE,
  Unreachable: Code.UNAVAILABLE,
  ManagerUnavailable: Code.UNAVAILABLE,
  CephFailed: Code.INTERNAL,
  JournalCorrupt: Code.INTERNAL,
  HostFailed: Code.INTERNAL,
  HostStuck: Code.UNAVAILABLE,
  MapTimedOut: Code.DEADLINE_EXCEEDED,
  MapRefused: Code.FAILED_PRECONDITION,
  DeviceBusy: Code.FAILED_PRECONDITION,
  UnexpectedContent: Code.FAILED_PRECONDITION,
  FilesystemDamaged: Code.FAILED_PRECONDITION,
  PathInTheWay: Code.FAILED_PRECONDITION,
};

/** What the caller reads: where it failed, why, and what to do. */
export const toRpcError = (error: DomainError, operation?: Operation): RpcError =>
  new RpcError({
    code: codes[error._tag],
    message:
      operation === undefined ? error.message : `${error.message} (${operation.rpc}, stage "${operation.stage}")`,
  });

/** What a failure left is known: its effect did not happen. After any other, undo nothing and let the retry look. */
export const isDefinite = (error: DomainError): boolean => !unknownOutcome.has(error._tag);

/** Of work that two drivers may be at together: after `Raced` the other one goes on with what is there. */
export const mayUndo = (error: DomainError): boolean => isDefinite(error) && error._tag !== "Raced";

const unknownOutcome: ReadonlySet<DomainError["_tag"]> = new Set([
  "TimedOut",
  "CallStuck",
  "Unreachable",
  "CephFailed",
  "HostStuck",
  "MapTimedOut",
  "StillRunning",
] as const);
