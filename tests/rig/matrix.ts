/**
 * What `npm run test:matrix` runs: the suites that speak to Ceph, once per release, with cluster and client
 * libraries both of that release: Bun itself runs inside the release's root folder.
 *
 *   npm run test:matrix                all of 16, 18, 20
 *   npm run test:matrix -- 20          some
 *   npm run test:matrix -- --another   one of the releases that are not this machine's own, and a third of the Ceph suite's
 *                                      files on it, so that CI stays within its time; the commit chooses both
 *   npm run test:matrix -- --long      with the lives and crowds that take ten minutes more per release
 *   npm run test:matrix -- 20 -t=live  other flags go on to `bun test`
 */
import { rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { startCeph } from "./ceph.ts";
import { temporaryFolder } from "./folder.ts";
import { hostRelease, parseRelease, releases, rootFor, type CephRelease } from "./roots.ts";
import { sanityBinary, sanityLacks } from "./sanity.ts";
import { commit } from "./build.ts";
import { checkout, close, failedRun, hasTests, runSuite, type Outcome } from "./suite.ts";

/** Over some commits, each release and the whole suite has its turn. */
const drawnBy = async (id: string): Promise<{ readonly release: CephRelease; readonly part: string }> => {
  const number = Number.parseInt(id.slice(0, 8), 16) || 0;
  const own = await hostRelease();
  const others = releases.filter((release) => release !== own);
  const release = others[number % others.length] ?? 20;
  return { release, part: `--shard=${1 + (Math.floor(number / others.length) % 3)}/3` };
};

const own = ["--long", "--another"];
const flags = process.argv.slice(2).filter((arg) => arg.startsWith("-") && !own.includes(arg));
const long = process.argv.includes("--long");
const drawn = process.argv.includes("--another") ? await drawnBy(await commit()) : undefined;
const chosen = process.argv.slice(2).filter((arg) => !arg.startsWith("-"));
const named: ReadonlyArray<CephRelease> = chosen.length === 0 ? releases : chosen.map(parseRelease);
const wanted = drawn === undefined ? named : [drawn.release];
const withoutSanity = sanityLacks();
const sanity = withoutSanity === undefined ? await sanityBinary() : undefined;
const all = ["contract", "ceph", ...(sanity === undefined ? [] : ["conformance"])];
const suites = all.filter((suite) => hasTests(`tests/${suite}`));
const work = temporaryFolder("csi-rbd-matrix-");

// The usual runs are `npm test`'s; here they show that each release takes part in them.
const lengths = long
  ? { CSI_RBD_LIFECYCLES: "200", CSI_RBD_COPIES: "500", CSI_RBD_CLONES: "300", CSI_RBD_CROWD_SECONDS: "120" }
  : { CSI_RBD_LIFECYCLES: "24", CSI_RBD_COPIES: "8", CSI_RBD_CROWD_SECONDS: "6" };

const outcomes: Array<Outcome> = [];
const leftOut = [
  ...all.filter((suite) => !suites.includes(suite)).map((suite) => `tests/${suite}: no tests`),
  ...(withoutSanity === undefined ? [] : [`tests/conformance: ${withoutSanity}`]),
];
for (const release of suites.length > 0 ? wanted : []) {
  const name = `ceph-${release}`;
  const dir = join(work, name);
  const started = Date.now();
  console.log(`\n== Ceph ${release}`);
  try {
    const root = await rootFor(release);
    const death = new AbortController();
    const ceph = await startCeph({
      dir,
      root,
      paxosInterval: 0.05,
      onDeath: (words) => death.abort(new Error(words)),
    });
    try {
      if (ceph.release !== release) throw new Error(`wanted Ceph ${release}, found ${ceph.release}`);
      const binds = [
        { path: checkout, readOnly: true },
        { path: dir },
        ...(sanity === undefined ? [] : [{ path: dirname(sanity), readOnly: true }]),
      ];
      const env = { ...lengths, CSI_RBD_RIG: ceph.rigFile, CSI_RBD_SANITY: sanity ?? "" };
      for (const suite of suites) {
        const part = suite === "ceph" && drawn !== undefined ? [drawn.part] : [];
        if (part.length > 0) console.log(`\nof the Ceph suite ${part.join()}`);
        outcomes.push(
          await runSuite({
            name: `${name}-${suite}`,
            folders: [`tests/${suite}`],
            place: { root, binds, env },
            reports: dir,
            limitMs: (long ? 60 : 20) * 60_000,
            testLimitMs: 30_000,
            flags: [...flags, ...part],
            secondAttempt: suite === "ceph",
            needs: death.signal,
          }),
        );
      }
    } finally {
      await ceph.stop();
    }
  } catch (error) {
    outcomes.push(failedRun(name, error, started));
  }
}
if (outcomes.some((outcome) => outcome.failed > 0)) console.error(`\nthe clusters' logs and the reports: ${work}`);
else rmSync(work, { recursive: true });
close(outcomes, leftOut);
