/**
 * What the driver costs over what Ceph itself costs (`npm run bench`): the calls of a volume's life, one, sixteen and
 * sixty-four at once, against a floor in the same run; then the memory of the driver's process over many volumes.
 *
 *   --quick     fewer rounds and volumes
 *   --strict    exit status 1 when a target is missed
 *   --no-memory | --memory-only
 *
 * 1. Driver and floor take turns in short rounds, and each begins every other one: what else the machine does hits
 *    both alike.
 * 2. The cluster is one of its own, with the monitors' usual second between proposals, its data in memory.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { CephService, PoolRef } from "../../lib/ceph/ceph.ts";
import { FLAGS } from "../../lib/config/flag-table.ts";
import { type Driver, startDriver, writeConfig } from "../ceph/driver.ts";
import { CLUSTER } from "../ceph/requests.ts";
import { startCeph } from "../rig/ceph.ts";
import { cpuPerCall, emptySample, perSecond, quantile, type Sample, slope, timed } from "./measure.ts";
import { drained, driverSide, floorCeph, floorSide, OPERATIONS, type Operation, type Side } from "./sides.ts";

const flag = (name: string) => process.argv.includes(`--${name}`);
const QUICK = flag("quick");
/** The driver's own default, for both sides. */
const CELLS = Number(FLAGS.cells.fallback);
const LOADS = [
  { atOnce: 1, rounds: QUICK ? 3 : 12, volumes: 10 },
  { atOnce: 16, rounds: QUICK ? 2 : 8, volumes: 64 },
  { atOnce: 64, rounds: QUICK ? 1 : 4, volumes: 128 },
];
const VOLUMES = QUICK ? 1000 : 5000;
const SAMPLE_EVERY = VOLUMES / 10;
const TARGETS = {
  /** p50 at one call at a time, as a multiple of the floor's. */
  latency: 1.5,
  /** Calls per second at sixteen at once, as a part of the floor's. */
  throughput: 0.8,
  residentMiB: 150,
  /** Over the second half of the volumes; less is flat. */
  growthMiBPer1000: 2,
};
const MIB = 2 ** 20;

type Samples = Record<Operation, { driver: Sample; floor: Sample }>;
interface Line {
  readonly what: string;
  readonly ok: boolean;
}

const compare = async (driver: Side, floor: Side, ceph: CephService, pool: PoolRef): Promise<readonly Line[]> => {
  const lines: Line[] = [];
  let serial = 0;
  const round = async (side: Side, samples: (operation: Operation) => Sample, atOnce: number, volumes: number) => {
    const names = Array.from({ length: volumes }, () => `pvc-${(serial += 1)}`);
    for (const operation of OPERATIONS) {
      await timed(samples(operation), names, { atOnce, pid: side.pid }, side[operation]);
    }
    await drained(ceph, pool);
  };
  console.log(
    `${"".padEnd(8)} at once | p50 ms: driver  floor  ratio | p99 ms: driver  floor | per s: driver  floor  ratio`,
  );
  for (const { atOnce, rounds, volumes } of LOADS) {
    const samples = Object.fromEntries(
      OPERATIONS.map((operation) => [operation, { driver: emptySample(), floor: emptySample() }]),
    ) as Samples;
    // cells start when they are needed
    await round(driver, emptySample, atOnce, atOnce);
    await round(floor, emptySample, atOnce, atOnce);
    for (let i = 0; i < rounds; i++) {
      const sides = [
        () => round(driver, (operation) => samples[operation].driver, atOnce, volumes),
        () => round(floor, (operation) => samples[operation].floor, atOnce, volumes),
      ];
      for (const side of i % 2 === 0 ? sides : sides.toReversed()) await side();
    }
    for (const operation of OPERATIONS) {
      const { driver: ours, floor: least } = samples[operation];
      const [p50, p50Floor] = [quantile(ours, 0.5), quantile(least, 0.5)];
      const [rate, rateFloor] = [perSecond(ours), perSecond(least)];
      console.log(
        `${operation.padEnd(8)} ${column(atOnce, 7, 0)} | ${column(p50, 14)} ${column(p50Floor, 6)} ${column(p50 / p50Floor, 6)}` +
          ` | ${column(quantile(ours, 0.99), 14)} ${column(quantile(least, 0.99), 6)}` +
          ` | ${column(rate, 13)} ${column(rateFloor, 6)} ${column(rate / rateFloor, 6)}` +
          ` | ${column(cpuPerCall(ours), 14)} ${column(cpuPerCall(least), 6)}`,
      );
      if (atOnce === 1) lines.push(judged(`${operation}, p50 at 1`, p50 / p50Floor, "at most", TARGETS.latency));
      if (atOnce === 16) {
        lines.push(judged(`${operation}, per second at 16`, rate / rateFloor, "at least", TARGETS.throughput));
      }
    }
  }
  return lines;
};

