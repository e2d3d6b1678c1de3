/**
 * What every `npm run …` of this project goes through: installs what is missing, then starts Bun (or the checkers).
 *
 * Plain Node, no imports beyond Node's own: on a fresh machine this file is the first thing that runs.
 * Invariants:
 * 1. What is installed is named, one line each; what is already there is left alone.
 * 2. The exit status is that of the last program started here, or 1.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const top = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const ceph =
  "ceph-mon ceph-osd ceph-mgr ceph-common librados2 librbd1 e2fsprogs xfsprogs btrfs-progs util-linux iproute2 kmod";
const vm = "qemu-system-x86 busybox-static cryptsetup-bin fscrypt rbd-nbd kmod cpio iproute2 squashfs-tools";
const suitePackages = { unit: "", chart: "", apiserver: `${ceph} openssl` };
const packagesOf = {
  check: () => "",
  build: () => "",
  image: () => "",
  manifests: () => "",
  kubernetes: () => "",
  demo: () => (hasKrbd() ? ceph : `${ceph} ${vm}`),
  test: (suites) =>
    suites.length > 0 && suites.every((suite) => suite in suitePackages)
      ? suites.map((suite) => suitePackages[suite]).join(" ")
      : `${ceph} ${vm} openssl`,
  cluster: () => `${ceph} ${vm} openssl`,
  e2e: () => `${ceph} ${vm} openssl`,
  matrix: () => `${ceph} mmdebstrap`,
  bench: () => `${ceph} openssl mmdebstrap`,
};
const scriptOf = {
  build: "tests/rig/build.ts",
  image: "container/build.ts",
  demo: "tests/demo/demo.ts",
  manifests: "tests/rig/manifests.ts",
  kubernetes: "tests/rig/kubernetes/build.ts",
  cluster: "tests/cluster/run.ts",
  e2e: "tests/e2e/run.ts",
  test: "tests/rig/test.ts",
  matrix: "tests/rig/matrix.ts",
  bench: "tests/bench/bench.ts",
};

const say = (line) => console.error(`rig: ${line}`);
const fail = (line) => {
  say(line);
  process.exit(1);
};
const answers = (program, args) => spawnSync(program, args, { encoding: "utf8", timeout: 20_000 });

function hasKrbd() {
  return existsSync("/sys/bus/rbd") || answers("modprobe", ["rbd"]).status === 0;
}

const installModules = () => {
  // npm writes this file last, so its time is that of a complete install
  const done = join(top, "node_modules", ".package-lock.json");
  const wanted = join(top, "package-lock.json");
  if (existsSync(done) && statSync(done).mtimeMs >= statSync(wanted).mtimeMs) return;
  say("npm ci: installing the node modules");
  const npm = spawnSync("npm", ["ci", "--include=dev", "--no-audit", "--no-fund"], {
    cwd: top,
    stdio: ["ignore", 2, 2],
  });
  if (npm.status !== 0) fail("npm ci failed; its messages are above");
};

/** The folder of a Bun that runs on this machine: the package's own link needs its install script to have run. */
const bunFolder = () => {
  const oven = join(top, "node_modules", "@oven");
  const folders = [join(top, "node_modules", ".bin")];
  for (const cpu of ["x64", "x64-baseline", "aarch64"]) folders.push(join(oven, `bun-linux-${cpu}`, "bin"));
  const found = folders.find((folder) => answers(join(folder, "bun"), ["--version"]).status === 0);
  return found ?? fail(`no Bun that runs here in ${folders.join(", ")}: remove node_modules and run this again`);
};

const isDebian = () => {
  try {
    return /^ID(_LIKE)?=.*debian/m.test(readFileSync("/etc/os-release", "utf8"));
  } catch {
    return false;
  }
};

