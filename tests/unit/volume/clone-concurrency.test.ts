/** Snapshots and copies, many at once, from one driver and from two: who waits for whom, and what is left in the end. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { Busy } from "../../../lib/ceph/errors.ts";
import { held, intercepted, latency, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { NOT_FINAL } from "../../support/host-faults.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aSource,
  aVolume,
  cloneOf,
  EMPTY_DIRECTORIES,
  holderOf,
  imageOf,
  MIB_4,
  POOL,
  read,
  readySnapshot,
  restoreOf,
  settled,
  snapshotDeletion,
  snapshotOf,
} from "../../support/copies-world.ts";
import {
  aCluster,
  creation,
  deletion,
  eventually,
  failureOf,
  PARAMETERS,
  poolDump,
  uuidOf,
  waitsFor,
  codeOf,
} from "../../support/world.ts";

describe("one driver", () => {
  test("DeleteSnapshot waits for the restores of the snapshot that run, and then deletes it", async () => {
    const { cluster, snapshotId, data } = await aSource();
    const { ceph, letGo, waiting } = held(cephMemoryService(cluster), "imageClone");
    await using driver = aDriver(cluster, { ceph });
    const names = ["a", "b", "c"];
    const restores = names.map((name) => driver.createVolume(restoreOf(snapshotId, { name })));
    await eventually(() => waiting() === 3, "three restores at work");
    const deleted = driver.deleteSnapshot(snapshotDeletion(snapshotId));
    const line = await waitsFor(driver, `snapshot ${snapshotId}`);
    expect(line.holders).toHaveLength(3);
    expect(Object.keys(poolDump(cluster).images)).toContain(holderOf(snapshotId));
    letGo();
    await deleted;
    for (const { volume } of await Promise.all(restores)) {
      expect(read(cluster, imageOf(volume.volumeId))).toEqual(data);
    }
    expect(Object.keys(poolDump(cluster).images)).not.toContain(holderOf(snapshotId));
  });

  test("a DeleteSnapshot that waits too long answers ABORTED and names the restore that it waits for", async () => {
    const { cluster, snapshotId } = await aSource();
    const { ceph, letGo, waiting } = held(cephMemoryService(cluster), "imageClone");
    await using driver = aDriver(cluster, { ceph });
    const restored = driver.createVolume(restoreOf(snapshotId));
    await eventually(() => waiting() === 1, "a restore at work");
    const failure = await failureOf(driver.deleteSnapshot(snapshotDeletion(snapshotId), "1 seconds"));
    expect(failure).toMatchObject({
      code: "ABORTED",
      message: expect.stringMatching(/is busy: CreateVolume of pvc-copy has been running for .* \(stage "clone"\)/),
    });
    letGo();
    await restored;
  });

  test("DeleteVolume waits for the clones of the volume that run, and then deletes it", async () => {
    const { cluster, volumeId, data } = await aSource();
    const { ceph, letGo, waiting } = held(cephMemoryService(cluster), "snapshotCreate");
    await using driver = aDriver(cluster, { ceph });
    const cloned = driver.createVolume(cloneOf(volumeId));
    await eventually(() => waiting() === 1, "a clone at work");
    const deleted = driver.deleteVolume(deletion(volumeId));
    await waitsFor(driver, `volume ${volumeId}`);
    expect(Object.keys(poolDump(cluster).images)).toContain(imageOf(volumeId));
    letGo();
    await deleted;
    expect(read(cluster, imageOf((await cloned).volume.volumeId))).toEqual(data);
  });

  test("snapshots and clones of one volume, and restores of its snapshot, run side by side", async () => {
    const { cluster, volumeId, snapshotId, data } = await aSource();
    const { ceph, letGo, waiting } = held(cephMemoryService(cluster), "imageClone");
    await using driver = aDriver(cluster, { ceph });
    const all = [
      driver.createSnapshot(snapshotOf(volumeId)),
      driver.createSnapshot(snapshotOf(volumeId, { name: "snap-2" })),
      driver.createVolume(cloneOf(volumeId, { name: "a" })),
      driver.createVolume(cloneOf(volumeId, { name: "b" })),
      driver.createVolume(restoreOf(snapshotId, { name: "c" })),
    ];
    await eventually(() => waiting() === 5, "all five at work");
    letGo();
    await Promise.all(all);
    const images = Object.keys(poolDump(cluster).images);
    for (const image of images) expect(read(cluster, image)).toEqual(data);
  });

  test("16 equal CreateVolume requests with a source make one copy, and run once", async () => {
    const { cluster, snapshotId, volumeId } = await aSource();
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    for (const request of [restoreOf(snapshotId), cloneOf(volumeId, { name: "pvc-clone" })]) {
      const answers = await Promise.all(Array.from({ length: 16 }, () => driver.createVolume(request)));
      expect(new Set(answers.map(({ volume }) => volume.volumeId)).size).toBe(1);
    }
    expect(calls().filter(({ method }) => method === "imageClone")).toHaveLength(2);
  });

  test("16 equal CreateSnapshot requests make one snapshot, and run once", async () => {
    const { cluster, volumeId } = await aSource();
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    const answers = await Promise.all(Array.from({ length: 16 }, () => driver.createSnapshot(snapshotOf(volumeId))));
    expect(new Set(answers.map(({ snapshot }) => snapshot.snapshotId)).size).toBe(1);
    await readySnapshot(driver, snapshotOf(volumeId));
    expect(calls().filter(({ method }) => method === "snapshotCreate")).toHaveLength(2);
  });
});

/** Calls until it succeeds, as a CO does; only codes that ask for another try may come in between. */
const insisting = async <A>(call: () => Promise<A>): Promise<A> => {
  for (let attempt = 1; ; attempt++) {
    const made = call();
    const failure = await failureOf(made);
    if (failure === undefined) return made;
    expect(failure).toMatchObject({ code: "ABORTED" });
    if (attempt > 100) throw new Error(`never succeeds: ${failure.message}`);
    await Bun.sleep(1);
  }
};

