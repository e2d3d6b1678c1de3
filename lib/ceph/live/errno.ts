/**
 * The one place where an errno of librados or librbd becomes an error of lib/ceph/errors.ts.
 *
 * Not here: gRPC codes, and retries.
 *
 * 1. An errno means absence only for the call that proves it: ENOENT of `rbd_open` is a missing image, ENOENT of
 *    `rados_ioctx_create` a missing pool, and ENOENT of anything not listed proves nothing.
 * 2. A call that changes something leaves its outcome unknown (`CephUnexplained`) unless its errno is listed here as one
 *    that says that nothing happened, and came before the call had changed anything. A call that only reads changes
 *    nothing, however it fails.
 */
import { constants } from "node:os";
import type { CellErrno, CellError } from "../../cells/errors.ts";
import {
  AccessDenied,
  Busy,
  CallStuck,
  CephFailed,
  type CephError,
  CephUnexplained,
  ClientTooOld,
  Exists,
  HasSnapshots,
  ImageNotFound,
  InvalidCall,
  ManagerUnavailable,
  NoSpace,
  ObjectNotFound,
  ParentLost,
  PoolNotFound,
  Raced,
  ImageSnapshotNotFound,
  TimedOut,
} from "../errors.ts";

const { errno: E } = constants;
export const { EACCES, EINVAL, ENOENT, EOPNOTSUPP, EPERM, ETIMEDOUT } = E;
/** Linux. The OSDs refuse the address of this client. */
const EBLOCKLISTED = 108;
/** Linux. Ceph answers it for an image whose move to the trash was interrupted. */
export const EUCLEAN = 117;
export const { EROFS } = E;

/** The subject of a call and the names around it, for errors. */
export interface CallContext {
  readonly subject: string;
  /** The call changes something in the cluster. */
  readonly changes: boolean;
  readonly user: string;
  /** A name, or `#id`. */
  readonly pool: string;
  readonly namespace?: string | undefined;
  readonly dataPool?: string | undefined;
  /** The pool of the snapshot that is cloned. */
  readonly sourcePool?: string | undefined;
  /** `pool/image@snapshot`. */
  readonly snapshot?: string | undefined;
  /** The snapshot from which a difference starts, likewise. */
  readonly start?: string | undefined;
  /** `pool/image` of the image that is put into a group, and its pool. */
  readonly member?: string | undefined;
  readonly memberPool?: string | undefined;
}

const POOL_CALLS: readonly string[] = ["rados_ioctx_create", "rados_pool_lookup", "rados_pool_reverse_lookup"];
const IMAGE_CALLS: readonly string[] = ["rbd_open", "rbd_trash_move"];

/** Functions that a call of a cell makes before it changes anything, and that change nothing themselves. */
const PREPARATIONS: readonly string[] = [
  "rados_ioctx_create",
  "rados_ioctx_create of the source",
  "rados_ioctx_create of the member",
  "rados_pool_lookup",
  "rbd_open",
];

export const nameOf = (errno: number): string => {
  const name = Object.entries(E).find(([, value]) => value === errno)?.[0];
  return name === undefined ? `errno ${errno}` : `${name} (${errno})`;
};

/** `undefined`: ENOENT proves nothing for this call. */
const absent = (op: string, context: CallContext): CephError | undefined => {
  const { subject, pool, namespace, dataPool } = context;
  if (op === "rbd_namespace_exists") {
    return new PoolNotFound({ op, subject: `${pool}/${namespace} (a namespace: "rbd namespace create" makes one)` });
  }
  if (op === "rados_pool_lookup" && dataPool !== undefined) {
    return new PoolNotFound({ op, subject: dataPool, parameter: "dataPool" });
  }
  if (op === "rados_pool_lookup") return new PoolNotFound({ op, subject: pool });
  if (op === "rados_ioctx_create of the source") return new PoolNotFound({ op, subject: context.sourcePool ?? pool });
  if (op === "rados_ioctx_create of the member") return new PoolNotFound({ op, subject: context.memberPool ?? pool });
  if (op === "rbd_snap_set") return new ImageSnapshotNotFound({ op, subject: context.snapshot ?? subject });
  if (op === "rbd_snap_set of the start") return new ImageSnapshotNotFound({ op, subject: context.start ?? subject });
  if (op === "rbd_open of the member") return new ImageNotFound({ op, subject: context.member ?? subject });
  if (op === "rbd_open of a parent") return new ParentLost({ op, subject });
  if (op === "rbd_open of a parent of the source") return new ParentLost({ op, subject: context.snapshot ?? subject });
  if (op === "rbd_group_open") return new ObjectNotFound({ op, subject });
  if (POOL_CALLS.includes(op)) return new PoolNotFound({ op, subject: pool });
  if (IMAGE_CALLS.includes(op)) return new ImageNotFound({ op, subject });
  if (op === "rados_write_op_operate") return new ObjectNotFound({ op, subject });
  return undefined;
};

