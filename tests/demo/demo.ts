/**
 * `npm run demo`: the main job, shown on this machine with nothing mocked. `-- --keep` leaves cluster and driver.
 *
 * Not a test: it tells a person what happens. The story itself is ./story.ts.
 *
 * 1. Where this kernel has krbd it runs on the spot; else driver and kernel are in a throwaway VM, the cluster is here,
 *    and both start side by side.
 * 2. Whatever it starts it ends, unless `--keep` asks for it; then it says how to end it.
 */
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { clusterAddress } from "../rig/address.ts";
import { bundleDriver, bundleProgram } from "../rig/bundle.ts";
import { freePort, startCeph } from "../rig/ceph.ts";
import { serveControl } from "../rig/control.ts";
import { temporaryFolder } from "../rig/folder.ts";
import { checkout } from "../rig/suite.ts";
import { runInVm, shellWord } from "../rig/vm.ts";
import { type DriverPlace, driverCommand, endpointOf, insidePlace, logOf, startDriver, UP } from "./driver.ts";
import { output } from "./steps.ts";
import { CLUSTER_ID, clusterConfig, type ShownCluster, tellStory } from "./story.ts";

const keep = process.argv.includes("--keep");

const hasKrbd = (): boolean => {
  if (existsSync("/sys/bus/rbd")) return true;
  try {
    output("modprobe", "rbd");
  } catch {
    return false;
  }
  return existsSync("/sys/bus/rbd");
};

const seconds = (since: number) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

/** A change of the monitors takes a twentieth of a second, not their usual one: nobody else writes there. */
const paxosInterval = 0.05;

const placeIn = (dir: string, monitors: ReadonlyArray<string>): DriverPlace => {
  const config = join(dir, "config");
  mkdirSync(config, { recursive: true });
  writeFileSync(join(config, "config.json"), clusterConfig(monitors));
  return { dir, config };
};

const tellOfCluster = ({ release, monitors }: ShownCluster, started: number): void => {
  console.log(
    `    a Ceph ${release} of one node is up after ${seconds(started)}: monitor ${monitors.join(",")}, pool rbd`,
  );
};

/** Cluster, driver and story, here. */
const here = async (): Promise<void> => {
  const dir = temporaryFolder("csi-rbd-demo-");
  let started = performance.now();
  const ceph = await startCeph({ dir: join(dir, "ceph"), paxosInterval });
  tellOfCluster(ceph, started);
  try {
    started = performance.now();
    const place = placeIn(dir, ceph.monitors);
    const driver = await startDriver(place, false);
    console.log(`    the driver is up after ${seconds(started)}: process ${driver.pid}\n`);
    await tellStory(ceph, place).finally(driver.stop);
  } finally {
    await ceph.stop();
    rmSync(dir, { recursive: true, force: true });
  }
};

const inVm = async (): Promise<void> => {
  console.log(
    "    this kernel has no krbd: driver and kernel run in a throwaway VM (software emulation, so times are about tenfold)",
  );
  const dir = temporaryFolder("csi-rbd-demo-");
  const out = join(dir, "out");
  const port = await freePort();
  placeIn(out, [`${clusterAddress}:${port}`]);
  const broken = new AbortController();
  const started = performance.now();
  const starting = startCeph({
    dir: join(dir, "ceph"),
    port,
    paxosInterval,
    onDeath: (words) => broken.abort(new Error(words)),
  });
  starting.then(
    (ceph) => {
      tellOfCluster(ceph, started);
      writeFileSync(join(out, `${UP}.new`), ceph.rigFile);
      renameSync(join(out, `${UP}.new`), join(out, UP));
    },
    (error: unknown) => broken.abort(error),
  );
  const commandLine = async (): Promise<string> => {
    const main = await bundleDriver(join(dir, "bundle"));
    const inside = await bundleProgram("tests/demo/inside.ts", join(dir, "bundle"));
    const { env, argv } = driverCommand(insidePlace, main);
    const driver = [...Object.entries(env).map(([name, value]) => `${name}=${value}`), ...argv]
      .map(shellWord)
      .join(" ");
    const rest = [process.execPath, inside].map(shellWord).join(" ");
    // side by side: most of the time goes into starting the two
    return `mkdir ${insidePlace.dir}; env ${driver} > ${logOf(insidePlace)} 2>&1 & exec ${rest}`;
  };
  try {
    const control = serveControl(join(dir, "ceph"));
    const status = await runInVm({
      command: ["sh", "-c", await commandLine()],
      out,
      cwd: checkout,
      env: { CSI_RBD_CONTROL: control.url },
      loopback: clusterAddress,
      modules: ["rbd", "ext4"],
      needs: broken.signal,
      limitMs: 10 * 60_000,
      line: (text) => {
        if (!/^\[ *\d+\.\d+\]/.test(text)) console.log(text);
      },
    }).finally(control.end);
    if (status !== 0) throw new Error(`the demo in the VM failed with status ${status}`);
  } finally {
    await starting.then(({ stop }) => stop()).catch(() => undefined);
    rmSync(dir, { recursive: true, force: true });
  }
};

/** A cluster and a driver that stay, for trying calls by hand. */
const leaveRunning = async (): Promise<void> => {
  const dir = temporaryFolder("csi-rbd-keep-");
  const ceph = await startCeph({ dir: join(dir, "ceph"), detached: true });
  const place = placeIn(dir, ceph.monitors);
  const driver = await startDriver(place, true);
  const secrets = join(dir, "secrets.json");
  writeFileSync(secrets, JSON.stringify({ userID: "admin", userKey: ceph.adminKey }), { mode: 0o600 });
  const call = `node_modules/.bin/bun tests/demo/call.ts ${endpointOf(place)}`;
  const request = {
    name: "pvc-by-hand",
    capacity_range: { required_bytes: 1 << 30 },
    volume_capabilities: [{ mount: { fs_type: "ext4" }, access_mode: { mode: "SINGLE_NODE_WRITER" } }],
    parameters: { clusterID: CLUSTER_ID, pool: "rbd" },
  };
  console.log(`
cluster and driver stay:
  socket   ${endpointOf(place)}
  cluster  ceph -c ${ceph.conf} -s
  log      ${logOf(place)}
call it:
  ${call} Identity/GetPluginInfo
  ${call} Controller/CreateVolume '${JSON.stringify(request)}' --secrets=${secrets}
end them:
  kill ${driver.pid}; node_modules/.bin/bun tests/rig/ceph.ts down ${ceph.dir}; rm -r ${dir}`);
};

const main = async (): Promise<void> => {
  const started = performance.now();
  if (hasKrbd()) await here();
  else await inVm();
  console.log(`\nall of it worked, in ${seconds(started)}.`);
  if (keep) return leaveRunning();
  console.log(`Try it by hand: npm run demo -- --keep leaves a cluster and a driver running and prints how to call it.
Against your own cluster: npm run build; dist/csi-rbd --type=rbd --nodeid=$(hostname) --endpoint=unix:///tmp/csi.sock
with your clusters in /etc/ceph-csi-config/config.json (README.md, "An existing cluster").`);
};

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error instanceof Error ? (error.stack ?? error.message) : error);
    process.exit(1);
  },
);
