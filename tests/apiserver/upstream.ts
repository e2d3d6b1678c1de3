/**
 * Kubernetes' own csi-attacher in the place of ours: `ATTACHER=upstream npm test -- apiserver` runs the attacher's tests on
 * it, but for those below.
 *
 * Not here: what is tested (./attacher.test.ts).
 *
 * 1. It gets what a pod gives it: a hostname of its own, by which it stands for election, and a new process when the old
 *    one has ended by itself, as when the driver's socket closes.
 */
import { openSync } from "node:fs";

/** Path of the program; undefined: ours is tested. */
export const upstream = (): string | undefined => process.env["CSI_RBD_UPSTREAM_ATTACHER"];

/** Tests that csi-attacher v4.13 cannot pass, each with why. */
export const OURS_ALONE: Readonly<Record<string, string>> = {
  "for an attach and its detach the driver is called once each":
    "its own write of the finalizer brings the attachment back, often before it sees that it is attached",
  "while the driver is away, the attachments tell it": "it ends when the driver's socket closes, and writes no error",
  "a volume that was taken away by force is unpublished by the next attacher, too":
    "it looks for the PersistentVolume for ever: without that it does not know what to unpublish",
  "an attach does not wait for detaches that hang":
    "its workers take attaches and detaches from one queue, so as many hanging detaches hold up all attaches",
};

export interface Attacher {
  readonly kill: (signal: "SIGTERM" | "SIGKILL") => void;
  readonly exited: Promise<number>;
}

const AGAIN_MS = 500;

/** `pod` is its hostname. */
export const startUpstream = (program: string, pod: string, argv: readonly string[], logFile: string): Attacher => {
  const log = openSync(logFile, "a");
  const named = ["unshare", "--uts", "--", "sh", "-c", 'hostname "$0" && exec "$@"', pod, program, ...argv];
  const spawn = () =>
    Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", ...named], { stdin: "ignore", stdout: log, stderr: log });
  let child = spawn();
  let wanted = true;
  const untilEnded = async (): Promise<number> => {
    for (;;) {
      const code = await child.exited;
      if (!wanted) return code;
      await Bun.sleep(AGAIN_MS);
      if (!wanted) return code;
      child = spawn();
    }
  };
  return {
    kill: (signal) => {
      wanted = false;
      child.kill(signal);
    },
    exited: untilEnded(),
  };
};
