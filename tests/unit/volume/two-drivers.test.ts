/**
 * Two drivers that serve one name at once, as in a rolling update: each is held before some call, and goes on when the other
 * has answered or failed. Whatever the two did, what was answered stays, the next call answers it again, and its deletion
 * leaves nothing.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { type CephError, NoSpace } from "../../../lib/ceph/errors.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  aSource,
  cloneOf,
  imageOf,
  readySnapshot,
  restoreOf,
  snapshotDeletion,
  snapshotOf,
  THROUGH,
} from "../../support/copies-world.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { random } from "../../support/random.ts";
import { creation, deletion, poolDump } from "../../support/world.ts";

const PAIRS = Number(process.env["CSI_RBD_PAIRS"] ?? 60);
const seed = Number(process.env["CSI_RBD_SEED"] ?? Date.now() % 1_000_000);

interface Sources {
  readonly volumeId: string;
  readonly snapshotId: string;
}

interface Request {
  /** -> the ID that is answered. */
  readonly make: (driver: Driver, sources: Sources) => Promise<string>;
  readonly drop: (driver: Driver, id: string) => Promise<unknown>;
  readonly flags: object;
  /** Calls of Ceph that it takes at most. */
  readonly calls: number;
  /** Calls that a full pool refuses, of the driver that is held first. */
  readonly refused: readonly string[];
}

const volumeFor = (
  request: (sources: Sources) => Parameters<Driver["createVolume"]>[0],
): Pick<Request, "make" | "drop"> => ({
  make: async (driver, sources) => (await driver.createVolume(request(sources))).volume.volumeId,
  drop: (driver, id) => driver.deleteVolume(deletion(id)),
});

const REQUESTS: Readonly<Record<string, Request>> = {
  "a volume": {
    ...volumeFor(() => creation({ name: "pvc-x" })),
    flags: {},
    calls: 8,
    refused: ["imageCreate", "imageMetaSet"],
  },
  "a restore": {
    ...volumeFor(({ snapshotId }) => restoreOf(snapshotId)),
    flags: {},
    calls: 14,
    refused: ["imageClone", "imageMetaSet"],
  },
  "a copy of a volume": {
    ...volumeFor(({ volumeId }) => cloneOf(volumeId)),
    flags: {},
    calls: 18,
    refused: ["snapshotCreate", "imageClone", "imageMetaSet"],
  },
  "a copy by way of an image in between": {
    ...volumeFor(({ volumeId }) => cloneOf(volumeId)),
    flags: THROUGH,
    calls: 22,
    refused: ["snapshotCreate", "imageClone", "imageMetaSet"],
  },
  "a snapshot": {
    make: async (driver, { volumeId }) => (await readySnapshot(driver, snapshotOf(volumeId))).snapshotId,
    drop: (driver, id) => driver.deleteSnapshot(snapshotDeletion(id)),
    flags: {},
    calls: 18,
    refused: ["snapshotCreate", "imageClone", "imageBriefs"],
  },
};

/** Ceph whose call number `n` waits until `goOn`. `held` ends when it does. */
const heldAt = (cluster: MemoryCluster, n: number, refused?: string) => {
  const { promise: gate, resolve: goOn } = Promise.withResolvers<void>();
  const { promise: held, resolve: holds } = Promise.withResolvers<void>();
  const error: CephError = new NoSpace({ op: refused ?? "", subject: "rbd" });
  const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
    const done = call.method === refused ? Effect.fail(error) : act;
    if (call.n !== n) return done;
    return Effect.andThen(
      Effect.promise(() => {
        holds();
        return gate;
      }),
      done,
    );
  });
  return { ceph, goOn, held };
};

/** What there is of volumes and snapshots but for `before`; the directories alone stay. */
const remains = (cluster: MemoryCluster, before: ReturnType<typeof poolDump>): readonly string[] => {
  const now = poolDump(cluster);
  const directories = ["csi.volumes.default", "csi.snaps.default"];
  return [
    ...Object.keys(now.images).filter((image) => !(image in before.images)),
    ...Object.keys(now.objects).filter((object) => !(object in before.objects) && !directories.includes(object)),
    ...directories.flatMap((object) =>
      Object.keys(now.objects[object] ?? {}).filter((key) => !(key in (before.objects[object] ?? {}))),
    ),
    ...Object.keys(now.bareNames),
  ];
};

