/**
 * What `npm run test:matrix` runs: the suites that speak to Ceph, once per release, with cluster and client
 * libraries both of that release: Bun itself runs inside the release's root folder.
 *
 *   npm run test:matrix                all of 16, 18, 20
 *   npm run test:matrix -- 20          some
 *   npm run test:matrix -- --others    all but the one of this machine's own packages, which `npm test` is about; the
 *                                      Ceph suite on the newest alone, so that CI stays within its time
 *   npm run test:matrix -- --long      with the lives and crowds that take ten minutes more per release
 *   npm run test:matrix -- 20 -t=live  other flags go on to `bun test`
 */
import { rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { startCeph } from "./ceph.ts";
import { temporaryFolder } from "./folder.ts";
import { hostRelease, parseRelease, releases, rootFor, type CephRelease } from "./roots.ts";
import { sanityBinary, sanityLacks } from "./sanity.ts";
import { checkout, close, failedRun, hasTests, runSuite, type Outcome } from "./suite.ts";

const own = ["--long", "--others"];
const flags = process.argv.slice(2).filter((arg) => arg.startsWith("-") && !own.includes(arg));
const long = process.argv.includes("--long");
const covered = process.argv.includes("--others") ? await hostRelease() : undefined;
const chosen = process.argv.slice(2).filter((arg) => !arg.startsWith("-"));
const wanted: ReadonlyArray<CephRelease> = chosen.length === 0 ? releases : chosen.map(parseRelease);
const withoutSanity = sanityLacks();
const sanity = withoutSanity === undefined ? await sanityBinary() : undefined;
const all = ["contract", "ceph", ...(sanity === undefined ? [] : ["conformance"])];
const suites = all.filter((suite) => hasTests(`tests/${suite}`));
const newest = wanted.at(-1);
const suitesOn = (release: CephRelease): ReadonlyArray<string> =>
  covered === undefined || release === newest ? suites : suites.filter((suite) => suite !== "ceph");
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
for (const release of wanted.filter((each) => suites.length > 0 && each !== covered)) {
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
      for (const suite of suitesOn(release)) {
        outcomes.push(
          await runSuite({
            name: `${name}-${suite}`,
            folders: [`tests/${suite}`],
            place: { root, binds, env },
            reports: dir,
            limitMs: (long ? 60 : 20) * 60_000,
            testLimitMs: 30_000,
            flags,
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
