/**
 * What stays in the trash: images with snapshots, those that the manager was given and does not remove, and those that a person
 * takes out of there.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { CephUnexplained, TimedOut } from "../../../lib/ceph/errors.ts";
import type { PoolRef } from "../../../lib/ceph/rados.ts";
import { DRIVERS_MARKS, type DriversMark } from "../../../lib/ceph/rbd.ts";
import type { Purge } from "../../../lib/images/purge.ts";
import { crashAt, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, memoryAccess, MEMORY_KEY, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { after, purgeWithin, settle } from "../../support/purge-world.ts";
import { aCluster, seed, seedImage } from "../../support/world.ts";

const VOLUME_UUID = "b0285c97-a0ce-41eb-8c66-0242ac110002";
const OTHER_UUID = "8f2b1c44-5d0e-4c1a-9a57-3d2f6e0b7a11";
const VOLUME = `csi-vol-${VOLUME_UUID}`;
const SNAPSHOT = `csi-snap-${OTHER_UUID}`;
const COPY = `csi-vol-${OTHER_UUID}`;
const POOL: PoolRef = { access: memoryAccess, pool: "rbd", namespace: "" };

type Mark = DriversMark | "none";

/** An image with these snapshots, in the trash as a driver, or (without a mark) somebody else, moved it there -> its id. */
const trashed = async (cluster: MemoryCluster, name: string, snapshots: readonly string[], mark: Mark = "small") => {
  const id = await seedImage(cluster, name);
  const ceph = cephMemoryService(cluster);
  for (const each of snapshots) await Effect.runPromise(ceph.snapshotCreate(POOL, name, each));
  await Effect.runPromise(ceph.trashMove(POOL, name, mark === "none" ? 0 : DRIVERS_MARKS[mark]));
  return id;
};
const imageOf = (id: string, name: string, mark: Mark = "small") => ({
  pool: POOL,
  id,
  name,
  mark: mark === "none" ? undefined : mark,
});
const namesIn = (cluster: MemoryCluster) =>
  [...(cluster.namespace("rbd", "")?.trash.values() ?? [])].map(({ name }) => name);
const snapshotsIn = (cluster: MemoryCluster, id: string) =>
  cluster
    .namespace("rbd", "")
    ?.trash.get(id)
    ?.image.snapshots.map(({ name }) => name);

const inProcess = purgeWithin("4 seconds");
/** The pool is used all the time, and so looked through every ten minutes. */
const used = (purge: Purge["Service"], minutes: number) =>
  Effect.gen(function* () {
    for (let n = 0; n < minutes; n += 10) {
      yield* purge.visit(POOL);
      yield* after("10 minutes");
    }
  });
const warnings = (log: readonly string[], text: string) => log.filter((line) => line.includes(text));
const PERSONS = "not known to be a driver's";