/** Snapshots that are on the source by their names. */
const marks = (cluster: MemoryCluster, { volumeId }: Sources): readonly string[] =>
  (poolDump(cluster).images[imageOf(volumeId)]?.snapshots ?? []).flatMap(({ kind, name }) =>
    kind === "user" ? [name] : [],
  );

const world = async () => {
  const { cluster, ...sources } = await aSource();
  return { cluster, sources, before: poolDump(cluster) };
};

const answerOf = (request: Promise<string>): Promise<string | undefined> =>
  request.then(
    (id) => id,
    () => undefined,
  );

const ended = async (driver: Driver): Promise<void> => {
  await Effect.runPromise((await driver.operations()).drain(3000));
};

/** Some pairs of calls: all are thousands. */
const pairs = (first: number, second: number): readonly (readonly [number, number])[] => {
  const chance = random(seed);
  const some = (most: number) => 1 + Math.floor(chance() * most);
  return Array.from({ length: PAIRS }, () => [some(first), some(second)] as const);
};

/** Both drivers make it, the first goes on first. -> what is wrong, or left, in the end. */
const together = async (
  { make, drop, flags }: Request,
  [one, other]: readonly [number, number],
  refused: string | undefined,
): Promise<readonly string[]> => {
  const { cluster, sources, before } = await world();
  const [a, b] = [heldAt(cluster, one, refused), heldAt(cluster, other)];
  await using first = aDriver(cluster, { ceph: a.ceph, flags });
  await using second = aDriver(cluster, { ceph: b.ceph, flags });
  await using last = aDriver(cluster, { flags });
  const begun = answerOf(make(first, sources));
  await Promise.race([a.held, begun]);
  const overtaking = answerOf(make(second, sources));
  await Promise.race([b.held, overtaking]);
  a.goOn();
  const answers = [await begun];
  await ended(first);
  b.goOn();
  answers.push(await overtaking);
  await ended(second);
  const id = await make(last, sources).catch(() => make(last, sources));
  const lost = answers.flatMap((answer) => (answer === undefined || answer === id ? [] : [answer]));
  await drop(last, id);
  return [...lost, ...remains(cluster, before), ...marks(cluster, sources)];
};

/** While the first is held, the second makes it and deletes it. -> what is left when the first has ended. */
const afterDeletion = async ({ make, drop, flags }: Request, one: number): Promise<readonly string[]> => {
  const { cluster, sources, before } = await world();
  const a = heldAt(cluster, one);
  await using first = aDriver(cluster, { ceph: a.ceph, flags });
  await using second = aDriver(cluster, { flags });
  const begun = answerOf(make(first, sources));
  await Promise.race([a.held, begun]);
  const id = await make(second, sources);
  await drop(second, id);
  a.goOn();
  const answered = await begun;
  await ended(first);
  // it began anew where it had not begun before
  if (answered !== undefined) await drop(first, answered);
  return [...remains(cluster, before), ...marks(cluster, sources)];
};

describe(`two drivers that serve one name (seed ${seed})`, () => {
  for (const [what, request] of Object.entries(REQUESTS)) {
    for (const refused of [undefined, ...request.refused]) {
      const how = refused === undefined ? "" : `, and the pool is full for the ${refused} of one`;
      test(`Both make ${what}${how}: one answer holds, and nothing is left`, async () => {
        for (const pair of pairs(request.calls + (refused === undefined ? 0 : 8), request.calls)) {
          expect([pair, await together(request, pair, refused)]).toEqual([pair, []]);
        }
      }, 60_000);
    }

    test(`One makes ${what} and deletes it while the other is at work: nothing is left`, async () => {
      for (let one = 1; one <= request.calls; one++) {
        expect([one, await afterDeletion(request, one)]).toEqual([one, []]);
      }
    }, 60_000);
  }
});
