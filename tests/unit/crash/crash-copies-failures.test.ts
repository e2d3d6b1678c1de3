/**
 * Calls of Ceph that fail under a driver that lives on, in the RPCs of snapshots and copies: each call, with each kind of
 * failure. What was made is undone, or finished by the retry; no data is lost in between, and no point in time that was
 * answered.
 *
 * Not here: drivers that die (./crash-copies.test.ts).
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { AccessDenied, Busy, type CephError, NoSpace, TimedOut } from "../../../lib/ceph/errors.ts";
import { failAt, faultAt, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import { holderOf, imageOf, MIB_4, read, settled, snapshotOf } from "../../support/copies-world.ts";
import {
  aWorld,
  canonical,
  copyScenarios,
  dropOrphans,
  entryOf,
  idle,
  SETTINGS,
} from "../../support/crash-copies-world.ts";
import { isGivenUp } from "../../support/crash-world.ts";
import { failureOf, poolDump } from "../../support/world.ts";
import { virtualTime } from "../../support/virtual-time.ts";

const ABOUT = { op: "a_call", subject: "rbd" };
const failures: readonly {
  readonly error: CephError;
  readonly code: string;
  /** Whether Ceph had done it all the same. */
  readonly moment: "before" | "after";
  readonly definite: boolean;
}[] = [
  { error: new TimedOut(ABOUT), code: "DEADLINE_EXCEEDED", moment: "after", definite: false },
  { error: new TimedOut(ABOUT), code: "DEADLINE_EXCEEDED", moment: "before", definite: false },
  { error: new AccessDenied({ ...ABOUT, user: "x" }), code: "PERMISSION_DENIED", moment: "before", definite: true },
  { error: new Busy(ABOUT), code: "FAILED_PRECONDITION", moment: "before", definite: true },
];

const alone = copyScenarios.filter(({ ceph }) => ceph === undefined);

/** Every image of ours has a reservation that leads to it. */
const noImageIsLost = (cluster: MemoryCluster): void => {
  const { objects, images } = poolDump(cluster);
  for (const image of Object.keys(images)) {
    const [, kind, uuid] = /^csi-(vol|snap)-(.{36})(-temp)?$/.exec(image) ?? [];
    const [directory, prefix, name] =
      kind === "vol"
        ? (["csi.volumes.default", "csi.volume.", "csi.volname"] as const)
        : (["csi.snaps.default", "csi.snap.", "csi.snapname"] as const);
    const owner = objects[`${prefix}${uuid}`];
    expect([image, objects[directory]?.[`${prefix}${owner?.[name]}`]]).toEqual([image, uuid]);
  }
};

describe("retry after one failure at each call", () => {
  for (const scenario of alone) {
    for (const { error, code, moment, definite } of failures) {
      test(`A retry of "${scenario.name}" succeeds after ${error._tag} at any call (${moment === "after" ? "though done" : "not done"})`, async () => {
        const undisturbed = await aWorld(scenario);
        {
          const time = virtualTime();
          await using driver = aDriver(undisturbed.cluster, { ...(scenario.settings ?? SETTINGS), time });
          await time.until(scenario.call(driver, undisturbed.ids));
          await time.pass("40 seconds");
          await idle(undisturbed.cluster);
        }
        const expected = canonical(undisturbed.cluster, undisturbed.ids);
        let failed = 0;
        for (let k = 1; ; k++) {
          const { cluster, ids } = await aWorld(scenario);
          const before = canonical(cluster, ids);
          const fault = faultAt(cephMemoryService(cluster), k, error, moment);
          const { service, calls } = recorded(fault.service);
          const time = virtualTime();
          await using driver = aDriver(cluster, { ...(scenario.settings ?? SETTINGS), ceph: service, time });
          const failure = await failureOf(time.until(scenario.call(driver, ids)));
          fault.over();
          if (calls().length < k) break;
          const what = `${calls()[k - 1]?.method} (${k})`;
          // What is in use when it is to be cleared away may be a dead driver's: then it is worth another try.
          const codes = ["OK", code, ...(error._tag === "Busy" ? ["ABORTED"] : [])];
          expect([what, codes]).toEqual([what, expect.arrayContaining([failure?.code ?? "OK"])]);
          if (failure !== undefined) failed += 1;
          const begun = scenario.makes && entryOf(cluster, scenario.makes);
          const givenUp = isGivenUp(cluster, begun);
          await time.pass("40 seconds");
          await idle(cluster);
          noImageIsLost(cluster);
          if (failure !== undefined && definite && scenario.undo !== undefined && begun === undefined) {
            expect([what, canonical(cluster, ids)]).toEqual([what, before]);
          }
          await time.until(scenario.call(driver, ids));
          // what was found in the trash, and what could not be removed at first
          await time.pass("40 seconds");
          await idle(cluster);
          expect([what, dropOrphans(cluster)]).toEqual([what, 0]);
          expect([what, canonical(cluster, ids)]).toEqual([what, expected]);
          if (begun !== undefined && !givenUp) {
            expect(scenario.makes && entryOf(cluster, scenario.makes)).toBe(begun);
          }
        }
        expect(failed).toBeGreaterThan(3);
      }, 60_000);
    }
  }
});

