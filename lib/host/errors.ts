/**
 * The failures of lib/host, as types.
 *
 * Not here: which gRPC code each becomes (lib/operations/outcomes.ts).
 *
 * 1. A message says what failed, on what, and what to do. It never contains a key.
 * 2. `HostStuck`, `HostUnexplained` and `MapTimedOut` leave open whether the call took effect. Every other tag says
 *    that it did not.
 */
import * as Data from "effect/Data";

interface About {
  /** The call that failed, as in `mount`. */
  readonly op: string;
  /** The device, path or image that the call was for. */
  readonly subject: string;
}

/** A command or a system call failed. `errno` is 0 if there is none. */
export class HostFailed extends Data.TaggedError("HostFailed")<
  About & { readonly errno: number; readonly reason: string }
> {
  override get message() {
    return `${this.op} of ${this.subject} failed: ${this.reason}`;
  }
}
/** A change failed and does not say how far it came, as when its tool was killed. Its outcome is unknown. */
export class HostUnexplained extends Data.TaggedError("HostUnexplained")<About & { readonly reason: string }> {
  override get message() {
    return `${this.op} of ${this.subject} failed and may have taken effect: ${this.reason}. Retry: the retry inspects the real state`;
  }
}
/** A call outlived its limit, and its thread is put aside. Its outcome is unknown. */
export class HostStuck extends Data.TaggedError("HostStuck")<About & { readonly reason: string }> {
  override get message() {
    return this.reason;
  }
}
/** A map failed, and it could not be proven that nothing stays mapped. Its outcome is unknown. */
export class MapTimedOut extends Data.TaggedError("MapTimedOut")<About & { readonly reason: string }> {
  override get message() {
    return `${this.subject} may still be mapped after a failure: ${this.reason}. Check "ceph -s" and the network of this node, then retry`;
  }
}
/** The mapper or the cluster refuses the image for a reason that a retry does not change. */
export class MapRefused extends Data.TaggedError("MapRefused")<
  About & {
    readonly errno: number;
    readonly reason: string;
    /** Another mapper may map it. */
    readonly unfit: boolean;
  }
> {
  override get message() {
    return `${this.subject} cannot be mapped: ${this.reason}`;
  }
}
/** A tool or the kernel refuses what it is asked for, by a reason that a retry does not change: an option, a size. */
export class HostRefused extends Data.TaggedError("HostRefused")<About & { readonly reason: string }> {
  override get message() {
    return `${this.op} of ${this.subject} was refused: ${this.reason}`;
  }
}
/** Something still uses the device. `holders` names it: mount points, other block devices, swap. */
export class DeviceBusy extends Data.TaggedError("DeviceBusy")<About & { readonly holders: readonly string[] }> {
  override get message() {
    const holders = this.holders.length === 0 ? "a process or another mount namespace" : this.holders.join(", ");
    return `${this.subject} cannot be ${this.op === "unmap" ? "unmapped" : "closed"} because it is in use by ${holders}. End that use (see "fuser -vm ${this.subject}"), then retry`;
  }
}
/** The device holds something else than the request says, so it is left as it is. */
export class UnexpectedContent extends Data.TaggedError("UnexpectedContent")<About & { readonly reason: string }> {
  override get message() {
    return `${this.subject} was left as it is: ${this.reason}`;
  }
}
/** fsck found damage that it must not repair unasked. */
export class FilesystemDamaged extends Data.TaggedError("FilesystemDamaged")<About & { readonly reason: string }> {
  override get message() {
    return `the filesystem on ${this.subject} needs a repair by hand: ${this.reason}`;
  }
}
/** Something at the path keeps it from being made, mounted or removed: it is not empty, or of another type. */
export class PathInTheWay extends Data.TaggedError("PathInTheWay")<About & { readonly reason: string }> {
  override get message() {
    return `${this.subject} ${this.reason}`;
  }
}

export type HostError =
  | HostFailed
  | HostUnexplained
  | HostStuck
  | MapTimedOut
  | MapRefused
  | HostRefused
  | DeviceBusy
  | UnexpectedContent
  | FilesystemDamaged
  | PathInTheWay;
