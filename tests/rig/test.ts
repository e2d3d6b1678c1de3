/**
 * What `npm test` runs: every suite that this machine can, one after the other.
 *
 *   npm test                         all
 *   npm test -- unit contract        some
 *   npm test -- ceph -t=expand       flags go on to `bun test`
 *   DRIVER=dist/csi-rbd npm test     where a suite starts the driver, it is this executable; the contract suite, which
 *                                    calls the layers in its own process, has their worker threads as they lie in one
 *   ATTACHER=upstream npm test -- apiserver -t attach
 *                                    Kubernetes' own csi-attacher in the place of ours
 *
 * Invariants:
 * 1. A suite that cannot run here is named with the reason; with CI=true that is a failure.
 * 2. When a daemon of the cluster dies, the suite that runs ends at once as a failure, and so does each later one that
 *    needs the cluster.
 */
import { existsSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { clusterAddress } from "./address.ts";
import { buildCells } from "./build.ts";
import { type CephCluster, startCeph } from "./ceph.ts";
import { serveControl } from "./control.ts";
import { temporaryFolder } from "./folder.ts";
import { controlPlaneLacks, startControlPlane } from "./kubernetes/control-plane.ts";
import { helmBinary, helmLacks } from "./helm.ts";
import { nodeLacks } from "./kubernetes/node.ts";
import { kubeProgram } from "./kubernetes/program.ts";
import { sidecarFolder, sidecarsLack } from "./kubernetes/sidecars.ts";
import { debianLacks } from "./roots.ts";
import { systemPath } from "./place.ts";
import { pythonLacks } from "./python.ts";
import { sanityBinary, sanityLacks } from "./sanity.ts";
import { bunTest, checkout, close, failedRun, hasTests, judge, notBegun, runSuite, type Outcome } from "./suite.ts";
import { OUT, runInVm, vmLacks } from "./vm.ts";

interface Part {
  readonly folder: string;
  /** Further folders that run with it. */
  readonly also?: ReadonlyArray<string>;
  readonly minutes: number;
  readonly secondAttempt?: boolean;
  /** Why this machine cannot run it. */
  readonly lacks: () => string | undefined;
  readonly run: (name: string, part: Part) => Promise<Outcome>;
}

const flags = process.argv.slice(2).filter((arg) => arg.startsWith("-"));
const chosen = process.argv.slice(2).filter((arg) => !arg.startsWith("-"));
const named = process.env["DRIVER"] ?? "";
const executable = named === "" ? undefined : resolve(checkout, named);
if (executable !== undefined && !existsSync(executable)) {
  console.error(`DRIVER=${named}: no such file; npm run build makes dist/csi-rbd`);
  process.exit(2);
}
const driver: Readonly<Record<string, string>> = executable === undefined ? {} : { DRIVER: executable };
const attacher = process.env["ATTACHER"];
if (attacher !== undefined && attacher !== "upstream") {
  console.error(`ATTACHER=${attacher}: write ATTACHER=upstream, or leave it out for ours`);
  process.exit(2);
}
const work = temporaryFolder("csi-rbd-test-");

const cephLacks = (): string | undefined => {
  if (process.getuid?.() !== 0) return "not root";
  const missing = ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd"].filter((name) => Bun.which(name) === null);
  return missing.length === 0 ? undefined : `no ${missing.join(", no ")}`;
};

let starting: Promise<CephCluster> | undefined;
const death = new AbortController();
const cluster = (): Promise<CephCluster> =>
  (starting ??= startCeph({
    dir: join(work, "ceph"),
    paxosInterval: 0.05,
    onDeath: (words) => death.abort(new Error(words)),
  }));

/** A run that RUNS makes longer than a suite is takes the hours that it takes. */
const limitOf = (part: Part): number => part.minutes * 60_000 * ((process.env["RUNS"] ?? "") === "" ? 1 : 8);

const onHost =
  (env: () => Promise<Record<string, string>>, needs?: AbortSignal) =>
  async (name: string, part: Part): Promise<Outcome> =>
    runSuite({
      name,
      folders: [part.folder, ...(part.also ?? [])],
      place: { env: { ...driver, ...(await env()) } },
      reports: work,
      limitMs: limitOf(part),
      testLimitMs: 30_000,
      flags,
      secondAttempt: part.secondAttempt === true,
      ...(needs === undefined ? {} : { needs }),
    });
const onCeph = onHost(async () => ({ CSI_RBD_RIG: (await cluster()).rigFile }), death.signal);
const withBuiltCells = onHost(
  async () => ({
    CSI_RBD_RIG: (await cluster()).rigFile,
    ...(executable === undefined ? {} : { CSI_RBD_CELLS: await buildCells(join(work, "cells")) }),
  }),
  death.signal,
);

/** What a person or CI says to the tests themselves. */
const passedOn = (): Record<string, string> =>
  Object.fromEntries(["CI", "RUNS"].map((name) => [name, process.env[name] ?? ""]));

const inVm = async (name: string, part: Part): Promise<Outcome> => {
  const started = Date.now();
  const sanity = sanityLacks() === undefined ? { CSI_RBD_SANITY: await sanityBinary() } : {};
  const { dir, rigFile } = await cluster();
  if (death.signal.aborted) return notBegun(name, death.signal.reason);
  const out = join(work, "vm");
  const tests = {
    folders: [part.folder],
    testLimitMs: 120_000,
    secondAttempt: part.secondAttempt === true,
    flags,
  };
  const control = serveControl(dir);
  const exitCode = await runInVm({
    command: bunTest(tests, join(OUT, "guest.xml")),
    out,
    cwd: checkout,
    env: {
      ...driver,
      ...sanity,
      ...passedOn(),
      CSI_RBD_RIG: rigFile,
      CSI_RBD_CONTROL: control.url,
      PATH: `${join(checkout, part.folder, "programs")}:${systemPath}`,
    },
    loopback: clusterAddress,
    needs: death.signal,
    limitMs: limitOf(part),
  }).finally(control.end);
  return judge(name, join(out, "guest.xml"), exitCode, started, flags);
};

const otherAttacher = async (): Promise<Record<string, string>> =>
  attacher === undefined ? {} : { CSI_RBD_UPSTREAM_ATTACHER: join(await sidecarFolder(), "csi-attacher") };

const onControlPlane = async (name: string, part: Part): Promise<Outcome> => {
  const other = await otherAttacher();
  const { rigFile } = await cluster();
  const plane = await startControlPlane({ dir: join(work, "kubernetes") });
  const env = { CSI_RBD_RIG: rigFile, CSI_RBD_KUBERNETES: plane.file, CSI_RBD_HELM: await helmBinary(), ...other };
  const run = onHost(() => Promise.resolve(env), death.signal);
  return run(name, part).finally(plane.stop);
};

/** What is built on first use is built outside of the suite's time. */
const onCluster = onHost(async () => {
  await kubeProgram();
  await sidecarFolder();
  await helmBinary();
  return { CSI_RBD_RIG: (await cluster()).rigFile };
}, death.signal);

const parts: Record<string, Part> = {
  unit: {
    folder: "tests/unit",
    also: ["tests/rig", "tests/e2e"],
    minutes: 20,
    lacks: () => undefined,
    run: onHost(() => Promise.resolve({})),
  },
  chart: {
    folder: "tests/chart",
    minutes: 10,
    lacks: helmLacks,
    run: onHost(async () => ({ CSI_RBD_HELM: await helmBinary() })),
  },
  kms: { folder: "tests/kms", minutes: 15, lacks: pythonLacks, run: onHost(() => Promise.resolve({})) },
  contract: { folder: "tests/contract", minutes: 10, lacks: cephLacks, run: withBuiltCells },
  ceph: { folder: "tests/ceph", minutes: 45, secondAttempt: true, lacks: cephLacks, run: onCeph },
  conformance: {
    folder: "tests/conformance",
    minutes: 6,
    lacks: () => cephLacks() ?? sanityLacks(),
    run: onHost(
      async () => ({ CSI_RBD_RIG: (await cluster()).rigFile, CSI_RBD_SANITY: await sanityBinary() }),
      death.signal,
    ),
  },
  apiserver: {
    folder: "tests/apiserver",
    minutes: 20,
    lacks: () =>
      cephLacks() ?? controlPlaneLacks() ?? helmLacks() ?? (attacher === undefined ? undefined : sidecarsLack()),
    run: onControlPlane,
  },
  image: { folder: "tests/image", minutes: 20, lacks: () => cephLacks() ?? debianLacks(), run: onCeph },
  cluster: {
    folder: "tests/cluster",
    minutes: 120,
    lacks: () => cephLacks() ?? sidecarsLack() ?? helmLacks() ?? debianLacks() ?? nodeLacks(),
    run: onCluster,
  },
  vm: { folder: "tests/vm", minutes: 83, secondAttempt: true, lacks: () => cephLacks() ?? vmLacks(), run: inVm },
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
  const reason = hasTests(part.folder) ? part.lacks() : `no tests in ${part.folder}`;
  if (reason !== undefined) {
    leftOut.push(`${name}: ${reason}`);
    continue;
  }
  console.log(`\n== ${name}`);
  const started = Date.now();
  try {
    outcomes.push(await part.run(name, part));
  } catch (error) {
    outcomes.push(failedRun(name, error, started));
  }
}
await starting?.then((ceph) => ceph.stop()).catch(() => undefined);
if (outcomes.some((outcome) => outcome.failed > 0)) console.error(`\nthe cluster's logs and the reports: ${work}`);
else rmSync(work, { recursive: true });
close(outcomes, leftOut);