describe("the remains of a definite failure", () => {
  const noSpace = new NoSpace(ABOUT);
  for (const scenario of alone.filter(({ undo }) => undo !== undefined)) {
    test(`A definite failure of "${scenario.name}" leaves nothing behind`, async () => {
      const left: string[] = [];
      for (let k = 1; ; k++) {
        const { cluster, ids } = await aWorld(scenario);
        const before = canonical(cluster, ids);
        const { service, calls } = recorded(failAt(cephMemoryService(cluster), k, noSpace, "before"));
        const time = virtualTime();
        await using driver = aDriver(cluster, { ...(scenario.settings ?? SETTINGS), ceph: service, time });
        const failure = await failureOf(time.until(scenario.call(driver, ids)));
        if (calls().length < k) break;
        // what the driver removes behind its answer, or gives to the manager
        await time.pass("20 seconds");
        await idle(cluster);
        if (failure === undefined) continue;
        if (JSON.stringify(canonical(cluster, ids)) !== JSON.stringify(before))
          left.push(String(calls()[k - 1]?.method));
      }
      // What follows an answer is never undone.
      const afterAnswer = ["snapshotCreate", "imageMetaSet", "omapWrite", "cloneDepth"];
      expect(left.filter((method) => scenario.name !== "CreateSnapshot" || !afterAnswer.includes(method))).toEqual([]);
    }, 60_000);
  }
});

test("A point in time that was answered survives every definite failure after the answer, and every failure of the retry", async () => {
  const scenario = alone.find(({ name }) => name === "CreateSnapshot");
  if (scenario === undefined) throw new Error("no such scenario");
  let answered = 0;
  for (let k = 1; k < 40; k++) {
    const { cluster, ids } = await aWorld(scenario);
    const { service, calls } = recorded(failAt(cephMemoryService(cluster), k, new NoSpace(ABOUT), "before"));
    await using driver = aDriver(cluster, { ...SETTINGS, ceph: service });
    const early = await driver.createSnapshot(snapshotOf(ids.volumeId)).catch(() => undefined);
    await idle(cluster);
    if (early === undefined || calls().length < k) continue;
    answered += 1;
    const data = read(cluster, imageOf(ids.volumeId));
    cluster.image("rbd", imageOf(ids.volumeId)).write(0n, MIB_4);
    // The retry fails, too, at each of its calls.
    for (let again = 1; again < 12; again++) {
      const faulty = failAt(cephMemoryService(cluster), again, new NoSpace(ABOUT), "before");
      await using second = aDriver(cluster, { ...SETTINGS, ceph: faulty });
      const retry = await second.createSnapshot(snapshotOf(ids.volumeId)).catch(() => undefined);
      if (retry !== undefined) expect(retry.snapshot.snapshotId).toBe(early.snapshot.snapshotId);
      await idle(cluster);
    }
    await using third = aDriver(cluster, SETTINGS);
    const { snapshot } = await third.createSnapshot(snapshotOf(ids.volumeId));
    expect(snapshot.snapshotId).toBe(early.snapshot.snapshotId);
    expect(snapshot.creationTime).toEqual(early.snapshot.creationTime);
    expect(read(cluster, holderOf(snapshot.snapshotId))).toEqual(data);
  }
  expect(answered).toBeGreaterThan(3);
}, 60_000);

test("A removal of an image without a mark that the manager does not accept keeps the names until it does", async () => {
  for (const name of [
    "DeleteVolume of a clone whose image is in the trash",
    "DeleteSnapshot of one that is half deleted",
  ]) {
    const scenario = alone.find((each) => each.name === name);
    if (scenario === undefined) throw new Error("no such scenario");
    const { cluster, ids } = await aWorld(scenario);
    const before = poolDump(cluster).objects;
    let refused = false;
    const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
      if (refused || call.method !== "managerTrashRemove") return act;
      refused = true;
      return Effect.fail(new AccessDenied({ ...ABOUT, user: "x" }));
    });
    await using driver = aDriver(cluster, { ...SETTINGS, ceph });
    expect((await failureOf(scenario.call(driver, ids)))?.code).toBe("PERMISSION_DENIED");
    expect(poolDump(cluster).objects).toEqual(before);
    await scenario.call(driver, ids);
    await settled(cluster);
  }
});