/** Waits for another apt-get, which may be this machine's own or that of another `npm run` beside this one. */
const apt = (args) => {
  for (const until = Date.now() + 600_000; ; spawnSync("sleep", ["3"])) {
    const { status, stderr } = spawnSync("apt-get", ["-q", "-y", "-o", "DPkg::Lock::Timeout=600", ...args], {
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive", LC_ALL: "C.UTF-8" },
      stdio: ["ignore", "ignore", "pipe"],
      encoding: "utf8",
    });
    if (status !== 0 && stderr.includes("Could not get lock") && Date.now() < until) continue;
    process.stderr.write(stderr);
    return status === 0;
  }
};

const isInstalled = (name) =>
  answers("dpkg-query", ["-W", "-f", "${db:Status-Status}", name]).stdout?.trim() === "installed";

/** Installs what is missing; answers with the reason where that cannot be done. */
const installPackages = (names) => {
  if (names.length === 0) return undefined;
  if (!isDebian()) return `this needs Debian's packages: ${names.join(" ")}`;
  const missing = names.filter((name) => !isInstalled(name));
  if (missing.length === 0) return undefined;
  if (process.getuid() !== 0) return `run as root, or install: apt-get install ${missing.join(" ")}`;
  for (const name of missing) say(`apt: installing ${name}`);
  apt(["update"]);
  if (!apt(["install", "--no-install-recommends", ...missing])) return `apt could not install ${missing.join(" ")}`;
  return undefined;
};

/** Without a Go that can fetch newer ones of itself (1.21), Debian's one serves to fetch one (see go.ts). */
const goPackages = (verb, suites) => {
  const needGo = ["chart", "conformance", "vm", "apiserver", "cluster"];
  const tested = verb === "test" && (suites.length === 0 || suites.some((suite) => needGo.includes(suite)));
  const wanted = tested || ["cluster", "e2e", "kubernetes"].includes(verb);
  return wanted && answers("go", ["version"]).status !== 0 ? ["golang-go"] : [];
};

const exec = (program, args, env) => {
  const child = spawn(program, args, { cwd: top, env, stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
  child.on("error", (error) => fail(`${program}: ${error.message}`));
  child.on("exit", (code) => process.exit(code ?? 1));
};

const check = (env) => {
  const steps = [
    ["types", "tsc", "--noEmit", "-p", "."],
    ["lint", "oxlint", "--type-aware", "--deny-warnings", "services", "lib", "container", "tests"],
    ["format", "biome", "format", "."],
    ["effect", "effect-tsgo", "diagnostics", "--project", "tsconfig.json", "--strict"],
    ["rooms", "node", "tests/rig/rooms.mjs"],
  ];
  const failed = steps.filter(([name, program, ...args]) => {
    const started = Date.now();
    const path = program === "node" ? process.execPath : join(top, "node_modules", ".bin", program);
    const step = spawnSync(path, args, { cwd: top, env, stdio: "inherit" });
    const ok = step.status === 0;
    console.log(`${ok ? "ok  " : "FAIL"}  ${name} (${program}), ${((Date.now() - started) / 1000).toFixed(1)} s`);
    return !ok;
  });
  console.log("");
  for (const [name, program] of failed) console.log(`failed: ${name} (${program}), its words are above`);
  if (failed.length === 0) console.log("every check passed");
  process.exit(failed.length === 0 ? 0 : 1);
};

const [verb = "", ...args] = process.argv.slice(2);
if (!(verb in packagesOf)) fail(`usage: node tests/rig/run.mjs ${Object.keys(packagesOf).join("|")} [argument …]`);
installModules();
const bun = bunFolder();
const env = { ...process.env, PATH: [bun, join(top, "node_modules", ".bin"), process.env.PATH].join(":") };
if (verb === "check") check(env);
const suites = args.filter((arg) => !arg.startsWith("-"));
const wanted = new Set([...packagesOf[verb](suites).split(" "), ...goPackages(verb, suites)].filter((name) => name));
const lacking = installPackages([...wanted]);
// the tests run what they can, and name what they left out
if (lacking !== undefined && verb === "test") say(lacking);
if (lacking !== undefined && verb !== "test") fail(lacking);
if (!existsSync(join(top, scriptOf[verb]))) fail(`${scriptOf[verb]} is not there`);
exec(join(bun, "bun"), [scriptOf[verb], ...args], env);
