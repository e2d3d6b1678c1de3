/**
 * Deletions of copies and snapshots, sixteen at once, against the least that has to be asked of Ceph. Those of plain
 * volumes are in ./volumes.ts.
 *
 * 1. Driver and floor take turns in short rounds, and each begins every other one. Nothing of a round is left when the next
 *    begins, also what goes on behind the answers.
 * 2. Each is to do three times as many in a second as ceph-csi 3.8.1. That one opens the image four times, with its parents (to find
 *    it, to see whether it is mirrored, whether it is used, and to move it), and the floor once; the rest is the same. So
 *    where opening takes the share `o` of the floor's time, ceph-csi has 1 / (1 + 3 o) of the floor's rate, and three times that is
 *    wanted. `o` is measured in the same rounds. For plain volumes it is a half, which gives the 1.2 of ./volumes.ts.
 */
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import type { Driver } from "../ceph/driver.ts";
import { driverTurns, floorTurns, type Name, type Turns } from "./copies.ts";
import { emptySample, perSecond, quantile, type Sample, timed } from "./measure.ts";
import { column, judged, type Line } from "./report.ts";
import { drained } from "./sides.ts";

const AT_ONCE = 16;
/** Openings of the image by ceph-csi beyond the floor's, and how many times as fast the driver is to be. */
const MORE_OPENINGS = 3;
const TIMES = 3;

interface Kind {
  readonly what: string;
  /** In a round. The last clone of a snapshot leaves it to the monitors, which take a second for each, one after another. */
  readonly count: number;
  readonly make: Name;
  readonly drop: Name;
  /** Begins the name of the floor's image. */
  readonly image: string;
}

const KINDS: readonly Kind[] = [
  { what: "DeleteVolume, restores", count: 64, make: "restore", drop: "dropRestore", image: "floor-restore-" },
  { what: "DeleteVolume, clones", count: AT_ONCE, make: "clone", drop: "dropClone", image: "floor-clone-" },
  { what: "DeleteSnapshot", count: AT_ONCE, make: "snapshot", drop: "dropSnapshot", image: "floor-holder-" },
];

export const deletions = async (
  driver: Driver,
  ceph: CephCalls,
  pool: PoolRef,
  rounds: number,
): Promise<readonly Line[]> => {
  const { turns: ours, close } = await driverTurns(driver, pool.pool);
  const least = await floorTurns(ceph, pool);
  const pids = { ours: driver.pid, least: process.pid };
  const lines: Line[] = [];
  // what restores are made of, and stays
  for (const { snapshot } of [ours, least]) {
    await snapshot.call(0);
    await snapshot.after?.(0);
  }
  let serial = 0;
  const round = async (
    turns: Turns,
    pid: number,
    { count, make, drop, image }: Kind,
    sample: Sample,
    opened?: Sample,
  ) => {
    const items = Array.from({ length: count }, () => (serial += 1));
    const load = { atOnce: AT_ONCE, pid };
    await timed(emptySample(), items, load, async (i) => {
      await turns[make].call(i);
      await turns[make].after?.(i);
      await turns[drop].before?.(i);
    });
    if (opened !== undefined) {
      const open = (i: number) => Effect.runPromise(ceph.imageStatus(pool, `${image}${i}`));
      await timed(opened, items, load, async (i) => void (await open(i)));
    }
    await timed(sample, items, load, async (i) => void (await turns[drop].call(i)));
    await drained(ceph, pool);
  };
  console.log(`\n${"16 at once".padEnd(24)} | p50 ms: driver   floor | per s: driver   floor  ratio`);
  try {
    for (const kind of KINDS) {
      const [sample, sampleFloor, opened] = [emptySample(), emptySample(), emptySample()];
      for (let i = 0; i <= rounds; i++) {
        const sides = [
          () => round(ours, pids.ours, kind, i === 0 ? emptySample() : sample),
          () => round(least, pids.least, kind, i === 0 ? emptySample() : sampleFloor, i === 0 ? emptySample() : opened),
        ];
        for (const side of i % 2 === 0 ? sides : sides.toReversed()) await side();
      }
      const [rate, rateFloor] = [perSecond(sample), perSecond(sampleFloor)];
      console.log(
        `${kind.what.padEnd(24)} | ${column(quantile(sample, 0.5), 14)} ${column(quantile(sampleFloor, 0.5), 7)}` +
          ` | ${column(rate, 13)} ${column(rateFloor, 7)} ${column(rate / rateFloor, 6)}`,
      );
      const share = rateFloor / perSecond(opened);
      const wanted = Number((TIMES / (1 + MORE_OPENINGS * share)).toFixed(2));
      lines.push(judged(`${kind.what}, per second at 16`, rate / rateFloor, "at least", wanted));
    }
  } finally {
    close();
  }
  return lines;
};
