/**
 * CreateSnapshot of many volumes at once, and the calls that others make meanwhile.
 *
 * 1. Driver and floor take turns. Before each burst both pause for the same odd time, as in ./copies.ts.
 * 2. The monitors take all snapshots that wait for them in one proposal, once a second. So a burst costs what one snapshot
 *    costs, half a second in the middle and a second at most, and what the burst's own work on two cores adds: the wanted
 *    1.1 s is that second and a tenth. The floor's burst is the snapshots alone.
 */
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import { askSnapshot, dropSnapshot, makeVolume, readySnapshot, SIZE } from "../ceph/copies.ts";
import type { Driver } from "../ceph/driver.ts";
import { createRequest } from "../ceph/requests.ts";
import { emptySample, quantile } from "./measure.ts";
import { column, judged, type Line } from "./report.ts";

const TARGETS = { secondsInABurst: 1.1, ofTheFloor: 1.5, callMeanwhileMs: 50 };
const BURSTS = [1, 16, 64];
const SETTINGS = { timeoutMs: 60_000 };

export const snapshots = async (
  { controller }: Driver,
  ceph: CephCalls,
  pool: PoolRef,
  rounds: number,
): Promise<readonly Line[]> => {
  const most = Math.max(...BURSTS);
  const numbers = Array.from({ length: most }, (_, i) => i);
  const run = <A>(effect: Effect.Effect<A, unknown>): Promise<A> => Effect.runPromise(effect);
  const volumes: string[] = [];
  const request = (i: number) => createRequest(`burst-${i}`, { pool: pool.pool }, SIZE);
  for (const i of numbers) {
    volumes.push((await makeVolume(controller, request(i))).id);
    await run(ceph.imageCreate(pool, `floor-burst-${i}`, { sizeBytes: SIZE }));
  }
  const lines: Line[] = [];
  console.log(
    `\nCreateSnapshot at once | p50 ms: driver   floor  ratio | p99 ms: driver   floor | a call meanwhile, p99 ms`,
  );
  for (const burst of BURSTS) {
    const [ours, least, meanwhile] = [emptySample(), emptySample(), emptySample()];
    const some = numbers.slice(0, burst);
    for (let round = 0; round <= rounds; round++) {
      const name = (i: number) => `burst-${burst}-${round}-${i}`;
      const timed = async (into: number[], call: (i: number) => Promise<unknown>) => {
        await Bun.sleep(((round * 0.618) % 1) * 2000);
        const each = async (i: number) => {
          const since = performance.now();
          await call(i);
          if (round > 0) into.push(performance.now() - since);
        };
        await Promise.all(some.map(each));
      };
      const burstOf = { over: false };
      const others = async () => {
        while (!burstOf.over) {
          const since = performance.now();
          await makeVolume(controller, request(0));
          if (round > 0) meanwhile.latencies.push(performance.now() - since);
          await Bun.sleep(20);
        }
      };
      const other = others();
      await timed(ours.latencies, (i) => askSnapshot(controller, name(i), volumes[i] ?? "", SETTINGS));
      burstOf.over = true;
      await other;
      await timed(least.latencies, (i) => run(ceph.snapshotCreate(pool, `floor-burst-${i}`, name(i))));
      const made = await Promise.all(some.map((i) => readySnapshot(controller, name(i), volumes[i] ?? "")));
      await Promise.all(made.map((id) => dropSnapshot(controller, id)));
      await Promise.all(some.map((i) => run(ceph.snapshotRemove(pool, `floor-burst-${i}`, name(i)))));
    }
    const [p50, p50Floor] = [quantile(ours, 0.5), quantile(least, 0.5)];
    console.log(
      `${column(burst, 22, 0)} | ${column(p50, 14)} ${column(p50Floor, 7)} ${column(p50 / p50Floor, 6)}` +
        ` | ${column(quantile(ours, 0.99), 14)} ${column(quantile(least, 0.99), 7)} | ${column(quantile(meanwhile, 0.99), 8)}`,
    );
    if (burst === 1) continue;
    lines.push(
      judged(`CreateSnapshot, ${burst} at once, p50 in seconds`, p50 / 1000, "at most", TARGETS.secondsInABurst),
      judged(`CreateSnapshot, ${burst} at once, p50`, p50 / p50Floor, "at most", TARGETS.ofTheFloor),
      judged(
        `a call besides ${burst} CreateSnapshot, p99 in ms`,
        quantile(meanwhile, 0.99),
        "at most",
        TARGETS.callMeanwhileMs,
      ),
    );
  }
  return lines;
};
