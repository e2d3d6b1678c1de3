/** The executable as `npm run build` makes it: started in any folder, it finds all that it needs inside itself. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, linkSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildExecutable } from "./build.ts";
import { checkout } from "./suite.ts";

const work = mkdtempSync(join(tmpdir(), "csi-rbd-build-"));
const program = join(work, "csi-rbd");
beforeAll(() => buildExecutable(program), 120_000);
afterAll(() => rmSync(work, { recursive: true }));

const LIMIT = 60_000;
/** A port that was free a moment ago. */
const freePort = (): number => {
  const taken = Bun.serve({ port: 0, fetch: () => new Response() });
  const { port } = taken;
  void taken.stop(true);
  return port ?? 0;
};
const PROBE = ["--type=liveness", `--metricsport=${freePort()}`];
const SETTINGS = {
  BUN_JSC_forceCodeBlockLiveness: "true",
  BUN_JSC_useFTLJIT: "false",
  BUN_JSC_forceRAMSize: "100000000",
  MALLOC_ARENA_MAX: "2",
};

/** A probe, which needs neither Ceph nor a socket; killed with this process. */
const start = (
  command: readonly string[],
  argv: readonly string[] = [],
  more: Readonly<Record<string, string>> = {},
) => {
  const words = ["setpriv", "--pdeathsig", "KILL", "--", ...command, ...PROBE, ...argv];
  return Bun.spawn(words, {
    cwd: work,
    env: { PATH: process.env["PATH"], ...more },
    stdio: ["ignore", "pipe", "pipe"],
  });
};

const proc = (pid: number, file: string): string => readFileSync(`/proc/${pid}/${file}`, "utf8");
const environmentOf = (pid: number): Record<string, string> =>
  Object.fromEntries(
    proc(pid, "environ")
      .split("\0")
      .filter((text) => text !== "")
      .map((text) => text.split(/=(.*)/s, 2) as [string, string]),
  );

/** Runs it until it has told that it works, then gives what /proc says of it. */
const observed = async (
  command: readonly string[] = [program],
  argv: readonly string[] = [],
  more: Readonly<Record<string, string>> = {},
) => {
  const child = start(command, argv, more);
  const reader = child.stderr.getReader();
  const text = new TextDecoder();
  let log = "";
  while (!log.includes("/metrics at http")) {
    const { done, value } = await reader.read();
    if (done) throw new Error(`it ended: ${log}`);
    log += text.decode(value);
  }
  const found = {
    pid: child.pid,
    log,
    environment: environmentOf(child.pid),
    argv: proc(child.pid, "cmdline").split("\0").slice(0, -1),
    name: proc(child.pid, "comm").trim(),
  };
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
  return found;
};

test(
  "The executable runs with the engine's settings in its environment, in the process that was started",
  async () => {
    const odd = ["--v=4", "", "--drivername=a.b", "--log_file=ü\u{1F600} ="];
    const { pid, environment, argv, name } = await observed([program], odd, { GIVEN: "a=b\n ü", EMPTY: "" });
    expect(environment).toEqual({
      PATH: process.env["PATH"] ?? "",
      GIVEN: "a=b\n ü",
      EMPTY: "",
      ...SETTINGS,
      CSI_RBD_ENGINE_SET_BY: String(pid),
    });
    expect(argv).toEqual([program, ...PROBE, ...odd]);
    expect(name).toBe("csi-rbd");
  },
  LIMIT,
);

test(
  "A setting that is given by hand stays as it is",
  async () => {
    const { environment } = await observed([program], [], { BUN_JSC_useFTLJIT: "true" });
    expect(environment).toMatchObject({ ...SETTINGS, BUN_JSC_useFTLJIT: "true" });
  },
  LIMIT,
);

test(
  "A process that finds all settings starts once only, and so does one that has been started anew before",
  async () => {
    expect((await observed([program], [], SETTINGS)).environment).not.toHaveProperty("CSI_RBD_ENGINE_SET_BY");
    // the shell keeps its number when it becomes the program
    const shell = join(work, "again.sh");
    writeFileSync(shell, `CSI_RBD_ENGINE_SET_BY=$$ exec ${program} "$@"\n`);
    const child = Bun.spawn(["sh", shell, "version"], { env: {}, stdout: "pipe" });
    expect(await new Response(child.stdout).text()).toContain("csi-rbd ");
    expect(await child.exited).toBe(0);
  },
  LIMIT,
);

test(
  "The executable starts by a link, and also when its file has been removed meanwhile",
  async () => {
    const link = join(work, "link");
    symlinkSync(program, link);
    const byLink = await observed([link]);
    expect(byLink).toMatchObject({ name: "link", environment: SETTINGS });
    const removed = join(work, "removed");
    linkSync(program, removed);
    const shell = 'exec 3<"$0"; rm "$0"; exec /proc/self/fd/3 "$@"';
    expect((await observed(["sh", "-c", shell, removed])).environment).toMatchObject(SETTINGS);
    expect(existsSync(removed)).toBe(false);
  },
  LIMIT,
);

test(
  "The executable reads no .env and no bunfig.toml of the folder that it is started in",
  async () => {
    writeFileSync(join(work, ".env"), "FROM_FILE=1\nOTEL_SERVICE_NAME=wrong\n");
    writeFileSync(join(work, "bunfig.toml"), 'preload = ["./preload.ts"]\n');
    writeFileSync(join(work, "preload.ts"), 'console.error("preloaded");\n');
    const { environment, log } = await observed();
    expect(log).not.toContain("preloaded");
    expect(environment).not.toHaveProperty("FROM_FILE");
  },
  LIMIT,
);

test("npm start sets what the executable sets itself", () => {
  const { scripts } = JSON.parse(readFileSync(join(checkout, "package.json"), "utf8")) as {
    scripts: { start: string };
  };
  const words = Object.entries(SETTINGS).map(([name, value]) => `${name}=${value}`);
  expect(scripts.start).toStartWith(`${words.join(" ")} bun `);
});
