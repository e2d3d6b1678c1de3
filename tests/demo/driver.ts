/**
 * The demo's driver: its command line, and when it is ready.
 *
 * Not here: what it is asked (./story.ts).
 */
import { spawn } from "node:child_process";
import { openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Identity } from "../../lib/gen/csi_pb.ts";
import { type DriverCommand, driverCommand as startCommand } from "../support/driver-command.ts";
import { client } from "../support/grpc-client.ts";
import { checkout } from "../rig/suite.ts";
import { OUT } from "../rig/vm.ts";

export interface DriverPlace {
  /** For its socket and its log. */
  readonly dir: string;
  /** Folder of config.json. */
  readonly config: string;
}

/** In the virtual machine: beside the files of this machine that it sees. */
export const insidePlace: DriverPlace = { dir: "/run/csi-rbd-demo", config: `${OUT}/config` };

/** What the guest waits for below OUT: the path of the cluster's rig.json, once the cluster is up. */
export const UP = "cluster-is-up";

export const endpointOf = ({ dir }: DriverPlace): string => `unix://${join(dir, "csi.sock")}`;
export const logOf = ({ dir }: DriverPlace): string => join(dir, "driver.log");

/** Variables and words of the command that runs the driver (tests/support/driver-command.ts); `main` is the file to run. */
export const driverCommand = (place: DriverPlace, main?: string): DriverCommand => {
  const { env, argv } = startCommand(main);
  const flags = ["--type=rbd", "--nodeid=demo", "--csi-addons-endpoint=", "--v=4"];
  return { env, argv: [...argv, ...flags, `--endpoint=${endpointOf(place)}`, `--config-dir=${place.config}`] };
};

/** Waits until the driver answers Probe; `ended` tells that it never will. */
export const whenReady = async (place: DriverPlace, ended = (): boolean => false): Promise<void> => {
  const probe = client(Identity, endpointOf(place));
  for (const until = Date.now() + 90_000; ; await Bun.sleep(50)) {
    const answered = await probe.probe({}, { timeoutMs: 2000 }).then(
      () => true,
      () => false,
    );
    if (answered) break;
    if (ended()) throw new Error(`the driver ended; its log:\n${readFileSync(logOf(place), "utf8")}`);
    if (Date.now() > until)
      throw new Error(`the driver does not answer; its log:\n${readFileSync(logOf(place), "utf8")}`);
  }
  probe.close();
};

/** The last lines of its log, for a step that failed. */
export const lastLines = (place: DriverPlace): string =>
  readFileSync(logOf(place), "utf8").split("\n").slice(-25).join("\n");

export interface Driver {
  readonly pid: number;
  readonly stop: () => Promise<void>;
}

export const startDriver = async (place: DriverPlace, detached: boolean): Promise<Driver> => {
  const out = openSync(logOf(place), "w");
  const { env, argv } = driverCommand(place);
  const [program = "", ...args] = argv;
  const child = spawn(program, args, {
    cwd: checkout,
    env: { ...process.env, ...env },
    detached,
    stdio: ["ignore", out, out],
  });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  await whenReady(place, () => child.exitCode !== null || child.pid === undefined);
  if (detached) child.unref();
  return {
    pid: child.pid ?? 0,
    stop: async () => {
      child.kill("SIGTERM");
      await ended;
    },
  };
};
