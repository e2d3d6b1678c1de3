/**
 * The executable as a process of its own, without a cluster: for tests of the command line, the socket and the end.
 *
 * Not here: a driver that works (tests/ceph/driver.ts).
 *
 * 1. Only processes started here are signalled, by their pid; each dies with the process that started it.
 */
import { existsSync } from "node:fs";
import { driverCommand } from "./driver-command.ts";

/** A driver starts in a second; a busy machine takes longer. */
const START_LIMIT = 60_000;

export interface ProcessOptions {
  /** The entry file of another program that Bun runs in the driver's place. */
  readonly entry?: string;
  readonly environment?: Readonly<Record<string, string>>;
}

export const startProcess = (argv: readonly string[], { entry, environment = {} }: ProcessOptions = {}) => {
  const driver = entry === undefined ? driverCommand() : { argv: [process.execPath, entry], env: {} };
  return Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", ...driver.argv, ...argv], {
    env: { ...process.env, ...driver.env, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
};

/** A controller plugin at that socket, with no cluster configured; returns when it listens. */
export const startController = async (path: string, more: readonly string[] = [], options: ProcessOptions = {}) => {
  const sockets = [`--endpoint=unix://${path}`, "--csi-addons-endpoint="];
  const flags = ["--type=rbd", "--nodeid=n", "--controllerserver", ...sockets, "--cells=1", ...more];
  const child = startProcess(flags, options);
  const limit = Date.now() + START_LIMIT;
  while (!existsSync(path)) {
    if (child.exitCode !== null || Date.now() > limit) {
      child.kill("SIGKILL");
      throw new Error(`the driver does not listen: ${await new Response(child.stderr).text()}`);
    }
    await Bun.sleep(10);
  }
  return child;
};

/** Runs it to its end. */
export const runProcess = async (argv: readonly string[], options: ProcessOptions = {}) => {
  const child = startProcess(argv, options);
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { stdout, stderr, code };
};
