/**
 * A driver that dies, or whose call fails, at each call that it makes while it gives a volume a new key: the key that the
 * store has opens the volume at every moment, and the next driver ends with one new key in slot 0.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { CephUnexplained } from "../../../lib/ceph/errors.ts";
import { HostUnexplained } from "../../../lib/host/errors.ts";
import { KmsUnreachable } from "../../../lib/kms/errors.ts";
import { intercepted, type Moment } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { everyDeath } from "../../support/every-death.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import { hostMemoryService } from "../../support/host-memory.ts";
import { dyingAt, interceptedStore } from "../../support/key-stores.ts";
import { nodeOn, PLACE, unstaging, VOLUME } from "../../support/node-world.ts";
import { failureOf } from "../../support/world.ts";
import {
  aStagedVolume,
  keptKey,
  KINDS,
  type Kind,
  type RotationWorld,
  rotating,
  rotatingDriver,
  slotKeys,
  stagingRotated,
  storesOf,
} from "../../support/rotation-world.ts";

const proveOpens = async (world: RotationWorld): Promise<void> =>
  expect([...slotKeys(world).values()]).toContain(await keptKey(world));

/** The next driver rotates, and the volume opens anew and has its data. */
const proveFinished = async (world: RotationWorld, first: string): Promise<void> => {
  const { host, cluster } = world;
  await using driver = rotatingDriver(world);
  await driver.rotateKey(rotating);
  const key = await keptKey(world);
  expect(key).not.toBe(first);
  expect([...slotKeys(world)]).toEqual([[0, key]]);
  expect(cluster.namespace("rbd", "")?.objects.has(VOLUME)).toBe(false);
  await driver.unstage(unstaging());
  await driver.stage(stagingRotated);
  expect(host.files(PLACE).get("data")).toBe("precious");
};

const oneDeath = async (kind: Kind, k: number, moment: Moment): Promise<boolean> => {
  const world = await aStagedVolume(kind);
  const first = await keptKey(world);
  const dying = dyingAt(k, moment);
  const { keeper, wrapper } = storesOf(world);
  {
    await using driver = nodeOn(world.host, {
      ceph: dying.ceph(cephMemoryService(world.cluster)),
      host: dying.host(hostMemoryService(world.host)),
      stores: { keeper: dying.store(keeper), wrapper: dying.store(wrapper) },
    });
    await driver.rotateKey(rotating).catch((error: unknown) => {
      if (dying.died() === undefined) throw error;
    });
  }
  if (dying.died() === undefined) return false;
  await proveOpens(world);
  // three minutes later
  world.cluster.objectLocks.clear();
  await proveFinished(world, first);
  return true;
};

/** Fails the k-th call so that nobody knows whether it took effect: it did not, or it did. */
const failingAt = (world: RotationWorld, k: number, moment: Moment) => {
  let calls = 0;
  const failed = { at: "" };
  const around = <A, E>(method: string, act: Effect.Effect<A, E>, error: E): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      if (++calls !== k) return act;
      failed.at = method;
      return moment === "before" ? Effect.fail(error) : Effect.andThen(Effect.exit(act), Effect.fail(error));
    });
  const about = (method: string) => ({ op: method, subject: "it", reason: "its answer is lost" });
  const { keeper, wrapper } = storesOf(world);
  const lost = new KmsUnreachable({ store: "it", reason: "its answer is lost" });
  return {
    failed,
    given: {
      ceph: intercepted(cephMemoryService(world.cluster), ({ method }, act) =>
        around(method, act, new CephUnexplained({ ...about(method), errno: 0 })),
      ),
      host: interceptedHost(hostMemoryService(world.host), ({ method }, act) =>
        around(method, act, new HostUnexplained(about(method))),
      ),
      stores: {
        keeper: interceptedStore(keeper, (method, act) => around(method, act, lost as never)),
        wrapper: interceptedStore(wrapper, (method, act) => around(method, act, lost as never)),
      },
    },
  };
};

const oneFailure = async (kind: Kind, k: number, moment: Moment): Promise<boolean> => {
  const world = await aStagedVolume(kind);
  const first = await keptKey(world);
  const { failed, given } = failingAt(world, k, moment);
  {
    await using driver = nodeOn(world.host, given);
    const failure = await failureOf(driver.rotateKey(rotating));
    if (failed.at === "") {
      expect(failure).toBeUndefined();
      return false;
    }
    // the removal of the lock's object may fail unseen
    if (failure === undefined) expect(failed.at).toMatch(/^object/);
  }
  await proveOpens(world);
  world.cluster.objectLocks.clear();
  await proveFinished(world, first);
  return true;
};

describe.each(KINDS)("a rotation with the key store %p", (kind) => {
  test("The kept key opens the volume after a death at each call, and the next driver ends with one new key", async () => {
    const deaths = await everyDeath(80, (k, moment) => oneDeath(kind, k, moment));
    expect(deaths.before).toBeGreaterThan(20);
    expect(deaths.after).toBe(deaths.before);
  }, 60_000);

  test("The kept key opens the volume after a call whose answer is lost, and the next driver ends with one new key", async () => {
    const failures = await everyDeath(80, (k, moment) => oneFailure(kind, k, moment));
    expect(failures.before).toBeGreaterThan(20);
    expect(failures.after).toBe(failures.before);
  }, 60_000);
});