const memory = async (driver: Driver, side: Side): Promise<readonly Line[]> => {
  console.log(`memory of the driver before its ${VOLUMES} volumes: ${column(driver.residentBytes() / MIB, 6)} MiB`);
  const points: [number, number][] = [];
  for (let made = 0; made < VOLUMES; made += SAMPLE_EVERY) {
    const names = Array.from({ length: SAMPLE_EVERY }, (_, i) => `pvc-memory-${made + i}`);
    await timed(emptySample(), names, { atOnce: 16, pid: side.pid }, async (name) => {
      await side.create(name);
      await side.delete(name);
    });
    const mib = driver.residentBytes() / MIB;
    points.push([made + SAMPLE_EVERY, mib]);
    console.log(`after ${String(made + SAMPLE_EVERY).padStart(5)} volumes: ${column(mib, 6)} MiB`);
  }
  const growth = slope(points.slice(points.length / 2)) * 1000;
  return [
    judged(`memory after ${VOLUMES} volumes, MiB`, points.at(-1)?.[1] ?? Number.NaN, "at most", TARGETS.residentMiB),
    judged("its growth per 1000 volumes, second half, MiB", growth, "at most", TARGETS.growthMiBPer1000),
  ];
};

const column = (value: number, width: number, digits = 2): string => value.toFixed(digits).padStart(width);

const judged = (what: string, value: number, bound: "at most" | "at least", limit: number): Line => {
  const ok = bound === "at most" ? value <= limit : value >= limit;
  return { ok, what: `${ok ? "PASS" : "FAIL"}  ${what}: ${value.toFixed(2)}, wanted ${bound} ${limit}` };
};

const work = mkdtempSync(join(tmpdir(), "csi-bench-"));

const main = Effect.gen(function* () {
  const cluster = yield* Effect.acquireRelease(
    Effect.promise(() => startCeph({ dir: join(work, "ceph") })),
    (started) => Effect.promise(() => started.stop()),
  );
  // driver.ts and requests.ts find the cluster where tests find it
  process.env["CSI_RBD_RIG"] = cluster.rigFile;
  console.log(
    `Ceph ${cluster.release}, one OSD in memory; ${cpus().length} CPUs (${cpus()[0]?.model ?? "?"}); ${CELLS} cells`,
  );
  writeConfig(work, [{ clusterID: CLUSTER, monitors: cluster.monitors }]);
  const started = yield* Effect.acquireRelease(
    Effect.promise(() => startDriver({ dir: work })),
    (driver) => Effect.promise(() => driver.end()),
  );
  const ceph = yield* floorCeph(CELLS, join(work, "no-ceph.conf"));
  const { monitors, adminKey } = cluster;
  const access = { monitors, user: "admin", key: Redacted.make(adminKey) };
  const pool: PoolRef = { access, pool: "rbd", namespace: "" };
  const side = driverSide(started, pool.pool);
  console.log(`memory of the driver at its start: ${column(started.residentBytes() / MIB, 6)} MiB`);
  const lines = flag("memory-only")
    ? []
    : yield* Effect.promise(() => compare(side, floorSide(ceph, pool), ceph, pool));
  const remembered = flag("no-memory") ? [] : yield* Effect.promise(() => memory(started, side));
  return [...lines, ...remembered];
}).pipe(Effect.scoped);

const results = await Effect.runPromise(main);
console.log("");
for (const { what } of results) console.log(what);
rmSync(work, { recursive: true, force: true });
process.exit(flag("strict") && results.some(({ ok }) => !ok) ? 1 : 0);
