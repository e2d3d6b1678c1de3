/**
 * What the driver costs over what Ceph itself costs (`npm run bench`), RPC by RPC, against a floor in the same run.
 *
 *   npm run bench                            all parts
 *   npm run bench -- volumes copies          some
 *   npm run bench -- --quick                 fewer rounds and volumes
 *   npm run bench -- --strict                exit status 1 when a target is missed
 *   DRIVER=dist/csi-rbd npm run bench        the executable that `npm run build` makes, which the memory's targets are for
 *
 * The cluster is one of its own, with the monitors' usual second between proposals.
 */
import { mkdirSync, rmSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import { FLAGS } from "../../lib/config/flag-table.ts";
import { type Driver, startDriver, writeConfig, writeSecrets } from "../ceph/driver.ts";
import { CLUSTER } from "../ceph/requests.ts";
import { type CephCluster, startCeph } from "../rig/ceph.ts";
import { temporaryFolder } from "../rig/folder.ts";
import { copies } from "./copies.ts";
import { pages, pagesInMemory } from "./lists.ts";
import type { Line } from "./report.ts";
import { floorCeph } from "./sides.ts";
import { snapshots } from "./snapshots.ts";
import { starts } from "./start.ts";
import { telemetry } from "./telemetry.ts";
import { memory, volumes } from "./volumes.ts";

const QUICK = process.argv.includes("--quick");
/** The driver's own default, for both sides. */
const CELLS = Number(FLAGS.cells.fallback);

interface Place {
  readonly driver: Driver;
  readonly ceph: CephCalls;
  readonly pool: PoolRef;
}

const parts: Readonly<Record<string, (place: Place) => Promise<readonly Line[]>>> = {
  volumes: ({ driver, ceph, pool }) =>
    volumes(driver, ceph, pool, {
      warmUp: QUICK ? 256 : 1024,
      loads: [
        { atOnce: 1, rounds: QUICK ? 3 : 12, volumes: 10 },
        { atOnce: 16, rounds: QUICK ? 2 : 8, volumes: 64 },
        { atOnce: 64, rounds: QUICK ? 1 : 4, volumes: 128 },
      ],
    }),
  copies: ({ driver, ceph, pool }) => copies(driver, ceph, pool, QUICK ? 5 : 16),
  snapshots: ({ driver, ceph, pool }) => snapshots(driver, ceph, pool, QUICK ? 4 : 12),
  lists: async ({ driver, ceph, pool }) => [
    ...(await pages(driver, ceph, pool, { volumes: 2000, rounds: QUICK ? 2 : 8 })),
    ...(await pagesInMemory(20_000)),
  ],
  memory: ({ driver, pool }) =>
    memory(driver, pool.pool, QUICK ? { count: 500, warmUp: 500 } : { count: 10_000, warmUp: 5000 }),
  telemetry: () => telemetry(QUICK ? 50 : 300),
  start: () => starts(QUICK ? 5 : 15),
};

const asked = process.argv.slice(2).filter((arg) => !arg.startsWith("-"));
const unknown = asked.find((name) => !(name in parts));
if (unknown !== undefined) {
  console.error(`no part named ${unknown}: write ${Object.keys(parts).join(", ")} or nothing for all`);
  process.exit(2);
}

const work = temporaryFolder("csi-bench-");

/** A driver and a pool of its own for each part: none inherits another's heap, or lists its volumes. */
const measured = (name: string, cluster: CephCluster) =>
  Effect.gen(function* () {
    const dir = join(work, name);
    mkdirSync(dir);
    writeConfig(dir, [{ clusterID: CLUSTER, monitors: cluster.monitors }]);
    const { monitors, adminKey } = cluster;
    // what the driver lists with: no request brings credentials for that
    const listing = { userID: "admin", userKey: adminKey, pools: `bench-${name}` };
    writeSecrets(join(dir, "secrets"), CLUSTER, listing);
    const driver = yield* Effect.acquireRelease(
      Effect.promise(() => startDriver({ dir, flags: [`--secrets-dir=${join(dir, "secrets")}`] })),
      (started) => Effect.promise(() => started.end()),
    );
    const ceph = yield* floorCeph(CELLS, join(work, "no-ceph.conf"));
    const access = { monitors, user: "admin", key: Redacted.make(adminKey) };
    const pool: PoolRef = { access, pool: `bench-${name}`, namespace: "" };
    yield* Effect.promise(() => cluster.createPool(pool.pool));
    return yield* Effect.promise(() => parts[name]?.({ driver, ceph, pool }) ?? Promise.resolve([]));
  }).pipe(Effect.scoped);

const main = Effect.gen(function* () {
  const cluster = yield* Effect.acquireRelease(
    Effect.promise(() => startCeph({ dir: join(work, "ceph") })),
    (started) => Effect.promise(() => started.stop()),
  );
  // driver.ts and requests.ts find the cluster where tests find it
  process.env["CSI_RBD_RIG"] = cluster.rigFile;
  console.log(
    `Ceph ${cluster.release}, one OSD on bluestore; ${cpus().length} CPUs (${cpus()[0]?.model ?? "?"}); ${CELLS} cells`,
  );
  const names = Object.keys(parts).filter((name) => asked.length === 0 || asked.includes(name));
  return yield* Effect.forEach(names, (name) => measured(name, cluster));
}).pipe(Effect.scoped);

const results = (await Effect.runPromise(main)).flat();
console.log("");
for (const { what } of results) console.log(what);
rmSync(work, { recursive: true, force: true });
process.exit(process.argv.includes("--strict") && results.some(({ ok }) => !ok) ? 1 : 0);
