/**
 * Runs child processes of a host cell: from argument lists, never through a shell, and in an environment made here.
 *
 * Loaded in host cells: no Effect. Blocks its thread until the child has ended.
 *
 * 1. A child gets only those of the driver's variables that are listed here: no secret and no BUN_* switch.
 * 2. A child writes its messages in English, because the driver matches them and people search for them.
 * 3. No key is in the output that a caller gets.
 */
import { Errno } from "../cells/cell.ts";
import { maskKeys } from "../text/mask.ts";

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
  // In a container nobody answers libdevmapper for udev: it makes its device nodes itself, and waits for nobody.
  DM_DISABLE_UDEV: "1",
});

/** Whether a program is installed here. */
export const hasProgram = (name: string): boolean => Bun.which(name, { PATH: environment()["PATH"] ?? "" }) !== null;

export interface RunOptions {
  /** Milliseconds after which it is killed. Without it, it is never killed: at the call's own limit its cell is put aside, and the child continues. */
  readonly limit?: number;
  /** Keys that it reads, and may quote. */
  readonly secrets?: readonly string[];
  /** What it reads from its standard input: no file, no argument and no environment has it. */
  readonly input?: string | Uint8Array;
  /** In a session of its own, so that no signal to the driver's group reaches what it leaves behind. */
  readonly detached?: boolean;
}

/** Runs a child to its end. */
export const run = (
  argv: readonly string[],
  { limit, secrets = [], input, detached = false }: RunOptions = {},
): Finished => {
  const program = argv[0] ?? "";
  let child: ReturnType<typeof Bun.spawnSync>;
  try {
    child = Bun.spawnSync([...argv], {
      env: environment(),
      stdin: input === undefined ? "ignore" : Buffer.from(input),
      stdout: "pipe",
      stderr: "pipe",
      detached,
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
    stdout: maskKeys(child.stdout?.toString() ?? "", ...secrets),
    stderr: maskKeys(child.stderr?.toString() ?? "", ...secrets),
    timedOut: child.exitedDueToTimeout === true,
  };
};

/** Lines of Ceph's tools on a node without a ceph.conf, which needs none. */
const NOISE = /did not load config file|Errors while parsing config file|can't open ceph\.conf/;
const FIRST_CHARACTERS = 600;
const LAST_CHARACTERS = 300;

/** As many of the lines as fit, in their order; the first one in any case, as far as it fits. */
const fitting = (lines: readonly string[], characters: number): readonly string[] => {
  const [first = "", ...rest] = lines;
  const taken = [first.slice(0, characters)];
  for (const line of rest) {
    if ([...taken, line].join("; ").length > characters) break;
    taken.push(line);
  }
  return taken;
};

/** A tool gives its reason first, before it explains how it is called; what ends a long run comes last. */
const firstAndLast = (text: string): string => {
  const lines = text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !NOISE.test(line));
  const all = lines.join("; ");
  if (all.length <= FIRST_CHARACTERS + LAST_CHARACTERS) return all;
  const first = fitting(lines, FIRST_CHARACTERS);
  const last = fitting(lines.slice(first.length).toReversed(), LAST_CHARACTERS).toReversed();
  return [...first, "…", ...last].filter((line) => line !== "").join("; ");
};

/** The output of a child that failed, and how it ended, on one line. */
export const outputOf = ({ code, stdout, stderr, timedOut }: Finished): string => {
  const text = firstAndLast(stderr.trim() === "" ? stdout : stderr);
  const killed = timedOut ? "it was killed at its time limit" : "it was killed by a signal";
  const end = code < 0 || timedOut ? killed : `exit status ${code}`;
  return text === "" ? end : `${text} (${end})`;
};

/** The failure of a child. One that was killed does not say how far it came. */
export const failure = (program: string, finished: Finished): Errno =>
  new Errno(program, 0, outputOf(finished), finished.code < 0);

/**
 * The milliseconds that a call still has for its children, of as many as it has in all. When none are left it throws, so that
 * a call that was put aside meanwhile changes nothing more.
 */
export const timeLeft = (op: string, milliseconds: number): (() => number) => {
  const end = performance.now() + milliseconds;
  return () => {
    const left = Math.floor(end - performance.now());
    if (left > 0) return left;
    throw new Errno(op, 0, `it was not done within ${milliseconds / 1000} s, so the rest of it was not begun`, true);
  };
};

/** Runs a child that must exit with 0. */
export const must = (argv: readonly string[]): Finished => {
  const finished = run(argv);
  if (finished.code !== 0) throw failure(argv[0] ?? "", finished);
  return finished;
};

/** In the output of a tool: the words of errnos after which the same call may succeed. */
export const SYSTEM_FAILED =
  /input\/output error|no such (file|device)|permission denied|not permitted|busy|cannot allocate memory|read-only file system|no space left|timed out/i;