describe("snapshots of drivers", () => {
  for (const manager of [true, false]) {
    const where = manager ? "with a manager" : "without one";
    for (const [what, name, snapshot] of [
      ["the snapshot of an image in between", `${VOLUME}-temp`, VOLUME],
      ["that of one with a prefix of its own", `team-${VOLUME_UUID}-temp`, `team-${VOLUME_UUID}`],
      [
        "the own snapshot of an image whose prefix is like that of volumes",
        `csi-vol-of-${VOLUME_UUID}`,
        `csi-vol-of-${VOLUME_UUID}`,
      ],
      ["ceph-csi's snapshot for a copy that is gone", VOLUME, `${COPY}-temp`],
    ] as const) {
      for (const mark of ["small", "large"] as const) {
        test(`${what} goes, and the image with it, ${where}, with the mark ${mark}`, async () => {
          const cluster = aCluster();
          cluster.managerUp = manager;
          await trashed(cluster, name, [snapshot], mark);
          await inProcess(cluster, (purge) => used(purge, 80));
          expect(namesIn(cluster)).toEqual([]);
          // the manager's next try ends the task
          cluster.runManager();
          expect(cluster.queued()).toEqual([]);
        });
      }
    }
  }

  test("the snapshot that the source of a CSI snapshot has left goes if the journal proves it, and the snapshot is ready", async () => {
    const cluster = aCluster();
    const entry = { "csi.snapname": "s", "csi.source": VOLUME };
    seed(cluster, { [`csi.snap.${OTHER_UUID}`]: entry });
    const id = await trashed(cluster, VOLUME, [SNAPSHOT]);
    await inProcess(cluster, (purge) =>
      Effect.gen(function* () {
        yield* used(purge, 80);
        expect(snapshotsIn(cluster, id)).toEqual([SNAPSHOT]);
        seed(cluster, { [`csi.snap.${OTHER_UUID}`]: { ...entry, "csi.imageid": "1" } });
        yield* used(purge, 80);
      }),
    );
    expect(namesIn(cluster)).toEqual([]);
  });

  test("a snapshot that an image still reads from by its name stays, and the image loses nothing", async () => {
    const cluster = aCluster();
    const ceph = cephMemoryService(cluster);
    const temp = `${VOLUME}-temp`;
    const id = await seedImage(cluster, temp);
    await Effect.runPromise(
      Effect.gen(function* () {
        yield* ceph.snapshotCreate(POOL, temp, VOLUME);
        yield* ceph.imageClone({ pool: POOL, image: temp, snapshot: VOLUME }, POOL, VOLUME, {});
        yield* ceph.trashMove(POOL, temp, DRIVERS_MARKS.small);
      }),
    );
    cluster.cutShort("child", "rbd", VOLUME);
    await inProcess(cluster, (purge, log) =>
      Effect.gen(function* () {
        yield* used(purge, 80);
        expect(warnings(log, PERSONS)).toEqual([]);
      }),
    );
    expect(snapshotsIn(cluster, id)).toEqual([VOLUME]);
    expect(cluster.image("rbd", VOLUME).lostParent).toBe(false);
  });

  for (const [what, entry, reads] of [
    ["whose copy in another pool is not finished", { "csi.volname": "pvc-2" }, false],
    ["that an image of the copy in another pool reads from, by its name", undefined, true],
  ] as const) {
    test(`a snapshot stays ${what}`, async () => {
      const cluster = aCluster({ pools: ["rbd", "other"] });
      const ceph = cephMemoryService(cluster);
      const temp = `${COPY}-temp`;
      const id = await seedImage(cluster, VOLUME);
      await Effect.runPromise(ceph.snapshotCreate(POOL, VOLUME, temp));
      if (entry !== undefined) seed(cluster, { [`csi.volume.${OTHER_UUID}`]: entry }, "other");
      if (reads) {
        const source = { pool: POOL, image: VOLUME, snapshot: temp };
        await Effect.runPromise(ceph.imageClone(source, { ...POOL, pool: "other" }, temp, {}));
        cluster.cutShort("child", "other", temp);
      }
      await Effect.runPromise(ceph.trashMove(POOL, VOLUME, DRIVERS_MARKS.small));
      await inProcess(cluster, (purge) => used(purge, 80));
      expect(snapshotsIn(cluster, id)).toEqual([temp]);
    });
  }

  test("a snapshot stays, and is named, if a copy may need it in a pool that the user may not read", async () => {
    const users = { admin: { key: MEMORY_KEY, manager: true, pools: ["rbd"] } };
    const cluster = aCluster({ pools: ["rbd", "other"], users });
    const id = await trashed(cluster, VOLUME, [`${COPY}-temp`]);
    await inProcess(cluster, (purge, log) =>
      Effect.gen(function* () {
        yield* used(purge, 80);
        expect(warnings(log, "a copy may need it that the driver cannot read")).toHaveLength(1);
      }),
    );
    expect(snapshotsIn(cluster, id)).toEqual([`${COPY}-temp`]);
  });

  test("a snapshot stays, and is named, if the image of its copy cannot be opened, because it may read from there", async () => {
    const cluster = aCluster();
    const ceph = cephMemoryService(cluster);
    const temp = `${COPY}-temp`;
    await seedImage(cluster, "source");
    const id = await Effect.runPromise(
      Effect.gen(function* () {
        yield* ceph.snapshotCreate(POOL, "source", "s");
        yield* ceph.imageClone({ pool: POOL, image: "source", snapshot: "s" }, POOL, COPY, {});
        const made = yield* ceph.imageCreate(POOL, VOLUME, { sizeBytes: 4096n });
        yield* ceph.snapshotCreate(POOL, VOLUME, temp);
        yield* ceph.trashMove(POOL, VOLUME, DRIVERS_MARKS.small);
        return made ?? "";
      }),
    );
    cluster.cutShort("child", "rbd", COPY);
    await Effect.runPromise(ceph.snapshotRemove(POOL, "source", "s"));
    await inProcess(cluster, (purge, log) =>
      Effect.gen(function* () {
        yield* used(purge, 80);
        expect(warnings(log, "a copy may need it that the driver cannot read")).toHaveLength(1);
      }),
    );
    expect(snapshotsIn(cluster, id)).toEqual([temp]);
  });

  test("they go at last, at whichever call the driver dies, and whatever it has done of that call", async () => {
    for (const moment of ["before", "after"] as const) {
      for (let k = 1; ; k++) {
        const cluster = aCluster();
        await trashed(cluster, `${VOLUME}-temp`, [VOLUME]);
        const { service, crashed } = crashAt(cephMemoryService(cluster), k, moment);
        await inProcess(cluster, (purge) => used(purge, 10), service);
        if (!crashed()) break;
        await inProcess(cluster, (purge) => used(purge, 80));
        expect([moment, k, namesIn(cluster)]).toEqual([moment, k, []]);
      }
    }
  });
});

