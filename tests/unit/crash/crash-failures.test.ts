/**
 * Calls of Ceph that fail under a driver that lives on: each call of each RPC, with each kind of failure. The caller
 * gets the failure's code; what was made is undone, or finished by the retry; nothing is lost in between.
 *
 * Not here: drivers that die (./crash.test.ts).
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import { AccessDenied, Busy, CallStuck, type CephError, NoSpace, TimedOut } from "../../../lib/ceph/errors.ts";
import { type CephMethod, faultAt, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aWorld,
  callsOf,
  dropOrphans,
  entryOf,
  imageNames,
  scenarios,
  SETTINGS,
  type Scenario,
} from "../../support/crash-world.ts";
import { codeOf, creation, deletion, failureOf, poolDump, shape, uuidOf } from "../../support/world.ts";
import { type VirtualTime, virtualTime } from "../../support/virtual-time.ts";

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
  { error: new CallStuck({ ...ABOUT, reason: "stuck" }), code: "UNAVAILABLE", moment: "after", definite: false },
  { error: new AccessDenied({ ...ABOUT, user: "x" }), code: "PERMISSION_DENIED", moment: "before", definite: true },
  { error: new NoSpace(ABOUT), code: "RESOURCE_EXHAUSTED", moment: "before", definite: true },
  { error: new Busy(ABOUT), code: "FAILED_PRECONDITION", moment: "before", definite: true },
];

const alone = scenarios.filter(({ ceph }) => ceph === undefined);

/** By then the driver has removed what it found in the trash, and what it could not remove at first. */
const emptyTrash = async (cluster: MemoryCluster, time: VirtualTime): Promise<void> => {
  await time.pass("40 seconds");
  expect(poolDump(cluster).trash).toEqual({});
};

const undisturbed = async (scenario: Scenario): Promise<unknown> => {
  const cluster = await aWorld(scenario);
  const time = virtualTime();
  await using driver = aDriver(cluster, { ...SETTINGS, time });
  await time.until(scenario.call(driver));
  if (scenario.afterwards !== undefined) await time.until(scenario.afterwards(driver));
  await emptyTrash(cluster, time);
  return shape(cluster);
};

/** Every image of ours has a name that leads to it: by its UUID alone while the attributes are not written. */
const noImageIsLost = (cluster: MemoryCluster): void => {
  const { objects } = poolDump(cluster);
  const names = Object.entries(objects["csi.volumes.default"] ?? {});
  for (const image of imageNames(cluster)) {
    const uuid = image.slice("csi-vol-".length);
    const name = names.find(([, entry]) => entry === uuid)?.[0].slice("csi.volume.".length);
    expect(name).toBeDefined();
    const owner = objects[`csi.volume.${uuid}`];
    if (owner !== undefined) expect(owner).toMatchObject({ "csi.volname": name, "csi.imagename": image });
  }
};

describe("retry after one failure at each call", () => {
  for (const scenario of alone) {
    for (const { error, code, moment, definite } of failures) {
      test(`A retry of "${scenario.name}" succeeds after ${error._tag} at any call (${moment === "after" ? "though done" : "not done"})`, async () => {
        const expected = await undisturbed(scenario);
        for (let k = 1; ; k++) {
          const cluster = await aWorld(scenario);
          const before = poolDump(cluster);
          const fault = faultAt(cephMemoryService(cluster), k, error, moment);
          const { service, calls } = recorded(fault.service);
          const time = virtualTime();
          await using driver = aDriver(cluster, { ...SETTINGS, ceph: service, time });
          const outcome = await codeOf(time.until(scenario.call(driver)));
          const inCall = calls().length;
          // what the driver removes behind its answer, or gives to the manager
          await time.pass("6 seconds");
          fault.over();
          if (calls().length < k) {
            expect(k).toBe(callsOf(scenario) + 1);
            break;
          }
          // What fails in the purge queue fails nobody's call, and is tried again later.
          // Over the image of an earlier call no code is final.
          const isHidden = scenario.hasImage === true && outcome === "UNAVAILABLE";
          expect([k, outcome]).toEqual([k, k > inCall ? "OK" : isHidden ? "UNAVAILABLE" : code]);
          noImageIsLost(cluster);
          if (definite && scenario.isFresh) {
            expect([k, poolDump(cluster)]).toEqual([k, before]);
          }
          await time.until(scenario.call(driver));
          if (scenario.afterwards !== undefined) await time.until(scenario.afterwards(driver));
          await emptyTrash(cluster, time);
          expect(dropOrphans(cluster)).toBe(0);
          expect(shape(cluster)).toEqual(expected);
        }
      }, 60_000);
    }
  }
});

