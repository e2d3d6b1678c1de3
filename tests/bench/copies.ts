/**
 * Snapshots, copies, groups and what tells of them, one call at a time, against the least that has to be asked of Ceph.
 *
 * 1. Driver and floor take turns. Before a call that waits for the monitors both pause for the same odd time, so that
 *    each meets the monitors' second between proposals at the same moments.
 * 2. What a driver does behind its answer is over before the next call begins.
 * 3. The first calls of each kind do not count: Bun compiles code that runs often, while it runs.
 */
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import { GroupController, SnapshotMetadata } from "../../lib/gen/csi_pb.ts";
import {
  askSnapshot,
  cloneRequest,
  dropSnapshot,
  dropVolume,
  makeVolume,
  readySnapshot,
  restoreRequest,
  SIZE,
  type Volume,
} from "../ceph/copies.ts";
import type { Driver } from "../ceph/driver.ts";
import { CLUSTER, createRequest, secrets } from "../ceph/requests.ts";
import { client } from "../support/grpc-client.ts";
import { emptySample, quantile, type Sample } from "./measure.ts";
import { column, judged, type Line } from "./report.ts";

/** One call of one side: `call` is timed, what is around it is not. `i`: which one of its kind. */
export interface Turn {
  readonly before?: (i: number) => Promise<unknown>;
  readonly call: (i: number) => Promise<unknown>;
  readonly after?: (i: number) => Promise<unknown>;
}

/** In the order in which they run: what one makes, later ones use. `wanted`: of the p50, as a multiple of the floor's. */
const CASES = {
  snapshot: { what: "CreateSnapshot", pauses: true, wanted: 1.15 },
  restore: { what: "CreateVolume, of a snapshot", pauses: false, wanted: 1.5 },
  clone: { what: "CreateVolume, of a volume", pauses: true, wanted: 1.15 },
  getVolume: { what: "ControllerGetVolume", pauses: false, wanted: undefined },
  getSnapshot: { what: "GetSnapshot", pauses: false, wanted: undefined },
  capacity: { what: "GetCapacity", pauses: false, wanted: undefined },
  allocated: { what: "GetMetadataAllocated", pauses: false, wanted: undefined },
  delta: { what: "GetMetadataDelta", pauses: false, wanted: undefined },
  dropRestore: { what: "DeleteVolume, a restore", pauses: false, wanted: undefined },
  dropClone: { what: "DeleteVolume, a clone", pauses: true, wanted: undefined },
  dropSnapshot: { what: "DeleteSnapshot", pauses: true, wanted: undefined },
  group: { what: "CreateVolumeGroupSnapshot", pauses: true, wanted: undefined },
  getGroup: { what: "GetVolumeGroupSnapshot", pauses: false, wanted: undefined },
  dropGroup: { what: "DeleteVolumeGroupSnapshot", pauses: true, wanted: undefined },
} as const;
export type Name = keyof typeof CASES;
export type Turns = Readonly<Record<Name, Turn>>;

const SETTINGS = { timeoutMs: 60_000 };
const MEMBERS = [0, 1];

export const copies = async (
  driver: Driver,
  ceph: CephCalls,
  pool: PoolRef,
  rounds: number,
): Promise<readonly Line[]> => {
  const { turns: ours, close } = await driverTurns(driver, pool.pool);
  const least = await floorTurns(ceph, pool);
  const lines: Line[] = [];
  console.log(`\n${"".padEnd(28)} | p50 ms: driver   floor  ratio`);
  try {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the names of the table above, and no others
    for (const name of Object.keys(CASES) as Name[]) {
      const { what, pauses, wanted } = CASES[name];
      const [sample, sampleFloor] = [emptySample(), emptySample()];
      const cold = pauses ? 1 : rounds;
      for (let i = 0; i < cold + rounds; i++) {
        const sides: readonly (readonly [Turn, Sample])[] = [
          [ours[name], i < cold ? emptySample() : sample],
          [least[name], i < cold ? emptySample() : sampleFloor],
        ];
        for (const [turn, into] of i % 2 === 0 ? sides : sides.toReversed()) {
          await turn.before?.(i);
          if (pauses) await Bun.sleep(pauseOf(i));
          const since = performance.now();
          await turn.call(i);
          into.latencies.push(performance.now() - since);
          await turn.after?.(i);
        }
      }
      const [p50, p50Floor] = [quantile(sample, 0.5), quantile(sampleFloor, 0.5)];
      const ratio = p50 / p50Floor;
      console.log(`${what.padEnd(28)} | ${column(p50, 14)} ${column(p50Floor, 7)} ${column(ratio, 6)}`);
      if (wanted !== undefined) lines.push(judged(`${what}, p50`, ratio, "at most", wanted));
    }
  } finally {
    close();
  }
  return lines;
};