describe("snapshots of persons", () => {
  for (const [name, mine] of [
    [VOLUME, "mine"],
    // neither the journal nor the name says that a driver took them
    [VOLUME, SNAPSHOT],
    [VOLUME, `team-${OTHER_UUID}-temp`],
    [`${VOLUME}-temp`, COPY],
    [`csi-snap-${VOLUME_UUID}`, `csi-snap-${OTHER_UUID}`],
  ] as const) {
    test(`${mine} stays on ${name}, and is named once; nobody tries to remove the image until it is gone`, async () => {
      for (const manager of [true, false]) {
        const cluster = aCluster();
        cluster.managerUp = manager;
        const id = await trashed(cluster, name, [mine]);
        const { service, calls } = recorded(cephMemoryService(cluster));
        await inProcess(
          cluster,
          (purge, log) =>
            Effect.gen(function* () {
              yield* used(purge, 120);
              expect(snapshotsIn(cluster, id)).toEqual([mine]);
              const [line, ...more] = warnings(log, PERSONS);
              expect(more).toEqual([]);
              expect(line).toContain(`rbd/${id} (${name})`);
              expect(line).toContain(`: ${mine}. `);
              expect(line).toContain(`rbd trash restore rbd/${id}`);
              expect(line).toContain(`--image-id ${id}`);
              expect(cluster.queued()).toEqual([]);
              expect(purge.pending()).toEqual([]);
              const tries = calls().filter(({ method }) => method === "trashRemove").length;
              expect(tries).toBeLessThanOrEqual(4);
              yield* cephMemoryService(cluster).trashSnapshotRemove(POOL, id, mine);
              yield* used(purge, 80);
            }),
          service,
        );
        expect(namesIn(cluster)).toEqual([]);
      }
    });
  }

  test("a person's snapshot stays when a driver's beside it goes, and the own queue of the driver goes on", async () => {
    const cluster = aCluster();
    cluster.managerUp = false;
    const id = await trashed(cluster, VOLUME, [`${COPY}-temp`, "mine"], "large");
    const other = await trashed(cluster, `team-${OTHER_UUID}`, [], "large");
    await inProcess(cluster, (purge) =>
      Effect.gen(function* () {
        yield* purge.discard([imageOf(id, VOLUME, "large")]);
        yield* purge.discard([imageOf(other, `team-${OTHER_UUID}`, "large")]);
        yield* after("10 seconds");
        expect(purge.pending()).toEqual([]);
      }),
    );
    expect(snapshotsIn(cluster, id)).toEqual(["mine"]);
    expect(namesIn(cluster)).toEqual([VOLUME]);
  });
});

