/**
 * A real single-node Ceph (monitor, manager, one OSD) on loopback, from Debian's packages, in about three seconds.
 *
 * The OSD has the store of production (bluestore), on a sparse file in the cluster's folder.
 * Not here: a model of production's redundancy; there is one replica.
 * Invariants:
 * 1. Everything the cluster writes lives in `dir`; its keyring and rig.json are readable by the owner alone.
 * 2. Only processes that it started are signalled: by the pid on file, and only while that pid still runs a
 *    ceph daemon of this `dir`.
 * 3. Unless `detached`, the daemons die with the process that started them, however that one dies.
 * 4. Unless `detached`, a daemon that ends though nobody stopped it is told at once, with its last words.
 *
 * By hand: bun tests/rig/ceph.ts up DIR [--release=16|18|20] | down DIR
 */
import { chmodSync, existsSync, mkdirSync, openSync, closeSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { resolve } from "node:path";
import { clusterAddress } from "./address.ts";
import type { Rig } from "./cluster.ts";
import { type Daemon, lastWords } from "./daemon.ts";
import { withoutDirectIo } from "./folder.ts";
import { layOutManager } from "./manager.ts";
import { argvAt, envAt, must, run, type Finished, type Place } from "./place.ts";
import { parseRelease, rootFor } from "./roots.ts";

export interface CephOptions {
  /** Folder for all files of the cluster; made where missing, must not hold a cluster yet. */
  readonly dir: string;
  /** Another release's root folder to run in (see roots.ts); this machine's packages otherwise. */
  readonly root?: string | undefined;
  /** Port of the monitor's v1 messenger; a free one by default. */
  readonly port?: number;
  /** Seconds between the monitor's proposals: 0.05 makes functional tests quick; absent keeps Ceph's 1 s. */
  readonly paxosInterval?: number;
  /** The cluster outlives this process (the command line's `up`). */
  readonly detached?: boolean;
  /**
   * Hears the last words of a daemon that ended though nobody stopped it. By default they are printed and this process
   * exits with 1: no work on a broken cluster is worth its end.
   */
  readonly onDeath?: (words: string) => void;
}

export interface CephCluster {
  readonly dir: string;
  readonly conf: string;
  readonly keyring: string;
  readonly fsid: string;
  readonly monitors: ReadonlyArray<string>;
  readonly adminKey: string;
  readonly release: number;
  /** The JSON that tests read through CSI_RBD_RIG. */
  readonly rigFile: string;
  /** Runs a client command (ceph, rbd, rados) against this cluster; rejects unless it exits with 0. */
  readonly exec: (...command: Array<string>) => Promise<string>;
  /** As exec, for commands that may fail. */
  readonly tryExec: (...command: Array<string>) => Promise<Finished>;
  readonly createPool: (name: string) => Promise<void>;
  readonly createNamespace: (pool: string, name: string) => Promise<void>;
  /** Signals a daemon, as something on this machine may that is not the rig. */
  readonly signal: (daemon: Daemon, signal: NodeJS.Signals) => void;
  readonly stopMgr: () => Promise<void>;
  readonly startMgr: () => Promise<void>;
  readonly stop: () => Promise<void>;
}

const daemons: ReadonlyArray<Daemon> = ["osd.0", "mgr.x", "mon.a"];
const programs: Record<Daemon, string> = { "mon.a": "ceph-mon", "mgr.x": "ceph-mgr", "osd.0": "ceph-osd" };

const portIsFree = (port: number): Promise<boolean> =>
  new Promise((done) => {
    const server = createServer();
    server.once("error", () => done(false));
    server.listen(port, clusterAddress, () => server.close(() => done(true)));
  });

// below the kernel's range for outgoing connections, so that none takes the port before the monitor does
export const freePort = async (): Promise<number> => {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    if (await portIsFree(port)) return port;
  }
};

