/**
 * The key of a volume is exchanged while a copy of it is made: the copy gets a key that opens the header of its moment, whatever dies
 * when, and whenever the rotation comes.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { DEK } from "../../../lib/kms/image-keys.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import { hostMemoryService } from "../../support/host-memory.ts";
import { cloneOf, holderOf, imageOf, metaOf, snapshotOf, THROUGH } from "../../support/copies-world.ts";
import { grouping, holderNow } from "../../support/group-world.ts";
import { IMAGE, nodeOn, VOLUME } from "../../support/node-world.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aStagedVolume,
  interceptedStores,
  type Kind,
  KINDS,
  rotating,
  rotatingDriver,
  type RotationWorld,
  slotKeys,
  storesOf,
} from "../../support/rotation-world.ts";
import { codeOf, PARAMETERS, SECRETS } from "../../support/world.ts";

/** The ID of the copy, and its image. */
type Copied = readonly [id: string, image: string];

interface Copy {
  readonly flags?: typeof THROUGH;
  /** One call; fails where the copy is not ready yet. */
  readonly make: (driver: Driver, world: RotationWorld) => Promise<Copied>;
}

const clone: Copy["make"] = async (driver, { kind }) => {
  const parameters = { ...PARAMETERS, encrypted: "true", encryptionKMSID: kind };
  const { volume } = await driver.createVolume(cloneOf(VOLUME, { parameters, secrets: SECRETS }));
  return [volume.volumeId, imageOf(volume.volumeId)];
};
const COPIES: Readonly<Record<string, Copy>> = {
  "a snapshot": {
    make: async (driver) => {
      const { snapshot } = await driver.createSnapshot(snapshotOf(VOLUME));
      return [snapshot.snapshotId, holderOf(snapshot.snapshotId)];
    },
  },
  "a clone": { make: clone },
  "a clone that goes through an image in between": { flags: THROUGH, make: clone },
  "a group snapshot": {
    make: async (driver, { cluster }) => {
      const { groupSnapshot } = await driver.createGroup(grouping([VOLUME], { secrets: SECRETS }));
      const id = groupSnapshot?.snapshots[0]?.snapshotId ?? "";
      return [id, holderNow(cluster, id)];
    },
  },
};

/** -> whether it has a new key. A rotation waits for copies. */
const rotate = async (world: RotationWorld): Promise<boolean> => {
  await using driver = rotatingDriver(world);
  const code = await codeOf(driver.rotateKey(rotating));
  expect(["OK", "ABORTED"]).toContain(code);
  return code === "OK";
};

/** Counts the calls to Ceph and the key store together, and knows the header at the last point in time of the source. */
const watched = (
  world: RotationWorld,
  at: (n: number, act: Effect.Effect<unknown, unknown>) => Effect.Effect<unknown, unknown>,
) => {
  let header: readonly string[] = [];
  let n = 0;
  const around = <A, E>(act: Effect.Effect<A, E>) => Effect.suspend(() => at((n += 1), act) as Effect.Effect<A, E>);
  const ceph = intercepted(cephMemoryService(world.cluster), ({ method, subject }, act) => {
    const isPoint = method === "groupSnapshotCreate" || (method === "snapshotCreate" && subject.includes(IMAGE));
    return around(
      isPoint ? Effect.tap(act, () => Effect.sync(() => void (header = [...slotKeys(world).values()]))) : act,
    );
  });
  return { ceph, stores: interceptedStores(world, (_, act) => around(act)), header: () => header, calls: () => n };
};

const keyOf = ({ kind, cluster, kept }: RotationWorld, [id, image]: Copied): Promise<string> => {
  const { keeper, wrapper } = storesOf({ kept });
  const read = kind === "keeper" ? keeper.read(id) : wrapper.unwrap(id, metaOf(cluster, image)[DEK] ?? "");
  return Effect.runPromise(Effect.map(read, Redacted.value));
};

/** The copy, made by as many calls as it takes; `undefined`: a person has to delete it first. */
const finished = async (driver: Driver, { make }: Copy, world: RotationWorld): Promise<Copied | undefined> => {
  for (let call = 0; call < 6; call++) {
    let code = "";
    try {
      return await make(driver, world);
    } catch (error) {
      code = (await codeOf(Promise.reject(error))) ?? "";
    }
    if (code === "FAILED_PRECONDITION") return undefined;
    expect(code).toBe("ABORTED");
  }
  throw new Error("it is never made");
};

