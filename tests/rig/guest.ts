/**
 * The guest's side of the VM suite: starts a Ceph in the guest, runs `bun test` over a folder, reports under OUT.
 *
 * Not for a machine that one cares for: it maps, formats and mounts.
 */
import { join } from "node:path";
import { startCeph } from "./ceph.ts";
import { runSuite } from "./suite.ts";

const [folder, ...flags] = process.argv.slice(2);
const out = process.env["OUT"];
if (folder === undefined || out === undefined) throw new Error("usage: OUT=FOLDER bun tests/rig/guest.ts TESTS");
const started = Date.now();
const ceph = await startCeph({ dir: "/run/csi-rbd-ceph", paxosInterval: 0.05 });
console.log(`ceph ${ceph.release} is up in ${((Date.now() - started) / 1000).toFixed(0)} s`);
const outcome = await runSuite({
  name: "guest",
  folders: [folder],
  place: { env: { CSI_RBD_RIG: join(ceph.dir, "rig.json") } },
  reports: out,
  limitMs: 20 * 60_000,
  testLimitMs: 120_000,
  flags,
});
await ceph.stop();
process.exitCode = outcome.failed === 0 ? 0 : 1;
