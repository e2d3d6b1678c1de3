/**
 * The one table from a domain error to what becomes of it: the gRPC code that the caller reads, and whether the failed
 * call may have taken effect, which decides whether compensations run.
 *
 * Not here: the errors themselves (lib/csi, lib/ceph, lib/host, lib/config).
 *
 * 1. A domain error without a row does not compile.
 * 2. An unknown outcome has a code that callers (external-provisioner, kubelet) read as "may have happened, ask again":
 *    UNAVAILABLE, DEADLINE_EXCEEDED or ABORTED. So every other code says that nothing happened.
 */
import type { CephError } from "../ceph/errors.ts";
import type { ConfigError, InvalidParameter, InvalidSecret } from "../config/errors.ts";
import type {
  Conflict,
  GroupSnapshotNotFound,
  HalfMade,
  InvalidRequest,
  InvalidToken,
  JournalCorrupt,
  LockHeld,
  NotReadyYet,
  NotAllowed,
  Precondition,
  NodeNotFound,
  SnapshotNotFound,
  StillRunning,
  TooMany,
  Unplaceable,
  Unserved,
  VolumeNotFound,
} from "../csi/errors.ts";
import type { InvalidSize, SizeOutOfRange } from "../csi/size.ts";
import { Code, RpcError } from "../grpc/status.ts";
import type { HostError } from "../host/errors.ts";
import type { KeyChanged, KeyExists, KeyNotFound, KmsError } from "../kms/errors.ts";
import type { Operation } from "./operation.ts";

export type DomainError =
  | CephError
  | HostError
  | KmsError
  | KeyNotFound
  | KeyChanged
  | KeyExists
  | ConfigError
  | InvalidParameter
  | InvalidSecret
  | InvalidSize
  | InvalidRequest
  | NodeNotFound
  | VolumeNotFound
  | SnapshotNotFound
  | GroupSnapshotNotFound
  | Conflict
  | HalfMade
  | SizeOutOfRange
  | LockHeld
  | NotReadyYet
  | StillRunning
  | NotAllowed
  | Precondition
  | TooMany
  | Unplaceable
  | Unserved
  | InvalidToken
  | JournalCorrupt;

/**
 * Where a failure leaves the effect of the failed call:
 * - `none`: it certainly did not happen. Compensations run.
 * - `unknown`: it may have happened. No compensation runs: the retry inspects the real state.
 * - `another driver's`: another driver works on the same, and goes on with what is there. No compensation runs.
 */
export type Outcome = "none" | "unknown" | "another driver's";

