/**
 * What `npm test` runs: every suite that this machine can, one after the other.
 *
 *   npm test                         all
 *   npm test -- unit contract        some
 *   npm test -- ceph -t=expand       flags go on to `bun test`
 *
 * Invariant: a suite that cannot run here is named with the reason; with CI=true that is a failure.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CephCluster, startCeph } from "./ceph.ts";
import { sanityBinary, sanityLacks } from "./sanity.ts";
import { checkout, close, hasTests, judge, runSuite, type Outcome } from "./suite.ts";
import { runInVm, vmLacks } from "./vm.ts";

interface Part {
  readonly folder: string;
  /** Further folders that run with it. */
  readonly also?: ReadonlyArray<string>;
  readonly minutes: number;
  /** Why this machine cannot run it. */
  readonly lacks: () => Promise<string | undefined> | string | undefined;
  readonly run: (name: string, part: Part) => Promise<Outcome>;
}

const flags = process.argv.slice(2).filter((arg) => arg.startsWith("-"));
const chosen = process.argv.slice(2).filter((arg) => !arg.startsWith("-"));
const work = mkdtempSync(join(tmpdir(), "csi-rbd-test-"));

const cephLacks = (): string | undefined => {
  if (process.getuid?.() !== 0) return "not root";
  const missing = ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd"].filter((name) => Bun.which(name) === null);
  return missing.length === 0 ? undefined : `no ${missing.join(", no ")}`;
};

let starting: Promise<CephCluster> | undefined;
const cluster = (): Promise<CephCluster> => (starting ??= startCeph({ dir: join(work, "ceph"), paxosInterval: 0.05 }));

const onHost =
  (env: () => Promise<Record<string, string>>) =>
  async (name: string, part: Part): Promise<Outcome> =>
    runSuite({
      name,
      folders: [part.folder, ...(part.also ?? [])],
      place: { env: await env() },
      reports: work,
      limitMs: part.minutes * 60_000,
      testLimitMs: 30_000,
      flags,
    });
const onCeph = onHost(async () => ({ CSI_RBD_RIG: (await cluster()).rigFile }));

const inVm = async (name: string, part: Part): Promise<Outcome> => {
  const started = Date.now();
  const sanity = (await sanityLacks()) === undefined ? { CSI_RBD_SANITY: await sanityBinary() } : {};
  const out = join(work, "vm");
  const exitCode = await runInVm({
    command: [process.execPath, "tests/rig/guest.ts", part.folder, ...flags],
    out,
    cwd: checkout,
    env: { ...sanity, CI: process.env["CI"] ?? "" },
    limitMs: part.minutes * 60_000,
  });
  return judge(name, join(out, "guest.xml"), exitCode, started);
};

const parts: Record<string, Part> = {
  unit: {
    folder: "tests/unit",
    also: ["tests/rig"],
    minutes: 5,
    lacks: () => undefined,
    run: onHost(() => Promise.resolve({})),
  },
  contract: { folder: "tests/contract", minutes: 5, lacks: cephLacks, run: onCeph },
  ceph: { folder: "tests/ceph", minutes: 18, lacks: cephLacks, run: onCeph },
  conformance: {
    folder: "tests/conformance",
    minutes: 6,
    lacks: async () => cephLacks() ?? (await sanityLacks()),
    run: onHost(async () => ({ CSI_RBD_RIG: (await cluster()).rigFile, CSI_RBD_SANITY: await sanityBinary() })),
  },
  vm: { folder: "tests/vm", minutes: 22, lacks: () => cephLacks() ?? vmLacks(), run: inVm },
};

const unknown = chosen.find((name) => !(name in parts));
if (unknown !== undefined) {
  console.error(`no suite named ${unknown}: write ${Object.keys(parts).join(", ")} or nothing for all`);
  process.exit(2);
}

const outcomes: Array<Outcome> = [];
const leftOut: Array<string> = [];
for (const [name, part] of Object.entries(parts)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue;
  const reason = hasTests(part.folder) ? await part.lacks() : `no tests in ${part.folder}`;
  if (reason !== undefined) {
    leftOut.push(`${name}: ${reason}`);
    continue;
  }
  console.log(`\n== ${name}`);
  const started = Date.now();
  try {
    outcomes.push(await part.run(name, part));
  } catch (error) {
    console.error(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    outcomes.push({ name, passed: 0, failed: 1, skipped: [], seconds: (Date.now() - started) / 1000 });
  }
}
await starting?.then((ceph) => ceph.stop()).catch(() => undefined);
if (outcomes.some((outcome) => outcome.failed > 0)) console.error(`\nthe cluster's logs and the reports: ${work}`);
else rmSync(work, { recursive: true });
close(outcomes, leftOut);
