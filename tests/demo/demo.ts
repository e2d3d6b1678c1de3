/**
 * `npm run demo`: the main job, shown on this machine with nothing mocked. `-- --keep` leaves cluster and driver.
 *
 * Not a test: it tells a person what happens. The story itself is ./story.ts.
 *
 * 1. Where this kernel has krbd it runs on the spot, else in a throwaway VM, with the cluster inside.
 * 2. Whatever it starts it ends, unless `--keep` asks for it; then it says how to end it.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Identity } from "../../lib/gen/csi_pb.ts";
import { client } from "../support/grpc-client.ts";
import { startSettings } from "../ceph/driver.ts";
import { type CephCluster, startCeph } from "../rig/ceph.ts";
import { checkout } from "../rig/suite.ts";
import { runInVm } from "../rig/vm.ts";
import { output } from "./steps.ts";
import { CLUSTER_ID, clusterConfig, story } from "./story.ts";

const keep = process.argv.includes("--keep");
const inside = process.argv.includes("--inside");

const hasKrbd = (): boolean => {
  if (existsSync("/sys/bus/rbd")) return true;
  try {
    output("modprobe", "rbd");
  } catch {
    return false;
  }
  return existsSync("/sys/bus/rbd");
};

interface Driver {
  readonly endpoint: string;
  readonly pid: number;
  readonly log: string;
  readonly stop: () => Promise<void>;
}

const startDriver = async (dir: string, ceph: CephCluster, detached: boolean): Promise<Driver> => {
  const config = join(dir, "config");
  mkdirSync(config, { recursive: true });
  writeFileSync(join(config, "config.json"), clusterConfig(ceph));
  const endpoint = `unix://${join(dir, "csi.sock")}`;
  const log = join(dir, "driver.log");
  const out = openSync(log, "w");
  const flags = ["--type=rbd", "--nodeid=demo", "--v=4", `--endpoint=${endpoint}`, `--config-dir=${config}`];
  const child = spawn(process.execPath, [join(checkout, "services/main.ts"), ...flags], {
    cwd: checkout,
    env: { ...process.env, ...startSettings() },
    detached,
    stdio: ["ignore", out, out],
  });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const probe = client(Identity, endpoint);
  const until = Date.now() + 90_000;
  for (;;) {
    if (child.exitCode !== null || child.pid === undefined)
      throw new Error(`the driver ended: ${readFileSync(log, "utf8")}`);
    const answered = await probe.probe({}, { timeoutMs: 2000 }).then(
      () => true,
      () => false,
    );
    if (answered) break;
    if (Date.now() > until) throw new Error(`the driver does not answer; its log:\n${readFileSync(log, "utf8")}`);
    await Bun.sleep(50);
  }
  probe.close();
  if (detached) child.unref();
  return {
    endpoint,
    pid: child.pid,
    log,
    stop: async () => {
      child.kill("SIGTERM");
      await ended;
    },
  };
};

const seconds = (since: number) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

/** Cluster, driver and story, here. */
const here = async (): Promise<void> => {
  const dir = mkdtempSync(join(tmpdir(), "csi-rbd-demo-"));
  let started = performance.now();
  const ceph = await startCeph({ dir: join(dir, "ceph") });
  console.log(
    `    a Ceph ${ceph.release} of one node is up after ${seconds(started)}: monitor ${ceph.monitors.join(",")}, pool rbd`,
  );
  try {
    started = performance.now();
    const driver = await startDriver(dir, ceph, false);
    console.log(`    the driver is up after ${seconds(started)}: process ${driver.pid}\n`);
    try {
      await story({ ceph, endpoint: driver.endpoint, dir });
    } catch (error) {
      console.log(readFileSync(driver.log, "utf8").split("\n").slice(-25).join("\n"));
      throw error;
    } finally {
      await driver.stop();
    }
  } finally {
    await ceph.stop();
    rmSync(dir, { recursive: true, force: true });
  }
};

const inVm = async (): Promise<void> => {
  console.log(
    "    this kernel has no krbd: the demo runs in a throwaway VM (software emulation, so times are about tenfold)",
  );
  const out = mkdtempSync(join(tmpdir(), "csi-rbd-demo-vm-"));
  try {
    const status = await runInVm({
      command: [process.execPath, join(checkout, "tests/demo/demo.ts"), "--inside"],
      out,
      cwd: checkout,
      limitMs: 10 * 60_000,
      line: (text) => {
        if (!/^\[ *\d+\.\d+\]/.test(text)) console.log(text);
      },
    });
    if (status !== 0) throw new Error(`the demo in the VM failed with status ${status}`);
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
};

/** A cluster and a driver that stay, for trying calls by hand. */
const leaveRunning = async (): Promise<void> => {
  const dir = mkdtempSync(join(tmpdir(), "csi-rbd-keep-"));
  const ceph = await startCeph({ dir: join(dir, "ceph"), detached: true });
  const driver = await startDriver(dir, ceph, true);
  const secrets = join(dir, "secrets.json");
  writeFileSync(secrets, JSON.stringify({ userID: "admin", userKey: ceph.adminKey }), { mode: 0o600 });
  const call = `node_modules/.bin/bun tests/demo/call.ts ${driver.endpoint}`;
  const request = {
    name: "pvc-by-hand",
    capacity_range: { required_bytes: 1 << 30 },
    volume_capabilities: [{ mount: { fs_type: "ext4" }, access_mode: { mode: "SINGLE_NODE_WRITER" } }],
    parameters: { clusterID: CLUSTER_ID, pool: "rbd" },
  };
  console.log(`
cluster and driver stay:
  socket   ${driver.endpoint}
  cluster  ceph -c ${ceph.conf} -s
  log      ${driver.log}
call it:
  ${call} Identity/GetPluginInfo
  ${call} Controller/CreateVolume '${JSON.stringify(request)}' --secrets=${secrets}
end them:
  kill ${driver.pid}; node_modules/.bin/bun tests/rig/ceph.ts down ${ceph.dir}; rm -r ${dir}`);
};

const main = async (): Promise<void> => {
  const started = performance.now();
  if (inside || hasKrbd()) await here();
  else await inVm();
  if (inside) return;
  console.log(`\nall of it worked, in ${seconds(started)}.`);
  if (keep) return leaveRunning();
  console.log(`Try it by hand: npm run demo -- --keep leaves a cluster and a driver running and prints how to call it.
Against your own cluster: bun run start -- --type=rbd --nodeid=$(hostname) --endpoint=unix:///tmp/csi.sock
with your clusters in /etc/ceph-csi-config/config.json (README.md, "An existing cluster").`);
};

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error instanceof Error ? (error.stack ?? error.message) : error);
    process.exit(1);
  },
);
