/**
 * The processes of one folder: each has a name, a log and a pid on file, so that any process of this machine can end it
 * and start it again.
 *
 * Invariants:
 * 1. Only what was started here is signalled: by the pid on file, and only while that pid is the process that was started
 *    then. Its command line would not tell: for a moment it is that of what starts it.
 * 2. Unless `detached`, a process dies with the one that started it, however that one dies.
 */
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

interface Started {
  readonly pid: number;
  /** When it began, as the kernel counts it. */
  readonly since: string;
}

const fileOf = (dir: string, name: string): string => join(dir, "run", `${name}.json`);
export const logOf = (dir: string, name: string): string => join(dir, "log", `${name}.log`);

/** State and beginning of a process; throws where there is none. */
const statOf = (pid: number): { readonly state: string; readonly since: string } => {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
  return { state: fields[0] ?? "", since: fields[19] ?? "" };
};

/**
 * Whether a process runs, or still has threads that run: its first one may have ended before them, and until the last one
 * has, the process keeps its sockets.
 */
const isAlive = (pid: number, state: string): boolean => state !== "Z" || readdirSync(`/proc/${pid}/task`).length > 1;

/** The pid of a process of the folder until it has ended, with all of its threads. */
export const livePid = (dir: string, name: string): number | undefined => {
  try {
    const { pid, since } = JSON.parse(readFileSync(fileOf(dir, name), "utf8")) as Started;
    const now = statOf(pid);
    return now.since === since && isAlive(pid, now.state) ? pid : undefined;
  } catch {
    return undefined;
  }
};

/** The last lines that a process wrote. */
export const lastLines = (dir: string, name: string, count = 15): string => {
  try {
    return readFileSync(logOf(dir, name), "utf8").trimEnd().split("\n").slice(-count).join("\n");
  } catch {
    return "(no log)";
  }
};

export interface ProcessOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly detached?: boolean;
}

/** Starts a process; its log is appended to. */
export const startProcess = (
  dir: string,
  name: string,
  command: ReadonlyArray<string>,
  { env = {}, detached = false }: ProcessOptions = {},
): void => {
  for (const sub of ["run", "log"]) mkdirSync(join(dir, sub), { recursive: true });
  const log = openSync(logOf(dir, name), "a");
  // both replace themselves by the command, so the pid is the command's own
  const before = detached ? ["setsid", "--"] : ["setpriv", "--pdeathsig", "KILL", "--", "setsid"];
  const child = Bun.spawn([...before, ...command], {
    cwd: dir,
    env: { ...process.env, ...env },
    stdin: "ignore",
    stdout: log,
    stderr: log,
  });
  closeSync(log);
  child.unref();
  writeFileSync(
    fileOf(dir, name),
    JSON.stringify({ pid: child.pid, since: statOf(child.pid).since } satisfies Started),
  );
};

/** Waits until `ready` answers true; throws, with the last lines of the process's log, when it ends or takes too long. */
export const whenReady = async (
  dir: string,
  name: string,
  ready: () => Promise<boolean>,
  limitMs: number,
): Promise<void> => {
  for (const until = Date.now() + limitMs; !(await ready()); await Bun.sleep(100)) {
    const ended = livePid(dir, name) === undefined && Date.now() > until - limitMs + 2000;
    if (ended) throw new Error(`${name} ended; its last lines:\n${lastLines(dir, name)}`);
    if (Date.now() > until) {
      throw new Error(`${name} is not ready after ${limitMs / 1000} s; its last lines:\n${lastLines(dir, name)}`);
    }
  }
};

/** Ends a process and waits for its end: with SIGTERM in the way that it has of its own, at most `patienceMs` long. */
export const endProcess = async (
  dir: string,
  name: string,
  signal: "SIGTERM" | "SIGKILL" = "SIGKILL",
  patienceMs = 20_000,
): Promise<void> => {
  const until = Date.now() + patienceMs;
  for (let sent = false; ; await Bun.sleep(25)) {
    const pid = livePid(dir, name);
    if (pid === undefined) break;
    const late = Date.now() > until;
    if (!sent || late) process.kill(pid, late ? "SIGKILL" : signal);
    sent = true;
  }
  rmSync(fileOf(dir, name), { force: true });
};