/** The names of the snapshots on a volume that no trash has. */
const marks = (cluster: MemoryCluster, volumeId: string) =>
  cluster.image("rbd", imageOf(volumeId)).snapshots.flatMap(({ kind, name }) => (kind === "user" ? [name] : []));

describe("two drivers over one cluster", () => {
  for (const [slow, fast] of [
    [0, 0],
    [1, 0],
    [3, 1],
  ] as const) {
    test(`two drivers make one copy and one snapshot for one name, at latencies of ${slow} ms and ${fast} ms`, async () => {
      const { cluster, snapshotId, volumeId, data } = await aSource();
      await using one = aDriver(cluster, { ceph: latency(cephMemoryService(cluster), slow) });
      await using other = aDriver(cluster, { ceph: latency(cephMemoryService(cluster), fast) });
      for (const request of [restoreOf(snapshotId), cloneOf(volumeId, { name: "pvc-clone" })]) {
        const answers = await Promise.all(
          [one, other, one].map((driver) => insisting(() => driver.createVolume(request))),
        );
        const ids = new Set(answers.map(({ volume }) => volume.volumeId));
        expect(ids.size).toBe(1);
        for (const id of ids) expect(read(cluster, imageOf(id))).toEqual(data);
      }
      const taken = await Promise.all(
        [one, other].map((driver) => insisting(() => readySnapshot(driver, snapshotOf(volumeId)))),
      );
      expect(new Set(taken.map((each) => each.snapshotId)).size).toBe(1);
      expect(read(cluster, holderOf(taken[0]?.snapshotId ?? ""))).toEqual(data);
    });
  }

  // Each makes something of a volume through a snapshot on it; the name of the copy does not tell that a driver chose it.
  const works = {
    "a snapshot": {
      make: async (driver: Driver, volumeId: string) => (await readySnapshot(driver, snapshotOf(volumeId))).snapshotId,
      drop: (driver: Driver, id: string) => driver.deleteSnapshot(snapshotDeletion(id)),
      image: holderOf,
    },
    "a copy": {
      make: async (driver: Driver, volumeId: string) =>
        (await driver.createVolume(cloneOf(volumeId, { parameters: { ...PARAMETERS, volumeNamePrefix: "db-" } })))
          .volume.volumeId,
      drop: (driver: Driver, id: string) => driver.deleteVolume(deletion(id)),
      image: (id: string) => `db-${uuidOf(id)}`,
    },
  };
  for (const [what, { make, drop, image }] of Object.entries(works)) {
    test(`a driver that begins ${what} when another one is done with it leaves nothing on the source`, async () => {
      const { cluster, volumeId, data } = await aSource();
      const { ceph, letGo, waiting } = held(cephMemoryService(cluster), "snapshotCreate");
      await using slow = aDriver(cluster, { ceph });
      await using fast = aDriver(cluster);
      const late = failureOf(make(slow, volumeId));
      await eventually(() => waiting() === 1, "a reserved name");
      const id = await make(fast, volumeId);
      letGo();
      expect(await late).toMatchObject({ code: "ABORTED" });
      expect(marks(cluster, volumeId)).toEqual([]);
      expect(read(cluster, image(id))).toEqual(data);
      await drop(fast, id);
      await fast.deleteVolume(deletion(volumeId));
    });

    test(`a driver that begins ${what} when another one deletes it leaves nothing on the source`, async () => {
      const { cluster, volumeId } = await aSource();
      const taking = held(cephMemoryService(cluster), "snapshotCreate");
      const looking = held(taking.ceph, "imageStatus", /csi-snap-|db-/);
      await using slow = aDriver(cluster, { ceph: looking.ceph });
      await using fast = aDriver(cluster);
      const late = failureOf(make(slow, volumeId));
      await eventually(() => taking.waiting() === 1, "a reserved name");
      const id = await make(fast, volumeId);
      taking.letGo();
      await eventually(() => looking.waiting() === 1, "a look at what the other driver made");
      await drop(fast, id);
      looking.letGo();
      expect(await late).toMatchObject({ code: "ABORTED" });
      expect(marks(cluster, volumeId)).toEqual([]);
      await fast.deleteVolume(deletion(volumeId));
    });
  }

  test("a point in time that was answered stays, although another driver marked the source again and died", async () => {
    const { cluster, volumeId, data } = await aSource();
    const request = snapshotOf(volumeId);
    // its caller has the answer, and it dies before the snapshot is ready
    const dying = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "snapshotCreate" && call.subject.includes("csi-snap-") ? Effect.never : act,
    );
    await using early = aDriver(cluster, { ceph: dying });
    const { snapshot } = await early.createSnapshot(request);
    expect(snapshot.readyToUse).toBe(false);
    const source = imageOf(volumeId);
    const holder = holderOf(snapshot.snapshotId);
    cluster.image("rbd", source).write(0n, MIB_4);
    await Effect.runPromise(cephMemoryService(cluster).snapshotCreate(POOL, source, holder));
    await using driver = aDriver(cluster);
    expect((await readySnapshot(driver, request)).snapshotId).toBe(snapshot.snapshotId);
    expect(read(cluster, holder)).toEqual(data);
    expect(marks(cluster, volumeId)).toEqual([]);
  });

  test("two drivers never remove an image from the trash at once: the second finds it busy, and later gone", async () => {
    const { cluster, snapshotId } = await aSource();
    cluster.managerUp = false;
    const removing = new Set<string>();
    let most = 0;
    let busy = 0;
    const { promise, resolve: letGo } = Promise.withResolvers<void>();
    // As librbd does: whoever removes an image has its lock.
    const ceph = () =>
      intercepted(cephMemoryService(cluster), (call, act) =>
        Effect.suspend(() => {
          if (call.method !== "trashRemove") return act;
          if (removing.has(call.subject)) {
            busy += 1;
            return Effect.fail(new Busy({ op: "rbd_trash_remove", subject: call.subject }));
          }
          removing.add(call.subject);
          most = Math.max(most, removing.size);
          return Effect.promise(() => promise).pipe(
            Effect.andThen(act),
            Effect.ensuring(Effect.sync(() => removing.delete(call.subject))),
          );
        }),
      );
    await using one = aDriver(cluster, { ceph: ceph() });
    await using other = aDriver(cluster, { ceph: ceph() });
    await Promise.all([one, other].map((driver) => driver.deleteSnapshot(snapshotDeletion(snapshotId))));
    await eventually(() => removing.size === 1 && busy >= 1, "one at work, and one told that it is busy");
    expect(most).toBe(1);
    letGo();
    await eventually(() => Object.keys(poolDump(cluster).trash).length === 0, "an empty trash");
  });

  // What two drivers leave that work on one volume at the same time, against the rule of one leader, is no data lost, but
  // a source in the trash may keep a transient snapshot, and a name its reservation, until they are asked for again.
  for (const drivers of [1, 2]) {
    const end = drivers === 1 ? ", and leave nothing behind" : "";
    test(
      `random creates, copies, snapshots and deletes at ${drivers === 1 ? "one driver" : "two drivers"} answer only with codes that CSI permits${end}`,
      () => crowd(drivers),
      60_000,
    );
  }

  const crowd = async (drivers: number) => {
    // A CO asks again until it knows; NOT_FOUND and ALREADY_EXISTS are what the source and the name may have become.
    const final = ["OK", "NOT_FOUND", "ALREADY_EXISTS"];
    for (let seed = 1; seed <= 6; seed++) {
      const roll = dice(seed);
      const cluster = aCluster();
      const slowed = intercepted(cephMemoryService(cluster), (_, act) =>
        roll(3) === 0 ? Effect.delay(act, roll(2)) : act,
      );
      await using first = aDriver(cluster, { ceph: slowed });
      await using second = aDriver(cluster);
      const volumes = new Set<string>();
      const snapshots = new Set<string>();
      const any = (ids: ReadonlySet<string>) => [...ids][roll(ids.size || 1)] ?? "none";
      const asked = async (what: string, call: (driver: Driver) => Promise<unknown>): Promise<string> => {
        for (let tries = 1; ; tries++) {
          const failure = await failureOf(call(drivers === 1 || roll(2) === 0 ? first : second));
          const code = failure?.code ?? "OK";
          if (final.includes(code)) return code;
          if (!NOT_FINAL.includes(code) || tries > 200)
            throw new Error(`${what}, seed ${seed}: ${code} ${failure?.message}`);
          await Bun.sleep(1);
        }
      };
      const sources = [
        (name: string) => creation({ name }),
        (name: string) => cloneOf(any(volumes), { name }),
        (name: string) => restoreOf(any(snapshots), { name }),
      ];
      const dropVolume = async (id: string) => {
        expect(await asked("DeleteVolume", (driver) => driver.deleteVolume(deletion(id)))).toBe("OK");
      };
      const dropSnapshot = async (id: string) => {
        expect(await asked("DeleteSnapshot", (driver) => driver.deleteSnapshot(snapshotDeletion(id)))).toBe("OK");
      };
      const one = async (): Promise<unknown> => {
        const what = roll(6);
        if (what < 3) {
          const request = sources[roll(3)]?.(`pvc-${roll(4)}`) ?? creation();
          return asked("CreateVolume", async (driver) =>
            volumes.add((await driver.createVolume(request)).volume.volumeId),
          );
        }
        if (what === 3) {
          const request = snapshotOf(any(volumes), { name: `snap-${roll(3)}` });
          return asked("CreateSnapshot", async (driver) =>
            snapshots.add((await readySnapshot(driver, request)).snapshotId),
          );
        }
        return what === 4 ? dropVolume(any(volumes)) : dropSnapshot(any(snapshots));
      };
      const callers = Array.from({ length: 8 }, async () => {
        for (let n = 0; n < 15; n++) await one();
      });
      await Promise.all(callers);
      for (const id of snapshots) await dropSnapshot(id);
      for (const id of volumes) await dropVolume(id);
      if (drivers === 1) {
        await settled(cluster);
        const left = poolDump(cluster);
        // a directory is made by the first name that it takes; some runs take no snapshot
        const objects = { ...EMPTY_DIRECTORIES, ...left.objects };
        expect([seed, { ...left, objects }]).toEqual([
          seed,
          { objects: EMPTY_DIRECTORIES, images: {}, bareNames: {}, trash: {} },
        ]);
      }
      for (const driver of [first, second]) expect((await driver.locks()).table()).toEqual([]);
    }
  };
});

test("R24: restores of one snapshot run side by side", async () => {
  const cluster = aCluster();
  await using making = aDriver(cluster);
  const { snapshotId } = await readySnapshot(making, snapshotOf(await aVolume(making, cluster)));
  let running = 0;
  let most = 0;
  const { promise: all, resolve } = Promise.withResolvers<void>();
  // No restore ends before all of them clone: if one waited for another, none ever would.
  const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
    if (call.method !== "imageClone") return act;
    running += 1;
    most = Math.max(most, running);
    if (running === 50) resolve();
    return Effect.andThen(
      Effect.promise(() => all),
      act,
    );
  });
  await using driver = aDriver(cluster, { ceph });
  const names = Array.from({ length: 50 }, (_, n) => `copy-${n}`);
  const codes = await Promise.all(names.map((name) => codeOf(driver.createVolume(restoreOf(snapshotId, { name })))));
  expect(new Set(codes)).toEqual(new Set(["OK"]));
  expect(most).toBe(50);
}, 20_000);

/** Numbers of [0, below) that are the same in each run. */
const dice = (seed: number) => {
  let state = seed;
  return (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (state >>> 8) % below;
  };
};