describe.each(KINDS)("by a store of the kind %s", (kind: Kind) => {
  describe.each(Object.entries(COPIES))("%s", (what, copy) => {
    test("whose driver dies at any call, and whose volume gets a new key then", async () => {
      let rotated = 0;
      for (let k = 1; ; k++) {
        const world = await aStagedVolume(kind);
        let isDead = false;
        const first = watched(world, (n, act) => {
          if (isDead) return Effect.die("dead");
          if (n !== k) return act;
          isDead = true;
          return Effect.andThen(Effect.exit(act), Effect.die("dead"));
        });
        {
          await using driver = aDriver(world.cluster, { ...(copy.flags && { flags: copy.flags }), ...first });
          await copy.make(driver, world).catch(() => undefined);
        }
        if (!isDead) break;
        if (await rotate(world)) rotated += 1;
        const second = watched(world, (_, act) => act);
        await using driver = aDriver(world.cluster, { ...(copy.flags && { flags: copy.flags }), ...second });
        const made = await finished(driver, copy, world);
        if (made === undefined) {
          expect([k, what]).toEqual([k, "a group snapshot"]);
          continue;
        }
        const header = second.header().length > 0 ? second.header() : first.header();
        expect([k, header]).toEqual([k, expect.arrayContaining([await keyOf(world, made)])]);
      }
      expect(rotated).toBeGreaterThan(5);
    });

    test("whose volume gets a new key between any two of its calls", async () => {
      let rotated = 0;
      for (let k = 1; ; k++) {
        const world = await aStagedVolume(kind);
        const calls = watched(world, (n, act) =>
          n === k
            ? Effect.andThen(
                Effect.promise(async () => void (rotated += (await rotate(world)) ? 1 : 0)),
                act,
              )
            : act,
        );
        await using driver = aDriver(world.cluster, { ...(copy.flags && { flags: copy.flags }), ...calls });
        const made = await finished(driver, copy, world);
        expect([k, made]).not.toEqual([k, undefined]);
        if (made === undefined) break;
        expect([k, calls.header()]).toEqual([k, expect.arrayContaining([await keyOf(world, made)])]);
        if (calls.calls() < k) break;
      }
      expect(rotated).toBeGreaterThan(5);
    });

    test("that is half way whenever the rotation is half way", async () => {
      let rotated = 0;
      // The copy begins in front of the rotation's call j, and waits in front of its own call k until the rotation has ended.
      for (let j = 1; ; j++) {
        let began = false;
        for (let k = 1; ; k++) {
          const world = await aStagedVolume(kind);
          const [waits, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
          const copying = watched(world, (n, act) => {
            if (n !== k) return act;
            waits.resolve();
            return Effect.andThen(
              Effect.promise(() => ended.promise),
              act,
            );
          });
          await using driver = aDriver(world.cluster, { ...(copy.flags && { flags: copy.flags }), ...copying });
          let making: Promise<Copied | undefined> | undefined;
          let n = 0;
          const around = <A, E>(act: Effect.Effect<A, E>) =>
            Effect.suspend(() => {
              if ((n += 1) !== j) return act;
              making = finished(driver, copy, world).finally(() => waits.resolve());
              return Effect.andThen(
                Effect.promise(() => waits.promise),
                act,
              );
            });
          await using rotation = nodeOn(world.host, {
            ceph: intercepted(cephMemoryService(world.cluster), (_, act) => around(act)),
            host: interceptedHost(hostMemoryService(world.host), (_, act) => around(act)),
            stores: interceptedStores(world, (_, act) => around(act)),
          });
          const code = await codeOf(rotation.rotateKey(rotating));
          ended.resolve();
          if (making === undefined) break;
          began = true;
          expect(["OK", "ABORTED"]).toContain(code);
          if (code === "OK") rotated += 1;
          const made = await making;
          expect([j, k, made]).not.toEqual([j, k, undefined]);
          if (made === undefined) break;
          expect([j, k, copying.header()]).toEqual([j, k, expect.arrayContaining([await keyOf(world, made)])]);
          if (copying.calls() < k) break;
        }
        if (!began) break;
      }
      expect(rotated).toBeGreaterThan(20);
    }, 60_000);
  });
});