/** Reads the words of the manager, because its errno is the same for a missing image and a missing pool. */
const managerFailure = ({ op, errno, message }: CellErrno, context: CallContext): CephError => {
  if (errno === E.ENOENT && message.includes("image from trash"))
    return new ImageNotFound({ op, subject: context.subject });
  if (errno === E.ENOENT && message.includes("does not exist"))
    return new ImageNotFound({ op, subject: context.subject });
  if (errno === E.ENOENT && message.includes("opening pool")) return new PoolNotFound({ op, subject: context.pool });
  const reason = message === "" ? nameOf(errno) : `${message} (${nameOf(errno)})`;
  return new ManagerUnavailable({ op, subject: context.subject, reason });
};

/** The error for an errno after which the call has certainly changed nothing; `undefined`: the errno leaves that open. */
const explained = (error: CellErrno, context: CallContext): CephError | undefined => {
  const { op, errno } = error;
  const about = { op, subject: context.subject };
  if (NO_REASON.has(errno)) return undefined;
  if (op === "rados_mgr_command") return managerFailure(error, context);
  switch (errno) {
    case E.ENOENT:
      return absent(op, context);
    case E.ECANCELED:
      return op === "rados_write_op_operate" ? new Raced(about) : undefined;
    case E.EEXIST:
      return new Exists(about);
    case E.EBUSY:
      return op === "rbd_group_image_add"
        ? new Busy({ op, subject: context.member ?? context.subject, inGroup: true })
        : new Busy(about);
    case E.EMLINK:
      return new Busy({ ...about, inGroup: true });
    case E.ENOTEMPTY:
      return new HasSnapshots(about);
    case E.ENOSPC:
    case E.EDQUOT:
      return new NoSpace({ ...about, pool: context.pool });
    case E.EINVAL:
    case E.ERANGE:
    case E.EDOM:
    case E.ENOSYS:
    case E.EOPNOTSUPP:
    case E.E2BIG:
    case E.ENAMETOOLONG:
      return new InvalidCall({ ...about, errno });
    case E.EACCES:
    case E.EPERM:
      return new AccessDenied({ ...about, user: context.user });
    case E.ETIMEDOUT:
      return new TimedOut(about);
    // librbd looks at both before it changes anything
    case E.EROFS:
      return new CephFailed({
        ...about,
        errno,
        reason:
          "the image cannot be written from here because it is the non-primary copy of a mirror, or another client keeps its lock",
      });
    case EUCLEAN:
      return op === "rbd_trash_remove"
        ? new CephFailed({
            ...about,
            errno,
            reason: "its move to the trash was interrupted; move it to the trash once more",
          })
        : undefined;
    default:
      return undefined;
  }
};

/** Errnos of the connection, or of no call at all. They say nothing about the call. */
const NO_REASON: ReadonlySet<number> = new Set([0, EBLOCKLISTED, E.ENOTCONN]);

const reasonOf = ({ op, errno, message }: CellErrno): string => {
  switch (errno) {
    case 0:
      return message;
    case EBLOCKLISTED:
      return `the cluster has this client on its blocklist ("ceph osd blocklist ls"); the next call connects anew`;
    case E.ENOTCONN:
      return "the connection was shut down; the next call connects anew";
    case E.ENOENT:
      return `${nameOf(errno)}, and it is unknown what ${op} means by it`;
    default:
      return nameOf(errno);
  }
};

const failure = (error: CellErrno, context: CallContext): CephError => {
  const { op, errno } = error;
  const found = explained(error, context);
  const midway = error.midway && context.changes;
  if (found !== undefined && (!midway || found._tag === "TimedOut")) return found;
  const about = { op, subject: context.subject, errno, reason: found?.message ?? reasonOf(error) };
  const harmless = !context.changes || (!error.midway && PREPARATIONS.includes(op));
  return harmless ? new CephFailed(about) : new CephUnexplained(about);
};

export const toCephError = (error: CellError, context: CallContext): CephError => {
  if (error._tag === "CellErrno") return failure(error, context);
  const about = { op: error.op, subject: context.subject, reason: error.message };
  if (error._tag === "CellStuck" || !error.ran) return new CallStuck(about);
  return context.changes ? new CephUnexplained({ ...about, errno: 0 }) : new CephFailed({ ...about, errno: 0 });
};

/** Whether every further call on the same connection would fail for the same reason. */
export const endsConnection = (error: CephError): boolean =>
  (error._tag === "CephFailed" || error._tag === "CephUnexplained") &&
  (error.errno === EBLOCKLISTED || error.errno === E.ENOTCONN);

export const tooOld = (subject: string, release: string | undefined, what: string): ClientTooOld =>
  new ClientTooOld({
    op: "rados_connect",
    subject,
    reason:
      `${what}, which librados of Ceph ${release ?? "(release unknown)"} cannot read. ` +
      `Install the client packages of the cluster's release. If that is not possible, the cluster has to allow the older ` +
      `type ("auth_allowed_ciphers" in "ceph mon dump") and the user needs such a key ("ceph auth rotate --key_type aes")`,
  });
