/**
 * The errors that belong to CSI rather than to Ceph, to the host or to the configuration.
 *
 * Not here: which gRPC code each becomes (lib/operations/outcomes.ts).
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

/** The name or path is taken by something that is not what this request asks for. */
export class Conflict extends Data.TaggedError("Conflict")<{ readonly message: string }> {}

/** Another operation holds what this one needs, and went on holding it until the caller's deadline. */
export class LockHeld extends Data.TaggedError("LockHeld")<{ readonly message: string }> {}

/** The operation goes on, but its caller's deadline is here. */
export class StillRunning extends Data.TaggedError("StillRunning")<{ readonly message: string }> {}

/** The state of the volume forbids the request until somebody changes it. */
export class Precondition extends Data.TaggedError("Precondition")<{ readonly message: string }> {}

/** A limit that time or a deletion will free. */
export class TooMany extends Data.TaggedError("TooMany")<{ readonly message: string }> {}

/** Nothing of what the request asks for can be where it asks for it; elsewhere it might. */
export class Unplaceable extends Data.TaggedError("Unplaceable")<{ readonly message: string }> {}

/** No token that this driver has given out for such a list: the caller has to begin the list anew. */
export class InvalidToken extends Data.TaggedError("InvalidToken")<{ readonly message: string }> {}

/** The journal holds something that no driver writes; a person has to look. */
export class JournalCorrupt extends Data.TaggedError("JournalCorrupt")<{ readonly message: string }> {}
