/**
 * How soon the space of deleted volumes is back: from the first DeleteVolume until the trash is empty, beside the time
 * that the manager alone takes for as many images of the same size, and without a manager.
 *
 * The images hold no data: whoever removes one asks for each of its 256 objects all the same.
 */
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import type { Driver } from "../ceph/driver.ts";
import type { CephCluster } from "../rig/ceph.ts";
import { emptySample, timed } from "./measure.ts";
import { column, judged, type Line } from "./report.ts";
import { BY_LIBRBD, drained, driverSide, type Side } from "./sides.ts";

const TARGETS = {
  /** Of the manager's own time. */
  overManager: 2,
  /** With the manager stopped, for 1,000 volumes. */
  aloneSeconds: 60,
};
type Removing = Pick<Side, "pid" | "create" | "delete">;

const MANY = 16;
/** The manager removes some images per second. */
const LIMIT_MS = 900_000;

/** Images without a journal, whose removal is queued at the manager. */
const managerSide = (ceph: CephCalls, pool: PoolRef): Removing => ({
  pid: process.pid,
  create: async (name) => void (await Effect.runPromise(ceph.imageCreate(pool, name, BY_LIBRBD))),
  delete: (name) =>
    Effect.gen(function* () {
      const { id } = yield* ceph.imageStatus(pool, name);
      yield* ceph.trashMove(pool, name);
      yield* ceph.managerTrashRemove(pool, id);
    }).pipe(Effect.runPromise),
});

export const space = async (
  driver: Driver,
  ceph: CephCalls,
  pool: PoolRef,
  { cluster, volumes }: { readonly cluster: Pick<CephCluster, "stopMgr" | "startMgr">; readonly volumes: number },
): Promise<readonly Line[]> => {
  const ours = driverSide(driver, pool.pool);
  const secondsOf = async (side: Removing, name: string): Promise<number> => {
    const names = Array.from({ length: volumes }, (_, n) => `${name}-${n}`);
    const many = { atOnce: MANY, pid: side.pid };
    await timed(emptySample(), names, many, side.create);
    const since = performance.now();
    await timed(emptySample(), names, many, side.delete);
    const answered = performance.now() - since;
    await drained(ceph, pool, LIMIT_MS);
    const all = performance.now() - since;
    console.log(
      `space of ${volumes} volumes, ${name.padEnd(16)}: answered after ${column(answered / 1000, 6)} s, back after ${column(all / 1000, 6)} s`,
    );
    return all / 1000;
  };
  console.log("");
  const manager = await secondsOf(managerSide(ceph, pool), "manager alone");
  const driven = await secondsOf(ours, "driver");
  await cluster.stopMgr();
  const alone = await secondsOf(ours, "without manager");
  await cluster.startMgr();
  return [
    judged(`space of ${volumes} volumes, over the manager's time`, driven / manager, "at most", TARGETS.overManager),
    judged(`space of ${volumes} volumes without a manager, seconds`, alone, "at most", TARGETS.aloneSeconds),
  ];
};
