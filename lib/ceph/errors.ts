/**
 * The failures of lib/ceph, as types.
 *
 * Not here: which gRPC code each becomes (lib/operations/outcomes.ts).
 *
 * 1. A message says what failed, on what, and what to do. It never contains a key.
 * 2. `ObjectNotFound` and the other "not found" tags prove absence. A failure that leaves it open (`TimedOut`,
 *    `Unreachable`, `AccessDenied`, `CallStuck`, `ParentLost`, `CephFailed`, `CephUnexplained`) must not be read as one.
 * 3. `TimedOut`, `Unreachable`, `CallStuck` and `CephUnexplained` leave open whether the call took effect. Every other
 *    tag says that it did not.
 */
import * as Data from "effect/Data";
import { FENCE_SECONDS } from "./blocklist.ts";

interface About {
  /** The call that failed, as in `rbd_open`. */
  readonly op: string;
  /** What the call was for: `pool/image`, `pool/object`, a monitor list. */
  readonly subject: string;
}

export class ImageNotFound extends Data.TaggedError("ImageNotFound")<About> {
  override get message() {
    return `image ${this.subject} does not exist. "rbd ls" and "rbd trash ls" show what the pool has`;
  }
}
export class ImageSnapshotNotFound extends Data.TaggedError("ImageSnapshotNotFound")<About> {
  override get message() {
    return `snapshot ${this.subject} does not exist. "rbd snap ls --all" shows those of the image`;
  }
}
export class ObjectNotFound extends Data.TaggedError("ObjectNotFound")<About> {
  override get message() {
    return `object ${this.subject} does not exist. If the driver did not remove it, another program did`;
  }
}
/** `parameter`: the one that names the pool. */
export class PoolNotFound extends Data.TaggedError("PoolNotFound")<
  About & { readonly parameter?: "pool" | "dataPool" }
> {
  override get message() {
    const { subject, parameter = "pool" } = this;
    return `${parameter === "pool" ? "pool" : "data pool"} ${subject} does not exist in the cluster. Create it, or correct "${parameter}" in the StorageClass`;
  }
}
/** The type or the flags of a pool do not permit what is to be kept in it. */
export class PoolUnfit extends Data.TaggedError("PoolUnfit")<
  About & { readonly why: "erasure-coded" | "no overwrites" }
> {
  override get message() {
    const { subject } = this;
    return this.why === "erasure-coded"
      ? `pool ${subject} is erasure-coded, and such a pool can hold the data of images only. Write "dataPool": "${subject}" in the StorageClass, and a replicated pool as "pool"`
      : `data pool ${subject} is erasure-coded and does not allow overwrites, which images need. Run "ceph osd pool set ${subject} allow_ec_overwrites true", then retry`;
  }
}
/** The name is taken. */
export class Exists extends Data.TaggedError("Exists")<About> {
  override get message() {
    return `${this.subject} exists already. Retry: the retry looks at what has the name`;
  }
}
/** A compare of a RADOS write failed because another driver was faster. Nothing was written. */
export class Raced extends Data.TaggedError("Raced")<About> {
  override get message() {
    return `${this.subject} was changed by another driver at the same time. Retry`;
  }
}
/**
 * `watchers` are the addresses of those who have the image open, if they are known. `inGroup`: nobody needs to have it
 * open, because it is the RBD group that the image is in. `flattened`: how far the manager is with a flatten of it, 0 to 1; one
 * of the watchers is the manager then.
 */
export class Busy extends Data.TaggedError("Busy")<
  About & { readonly watchers?: readonly string[]; readonly inGroup?: true; readonly flattened?: number }
> {
  override get message() {
    if (this.flattened !== undefined) {
      const open = (this.watchers ?? []).join(", ");
      return `${this.subject} is being flattened by the Ceph manager (${Math.floor(this.flattened * 100)} % done), which has it open (${open}). Wait for the end, which "ceph rbd task list" shows; the retry goes on then`;
    }
    if (this.inGroup) {
      return `${this.subject} is in an RBD group (${this.op}). Find the group with "rbd info", take the image out of it with "rbd group image remove", then retry`;
    }
    return this.watchers === undefined
      ? `${this.subject} is in use (${this.op}). Find its user with "rbd status", end that use, then retry`
      : `${this.subject} is in use by ${this.watchers.join(", ")}. End that use, then retry. If its node is dead, first fence it with "ceph osd blocklist add ADDRESS ${FENCE_SECONDS}": without the number Ceph does so for an hour only`;
  }
}
/** `forNow`: an image in the trash, of which drivers' snapshots are left only that clones or unfinished work need. */
export class HasSnapshots extends Data.TaggedError("HasSnapshots")<About & { readonly forNow?: true }> {
  override get message() {
    if (this.forNow) {
      return `${this.subject} stays in the trash as long as clones of its snapshots, or work on one that is not finished. Nothing needs to be done: it goes with the last clone that is deleted or flattened`;
    }
    return `${this.subject} still has snapshots. "rbd snap ls --all" shows them; remove those that are not needed, then retry`;
  }
}
/** `pool`: the one that was written to. An image may keep its data in another one, and that may be the full one. */
export class NoSpace extends Data.TaggedError("NoSpace")<About & { readonly pool?: string }> {
  override get message() {
    const { op, subject, pool } = this;
    const where = pool === undefined ? "the pool" : `pool ${pool}`;
    const full = DATA_CALLS.includes(op) ? `${where}, or the data pool of the image,` : where;
    return `${full} is full, or its quota is used up: Ceph refused ${op} on ${subject}. Delete volumes or snapshots that nobody needs, which a full pool permits, or add space, or raise the quota ("ceph df detail" shows both), then retry`;
  }
}
/** What writes data of images. */
const DATA_CALLS: readonly string[] = ["rbd_flatten", "rbd_sparsify"];
export class InvalidCall extends Data.TaggedError("InvalidCall")<About & { readonly errno: number }> {
  override get message() {
    return `Ceph refused ${this.op} on ${this.subject} as invalid (errno ${this.errno}). Check the size, the features and the layout in the request`;
  }
}
/** `caps`: what the call takes beyond `profile rbd`. */
export class AccessDenied extends Data.TaggedError("AccessDenied")<
  About & { readonly user: string; readonly caps?: string }
