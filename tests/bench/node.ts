/**
 * The Node service on real krbd devices, against a shell script that runs the same tools: in a kernel that is a program of this
 * machine, because its own may have no krbd. Nothing is emulated, but there is one processor for both Ceph's client and all
 * tools, and a process is dear to start.
 *
 * Not here: what is measured there (./node-in-vm.ts).
 */
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { tmpdir } from "node:os";
import { clusterAddress } from "../rig/address.ts";
import type { CephCluster } from "../rig/ceph.ts";
import { checkout } from "../rig/suite.ts";
import { runInUserMode, userModeLacks } from "../rig/user-mode.ts";
import { OUT } from "../rig/vm.ts";
import { column, judged, type Line } from "./report.ts";

const TARGETS = { alone: 1.2, many: 1 };

/** Milliseconds of rounds: of each single work, or of all sixteen. */
export interface NodeFigures {
  readonly driver: readonly number[];
  readonly script: readonly number[];
}

/** By what is measured: "stage and publish, 1 at once". */
export type NodeResult = Readonly<Record<string, NodeFigures>>;

const middle = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

export const node = async (cluster: CephCluster, rounds: number): Promise<readonly Line[]> => {
  const lacks = userModeLacks();
  if (lacks !== undefined) return [{ what: `FAIL  node: not measured: ${lacks}`, ok: false }];
  const out = mkdtempSync(join(tmpdir(), "csi-bench-node-"));
  const { DRIVER: driver } = process.env;
  const code = await runInUserMode({
    command: [process.execPath, "tests/bench/node-in-vm.ts", join(OUT, "result.json"), String(rounds)],
    out,
    cwd: checkout,
    env: { ...(driver === undefined ? {} : { DRIVER: driver }), CSI_RBD_RIG: cluster.rigFile },
    loopback: clusterAddress,
    limitMs: 30 * 60_000,
  });
  if (code !== 0) return [{ what: `FAIL  node: not measured: exit status ${code} in the virtual machine`, ok: false }];
  const result = (await Bun.file(join(out, "result.json")).json()) as NodeResult;
  rmSync(out, { recursive: true });
  console.log("\nnode (krbd, ext4), ms      driver   script    ratio");
  return Object.entries(result).map(([what, { driver: ours, script }]) => {
    const [a, b] = [middle(ours), middle(script)];
    console.log(`${what.padEnd(34)} ${column(a, 8, 0)} ${column(b, 8, 0)} ${column(a / b, 8)}`);
    const limit = what.endsWith(" 1 at once") ? TARGETS.alone : TARGETS.many;
    return judged(`${what}, driver to script`, a / b, "at most", limit);
  });
};