const OUTCOMES = {
  ImageNotFound: { code: Code.NOT_FOUND, outcome: "none" },
  ImageSnapshotNotFound: { code: Code.NOT_FOUND, outcome: "none" },
  SnapshotNotFound: { code: Code.NOT_FOUND, outcome: "none" },
  ObjectNotFound: { code: Code.NOT_FOUND, outcome: "none" },
  PoolNotFound: { code: Code.INVALID_ARGUMENT, outcome: "none" },
  PoolUnfit: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  NodeNotFound: { code: Code.NOT_FOUND, outcome: "none" },
  VolumeNotFound: { code: Code.NOT_FOUND, outcome: "none" },
  GroupSnapshotNotFound: { code: Code.NOT_FOUND, outcome: "none" },
  Exists: { code: Code.ALREADY_EXISTS, outcome: "none" },
  Conflict: { code: Code.ALREADY_EXISTS, outcome: "none" },
  SizeOutOfRange: { code: Code.OUT_OF_RANGE, outcome: "none" },
  InvalidRequest: { code: Code.INVALID_ARGUMENT, outcome: "none" },
  InvalidParameter: { code: Code.INVALID_ARGUMENT, outcome: "none" },
  InvalidSecret: { code: Code.INVALID_ARGUMENT, outcome: "none" },
  InvalidSize: { code: Code.INVALID_ARGUMENT, outcome: "none" },
  ConfigMissing: { code: Code.INVALID_ARGUMENT, outcome: "none" },
  ConfigInvalid: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  InvalidCall: { code: Code.INVALID_ARGUMENT, outcome: "none" },
  AccessDenied: { code: Code.PERMISSION_DENIED, outcome: "none" },
  NotAllowed: { code: Code.PERMISSION_DENIED, outcome: "none" },
  Busy: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  HasSnapshots: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  Precondition: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  ClientTooOld: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  NoSpace: { code: Code.RESOURCE_EXHAUSTED, outcome: "none" },
  TooMany: { code: Code.RESOURCE_EXHAUSTED, outcome: "none" },
  // CSI 1.12 CreateVolume: so the CO may try another topology.
  Unplaceable: { code: Code.RESOURCE_EXHAUSTED, outcome: "none" },
  Unserved: { code: Code.UNIMPLEMENTED, outcome: "none" },
  InvalidToken: { code: Code.ABORTED, outcome: "none" },
  ParentLost: { code: Code.ABORTED, outcome: "none" },
  Raced: { code: Code.ABORTED, outcome: "another driver's" },
  LockHeld: { code: Code.ABORTED, outcome: "none" },
  NotReadyYet: { code: Code.ABORTED, outcome: "none" },
  StillRunning: { code: Code.ABORTED, outcome: "unknown" },
  HalfMade: { code: Code.UNAVAILABLE, outcome: "unknown" },
  TimedOut: { code: Code.DEADLINE_EXCEEDED, outcome: "unknown" },
  CallStuck: { code: Code.UNAVAILABLE, outcome: "unknown" },
  Unreachable: { code: Code.UNAVAILABLE, outcome: "unknown" },
  ManagerUnavailable: { code: Code.UNAVAILABLE, outcome: "none" },
  ConfFileInvalid: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  CephFailed: { code: Code.INTERNAL, outcome: "none" },
  CephUnexplained: { code: Code.UNAVAILABLE, outcome: "unknown" },
  JournalCorrupt: { code: Code.INTERNAL, outcome: "none" },
  HostFailed: { code: Code.INTERNAL, outcome: "none" },
  HostUnexplained: { code: Code.UNAVAILABLE, outcome: "unknown" },
  HostStuck: { code: Code.UNAVAILABLE, outcome: "unknown" },
  MapTimedOut: { code: Code.DEADLINE_EXCEEDED, outcome: "unknown" },
  HostRefused: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  MapRefused: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  DeviceBusy: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  UnexpectedContent: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  FilesystemDamaged: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  PathInTheWay: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  KmsUnknown: { code: Code.INVALID_ARGUMENT, outcome: "none" },
  KmsConfigInvalid: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  KmsDenied: { code: Code.PERMISSION_DENIED, outcome: "none" },
  KmsRefused: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  KmsUnreachable: { code: Code.UNAVAILABLE, outcome: "unknown" },
  KeyDamaged: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  KeyNotFound: { code: Code.FAILED_PRECONDITION, outcome: "none" },
  KeyExists: { code: Code.ABORTED, outcome: "none" },
  KeyChanged: { code: Code.ABORTED, outcome: "none" },
} as const satisfies Readonly<Record<DomainError["_tag"], { readonly code: Code; readonly outcome: Outcome }>>;

/** The table, for the test that proves invariant 2 over every row. */
export const outcomes: Readonly<Record<string, { readonly code: Code; readonly outcome: Outcome }>> = OUTCOMES;

export const outcomeOf = (error: DomainError): Outcome => OUTCOMES[error._tag].outcome;

const ASK_AGAIN: readonly Code[] = [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED];

/** Whether callers take it for proof that nothing is there, and may never come back. */
export const isFinal = (error: DomainError): boolean => !ASK_AGAIN.includes(OUTCOMES[error._tag].code);

/** What the caller reads: where it failed, why, and what to do. */
export const toRpcError = (error: DomainError, operation?: Operation): RpcError =>
  new RpcError({
    code: OUTCOMES[error._tag].code,
    message:
      operation === undefined ? error.message : `${error.message} (${operation.rpc}, stage "${operation.stage}")`,
  });