describe("images that the manager was given", () => {
  test("a task that fails because of a driver's snapshot ends, also one of ceph-csi, whose image has no mark", async () => {
    for (const mark of ["none", "large"] as const) {
      const cluster = aCluster();
      const id = await trashed(cluster, `${VOLUME}-temp`, [VOLUME], mark);
      await Effect.runPromise(cephMemoryService(cluster).managerTrashRemove(POOL, id));
      await inProcess(cluster, (purge) =>
        Effect.gen(function* () {
          yield* settle;
          expect(cluster.tasks()).toMatchObject([{ image: id, failure: expect.any(String) }]);
          yield* used(purge, 10);
          expect(snapshotsIn(cluster, id)).toEqual([]);
        }),
      );
      cluster.runManager();
      expect(namesIn(cluster)).toEqual([]);
    }
  });

  test("a task that fails because of a person's snapshot is named, and an image that a person moved there and has no task is not looked at", async () => {
    const cluster = aCluster();
    const id = await trashed(cluster, VOLUME, ["mine"], "none");
    const untold = await trashed(cluster, COPY, [`${VOLUME}-temp`], "none");
    await Effect.runPromise(cephMemoryService(cluster).managerTrashRemove(POOL, id));
    const { service, calls } = recorded(cephMemoryService(cluster));
    await inProcess(
      cluster,
      (purge, log) =>
        Effect.gen(function* () {
          yield* settle;
          yield* used(purge, 180);
          expect(warnings(log, PERSONS)).toHaveLength(1);
        }),
      service,
    );
    expect(snapshotsIn(cluster, id)).toEqual(["mine"]);
    expect(snapshotsIn(cluster, untold)).toEqual([`${VOLUME}-temp`]);
    const looks = calls().filter(({ method }) => method === "trashSnapshots");
    expect(looks.every(({ subject }) => subject === `rbd/${id}`)).toBe(true);
    expect(looks).toHaveLength(3);
  });

  test("a task of an image that the journal still names is left alone", async () => {
    const cluster = aCluster();
    seed(cluster, { [`csi.volume.${VOLUME_UUID}`]: { "csi.volname": "pvc-1" } });
    const id = await trashed(cluster, VOLUME, [`${COPY}-temp`], "none");
    await Effect.runPromise(cephMemoryService(cluster).managerTrashRemove(POOL, id));
    await inProcess(cluster, (purge) => Effect.andThen(settle, used(purge, 80)));
    expect(snapshotsIn(cluster, id)).toEqual([`${COPY}-temp`]);
  });

  test("the driver removes an image itself whose task the manager has taken and not begun for an hour", async () => {
    const cluster = aCluster();
    cluster.managerHeld = true;
    const id = await trashed(cluster, VOLUME, [], "large");
    await inProcess(cluster, (purge, log) =>
      Effect.gen(function* () {
        yield* purge.discard([imageOf(id, VOLUME, "large")]);
        yield* after("5 seconds");
        expect(cluster.queued()).toEqual([id]);
        yield* used(purge, 50);
        expect(namesIn(cluster)).toEqual([VOLUME]);
        yield* used(purge, 30);
        expect(warnings(log, "it has not begun for an hour")).toHaveLength(1);
      }),
    );
    expect(namesIn(cluster)).toEqual([]);
    // a task for an image that is gone does no harm
    cluster.managerHeld = false;
    expect(cluster.runManager()).toBe(1);
  });

  test("a task that is at work, and one of an image without a mark, stay the manager's, however long they take", async () => {
    const cluster = aCluster();
    cluster.managerHeld = true;
    const [id, foreign] = [await trashed(cluster, VOLUME, [], "large"), await trashed(cluster, COPY, [], "none")];
    for (const each of [id, foreign])
      await Effect.runPromise(cephMemoryService(cluster).managerTrashRemove(POOL, each));
    cluster.setProgress(id, 0.5);
    await inProcess(cluster, (purge) => used(purge, 240));
    expect(namesIn(cluster)).toEqual([VOLUME, COPY]);
  });

  test("tasks of another namespace, and flattens, are not taken for removals of this one", async () => {
    const cluster = aCluster();
    cluster.managerHeld = true;
    const id = await trashed(cluster, VOLUME, []);
    cluster.queueTask("trash remove", "rbd", "tenant", id);
    cluster.queueTask("flatten", "rbd", "", id);
    await inProcess(cluster, (purge) => used(purge, 10));
    expect(namesIn(cluster)).toEqual([]);
  });

  test("an image without a mark that the manager fails to take three times the driver removes itself", async () => {
    const cluster = aCluster();
    const id = await trashed(cluster, VOLUME, [], "none");
    const about = { op: "rados_mgr_command", subject: "rbd" };
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "managerTrashRemove"
        ? Effect.fail(new CephUnexplained({ ...about, errno: 5, reason: "?" }))
        : act,
    );
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          for (const left of [1, 1, 0]) {
            expect(yield* Effect.flip(purge.discard([imageOf(id, VOLUME, "none")]))).toMatchObject({ errno: 5 });
            yield* settle;
            expect(namesIn(cluster)).toHaveLength(left);
          }
        }),
      ceph,
    );
  });
});

