/**
 * What tests import to reach the cluster that the rig started for them.
 *
 * Not the thing that starts it: that is rig/ceph.ts, called once per run by rig/test.ts, rig/matrix.ts or by hand.
 * Invariant: every value comes from the file that CSI_RBD_RIG names; a test never guesses a cluster.
 */
import { readFileSync } from "node:fs";
import { z } from "zod";

const Rig = z.object({
  /** Path of a ceph.conf with the admin keyring. */
  conf: z.string(),
  /** Addresses (host:port, messenger v1) as a StorageClass or config.json lists them. */
  monitors: z.array(z.string()),
  /** Name without "client.". */
  user: z.string(),
  /** Secret: for calls only, never for a log line or an argument list. */
  key: z.string(),
  /** A pool that exists and is initialised for RBD. */
  pool: z.string(),
  fsid: z.string(),
  /** Major release of cluster and client library: 16, 18 or 20. */
  release: z.number(),
  /** The cluster's folder, writable, for test files too. */
  dir: z.string(),
  /** Process ID of the monitor, for SIGSTOP/SIGCONT: a monitor that does not answer. */
  monPid: z.number(),
});
export type Rig = z.infer<typeof Rig>;

/** Whether a cluster was handed to this run. */
export const hasRig = (): boolean => (process.env["CSI_RBD_RIG"] ?? "") !== "";

/** Read once: each request of a test asks for the key. */
let known: { readonly path: string; readonly rig: Rig } | undefined;

/** The cluster of this run. Throws, with how to get one, where there is none. */
export const rig = (): Rig => {
  const path = process.env["CSI_RBD_RIG"] ?? "";
  if (path === "") {
    throw new Error(
      "no cluster for this test: run `npm test`, or `bun tests/rig/ceph.ts up DIR` and set CSI_RBD_RIG=DIR/rig.json",
    );
  }
  known = known?.path === path ? known : { path, rig: Rig.parse(JSON.parse(readFileSync(path, "utf8"))) };
  return known.rig;
};
