/**
 * Two drivers that make the same group snapshot at the same time: whichever is held up at whichever call, the members are of
 * one moment, what was answered stays, and nothing is left when it is deleted.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { type CephError, NoSpace } from "../../../lib/ceph/errors.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  BLOCK,
  DIRECTORY,
  grouping,
  holderNow,
  imageOf,
  read,
  readyGroup,
  ungrouping,
} from "../../support/group-world.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { settled, type VirtualTime, virtualTime } from "../../support/virtual-time.ts";
import { aCluster, eventually, poolDump, seed, seedImage } from "../../support/world.ts";

const VOLUMES = ["a0000000-0000-4000-8000-000000000001", "b0000000-0000-4000-8000-000000000002"] as const;
const IDS = VOLUMES.map((uuid) => `0001-0004-east-0000000000000002-${uuid}`);
const IMAGES = IDS.map(imageOf);
/** As many as a new group snapshot takes. */
const CALLS = 33;
const LIMIT = 120_000;

const aWorld = async (): Promise<MemoryCluster> => {
  const cluster = aCluster();
  seed(cluster, { [DIRECTORY]: {}, "csi.snaps.default": {}, "csi.volumes.default": {} });
  for (const [i, uuid] of VOLUMES.entries()) {
    const image = IMAGES[i] ?? "";
    const id = await seedImage(cluster, image);
    seed(cluster, {
      [`csi.volume.${uuid}`]: { "csi.volname": `pvc-${uuid}`, "csi.imagename": image, "csi.imageid": id },
    });
  }
  return cluster;
};

type Failing = (method: string) => CephError | undefined;

/** Writes to all volumes around each call of the driver, which waits before its call `n` until it may go on. */
const heldAt = (cluster: MemoryCluster, n: number, failing?: Failing) => {
  const { promise: gate, resolve: goOn } = Promise.withResolvers<void>();
  let held = false;
  const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
    const failure = failing?.(call.method);
    const write = Effect.sync(() => {
      for (const image of IMAGES) {
        const { content } = cluster.image("rbd", image);
        cluster.image("rbd", image).write(BLOCK + BigInt(content.length) * 8192n, 4096n);
      }
    });
    const wait = Effect.suspend(() => {
      held = true;
      return Effect.promise(() => gate);
    });
    const begun = call.n === n ? Effect.andThen(wait, write) : write;
    return Effect.andThen(begun, failure === undefined ? act : Effect.fail(failure));
  });
  return { ceph, goOn, wasHeld: () => held };
};

interface Answer {
  readonly groupSnapshotId: string;
  readonly creationTime?: unknown;
}

const asked = (driver: Driver): Promise<Answer | undefined> =>
  driver.createGroup(grouping(IDS)).then(
    ({ groupSnapshot: { groupSnapshotId, creationTime } }) => ({ groupSnapshotId, creationTime }),
    () => undefined,
  );

const ended = async (driver: Driver, time: VirtualTime) =>
  time.until(Effect.runPromise((await driver.operations()).drain(5000)));

/** An attempt of a driver that died with its group's snapshot taken, and not recorded. */
const begun = async (cluster: MemoryCluster): Promise<void> => {
  const time = virtualTime();
  const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
    method === "groupSnapshotMembers" ? Effect.die("the driver died") : act,
  );
  await using driver = aDriver(cluster, { ceph, time });
  await time.until(asked(driver));
  expect(Object.keys(poolDump(cluster).groups ?? {})).toHaveLength(1);
};

