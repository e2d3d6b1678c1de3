/**
 * Child processes of a host cell: argument lists, never a shell, and an environment of our own making.
 *
 * Loaded in every host cell: no Effect. Blocks its thread until the child has ended.
 *
 * 1. A child gets no variable of ours but those listed here: no secret, no BUN_* switch.
 * 2. Its messages are in English, so that they can be matched and searched for.
 */
import { Errno } from "../cells/cell.ts";

export interface Finished {
  /** Negative for a child that was killed by a signal. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** It was killed at its limit. */
  readonly timedOut: boolean;
}

const ENOENT = 2;
const PASSED = ["PATH", "HOME", "CEPH_CONF", "CEPH_ARGS"];
const environment = (): Record<string, string> => ({
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  ...Object.fromEntries(PASSED.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]]))),
  LC_ALL: "C",
});

/** Without a limit the child is never killed: the call's own limit puts the cell aside, and the child goes on. */
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
      throw new Errno(program, ENOENT, `the program ${program} is not installed here`);
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

/** What a failed child said, on one line. */
export const said = ({ code, stdout, stderr, timedOut }: Finished): string => {
  const text = (stderr.trim() === "" ? stdout : stderr).trim().replaceAll(/\s*\n\s*/g, "; ");
  const killed = timedOut ? "it was killed at its time limit" : "it was killed by a signal";
  const end = code < 0 || timedOut ? killed : `exit status ${code}`;
  return text === "" ? end : `${text.slice(-800)} (${end})`;
};

/** The failure of a child: one that was killed does not say how far it came. */
export const failure = (program: string, finished: Finished): Errno =>
  new Errno(program, 0, said(finished), finished.code < 0);

/** As `run`, for a child that must exit with 0. */
export const must = (argv: readonly string[]): Finished => {
  const finished = run(argv);
  if (finished.code !== 0) throw failure(argv[0] ?? "", finished);
  return finished;
};
