/**
 * The real driver as a process of its own, for tests and the benchmark: started, spoken to over its unix socket,
 * killed.
 *
 * Not the driver's options: what a test leaves out is the driver's own default.
 *
 * 1. Only processes started here are signalled, by their pid; each dies with the process that started it.
 * 2. `startDriver` answers when the driver serves, or throws with the end of its log.
 * 3. It runs as `npm start` runs it, or is the executable that DRIVER names (tests/support/driver-command.ts).
 * 4. Drivers of one folder share socket, configuration and log, so that one can follow another.
 */
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Controller, Identity, Node } from "../../lib/gen/csi_pb.ts";
import { driverCommand } from "../support/driver-command.ts";
import { type Client, client } from "../support/grpc-client.ts";
import { rig } from "../rig/cluster.ts";
import { checkout } from "../rig/suite.ts";

export interface DriverOptions {
  /** For the socket, config.json and the log; short, for a socket's path has at most 107 bytes. */
  readonly dir: string;
  /** After our own: the last one counts. */
  readonly flags?: readonly string[];
  /** A command that runs the driver, `nsenter` say, and becomes it. */
  readonly through?: readonly string[];
}

export interface Driver {
  readonly pid: number;
  readonly socket: string;
  readonly controller: Client<typeof Controller>;
  readonly identity: Client<typeof Identity>;
  readonly node: Client<typeof Node>;
  /** What every driver of this folder has written. */
  readonly log: () => string;
  /** Signals the process and waits for its end; -> its exit status. */
  readonly end: (signal?: "SIGTERM" | "SIGKILL") => Promise<number>;
  /** Resident memory in bytes. */
  readonly residentBytes: () => number;
  /** The exit status, once it has ended by itself or by `end`. */
  readonly exited: Promise<number>;
}

/** A folder of the rig's, which keeps it when a test fails. */
export const testFolder = (prefix: string): string => mkdtempSync(join(rig().dir, `${prefix}-`));

/** Replaces config.json the way kubelet does: in one step. Entries may be wrong on purpose. */
export const writeConfig = (dir: string, entries: readonly unknown[]): void => {
  const folder = join(dir, "config");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "new"), JSON.stringify(entries));
  renameSync(join(folder, "new"), join(folder, "config.json"));
};

/** Files of an administrator for one cluster; while they are replaced there are none for a moment. */
export const writeSecrets = (secretsDir: string, clusterId: string, files: Readonly<Record<string, string>>): void => {
  const folder = join(secretsDir, "new");
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text, { mode: 0o400 });
  rmSync(join(secretsDir, clusterId), { recursive: true, force: true });
  renameSync(folder, join(secretsDir, clusterId));
};

/** In a virtual machine without KVM a driver starts forty times slower than here. */
const READY_LIMIT = 100_000;

const socketMark = (socket: string): string | undefined => {
  const found = statSync(socket, { bigint: true, throwIfNoEntry: false });
  return found === undefined ? undefined : `${found.ino} ${found.ctimeNs}`;
};

const answers = (identity: Driver["identity"]): Promise<boolean> =>
  identity.probe({}, { timeoutMs: 2000 }).then(
    () => true,
    () => false,
  );

export const startDriver = async ({ dir, flags = [], through = [] }: DriverOptions): Promise<Driver> => {
  const socket = join(dir, "csi.sock");
  const logFile = join(dir, "driver.log");
  const command = driverCommand();
  const argv = [
    ...command.argv,
    "--type=rbd",
    "--nodeid=test-node",
    "--controllerserver=true",
    `--endpoint=unix://${socket}`,
    `--csi-addons-endpoint=unix://${join(dir, "csi-addons.sock")}`,
    `--config-dir=${join(dir, "config")}`,
    // this machine's own file must not play a part
    `--ceph-conf=${join(dir, "no-ceph.conf")}`,
    ...flags,
  ];
  const log = openSync(logFile, "a");
  // a socket that a killed driver has left is the new one's to replace
  const left = socketMark(socket);
  const child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", ...through, ...argv], {
    cwd: checkout,
    env: { ...process.env, ...command.env, CEPH_CONF: "", CEPH_ARGS: "" },
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  const endpoint = `unix://${socket}`;
  const clients = {
    controller: client(Controller, endpoint),
    identity: client(Identity, endpoint),
    node: client(Node, endpoint),
  };
  const end: Driver["end"] = async (signal = "SIGTERM") => {
    for (const each of Object.values(clients)) each.close();
    if (child.exitCode === null) child.kill(signal);
    return child.exited;
  };
  const deadline = Date.now() + READY_LIMIT;
  for (;;) {
    const served = socketMark(socket);
    // not before: a client that was refused waits a second before it tries again
    if (served !== undefined && served !== left && (await answers(clients.identity))) break;
    if (child.exitCode !== null || Date.now() > deadline) {
      await end("SIGKILL");
      throw new Error(`the driver does not serve:\n${readFileSync(logFile, "utf8").slice(-3000)}`);
    }
    await Bun.sleep(20);
  }
  return {
    pid: child.pid,
    socket,
    ...clients,
    log: () => readFileSync(logFile, "utf8"),
    end,
    exited: child.exited,
    residentBytes: () =>
      Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1]) * 1024,
  };
};