/** Spread evenly over two of the monitors' intervals, in an order that hits no pattern. */
const pauseOf = (i: number): number => ((i * 0.618) % 1) * 2000;

/** Waits for a stream's end. */
const drain = async (stream: AsyncIterable<unknown>): Promise<void> => {
  for await (const _ of stream);
};

/** `close` ends its connections. */
export const driverTurns = async (
  { controller, socket }: Driver,
  pool: string,
): Promise<{ readonly turns: Turns; readonly close: () => void }> => {
  const endpoint = `unix://${socket}`;
  const groups = client(GroupController, endpoint);
  const blocks = client(SnapshotMetadata, endpoint);
  const plain = (name: string) => makeVolume(controller, createRequest(name, { pool }, SIZE));
  const source = await plain("bench-source");
  const members = await Promise.all(MEMBERS.map((i) => plain(`bench-member-${i}`)));
  const snapshots = new Map<number, string>();
  const restores = new Map<number, Volume>();
  const clones = new Map<number, Volume>();
  const groupIds = new Map<number, { readonly id: string; readonly snapshotIds: readonly string[] }>();
  const at = <A>(items: ReadonlyMap<number, A>, i: number): A => {
    const found = items.get(i);
    if (found === undefined) throw new Error(`nothing was made in round ${i}`);
    return found;
  };
  const grouping = (i: number) => ({
    name: `bench-group-${i}`,
    sourceVolumeIds: members.map(({ id }) => id),
    parameters: { clusterID: CLUSTER, pool },
    secrets: secrets(),
  });
  const turns: Turns = {
    snapshot: {
      call: (i) => askSnapshot(controller, `bench-snap-${i}`, source.id, SETTINGS),
      after: async (i) => snapshots.set(i, await readySnapshot(controller, `bench-snap-${i}`, source.id)),
    },
    restore: {
      call: async (i) =>
        restores.set(
          i,
          await makeVolume(controller, restoreRequest(`bench-restore-${i}`, pool, at(snapshots, 0)), SETTINGS),
        ),
    },
    clone: {
      call: async (i) =>
        clones.set(i, await makeVolume(controller, cloneRequest(`bench-clone-${i}`, pool, source.id), SETTINGS)),
    },
    getVolume: { call: () => controller.controllerGetVolume({ volumeId: source.id }, SETTINGS) },
    getSnapshot: {
      call: () => controller.getSnapshot({ snapshotId: at(snapshots, 0), secrets: secrets() }, SETTINGS),
    },
    capacity: { call: () => controller.getCapacity({ parameters: { clusterID: CLUSTER, pool } }, SETTINGS) },
    allocated: {
      call: () => drain(blocks.getMetadataAllocated({ snapshotId: at(snapshots, 0), secrets: secrets() }, SETTINGS)),
    },
    delta: {
      call: () =>
        drain(
          blocks.getMetadataDelta(
            { baseSnapshotId: at(snapshots, 0), targetSnapshotId: at(snapshots, 1), secrets: secrets() },
            SETTINGS,
          ),
        ),
    },
    dropRestore: { call: (i) => dropVolume(controller, at(restores, i)) },
    dropClone: { call: (i) => dropVolume(controller, at(clones, i)) },
    dropSnapshot: { call: (i) => dropSnapshot(controller, at(snapshots, i)) },
    group: {
      call: (i) => groups.createVolumeGroupSnapshot(grouping(i), SETTINGS),
      after: async (i) => {
        for (;;) {
          const { groupSnapshot: made } = await groups.createVolumeGroupSnapshot(grouping(i), SETTINGS);
          if (made?.readyToUse !== true) continue;
          groupIds.set(i, {
            id: made.groupSnapshotId,
            snapshotIds: made.snapshots.map(({ snapshotId }) => snapshotId),
          });
          return;
        }
      },
    },
    getGroup: {
      call: () => {
        const { id, snapshotIds } = at(groupIds, 0);
        return groups.getVolumeGroupSnapshot(
          { groupSnapshotId: id, snapshotIds: [...snapshotIds], secrets: secrets() },
          SETTINGS,
        );
      },
    },
    dropGroup: {
      call: (i) => {
        const { id, snapshotIds } = at(groupIds, i);
        return groups.deleteVolumeGroupSnapshot(
          { groupSnapshotId: id, snapshotIds: [...snapshotIds], secrets: secrets() },
          SETTINGS,
        );
      },
    },
  };
  const close = () => {
    groups.close();
    blocks.close();
  };
  return { turns, close };
};

