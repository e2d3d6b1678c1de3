/**
 * The errors that belong to CSI rather than to Ceph, to the host or to the configuration.
 *
 * Not here: which gRPC code each becomes (lib/operations/outcomes.ts).
 *
 * 1. A message says what is wrong, on what, and, where somebody can do something, what to do.
 */
import * as Data from "effect/Data";

/** The request itself is wrong; nothing was changed. `field` is the path in the request message. */
export class InvalidRequest extends Data.TaggedError("InvalidRequest")<{
  readonly field: string;
  readonly reason: string;
}> {
  override get message() {
    return `${this.field} ${this.reason}`;
  }
}
export class VolumeNotFound extends Data.TaggedError("VolumeNotFound")<{
  readonly volumeId: string;
  readonly reason: string;
}> {
  override get message() {
    return `volume ${this.volumeId} does not exist: ${this.reason}`;
  }
}
export class NodeNotFound extends Data.TaggedError("NodeNotFound")<{ readonly nodeId: string }> {
  override get message() {
    return `node ${this.nodeId} does not exist in Kubernetes. --nodeid of a node must be the name of its Node object`;
  }
}
export class SnapshotNotFound extends Data.TaggedError("SnapshotNotFound")<{
  readonly snapshotId: string;
  readonly reason: string;
}> {
  override get message() {
    return `snapshot ${this.snapshotId} does not exist: ${this.reason}`;
  }
}
export class GroupSnapshotNotFound extends Data.TaggedError("GroupSnapshotNotFound")<{
  readonly groupSnapshotId: string;
  readonly reason: string;
}> {
  override get message() {
    return `group snapshot ${this.groupSnapshotId} does not exist: ${this.reason}`;
  }
}

/** The call is served, but not for a volume of this kind. A caller that knows both kinds goes on without it. */
export class Unserved extends Data.TaggedError("Unserved")<{ readonly volumeId: string; readonly reason: string }> {
  override get message() {
    return `volume ${this.volumeId} ${this.reason}`;
  }
}

/** What is wrong, on what, and what to do: the parts of a message that doctor and metrics read one by one. */
export interface Problem {
  /** The thing that the problem is on, with its noun: `image rbd/csi-vol-1`. */
  readonly subject: string;
  /** Follows the subject: `is a mirror of another cluster's image`. */
  readonly problem: string;
  /** A full sentence without its full stop: `Promote it before you use it here`. */
  readonly remedy?: string;
  /** Who or what stands in the way: watchers, mount points, other operations. */
  readonly holders?: readonly string[];
}

const messageOf = ({ subject, problem, remedy }: Problem): string =>
  `${subject} ${problem}${remedy === undefined ? "" : `. ${remedy}`}`;

/** The name or path is taken by something that differs from what the request asks for. */
export class Conflict extends Data.TaggedError("Conflict")<Problem> {
  override get message() {
    return messageOf(this);
  }
}
/** An image that is the copy of another cluster's image. */
export interface Replica {
  readonly imageName: string;
  /** The mirror daemon replays there what the primary writes. */
  readonly replayed: boolean;
}

/** The state of the volume forbids the request until somebody changes it. */
export class Precondition extends Data.TaggedError("Precondition")<Problem & { readonly replica?: Replica }> {
  override get message() {
    return messageOf(this);
  }
}
/** The volume is not for whoever asks. */
export class NotAllowed extends Data.TaggedError("NotAllowed")<Problem> {
  override get message() {
    return messageOf(this);
  }
}
/** A limit is reached that time or a deletion frees. */
export class TooMany extends Data.TaggedError("TooMany")<Problem> {
  override get message() {
    return messageOf(this);
  }
}
/** Nothing that the request asks for can be where it asks for it; elsewhere it might. */
export class Unplaceable extends Data.TaggedError("Unplaceable")<Problem> {
  override get message() {
    return messageOf(this);
  }
}
/** Something else has to end first, without anybody's help: a flatten, a snapshot that is being made, a dead client. */
export class NotReadyYet extends Data.TaggedError("NotReadyYet")<Problem> {
  override get message() {
    return messageOf(this);
  }
}
/** The journal holds something that no driver writes; a person has to look. */
export class JournalCorrupt extends Data.TaggedError("JournalCorrupt")<Problem> {
  override get message() {
    return messageOf(this);
  }
}

/** Another operation holds what this one needs, and went on holding it until the caller's deadline. */
export class LockHeld extends Data.TaggedError("LockHeld")<{
  /** With its noun: `volume 0001-…`. */
  readonly subject: string;
  /** One clause for each holder: `CreateSnapshot of s has been running for 3.2 s (stage "clone")`. */
  readonly holders: readonly string[];
}> {
  override get message() {
    return `${this.subject} is busy: ${this.holders.join(" and ")}. It continues; the automatic retry waits for it`;
  }
}
/** The operation goes on, but its caller's deadline is here. */
export class StillRunning extends Data.TaggedError("StillRunning")<{
  /** `CreateVolume of pvc-1 has been running for 3.2 s (stage "clone")`. */
  readonly operation: string;
}> {
  override get message() {
    return `${this.operation}. It continues; the automatic retry gets its result`;
  }
}
/** A retry failed, and what an earlier call made is there: the caller must not forget it. */
export class HalfMade extends Data.TaggedError("HalfMade")<{
  /** With its noun: `volume pvc-1`. */
  readonly subject: string;
  /** Why the retry failed. */
  readonly reason: string;
  /** What is there: `image rbd/csi-vol-…`. "": it could not be looked up. */
  readonly left: string;
}> {
  override get message() {
    const left =
      this.left === "" ? "Something of an earlier call may be there" : `Of an earlier call there is ${this.left}`;
    return `${this.reason}. ${left}: once that is mended, the automatic retry finishes ${this.subject}`;
  }
}
/** The token is not one that this driver has given out for such a list: the caller has to list from the start. */
export class InvalidToken extends Data.TaggedError("InvalidToken")<{ readonly message: string }> {}
