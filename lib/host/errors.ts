/**
 * What a node's kernel and tools answer, as types. Every failure of lib/host is one of these; which gRPC code each
 * becomes is in lib/operations/outcomes.ts, and nowhere else.
 *
 * 1. A message says what failed and what to do next, and carries no key.
 * 2. `HostStuck`, `HostUnexplained` and `MapTimedOut` leave open whether the call took effect. Every other tag says
 *    that it did not.
 */
import * as Data from "effect/Data";

interface About {
  /** The call that failed, as in `mount`. */
  readonly op: string;
  /** What it was about: a device, a path, an image. */
  readonly subject: string;
}

/** A command or system call failed; `errno` is 0 where there is none. */
export class HostFailed extends Data.TaggedError("HostFailed")<
  About & { readonly errno: number; readonly reason: string }
> {
  override get message() {
    return `${this.op} of ${this.subject} failed: ${this.reason}`;
  }
}
/** A change failed in a way that does not say what it left: its tool was killed, say. Whether it took effect is unknown. */
export class HostUnexplained extends Data.TaggedError("HostUnexplained")<About & { readonly reason: string }> {
  override get message() {
    return `${this.op} of ${this.subject} failed and may have taken effect: ${this.reason}; retry, which looks at what is there`;
  }
}
/** A call outlived its limit; its thread is put aside. Whether it took effect is unknown. */
export class HostStuck extends Data.TaggedError("HostStuck")<About & { readonly reason: string }> {
  override get message() {
    return this.reason;
  }
}
/** `rbd map` gave up, and whatever it had mapped could not be proven gone. */
export class MapTimedOut extends Data.TaggedError("MapTimedOut")<About & { readonly reason: string }> {
  override get message() {
    return `mapping ${this.subject} timed out: ${this.reason}; check "ceph -s" and the network of this node, then retry`;
  }
}
/** The kernel, or the cluster on its behalf, refuses the image for a reason that a retry does not change. */
export class MapRefused extends Data.TaggedError("MapRefused")<
  About & { readonly errno: number; readonly reason: string }
> {
  override get message() {
    return `the kernel does not map ${this.subject}: ${this.reason}`;
  }
}
/** Something still uses the device; `holders` names it: mount points, other block devices, swap. */
export class DeviceBusy extends Data.TaggedError("DeviceBusy")<About & { readonly holders: readonly string[] }> {
  override get message() {
    const holders = this.holders.length === 0 ? "a process or another mount namespace" : this.holders.join(", ");
    return `${this.subject} can't be unmapped, it is in use by ${holders}; end that use (see "fuser -vm ${this.subject}"), then retry`;
  }
}
/** What is on the device is not what the request says, so it is left as it is. */
export class UnexpectedContent extends Data.TaggedError("UnexpectedContent")<About & { readonly reason: string }> {
  override get message() {
    return `${this.subject} is left as it is: ${this.reason}`;
  }
}
/** fsck found what it must not repair unasked. */
export class FilesystemDamaged extends Data.TaggedError("FilesystemDamaged")<About & { readonly reason: string }> {
  override get message() {
    return `the filesystem on ${this.subject} needs a repair by hand: ${this.reason}`;
  }
}
/** A path is not what it must be before it can be made or removed: not empty, or of another type. */
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
  | DeviceBusy
  | UnexpectedContent
  | FilesystemDamaged
  | PathInTheWay;
