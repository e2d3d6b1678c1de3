/**
 * A driver that dies at each call that it makes, of Ceph or of a key store, while it makes, copies or removes an encrypted
 * volume: the next driver finishes what was begun, every volume and snapshot has the one key that its data is encrypted
 * with, and no key is left of what is gone.
 *
 * Not here: what else a death leaves (./crash.test.ts, ./crash-copies.test.ts).
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
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
import { everyDeath } from "../../support/every-death.ts";
import { dyingAt, type Kept, keepingStore, wrappingStore } from "../../support/key-stores.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { aCluster, creation, deletion, PARAMETERS, poolDump, SECRETS } from "../../support/world.ts";

const secrets = { ...SECRETS, encryptionPassphrase: "unused" };
const OWNER = { "csi.storage.k8s.io/pvc/namespace": "tenant" };
type Kind = "keeper" | "wrapper";
const KINDS: readonly Kind[] = ["keeper", "wrapper"];

interface World {
  readonly cluster: MemoryCluster;
  readonly kept: Kept;
  readonly kind: Kind;
  readonly ids: { volumeId: string; snapshotId: string };
}

const parametersFor = (kind: Kind) => ({ ...PARAMETERS, ...OWNER, encrypted: "true", encryptionKMSID: kind });
const storesOf = (kept: Kept) => ({ keeper: keepingStore(kept), wrapper: wrappingStore() });

/** The key that a node would get; fails if there is none. */
const keyOf = ({ cluster, kept, kind }: World, handle: string, image: string): Promise<string> => {
  const stores = storesOf(kept);
  const read =
    kind === "keeper"
      ? stores.keeper.read(handle)
      : stores.wrapper.unwrap(handle, metaOf(cluster, image)["rbd.csi.ceph.com/dek"] ?? "[]");
  return Effect.runPromise(Effect.map(read, Redacted.value));
};

interface Scenario {
  readonly name: string;
  /** On top of `pvc-1`, which is formatted. */
  readonly prepare?: (driver: Driver, world: World) => Promise<unknown>;
  readonly call: (driver: Driver, world: World) => Promise<unknown>;
  /** What was made, if anything was: its handle and its image. */
  readonly made?: (answer: never) => readonly [handle: string, image: string];
  /** The key of what was made is that of `pvc-1`. */
  readonly isCopy?: boolean;
  /** How many keys the store has in the end that keeps them. */
  readonly keys: number;
}

type Created = Awaited<ReturnType<Driver["createVolume"]>>;
type Taken = Awaited<ReturnType<typeof readySnapshot>>;
const volumeMade = ({ volume: { volumeId } }: Created) => [volumeId, imageOf(volumeId)] as const;
const snapshotMade = ({ snapshotId }: Taken) => [snapshotId, holderOf(snapshotId)] as const;

const snapshot = async (driver: Driver, { ids }: World) => {
  ids.snapshotId = (await readySnapshot(driver, snapshotOf(ids.volumeId, { secrets }))).snapshotId;
};
const copying = ({ kind }: World) => ({ parameters: parametersFor(kind), secrets });

const scenarios: readonly Scenario[] = [
  {
    name: "CreateVolume",
    call: (driver, { kind }) =>
      driver.createVolume(creation({ name: "pvc-2", parameters: parametersFor(kind), secrets })),
    made: volumeMade,
    keys: 2,
  },
  {
    name: "CreateSnapshot",
    call: (driver, { ids }) => readySnapshot(driver, snapshotOf(ids.volumeId, { secrets })),
    made: snapshotMade,
    isCopy: true,
    keys: 2,
  },
  {
    name: "CreateVolume from a snapshot",
    prepare: snapshot,
    call: (driver, world) => driver.createVolume(restoreOf(world.ids.snapshotId, copying(world))),
    made: volumeMade,
    isCopy: true,
    keys: 3,
  },
  {
    name: "CreateVolume from a volume",
    call: (driver, world) => driver.createVolume(cloneOf(world.ids.volumeId, copying(world))),
    made: volumeMade,
    isCopy: true,
    keys: 2,
  },
  {
    name: "DeleteVolume",
    prepare: snapshot,
    call: (driver, { ids }) => driver.deleteVolume(deletion(ids.volumeId, { secrets })),
    keys: 1,
  },
  {
    name: "DeleteSnapshot",
    prepare: snapshot,
    call: (driver, { ids }) => driver.deleteSnapshot(snapshotDeletion(ids.snapshotId, { secrets })),
    keys: 1,
  },
];