/** -> whether both were held up. */
const race = async (
  prepare: (cluster: MemoryCluster) => Promise<void>,
  [one, other]: readonly [number, number],
  failing?: Failing,
): Promise<readonly [boolean, boolean]> => {
  const cluster = await aWorld();
  const before = cluster.dump();
  await prepare(cluster);
  const time = virtualTime();
  const [a, b] = [heldAt(cluster, one, failing), heldAt(cluster, other)];
  await using first = aDriver(cluster, { ceph: a.ceph, time });
  await using second = aDriver(cluster, { ceph: b.ceph, time });
  await using last = aDriver(cluster, { time });
  const answerOfFirst = asked(first);
  await settled();
  const answerOfSecond = asked(second);
  await settled();
  a.goOn();
  const answers = [await time.until(answerOfFirst)];
  await ended(first, time);
  b.goOn();
  answers.push(await time.until(answerOfSecond));
  await ended(second, time);
  const group = await time.until(readyGroup(last, grouping(IDS)));
  for (const answer of answers) {
    if (answer !== undefined) expect(group).toMatchObject(answer);
  }
  const seen = group.snapshots.map(({ snapshotId }) => read(cluster, holderNow(cluster, snapshotId)).length);
  expect(new Set(seen).size).toBe(1);
  await time.until(last.deleteGroup(ungrouping(group.groupSnapshotId)));
  await time.pass("40 seconds");
  await eventually(() => {
    cluster.runManager();
    return Object.keys(poolDump(cluster).trash).length === 0;
  }, "an empty trash");
  for (const image of IMAGES) cluster.image("rbd", image).content = [];
  expect(cluster.dump()).toEqual(before);
  return [a.wasHeld(), b.wasHeld()];
};

const FULL: CephError = new NoSpace({ op: "rbd_group", subject: "rbd" });

describe("two drivers make one group snapshot", () => {
  for (const [what, prepare, failing] of [
    ["a new one", async () => {}],
    ["one that a dead driver began", begun],
    [
      "a new one that the first fails to record",
      async () => {},
      (method) => (method === "snapshots" ? FULL : undefined),
    ],
  ] as const satisfies readonly (readonly [string, typeof begun, Failing?])[]) {
    test(
      `Of ${what}, the members are of one moment, whatever two calls the drivers are held up at`,
      async () => {
        let both = 0;
        for (let one = 1; one <= CALLS; one += 1) {
          // a third of the pairs, so that each call meets others of every kind
          for (let other = 1 + (one % 3); other <= CALLS; other += 3) {
            const held = await race(prepare, [one, other], failing).catch((cause: unknown) => {
              throw new Error(`held at ${one} and ${other}`, { cause });
            });
            if (held[0] && held[1]) both += 1;
          }
        }
        expect(both).toBeGreaterThan(CALLS * 2);
      },
      LIMIT,
    );
  }
});

/**
 * A driver that makes its RBD group only once others have overtaken it, and dies with the group's snapshot taken. The group
 * snapshot is ready by then. -> its ID.
 */
const lateGroup = async (cluster: MemoryCluster, overtakers: number): Promise<string> => {
  const { promise: gate, resolve: goOn } = Promise.withResolvers<void>();
  const { promise: waiting, resolve: waits } = Promise.withResolvers<void>();
  const { promise: died, resolve: dies } = Promise.withResolvers<void>();
  const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) => {
    if (method === "groupCreate") {
      waits();
      return Effect.andThen(
        Effect.promise(() => gate),
        act,
      );
    }
    if (method !== "groupSnapshotCreate") return act;
    return Effect.andThen(act, Effect.andThen(Effect.sync(dies), Effect.never));
  });
  const late = aDriver(cluster, { ceph });
  void asked(late);
  await waiting;
  for (let i = 1; i < overtakers; i += 1) await begun(cluster);
  await using last = aDriver(cluster);
  const { groupSnapshotId } = await readyGroup(last, grouping(IDS));
  expect(poolDump(cluster).groups).toBeUndefined();
  goOn();
  await died;
  expect(Object.keys(poolDump(cluster).groups ?? {})).toHaveLength(1);
  return groupSnapshotId;
};

describe("a driver that was overtaken, and dies with its RBD group made", () => {
  for (const overtakers of [1, 2]) {
    test(`The next CreateVolumeGroupSnapshot removes the RBD group that a driver made late which ${overtakers} overtook`, async () => {
      const cluster = await aWorld();
      await lateGroup(cluster, overtakers);
      await using driver = aDriver(cluster);
      await readyGroup(driver, grouping(IDS));
      expect(poolDump(cluster).groups).toBeUndefined();
    });

    test(`DeleteVolumeGroupSnapshot removes the RBD group that a driver made late which ${overtakers} overtook`, async () => {
      const cluster = await aWorld();
      const groupSnapshotId = await lateGroup(cluster, overtakers);
      await using driver = aDriver(cluster);
      await driver.deleteGroup(ungrouping(groupSnapshotId));
      expect(poolDump(cluster).groups).toBeUndefined();
    });
  }
});