const confOf = (dir: string, fsid: string, mon: string, options: CephOptions): string => `[global]
fsid = ${fsid}
mon host = ${mon}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
run dir = ${dir}/run
admin socket = ${dir}/run/$cluster-$name.$pid.asok
pid file =
log file = ${dir}/log/$name.log
public addr = ${clusterAddress}
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon data avail warn = 2
mon data avail crit = 1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
# snapshots that are gone go at once, not an object every five seconds
osd snap trim sleep hdd = 0
osd snap trim sleep ssd = 0
osd snap trim sleep hybrid = 0
[mon.a]
mon data = ${dir}/mon
${options.paxosInterval === undefined ? "" : `paxos propose interval = ${options.paxosInterval}\n`}[mgr.x]
mgr data = ${dir}/mgr
mgr module path = ${dir}/mgr/modules
[osd.0]
osd data = ${dir}/osd0
osd objectstore = bluestore
bluestore block size = 17179869184
# the sparse file is not a spinning disk: no second copy of each small write
bluestore debug enforce settings = ssd
bluestore cache autotune = false
bluestore cache size = 67108864
bluestore fsck on mkfs = false
# each closing of the store waits for one poll, and a start closes it ten times
bdev aio poll ms = 10
osd op num shards = 2
osd op num threads per shard = 2
# a client killed in the moment in which it begins to watch an object is seen watching it for ever, until the OSD reads
# the object's state again (tracker.ceph.com/issues/58120); so let it read it each time
osd pg object context cache count = 0
# from 17 on the OSD measures its disk before it boots
osd mclock skip benchmark = true
debug rocksdb = 1/1
[client]
keyring = ${dir}/keyring
pid file =
log file =
admin socket =
`;

const pidFile = (dir: string, name: Daemon): string => `${dir}/run/${name}.pid`;

/** The pid on file, if that process is still the daemon that was started for this folder. */
const livePid = (dir: string, name: Daemon): number | undefined => {
  try {
    const pid = Number(readFileSync(pidFile(dir, name), "utf8"));
    const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    const ours = argv[0]?.endsWith(programs[name]) === true && argv.includes(`${dir}/ceph.conf`);
    const gone = readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ");
    return ours && !gone ? pid : undefined;
  } catch {
    return undefined;
  }
};

const kill = async (dir: string, name: Daemon): Promise<void> => {
  const pid = livePid(dir, name);
  // nothing here is worth a clean shutdown, and a stopped process hears no other signal
  if (pid !== undefined) process.kill(pid, "SIGKILL");
  for (let i = 0; i < 200 && livePid(dir, name) !== undefined; i++) await Bun.sleep(25);
};

/** Ends the cluster of a folder, whoever started it. */
export const stopCeph = async (dir: string): Promise<void> => {
  await Promise.all(daemons.map((name) => kill(resolve(dir), name)));
};

const endWithLastWords = (words: string): void => {
  console.error(`\n${words}`);
  process.exit(1);
};

const nameThisHost = async (): Promise<void> => {
  // the name is part of the OSD's crush location: with an empty one it refuses to boot
  const name = (await must({}, ["uname", "-n"])).trim();
  if (name === "" || name === "(none)") await must({}, ["hostname", "ceph-rig"]);
};