const aWorld = async (kind: Kind, { prepare }: Scenario): Promise<World> => {
  const world = { cluster: aCluster(), kept: new Map(), kind, ids: { volumeId: "", snapshotId: "" } };
  await using driver = aDriver(world.cluster, { stores: storesOf(world.kept) });
  world.ids.volumeId = await aVolume(driver, world.cluster, { parameters: parametersFor(kind), secrets });
  world.cluster.image("rbd", imageOf(world.ids.volumeId)).meta.set("rbd.csi.ceph.com/encrypted", "encrypted");
  await prepare?.(driver, world);
  return world;
};

/** One death and the retry; -> false when there were fewer calls than that. */
const oneDeath = async (scenario: Scenario, kind: Kind, k: number, moment: "before" | "after"): Promise<boolean> => {
  const world = await aWorld(kind, scenario);
  const { cluster, kept, ids } = world;
  const source = await keyOf(world, ids.volumeId, imageOf(ids.volumeId));
  const dying = dyingAt(k, moment);
  {
    const { keeper, wrapper } = storesOf(kept);
    const stores = { keeper: dying.store(keeper), wrapper: dying.store(wrapper) };
    await using driver = aDriver(cluster, { ceph: dying.ceph(cephMemoryService(cluster)), stores });
    await scenario.call(driver, world).catch((error: unknown) => {
      if (dying.died() === undefined) throw error;
    });
  }
  if (dying.died() === undefined) return false;
  const before = new Map(kept);
  await using driver = aDriver(cluster, { stores: storesOf(kept) });
  const answer = await scenario.call(driver, world);
  await idle(cluster);
  for (const [handle, text] of kept) if (before.has(handle)) expect(text).toBe(before.get(handle) ?? "");
  expect(kept.size).toBe(kind === "keeper" ? scenario.keys : 0);
  if (scenario.made !== undefined) {
    const key = await keyOf(world, ...scenario.made(answer as never));
    if (scenario.isCopy === true) expect(key).toBe(source);
    else expect(key).not.toBe(source);
  }
  if (poolDump(cluster).images[imageOf(ids.volumeId)] !== undefined) {
    expect(await keyOf(world, ids.volumeId, imageOf(ids.volumeId))).toBe(source);
  }
  return true;
};

describe("death before or after each call, with encryption", () => {
  for (const kind of KINDS) {
    for (const scenario of scenarios) {
      test(`The next driver finishes ${scenario.name} with the key store "${kind}" and one key`, async () => {
        const deaths = await everyDeath(80, (k, moment) => oneDeath(scenario, kind, k, moment));
        expect(deaths.before).toBeGreaterThan(4);
        expect(deaths.after).toBe(deaths.before);
      }, 60_000);
    }
  }
});

test.each(KINDS)(
  "A snapshot whose driver died, and whose source is gone then, has the key of its source in the store %p",
  async (kind) => {
    const scenario: Scenario = {
      name: "",
      keys: 0,
      call: (driver, { ids }) => driver.createSnapshot(snapshotOf(ids.volumeId, { secrets })),
    };
    let finished = 0;
    for (let k = 1; k < 80; k++) {
      const world = await aWorld(kind, scenario);
      const { cluster, kept, ids } = world;
      const source = await keyOf(world, ids.volumeId, imageOf(ids.volumeId));
      const dying = dyingAt(k, "after");
      {
        const { keeper, wrapper } = storesOf(kept);
        const stores = { keeper: dying.store(keeper), wrapper: dying.store(wrapper) };
        await using driver = aDriver(cluster, { ceph: dying.ceph(cephMemoryService(cluster)), stores });
        await scenario.call(driver, world).catch(() => undefined);
      }
      if (dying.died() === undefined) break;
      await using driver = aDriver(cluster, { stores: storesOf(kept) });
      const gone = await driver.deleteVolume(deletion(ids.volumeId, { secrets })).then(
        () => true,
        () => false,
      );
      if (!gone) continue;
      const taken = await readySnapshot(driver, snapshotOf(ids.volumeId, { secrets })).catch(() => undefined);
      if (taken === undefined) continue;
      expect(await keyOf(world, ...snapshotMade(taken))).toBe(source);
      finished++;
    }
    expect(finished).toBeGreaterThan(0);
  },
);
