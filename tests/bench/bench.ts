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
import { controlPlaneLacks } from "../rig/kubernetes/control-plane.ts";
import { sidecarsLack } from "../rig/kubernetes/sidecars.ts";
import { attacher } from "./attacher.ts";
import { copies } from "./copies.ts";
import { deletions } from "./deletions.ts";
import { pages, pagesInMemory } from "./lists.ts";
import { node } from "./node.ts";
import type { Line } from "./report.ts";
import { floorCeph } from "./sides.ts";
import { snapshots } from "./snapshots.ts";
import { space } from "./space.ts";
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
  readonly cluster: CephCluster;
}

type Part = (place: Place) => Promise<readonly Line[]>;

const onCeph: Readonly<Record<string, Part>> = {
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
  deletions: ({ driver, ceph, pool }) => deletions(driver, ceph, pool, QUICK ? 2 : 6),
  snapshots: ({ driver, ceph, pool }) => snapshots(driver, ceph, pool, QUICK ? 4 : 12),
  space: ({ driver, ceph, pool, cluster }) => space(driver, ceph, pool, { cluster, volumes: QUICK ? 100 : 1000 }),
  lists: async ({ driver, ceph, pool }) => [
    ...(await pages(driver, ceph, pool, { volumes: 2000, rounds: QUICK ? 2 : 8 })),
    ...(await pagesInMemory(20_000)),
  ],
  node: ({ cluster }) => node(cluster, QUICK ? 1 : 4),
  memory: ({ driver, pool }) =>
    memory(driver, pool.pool, QUICK ? { count: 500, warmUp: 500 } : { count: 10_000, warmUp: 5000 }),
};

/** What the memory's targets are for is controller and node in one process. */
const FLAGS_OF: Readonly<Record<string, readonly string[]>> = { memory: ["--nodeserver=true"] };

/** These ask no Ceph. */
const alone: Readonly<Record<string, () => Promise<readonly Line[]>>> = {
  telemetry: () => telemetry(QUICK ? 50 : 300),
  start: () => starts(QUICK ? 5 : 15),
  attacher: async () => {
    const lacks = controlPlaneLacks() ?? sidecarsLack();
    if (lacks !== undefined) return [{ what: `FAIL  attacher: not measured: ${lacks}`, ok: false }];
    const load = QUICK ? { atOnce: 200, rounds: 1, attached: 1000 } : { atOnce: 1000, rounds: 3, attached: 10_000 };
    return attacher(work, load);
  },
};

const asked = process.argv.slice(2).filter((arg) => !arg.startsWith("-"));
const chosen = (parts: object) => Object.keys(parts).filter((name) => asked.length === 0 || asked.includes(name));
const names = Object.keys({ ...onCeph, ...alone });
const unknown = asked.find((name) => !names.includes(name));
if (unknown !== undefined) {
  console.error(`no part named ${unknown}: write ${names.join(", ")} or nothing for all`);
  process.exit(2);
}

const work = temporaryFolder("csi-bench-");

/** A driver and a pool of its own for each part on Ceph: none inherits another's heap, or lists its volumes. */
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
      Effect.promise(() =>
        startDriver({ dir, flags: [`--secrets-dir=${join(dir, "secrets")}`, ...(FLAGS_OF[name] ?? [])] }),
      ),
      (started) => Effect.promise(() => started.end()),
    );
    const ceph = yield* floorCeph(CELLS, join(work, "no-ceph.conf"));
    const access = { monitors, user: "admin", key: Redacted.make(adminKey) };
    const pool: PoolRef = { access, pool: `bench-${name}`, namespace: "" };
    yield* Effect.promise(() => cluster.createPool(pool.pool));
    return yield* Effect.promise(() => onCeph[name]?.({ driver, ceph, pool, cluster }) ?? Promise.resolve([]));
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
  return yield* Effect.forEach(chosen(onCeph), (name) => measured(name, cluster));
}).pipe(Effect.scoped);

const results = chosen(onCeph).length === 0 ? [] : (await Effect.runPromise(main)).flat();
for (const name of chosen(alone)) results.push(...((await alone[name]?.()) ?? []));
console.log("");
for (const { what } of results) console.log(what);
rmSync(work, { recursive: true, force: true });
process.exit(process.argv.includes("--strict") && results.some(({ ok }) => !ok) ? 1 : 0);
