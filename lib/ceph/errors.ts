/**
 * What Ceph answers, as types. Every failure of lib/ceph is one of these; which gRPC code each becomes is in
 * lib/operations/outcomes.ts, and nowhere else.
 *
 * 1. A message says what failed and what to do next, and carries no key.
 * 2. `ObjectNotFound` and its kin are proofs of absence. A failure that leaves it open (`TimedOut`, `Unreachable`,
 *    `AccessDenied`, `CallStuck`, `ParentLost`, `CephFailed`, `CephUnexplained`) is never to be read as one.
 * 3. `TimedOut`, `Unreachable`, `CallStuck` and `CephUnexplained` leave open whether the call took effect. Every other
 *    tag says that it did not.
 */
import * as Data from "effect/Data";

interface About {
  /** The call that failed, as in `rbd_open`. */
  readonly op: string;
  /** What it was about: `pool/image`, `pool/object`, a monitor list. */
  readonly subject: string;
}

export class ImageNotFound extends Data.TaggedError("ImageNotFound")<About> {
  override get message() {
    return `image ${this.subject} does not exist`;
  }
}
export class ImageSnapshotNotFound extends Data.TaggedError("ImageSnapshotNotFound")<About> {
  override get message() {
    return `snapshot ${this.subject} does not exist`;
  }
}
export class ObjectNotFound extends Data.TaggedError("ObjectNotFound")<About> {
  override get message() {
    return `object ${this.subject} does not exist`;
  }
}
export class PoolNotFound extends Data.TaggedError("PoolNotFound")<About> {
  override get message() {
    return `pool ${this.subject} does not exist in the cluster; create it, or correct "pool" in the StorageClass`;
  }
}
/** Something is there that must not be: an exclusive create lost, a name is taken. */
export class Exists extends Data.TaggedError("Exists")<About> {
  override get message() {
    return `${this.subject} exists already`;
  }
}
/** A compare in a RADOS write did not hold: another driver was faster. Nothing was written. */
export class Raced extends Data.TaggedError("Raced")<About> {
  override get message() {
    return `${this.subject} was changed by somebody else at the same time; retry`;
  }
}
/** `watchers` are the addresses of those who have the image open, if they are known. */
export class Busy extends Data.TaggedError("Busy")<About & { readonly watchers?: readonly string[] }> {
  override get message() {
    return this.watchers === undefined
      ? `${this.subject} is in use (${this.op}). Find its user with "rbd status", end that use, then retry`
      : `${this.subject} is in use by ${this.watchers.join(", ")}. End that use, then retry. If its node is dead, first blocklist the address with "ceph osd blocklist add"`;
  }
}
export class HasSnapshots extends Data.TaggedError("HasSnapshots")<About> {
  override get message() {
    return `${this.subject} still has snapshots; "rbd snap ls --all" shows them`;
  }
}
export class NoSpace extends Data.TaggedError("NoSpace")<About> {
  override get message() {
    return `no space or quota left for ${this.subject} (${this.op}); "ceph df detail" shows both`;
  }
}
export class InvalidCall extends Data.TaggedError("InvalidCall")<About & { readonly errno: number }> {
  override get message() {
    return `Ceph refused ${this.op} on ${this.subject} as invalid (errno ${this.errno}): check the size, features and layout that were asked for`;
  }
}
export class AccessDenied extends Data.TaggedError("AccessDenied")<About & { readonly user: string }> {
  override get message() {
    return `Ceph denies client.${this.user} ${this.op} on ${this.subject}: check the key in the secret against "ceph auth get client.${this.user}", and its caps (mon, osd and mgr "profile rbd")`;
  }
}
/** No answer within the limit. Whether a write took effect is unknown. */
export class TimedOut extends Data.TaggedError("TimedOut")<About> {
  override get message() {
    return `Ceph did not answer ${this.op} on ${this.subject} in time; check "ceph -s" (OSDs down, cluster full, network), then retry`;
  }
}
export class Unreachable extends Data.TaggedError("Unreachable")<About & { readonly reason: string }> {
  override get message() {
    return `no connection to the monitors ${this.subject}: ${this.reason}; check "monitors" in config.json and the network between here and there`;
  }
}
/** The client library here is older than what the cluster or its key needs. */
export class ClientTooOld extends Data.TaggedError("ClientTooOld")<About & { readonly reason: string }> {
  override get message() {
    return `this node's Ceph client is too old for ${this.subject}: ${this.reason}`;
  }
}
/** The manager has no answer for a task: it is down, too old, or the user has no mgr caps. */
export class ManagerUnavailable extends Data.TaggedError("ManagerUnavailable")<About & { readonly reason: string }> {
  override get message() {
    return `the Ceph manager can't take the task for ${this.subject}: ${this.reason}`;
  }
}
/** A call outlived even Ceph's own time-outs; its thread is put aside. Whether it took effect is unknown. */
export class CallStuck extends Data.TaggedError("CallStuck")<About & { readonly reason: string }> {
  override get message() {
    return this.reason;
  }
}
/** Not absence: its name and its header are there. Nor loss: a flatten that was cut off leaves a whole image so. */
export class ParentLost extends Data.TaggedError("ParentLost")<About> {
  override get message() {
    return `image ${this.subject} is there, but can't be opened, for the image that it is a copy of can't; retry. If that does not help, keep both: the one behind it may be in the trash ("rbd trash ls --all"), or this one may be complete already and only still point there, as after a flatten that was cut off`;
  }
}
/** The call failed and changed nothing: it only reads, did not begin, or answered an errno that says so. */
export class CephFailed extends Data.TaggedError("CephFailed")<
  About & { readonly errno: number; readonly reason: string }
> {
  override get message() {
    return `${this.op} on ${this.subject} failed: ${this.reason}`;
  }
}
/** A call that changes something failed in a way that does not say what it left. Whether it took effect is unknown. */
export class CephUnexplained extends Data.TaggedError("CephUnexplained")<
  About & { readonly errno: number; readonly reason: string }
> {
  override get message() {
    return `${this.op} on ${this.subject} failed and may have taken effect: ${this.reason}; retry, which looks at what is there`;
  }
}

export type CephError =
  | ImageNotFound
  | ImageSnapshotNotFound
  | ParentLost
  | ObjectNotFound
  | PoolNotFound
  | Exists
  | Raced
  | Busy
  | HasSnapshots
  | NoSpace
  | InvalidCall
  | AccessDenied
  | TimedOut
  | Unreachable
  | ClientTooOld
  | ManagerUnavailable
  | CallStuck
  | CephFailed
  | CephUnexplained;
