/**
 * Where a command runs: on this machine, or inside another root folder (another Debian release).
 *
 * Not a container: only the file tree differs; network, processes and devices are this machine's.
 * Invariants:
 * 1. A root's mounts live in a mount namespace of the command itself, so they end with it: nothing is left to
 *    unmount, whatever way the process dies.
 * 2. A bound folder has the same absolute path inside and outside, so one ceph.conf serves both sides.
 */
export interface Bind {
  readonly path: string;
  readonly readOnly?: boolean;
}

export interface Place {
  /** Another root folder to run in; absent means this machine's own. */
  readonly root?: string | undefined;
  /** Folders and files of this machine that the command must see under the same path. */
  readonly binds?: ReadonlyArray<Bind>;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// $1 root, $2 working directory, then "ro PATH"/"rw PATH" pairs up to "--", then the command
const enterRoot = `set -e
root=$1; cwd=$2; shift 2
for d in dev proc sys; do mount --rbind "/$d" "$root/$d"; done
while [ "$1" != -- ]; do
  if [ -d "$2" ]; then mkdir -p "$root$2"; else mkdir -p "$root$(dirname "$2")"; [ -e "$root$2" ] || : > "$root$2"; fi
  mount --bind "$2" "$root$2"
  [ "$1" = rw ] || mount -o remount,bind,ro "$root$2"
  shift 2
done
shift
exec chroot "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$cwd" "$@"`;

/** The argument list that runs `command` at `place`. */
export const argvAt = (place: Place, command: ReadonlyArray<string>): Array<string> => {
  if (place.root === undefined) return [...command];
  const binds = (place.binds ?? []).flatMap((bind) => [bind.readOnly === true ? "ro" : "rw", bind.path]);
  return [
    "unshare",
    "--mount",
    "--",
    "sh",
    "-c",
    enterRoot,
    "sh",
    place.root,
    place.cwd ?? "/",
    ...binds,
    "--",
    ...command,
  ];
};

/** The environment of a command at `place`: another root gets the plain system PATH. */
export const envAt = (place: Place): Record<string, string> => {
  const inherited: Record<string, string> = {};
  for (const [key, value] of Object.entries(process.env)) if (value !== undefined) inherited[key] = value;
  const path = place.root === undefined ? `${inherited["PATH"] ?? ""}:${systemPath}` : systemPath;
  return { ...inherited, PATH: path, LC_ALL: "C.UTF-8", ...place.env };
};

/** Runs a command to its end, output captured. Past `timeoutMs` it is killed and the promise rejects. */
export const run = async (
  place: Place,
  command: ReadonlyArray<string>,
  options: { readonly timeoutMs?: number; readonly input?: string } = {},
): Promise<Finished> => {
  const timeoutMs = options.timeoutMs ?? 60_000;
  const child = Bun.spawn(argvAt(place, command), {
    env: envAt(place),
    ...(place.cwd === undefined || place.root !== undefined ? {} : { cwd: place.cwd }),
    stdin: options.input === undefined ? "ignore" : new TextEncoder().encode(options.input),
    stdout: "pipe",
    stderr: "pipe",
  });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, timeoutMs);
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  clearTimeout(timer);
  if (late) throw new Error(`${command.slice(0, 3).join(" ")}: no end within ${timeoutMs} ms\n${stderr.slice(-2000)}`);
  return { code, stdout, stderr };
};

/** The output of a command that exited with 0; throws, with the end of what it said, where it did not. */
export const outputOf = (command: ReadonlyArray<string>, { code, stdout, stderr }: Finished): string => {
  if (code !== 0) throw new Error(`${command.slice(0, 4).join(" ")}: exit status ${code}\n${stderr.slice(-2000)}`);
  return stdout;
};

/** As `run`, but an exit status other than 0 rejects, with the end of what the command said. */
export const must = async (
  place: Place,
  command: ReadonlyArray<string>,
  options: { readonly timeoutMs?: number; readonly input?: string } = {},
): Promise<string> => outputOf(command, await run(place, command, options));