export const startCeph = async (options: CephOptions): Promise<CephCluster> => {
  const dir = resolve(options.dir);
  const conf = `${dir}/ceph.conf`;
  const keyring = `${dir}/keyring`;
  if (existsSync(conf)) throw new Error(`${dir} already holds a cluster`);
  await nameThisHost();
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const unfit = withoutDirectIo(dir);
  if (unfit !== undefined) throw new Error(unfit);
  for (const sub of ["mon", "osd0", "mgr", "run", "log"]) mkdirSync(`${dir}/${sub}`, { recursive: true });

  const place: Place = { root: options.root, binds: [{ path: dir }], env: { CEPH_CONF: conf } };
  const exec = (...command: Array<string>) => must(place, command);
  const fsid = crypto.randomUUID();
  const v1 = options.port ?? (await freePort());
  const v2 = await freePort();
  const mon = `[v2:${clusterAddress}:${v2},v1:${clusterAddress}:${v1}]`;
  const monitors = [`${clusterAddress}:${v1}`];
  writeFileSync(conf, confOf(dir, fsid, mon, options));

  const toldOf = options.onDeath ?? endWithLastWords;
  /** The processes that are to run. One that was stopped is heard of late, when another one may run in its place. */
  const wanted = new Map<Daemon, Bun.Subprocess>();
  const broken = Promise.withResolvers<never>();
  // told to whoever still brings the cluster up
  broken.promise.catch(() => undefined);

  const start = (name: Daemon): void => {
    const [, id = ""] = name.split(".");
    // pdeathsig survives exec, not fork: `-f` keeps the daemon in the process that is spawned here. In a session of its
    // own no Ctrl-C reaches it: whoever started it stops it.
    const before = options.detached === true ? ["setsid"] : ["setpriv", "--pdeathsig", "KILL", "--", "setsid"];
    const log = openSync(`${dir}/log/${name}.out`, "a");
    const child = Bun.spawn([...before, ...argvAt(place, [programs[name], "-f", "-c", conf, "-i", id])], {
      env: envAt(place),
      cwd: "/",
      stdin: "ignore",
      stdout: log,
      stderr: log,
    });
    closeSync(log);
    writeFileSync(pidFile(dir, name), `${child.pid}`);
    wanted.set(name, child);
    if (options.detached !== true) {
      void child.exited.then(() => {
        if (wanted.get(name) !== child) return;
        const words = lastWords(dir, name, child.signalCode ?? child.exitCode);
        if (up) toldOf(words);
        else broken.reject(new Error(words));
      });
    }
    child.unref();
  };
  let up = false;
  const stop = async (...names: ReadonlyArray<Daemon>): Promise<void> => {
    for (const name of names) wanted.delete(name);
    await Promise.all(names.map((name) => kill(dir, name)));
  };

  /** A pool that is made before the OSD is up comes to life with the manager's next tick, seconds later. */
  const osdIsUp = async (): Promise<void> => {
    const log = `${dir}/log/osd.0.log`;
    for (const deadline = Date.now() + 60_000; !readFileSync(log, "utf8").includes("state: booting -> active"); ) {
      if (Date.now() > deadline) throw new Error(`the OSD did not boot within 60 s: see ${log}`);
      await Bun.sleep(25);
    }
  };

  const bringUp = async (): Promise<{ adminKey: string; release: number }> => {
    const version = await exec("ceph-mon", "--version");
    const release = Number(/ceph version (\d+)/.exec(version)?.[1]);
    layOutManager(`${dir}/mgr/modules`, release, options.root);
    const key = async () => (await exec("ceph-authtool", "--gen-print-key")).trim();
    const [monKey, adminKey, mgrKey, osdKey] = await Promise.all([key(), key(), key(), key()]);
    const secrets = { mode: 0o600 };
    const admin = `[client.admin]\n\tkey = ${adminKey}\n\tcaps mds = "allow *"\n\tcaps mgr = "allow *"\n\tcaps mon = "allow *"\n\tcaps osd = "allow *"\n`;
    const mgr = `[mgr.x]\n\tkey = ${mgrKey}\n`;
    const osd = `[osd.0]\n\tkey = ${osdKey}\n`;
    writeFileSync(keyring, admin, secrets);
    writeFileSync(`${dir}/mgr/keyring`, mgr, secrets);
    writeFileSync(`${dir}/osd0/keyring`, osd, secrets);
    // with all keys in the monitor's seed no `ceph auth` call is needed later: each costs half a second
    writeFileSync(
      `${dir}/seed`,
      `[mon.]\n\tkey = ${monKey}\n\tcaps mon = "allow *"\n${admin}` +
        `${mgr}\tcaps mon = "allow profile mgr"\n\tcaps osd = "allow *"\n\tcaps mds = "allow *"\n` +
        `${osd}\tcaps mon = "allow profile osd"\n\tcaps mgr = "allow profile osd"\n\tcaps osd = "allow *"\n`,
      secrets,
    );
    const uuid = crypto.randomUUID();
    const mkfs = exec("ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", uuid);
    // awaited below; here so that a failure in between does not go unheard
    mkfs.catch(() => undefined);
    await exec("monmaptool", "--create", "--clobber", "--addv", "a", mon, "--fsid", fsid, `${dir}/monmap`);
    await exec("ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", `${dir}/monmap`, "--keyring", `${dir}/seed`);
    start("mon.a");
    for (let i = 0; i < 400 && (await portIsFree(v1)); i++) await Bun.sleep(25);
    start("mgr.x");
    // the modules that the manager lacks are missed by nobody but the health check
    const mute = exec("ceph", "health", "mute", "MGR_MODULE_ERROR", "--sticky");
    await Promise.all([mkfs, mute, exec("ceph", "osd", "new", uuid)]);
    start("osd.0");
    await osdIsUp();
    await createPool("rbd");
    return { adminKey, release };
  };

  const createPool = async (name: string): Promise<void> => {
    await exec("ceph", "osd", "pool", "create", name, "8");
    await exec("rbd", "pool", "init", name);
  };

  const managerAnswers = async (): Promise<void> => {
    const deadline = Date.now() + 60_000;
    while ((await run(place, ["ceph", "rbd", "task", "list"])).code !== 0) {
      if (Date.now() > deadline) throw new Error("the manager's task queue did not answer within 60 s");
      await Bun.sleep(200);
    }
  };

  try {
    const { adminKey, release } = await Promise.race([bringUp(), broken.promise]);
    await Promise.race([managerAnswers(), broken.promise]);
    up = true;
    const rigFile = `${dir}/rig.json`;
    const monPid = livePid(dir, "mon.a") ?? 0;
    const facts: Rig = { conf, monitors, user: "admin", key: adminKey, pool: "rbd", fsid, release, dir, monPid };
    writeFileSync(rigFile, `${JSON.stringify(facts, null, 2)}\n`, { mode: 0o600 });
    chmodSync(rigFile, 0o600);
    return {
      dir,
      conf,
      keyring,
      fsid,
      monitors,
      adminKey,
      release,
      rigFile,
      exec,
      tryExec: (...command) => run(place, command),
      createPool,
      createNamespace: async (pool, name) => {
        await exec("rbd", "namespace", "create", "--pool", pool, "--namespace", name);
      },
      signal: (daemon, signal) => {
        const pid = livePid(dir, daemon);
        if (pid === undefined) throw new Error(`${daemon} does not run`);
        process.kill(pid, signal);
      },
      stopMgr: () => stop("mgr.x"),
      startMgr: async () => {
        start("mgr.x");
        await managerAnswers();
      },
      stop: () => stop(...daemons),
    };
  } catch (error) {
    await stop(...daemons);
    throw error;
  }
};

const usage = "usage: bun tests/rig/ceph.ts up DIR [--release=16|18|20] | down DIR";

const flag = (name: string) => process.argv.find((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3);

const main = async (): Promise<void> => {
  const [verb, dir] = process.argv.slice(2).filter((arg) => !arg.startsWith("--"));
  if (dir === undefined || (verb !== "up" && verb !== "down")) throw new Error(usage);
  if (verb === "down") return stopCeph(dir);
  const release = flag("release");
  const root = release === undefined ? undefined : await rootFor(parseRelease(release));
  const started = Date.now();
  const ceph = await startCeph({ dir, root, paxosInterval: 0.05, detached: true });
  console.log(`ceph ${ceph.release} is up in ${((Date.now() - started) / 1000).toFixed(1)} s`);
  console.log(`conf      ${ceph.conf}\nmonitors  ${ceph.monitors.join(",")}\nkey       in ${ceph.keyring}`);
  console.log(`tests     CSI_RBD_RIG=${ceph.rigFile} bun test tests/ceph`);
};

if (import.meta.main) {
  await main().catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  });
}