> {
  override get message() {
    if (this.caps !== undefined) {
      return `Ceph denied client.${this.user} ${this.op} on ${this.subject}. It takes ${this.caps}: add that with "ceph auth caps client.${this.user}", which replaces all caps, so name the others too`;
    }
    const compare = this.user.startsWith("client.") ? "Write userID without client. in front, or compare" : "Compare";
    return `Ceph denied client.${this.user} ${this.op} on ${this.subject}. ${compare} the key in the secret with "ceph auth get client.${this.user}", and its caps with mon, osd and mgr "profile rbd"`;
  }
}
/** Ceph did not answer within the limit. The outcome of a write is unknown. */
export class TimedOut extends Data.TaggedError("TimedOut")<About> {
  override get message() {
    return `Ceph did not answer ${this.op} on ${this.subject} in time. Check "ceph -s" (OSDs down, network), then retry`;
  }
}
/** librados does not take ceph.conf, so that no cluster was asked. `subject` is its path. */
export class ConfFileInvalid extends Data.TaggedError("ConfFileInvalid")<About & { readonly reason: string }> {
  override get message() {
    return `${this.subject} is not a ceph.conf that Ceph's library can read: ${this.reason}`;
  }
}
export class Unreachable extends Data.TaggedError("Unreachable")<About & { readonly reason: string }> {
  override get message() {
    return `the monitors ${this.subject} cannot be reached: ${this.reason}. Check "monitors" in config.json and the network between this node and them`;
  }
}
/** The client library of this node is older than the cluster or its key requires. */
export class ClientTooOld extends Data.TaggedError("ClientTooOld")<About & { readonly reason: string }> {
  override get message() {
    return `the Ceph client of this node is too old for ${this.subject}: ${this.reason}`;
  }
}
/** The manager does not take a task: it is down or too old, or the user has no mgr caps. */
export class ManagerUnavailable extends Data.TaggedError("ManagerUnavailable")<About & { readonly reason: string }> {
  override get message() {
    return `the Ceph manager did not take the task for ${this.subject}: ${this.reason}`;
  }
}
/** A call outlived Ceph's own time-outs, and its thread is put aside. Its outcome is unknown. */
export class CallStuck extends Data.TaggedError("CallStuck")<About & { readonly reason: string }> {
  override get message() {
    return this.reason;
  }
}
/**
 * The image exists and cannot be opened. That is not absence, because its name and its header are there; nor is it loss,
 * because an interrupted flatten leaves a whole image in this state.
 */
export class ParentLost extends Data.TaggedError("ParentLost")<About> {
  override get message() {
    return `image ${this.subject} exists, but its parent image cannot be opened. Retry. If it persists, delete neither image; look for the parent with "rbd trash ls --all". An interrupted flatten can also cause this`;
  }
}
/** The call failed and changed nothing: it only reads, it did not begin, or its errno says so. */
export class CephFailed extends Data.TaggedError("CephFailed")<
  About & { readonly errno: number; readonly reason: string }
> {
  override get message() {
    return `${this.op} on ${this.subject} failed and changed nothing: ${this.reason}. Check "ceph -s", then retry`;
  }
}
/** A call that changes something failed, and its errno does not say how far it came. Its outcome is unknown. */
export class CephUnexplained extends Data.TaggedError("CephUnexplained")<
  About & { readonly errno: number; readonly reason: string }
> {
  override get message() {
    return `${this.op} on ${this.subject} failed and may have taken effect: ${this.reason}. Check "ceph -s", then retry: the retry inspects the real state`;
  }
}

export type CephError =
  | ImageNotFound
  | ImageSnapshotNotFound
  | ParentLost
  | ObjectNotFound
  | PoolNotFound
  | PoolUnfit
  | Exists
  | Raced
  | Busy
  | HasSnapshots
  | NoSpace
  | InvalidCall
  | AccessDenied
  | TimedOut
  | ConfFileInvalid
  | Unreachable
  | ClientTooOld
  | ManagerUnavailable
  | CallStuck
  | CephFailed
  | CephUnexplained;