/** The same effects with nothing looked at twice: see ./sides.ts. */
export const floorTurns = async (ceph: CephCalls, pool: PoolRef): Promise<Turns> => {
  const run = <A>(effect: Effect.Effect<A, unknown>): Promise<A> => Effect.runPromise(effect);
  const recipe =
    (make: (i: number) => Effect.Effect<unknown, unknown>) =>
    (i: number): Promise<unknown> =>
      run(make(i));
  const directory = "csi.floor";
  const key = (what: string, i: number) => `csi.${what}.${i}`;
  const spec = { sizeBytes: SIZE };
  const source = { pool, image: "floor-source" };
  const holder = (i: number) => `floor-holder-${i}`;
  const members = MEMBERS.map((i) => `floor-member-${i}`);
  const memberHolder = (i: number, member: string) => `${member}-holder-${i}`;
  const group = (i: number) => `floor-group-${i}`;

  const read = (object: string, name: string) => ceph.omapGet(pool, object, [name]);
  const named = (what: string, i: number) =>
    Effect.andThen(
      read(directory, key(what, i)),
      Effect.andThen(
        ceph.omapWrite(pool, directory, { object: "ensure", set: { [key(what, i)]: "x" } }),
        ceph.omapWrite(pool, key(what, i), { object: "ensure", set: { name: "x" } }),
      ),
    );
  const committed = (what: string, i: number, image: string) =>
    Effect.flatMap(ceph.imageId(pool, image), (id) =>
      ceph.omapWrite(pool, key(what, i), { object: "require", set: { id: id ?? "" } }),
    );
  const forgotten = (what: string, i: number) =>
    Effect.andThen(
      ceph.omapWrite(pool, directory, { object: "ensure", remove: [key(what, i)] }),
      ceph.objectRemove(pool, key(what, i)),
    );
  const discarded = (image: string, snapshots: readonly string[] = []) =>
    Effect.gen(function* () {
      const { id } = yield* ceph.imageStatus(pool, image);
      for (const name of snapshots) yield* ceph.snapshotRemove(pool, image, name);
      yield* ceph.trashMove(pool, image);
      // behind the answer, as the driver does
      yield* Effect.sync(() => void Effect.runFork(ceph.trashRemove(pool, id)));
    });
  const through = (from: string, snapshot: string, to: string) =>
    Effect.gen(function* () {
      yield* ceph.snapshotCreate(pool, from, snapshot);
      yield* ceph.imageClone({ pool, image: from, snapshot }, pool, to, {});
      yield* ceph.snapshotRemove(pool, from, snapshot);
    });
  /** What restores are made of: a copy with a snapshot of its own. */
  const kept = (from: string, name: string) =>
    Effect.andThen(through(from, name, name), ceph.snapshotCreate(pool, name, name));
  const held = { pool, image: "floor-held", snapshot: "floor-held" };

  await run(ceph.imageCreate(pool, source.image, spec));
  await run(kept(source.image, held.image));
  for (const member of members) await run(ceph.imageCreate(pool, member, spec));

  return {
    // what has to come before an answer: one point in time
    snapshot: { call: recipe((i) => ceph.snapshotCreate(pool, source.image, `floor-${i}`)) },
    restore: {
      call: recipe((i) =>
        Effect.gen(function* () {
          yield* read("csi.snaps.floor", key("snap", 0));
          yield* named("restore", i);
          yield* ceph.imageClone(held, pool, `floor-restore-${i}`, {});
          yield* committed("restore", i, `floor-restore-${i}`);
        }),
      ),
    },
    // as of a snapshot: one point in time; what else a copy needs comes after it
    clone: {
      call: recipe((i) => ceph.snapshotCreate(pool, source.image, `floor-clone-${i}`)),
      after: recipe((i) =>
        Effect.gen(function* () {
          yield* named("clone", i);
          const snapshot = `floor-clone-${i}`;
          yield* ceph.imageClone({ ...source, snapshot }, pool, snapshot, {});
          yield* ceph.snapshotRemove(pool, source.image, snapshot);
          yield* committed("clone", i, snapshot);
        }),
      ),
    },
    getVolume: {
      call: recipe(() =>
        Effect.all([
          read(directory, "x"),
          ceph.imageStatus(pool, source.image),
          ceph.poolSpace(pool.access, pool.pool),
        ]),
      ),
    },
    getSnapshot: {
      call: recipe(() => Effect.all([read(directory, "x"), ceph.imageBriefs(pool, [source.image], [])])),
    },
    capacity: { call: recipe(() => ceph.poolSpace(pool.access, pool.pool)) },
    allocated: {
      call: recipe(() =>
        Effect.all([read(directory, "x"), ceph.imageStatus(pool, held.image), ceph.diff(held, undefined, 0n, 256)]),
      ),
    },
    delta: {
      call: recipe(() =>
        Effect.all([
          read(directory, "x"),
          read(directory, "y"),
          ceph.imageStatus(pool, source.image),
          ceph.diff({ ...source, snapshot: "floor-1" }, "floor-0", 0n, 256),
        ]),
      ),
    },
    dropRestore: {
      call: recipe((i) =>
        Effect.all([read(key("restore", i), "name"), discarded(`floor-restore-${i}`), forgotten("restore", i)]),
      ),
    },
    dropClone: {
      call: recipe((i) =>
        Effect.all([read(key("clone", i), "name"), discarded(`floor-clone-${i}`), forgotten("clone", i)]),
      ),
    },
    dropSnapshot: {
      before: recipe((i) => kept(source.image, holder(i))),
      call: recipe((i) =>
        Effect.all([read(key("snap", i), "name"), discarded(holder(i), [holder(i)]), forgotten("snap", i)]),
      ),
    },
    group: {
      call: recipe((i) =>
        Effect.gen(function* () {
          yield* named("group", i);
          yield* ceph.groupCreate(pool, group(i));
          for (const image of members) yield* ceph.groupAdd(pool, group(i), { pool, image });
          yield* ceph.groupSnapshotCreate(pool, group(i), group(i));
        }),
      ),
      after: recipe((i) =>
        Effect.gen(function* () {
          // its snapshots go with it
          yield* ceph.groupRemove(pool, group(i));
          for (const member of members) yield* kept(member, memberHolder(i, member));
        }),
      ),
    },
    getGroup: {
      call: recipe(() =>
        Effect.all([
          read(directory, key("group", 0)),
          ...members.map((member) => read(key("member", 0), member)),
          ...members.map((member) => ceph.imageStatus(pool, member)),
        ]),
      ),
    },
    dropGroup: {
      call: recipe((i) =>
        Effect.gen(function* () {
          yield* read(directory, key("group", i));
          for (const member of members) yield* discarded(memberHolder(i, member), [memberHolder(i, member)]);
          yield* forgotten("group", i);
        }),
      ),
    },
  };
};