type Fault = readonly [nth: number, error: CephError, moment?: "after"];

/** Fails the n-th call of each method given: without making it, or after. */
const failing = (inner: CephCalls, faults: Partial<Record<CephMethod, Fault>>) => {
  const seen = new Map<CephMethod, number>();
  return intercepted(inner, (call, act) => {
    const n = (seen.get(call.method) ?? 0) + 1;
    seen.set(call.method, n);
    const [nth, error, moment] = faults[call.method] ?? [0];
    if (n !== nth || error === undefined) return act;
    return moment === "after" ? Effect.andThen(Effect.exit(act), Effect.fail(error)) : Effect.fail(error);
  });
};

describe("a reservation and its image", () => {
  const fresh = scenarios.find(({ name }) => name === "CreateVolume");
  const noSpace = new NoSpace(ABOUT);
  const faults: readonly (readonly [
    what: string,
    faults: Parameters<typeof failing>[1],
    left: { images: number; trash: number },
  ])[] = [
    [
      "the image can't be moved to the trash",
      { imageMetaSet: [1, noSpace], trashMove: [1, new Busy(ABOUT)] },
      { images: 1, trash: 0 },
    ],
    [
      "it is not known whether it is there",
      { imageMetaSet: [1, noSpace], imageId: [1, new TimedOut(ABOUT)] },
      { images: 1, trash: 0 },
    ],
    ["it is made in part, and then there is no space", { imageCreate: [1, noSpace, "after"] }, { images: 1, trash: 0 }],
    [
      "its ID can't be recorded, and it can't be removed",
      { omapWrite: [3, noSpace], trashMove: [1, new TimedOut(ABOUT)] },
      { images: 1, trash: 0 },
    ],
  ];
  for (const [what, faulty, left] of faults) {
    test(`CreateVolume keeps the reservation of an image that it can't undo: ${what}`, async () => {
      if (fresh === undefined) throw new Error("no such scenario");
      const cluster = await aWorld(fresh);
      const before = cluster.dump();
      const time = virtualTime();
      await using driver = aDriver(cluster, { ...SETTINGS, ceph: failing(cephMemoryService(cluster), faulty), time });
      expect(await codeOf(time.until(fresh.call(driver)))).toBe("RESOURCE_EXHAUSTED");
      expect(driver.log.filter((line) => line.startsWith("could not undo"))).toHaveLength(1);
      const { images, trash, objects } = poolDump(cluster);
      expect({ images: Object.keys(images).length - 1, trash: Object.keys(trash).length }).toEqual(left);
      const uuid = entryOf(cluster);
      expect(objects[`csi.volume.${uuid}`]?.["csi.volname"]).toBe("pvc-1");
      const { volume } = await time.until(driver.createVolume(creation()));
      expect(uuidOf(volume.volumeId)).not.toBe(uuid ?? "");
      await time.until(driver.deleteVolume(deletion(volume.volumeId)));
      await emptyTrash(cluster, time);
      expect(cluster.dump()).toEqual(before);
    });
  }

  test("A removal of an image without a mark that the manager does not accept keeps name and attributes until it does", async () => {
    const deleting = scenarios.find(({ name }) => name === "DeleteVolume of a volume that is half deleted");
    if (deleting === undefined) throw new Error("no such scenario");
    const cluster = await aWorld(deleting);
    const before = poolDump(cluster).objects;
    const ceph = failing(cephMemoryService(cluster), {
      managerTrashRemove: [1, new AccessDenied({ ...ABOUT, user: "x" })],
    });
    await using driver = aDriver(cluster, { ...SETTINGS, ceph });
    const failure = await failureOf(deleting.call(driver));
    expect(failure).toMatchObject({ code: "PERMISSION_DENIED", message: expect.stringContaining('"remove image"') });
    expect(poolDump(cluster).objects).toEqual(before);
    await deleting.call(driver);
    expect(entryOf(cluster)).toBeUndefined();
    expect(poolDump(cluster).trash).toEqual({});
  });
});
