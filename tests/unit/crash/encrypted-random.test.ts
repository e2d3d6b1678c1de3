/**
 * Encrypted volumes under random work: volumes, copies and snapshots are made and removed in any order, by drivers that
 * die at any call and are followed by others. No key of a volume or snapshot that somebody was told of ever changes or is
 * lost, and each is the key of its data.
 *
 * Not here: each RPC on its own (./encrypted-crash.test.ts).
 */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as fc from "fast-check";
import * as Redacted from "effect/Redacted";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  aVolume,
  cloneOf,
  holderOf,
  imageOf,
  metaOf,
  readySnapshot,
  restoreOf,
  snapshotDeletion,
  snapshotOf,
} from "../../support/copies-world.ts";
import { idle } from "../../support/crash-copies-world.ts";
import { dyingAt, type Kept, keepingStore, wrappingStore } from "../../support/key-stores.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { aCluster, creation, deletion, PARAMETERS, SECRETS } from "../../support/world.ts";

/** `RUNS=10000 npm test -- unit "-t=Keys stay"` takes some ten minutes. */
const RUNS = Number(process.env["RUNS"] ?? 60);

const secrets = { ...SECRETS, encryptionPassphrase: "unused" };
const KMS = ["keeper", "wrapper"] as const;
type KmsId = (typeof KMS)[number];

/** What somebody was told of. */
interface Known {
  readonly kind: "volume" | "snapshot";
  readonly id: string;
  readonly kmsId: KmsId;
  readonly key: string;
}

interface Action {
  readonly what: "create" | "clone" | "snapshot" | "restore" | "delete";
  readonly kmsId: KmsId;
  /** Which of those that are known. */
  readonly of: number;
  /** The call at which the first driver dies; none where it has fewer. */
  readonly dies: number;
  readonly moment: "before" | "after";
}

const actions = fc.array(
  fc.record<Action>({
    what: fc.constantFrom("create", "clone", "snapshot", "restore", "delete"),
    kmsId: fc.constantFrom(...KMS),
    of: fc.nat({ max: 9 }),
    dies: fc.nat({ max: 30 }),
    moment: fc.constantFrom("before", "after"),
  }),
  { minLength: 3, maxLength: 8 },
);

class World {
  readonly cluster: MemoryCluster = aCluster();
  readonly kept: Kept = new Map();
  known: readonly Known[] = [];
  names = 0;

  stores() {
    return { keeper: keepingStore(this.kept), wrapper: wrappingStore() };
  }

  /** The key that a node would get. */
  keyOf({ kind, id, kmsId }: Omit<Known, "key">): Promise<string> {
    const { keeper, wrapper } = this.stores();
    const image = kind === "volume" ? imageOf(id) : holderOf(id);
    const wrapped = () => metaOf(this.cluster, image)["rbd.csi.ceph.com/dek"] ?? "[]";
    return Effect.runPromise(
      Effect.map(kmsId === "keeper" ? keeper.read(id) : wrapper.unwrap(id, wrapped()), Redacted.value),
    );
  }

  pick(kind: Known["kind"], n: number): Known | undefined {
    const all = this.known.filter((each) => each.kind === kind);
    return all[n % Math.max(1, all.length)];
  }
}

const parametersFor = (encryptionKMSID: KmsId) => ({ ...PARAMETERS, encrypted: "true", encryptionKMSID });

/** The call of an action, and what it adds to what is known; `undefined`: there is nothing to do it with. */
const planned = (world: World, { what, kmsId, of }: Action) => {
  const name = `name-${world.names++}`;
  const volume = world.pick("volume", of);
  const snapshot = world.pick("snapshot", of);
  const made = { parameters: parametersFor(kmsId), secrets, name };
  const told = (id: string, source: Known | undefined) => ({ kind: "volume" as const, id, kmsId, source });
  switch (what) {
    case "create":
      return async (driver: Driver) => told((await driver.createVolume(creation(made))).volume.volumeId, undefined);
    case "clone":
      return (
        volume &&
        (async (driver: Driver) => told((await driver.createVolume(cloneOf(volume.id, made))).volume.volumeId, volume))
      );
    case "restore":
      return (
        snapshot &&
        (async (driver: Driver) =>
          told((await driver.createVolume(restoreOf(snapshot.id, made))).volume.volumeId, snapshot))
      );
    case "snapshot":
      return (
        volume &&
        (async (driver: Driver) => {
          const { snapshotId: id } = await readySnapshot(driver, snapshotOf(volume.id, { name, secrets }));
          return { kind: "snapshot" as const, id, kmsId: volume.kmsId, source: volume };
        })
      );
    case "delete": {
      const gone = world.known[of % Math.max(1, world.known.length)];
      if (gone === undefined) return undefined;
      return async (driver: Driver) => {
        if (gone.kind === "volume") await driver.deleteVolume(deletion(gone.id, { secrets }));
        else await driver.deleteSnapshot(snapshotDeletion(gone.id, { secrets }));
        return { gone };
      };
    }
  }
};

const run = async (world: World, action: Action): Promise<void> => {
  const { cluster } = world;
  const call = planned(world, action);
  if (call === undefined) return;
  const dying = dyingAt(action.dies, action.moment);
  {
    const { keeper, wrapper } = world.stores();
    const stores = { keeper: dying.store(keeper), wrapper: dying.store(wrapper) };
    await using driver = aDriver(cluster, { ceph: dying.ceph(cephMemoryService(cluster)), stores });
    await call(driver).catch(() => undefined);
  }
  await using driver = aDriver(cluster, { stores: world.stores() });
  const told = await call(driver);
  await idle(cluster);
  if ("gone" in told) {
    world.known = world.known.filter((each) => each !== told.gone);
    return;
  }
  const key = await world.keyOf(told);
  if (told.source !== undefined) expect(key).toBe(told.source.key);
  else expect(world.known.map((each) => each.key)).not.toContain(key);
  world.known = [...world.known, { kind: told.kind, id: told.id, kmsId: told.kmsId, key }];
};

test(`Keys stay what they are through ${RUNS} random histories with deaths`, async () => {
  await fc.assert(
    fc.asyncProperty(actions, async (history) => {
      const world = new World();
      {
        await using driver = aDriver(world.cluster, { stores: world.stores() });
        for (const kmsId of KMS) {
          const name = `first-${kmsId}`;
          const id = await aVolume(driver, world.cluster, { name, parameters: parametersFor(kmsId), secrets });
          world.cluster.image("rbd", imageOf(id)).meta.set("rbd.csi.ceph.com/encrypted", "encrypted");
          const known = { kind: "volume" as const, id, kmsId };
          world.known = [...world.known, { ...known, key: await world.keyOf(known) }];
        }
      }
      for (const action of history) {
        await run(world, action);
        for (const known of world.known) expect(await world.keyOf(known)).toBe(known.key);
      }
      const keeping = world.known.filter(({ kmsId }) => kmsId === "keeper");
      expect([...world.kept.keys()].toSorted()).toEqual(keeping.map(({ id }) => id).toSorted());
    }),
    { numRuns: RUNS, interruptAfterTimeLimit: 3_600_000, markInterruptAsFailure: true },
  );
}, 3_700_000);