describe("images that are taken out of the trash", () => {
  /** A person does that, and the driver goes on with all that it had planned. */
  const kept = async (
    mark: DriversMark,
    again: boolean,
    manager: boolean,
    name: string,
    snapshots: readonly string[],
  ) => {
    const cluster = aCluster();
    cluster.managerUp = manager;
    const id = await trashed(cluster, name, snapshots, mark);
    let broken = true;
    const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
      const removes = ["trashRemove", "trashSnapshotRemove", "managerTrashRemove"].includes(call.method);
      return broken && removes ? Effect.fail(new TimedOut({ op: call.method, subject: call.subject })) : act;
    });
    await inProcess(
      cluster,
      (purge) =>
        Effect.gen(function* () {
          yield* purge.discard([{ ...imageOf(id, name, mark), snapshot: snapshots[0] }]);
          yield* after("10 seconds");
          cluster.restore("rbd", id);
          if (again) yield* cephMemoryService(cluster).trashMove(POOL, name);
          else yield* cephMemoryService(cluster).imageId(POOL, name);
          broken = false;
          yield* used(purge, 120);
          expect(purge.pending()).toEqual([]);
        }),
      ceph,
    );
    if (again) cluster.restore("rbd", id);
    expect(cluster.image("rbd", name).id).toBe(id);
    expect(cluster.image("rbd", name).snapshots.map((each) => each.name)).toEqual([...snapshots]);
    expect(cluster.queued()).toEqual([]);
  };

  for (const mark of ["small", "large"] as const) {
    for (const again of [false, true]) {
      const how = again ? "and moved there again" : "and stays out";
      test(`one with the mark ${mark} that a person takes out ${how} keeps its data and its snapshot`, async () => {
        for (const manager of [true, false]) {
          await kept(mark, again, manager, VOLUME, []);
          await kept(mark, again, manager, `csi-snap-${VOLUME_UUID}`, [`csi-snap-${VOLUME_UUID}`]);
        }
      });
    }
  }

  test("one that a sweep has found, and is taken out before the sweep comes to it, keeps its snapshot", async () => {
    const cluster = aCluster();
    const id = await trashed(cluster, SNAPSHOT, [SNAPSHOT]);
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "trashSnapshotRemove"
        ? Effect.andThen(
            Effect.sync(() => cluster.restore("rbd", id)),
            act,
          )
        : act,
    );
    await inProcess(cluster, (purge) => used(purge, 80), ceph);
    expect(cluster.image("rbd", SNAPSHOT).snapshots.map(({ name }) => name)).toEqual([SNAPSHOT]);
  });

  test("a new image of the same name stays as it is when the one in the trash is removed", async () => {
    const cluster = aCluster();
    await trashed(cluster, SNAPSHOT, [SNAPSHOT]);
    const fresh = await seedImage(cluster, SNAPSHOT);
    await Effect.runPromise(cephMemoryService(cluster).snapshotCreate(POOL, SNAPSHOT, SNAPSHOT));
    await inProcess(cluster, (purge) => used(purge, 10));
    expect(namesIn(cluster)).toEqual([]);
    expect(cluster.image("rbd", SNAPSHOT).id).toBe(fresh);
    expect(cluster.image("rbd", SNAPSHOT).snapshots).toHaveLength(1);
  });

  test("two drivers that remove the same images do each other no harm", async () => {
    const cluster = aCluster();
    await trashed(cluster, `${VOLUME}-temp`, [VOLUME]);
    await trashed(cluster, SNAPSHOT, [SNAPSHOT]);
    await Promise.all([1, 2].map(() => inProcess(cluster, (purge) => used(purge, 80))));
    expect(namesIn(cluster)).toEqual([]);
  });
});
