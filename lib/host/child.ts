/**
 * Runs child processes of a host cell: from argument lists, never through a shell, and in an environment made here.
 *
 * Loaded in host cells: no Effect. Blocks its thread until the child has ended.
 *
 * 1. A child gets only those of the driver's variables that are listed here: no secret and no BUN_* switch.
 * 2. A child writes its messages in English, because the driver matches them and people search for them.
 */
import { Errno } from "../cells/cell.ts";

export interface Finished {
  /** Negative for a child that was killed by a signal. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** It was killed at its time limit. */
  readonly timedOut: boolean;
}

const ENOENT = 2;
const PASSED = ["PATH", "HOME", "CEPH_CONF", "CEPH_ARGS"];
const environment = (): Record<string, string> => ({
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  ...Object.fromEntries(PASSED.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]]))),
  LC_ALL: "C",
});

/**
 * Runs a child to its end. Without a limit it is never killed: at the call's own limit its cell is put aside, and the
 * child continues.
 */
export const run = (argv: readonly string[], limit?: number): Finished => {
  const program = argv[0] ?? "";
  let child: ReturnType<typeof Bun.spawnSync>;
  try {
    child = Bun.spawnSync([...argv], {
      env: environment(),
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      ...(limit === undefined ? {} : { timeout: limit, killSignal: "SIGKILL" }),
    });
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") {
      throw new Errno(
        program,
        ENOENT,
        `the program ${program} is not installed here. Install it in the driver's image`,
      );
    }
    throw error;
  }
  return {
    code: child.exitCode ?? -1,
    stdout: child.stdout?.toString() ?? "",
    stderr: child.stderr?.toString() ?? "",
    timedOut: child.exitedDueToTimeout === true,
  };
};

/** The output of a child that failed, and how it ended, on one line. */
export const outputOf = ({ code, stdout, stderr, timedOut }: Finished): string => {
  const text = (stderr.trim() === "" ? stdout : stderr).trim().replaceAll(/\s*\n\s*/g, "; ");
  const killed = timedOut ? "it was killed at its time limit" : "it was killed by a signal";
  const end = code < 0 || timedOut ? killed : `exit status ${code}`;
  return text === "" ? end : `${text.slice(-800)} (${end})`;
};

/** The failure of a child. One that was killed does not say how far it came. */
export const failure = (program: string, finished: Finished): Errno =>
  new Errno(program, 0, outputOf(finished), finished.code < 0);

/** Runs a child that must exit with 0. */
export const must = (argv: readonly string[]): Finished => {
  const finished = run(argv);
  if (finished.code !== 0) throw failure(argv[0] ?? "", finished);
  return finished;
};
