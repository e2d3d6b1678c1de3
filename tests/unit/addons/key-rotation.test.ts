/** EncryptionKeyRotate over a cluster, a node and key stores in memory: what it exchanges, and what it leaves as it is. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { POOL } from "../../support/copies-world.ts";
import { eventually } from "../../support/grpc-serving.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import { hostMemoryService } from "../../support/host-memory.ts";
import {
  aNode,
  ENCRYPTED,
  IMAGE,
  nodeOn,
  PLACE,
  staging,
  toBeEncrypted,
  unstaging,
  VOLUME,
} from "../../support/node-world.ts";
import {
  aStagedVolume,
  contextOfStatic,
  keptKey,
  KINDS,
  rotating,
  rotatingDriver,
  ROTATION_LOCK,
  type RotationWorld,
  setSlotByHand,
  slotKeys,
  stagingRotated,
  storesOf,
} from "../../support/rotation-world.ts";
import { failureOf, SECRETS } from "../../support/world.ts";

/** What the device's slots have, and what the store has. */
const keysOf = async (world: RotationWorld) => [[...slotKeys(world)], await keptKey(world)] as const;

const proveRefused = async (rotation: Promise<unknown>, code: string, text: string): Promise<void> =>
  expect(await failureOf(rotation)).toMatchObject({ code, message: expect.stringContaining(text) });

describe.each(KINDS)("a rotation with the key store %p", (kind) => {
  test("The volume has a new key in slot 0 and no other, keeps its data, and opens anew", async () => {
    const world = await aStagedVolume(kind);
    const first = await keptKey(world);
    await using driver = rotatingDriver(world);
    expect(await driver.rotateKey(rotating)).toEqual({});
    const key = await keptKey(world);
    expect(key).not.toBe(first);
    expect([...slotKeys(world)]).toEqual([[0, key]]);
    expect(world.host.files(PLACE).get("data")).toBe("precious");
    await driver.unstage(unstaging());
    await driver.stage(stagingRotated);
    expect(world.host.files(PLACE).get("data")).toBe("precious");
    expect(world.host.encrypted).toHaveLength(1);
  });

  test("Of a mirrored image, only a key that travels with it is exchanged", async () => {
    const world = await aStagedVolume(kind);
    const before = await keysOf(world);
    world.cluster.image("rbd", IMAGE).mirror = "primary";
    await using driver = rotatingDriver(world);
    const rotation = driver.rotateKey(rotating);
    if (kind === "wrapper") {
      expect(await rotation).toEqual({});
      return;
    }
    await proveRefused(rotation, "FAILED_PRECONDITION", "is mirrored to another cluster");
    expect(await keysOf(world)).toEqual(before);
  });

  test("No key is in what the driver logs, and the lock's object is gone", async () => {
    const world = await aStagedVolume(kind);
    const first = await keptKey(world);
    await using driver = rotatingDriver(world);
    await driver.rotateKey(rotating);
    const log = driver.log.join("\n");
    for (const key of [first, await keptKey(world)]) expect(log).not.toContain(key);
    expect(world.cluster.namespace("rbd", "")?.objects.has(VOLUME)).toBe(false);
  });

  test.each([
    ["a key that nobody knows in slot 1", "slot 0", "unknown"],
    ["the kept key in slot 1, and one that nobody knows in slot 0", "slot 1", "unknown"],
    ["the kept key in slot 1 alone", "slot 1", undefined],
    ["the kept key in both slots", "both", "kept"],
  ])("What a rotation left that was cut off is exchanged too: %s", async (_what, where, other) => {
    const world = await aStagedVolume(kind);
    const first = await keptKey(world);
    const left = other === "kept" ? first : other;
    setSlotByHand(world, 0, where === "slot 1" ? left : first);
    setSlotByHand(world, 1, where === "slot 0" ? left : first);
    await using driver = rotatingDriver(world);
    await driver.rotateKey(rotating);
    const key = await keptKey(world);
    expect([key === first, [...slotKeys(world)]]).toEqual([false, [[0, key]]]);
  });

  test("The slots that an administrator has filled stay", async () => {
    const world = await aStagedVolume(kind);
    setSlotByHand(world, 7, "of an administrator");
    await using driver = rotatingDriver(world);
    await driver.rotateKey(rotating);
    expect([...slotKeys(world)]).toEqual([
      [0, await keptKey(world)],
      [7, "of an administrator"],
    ]);
  });

  test.each([
    ["opens another slot than 0 and 1", { 0: "of an administrator", 5: "kept" }, "key slot 5"],
    ["opens no slot", { 0: "of an administrator" }, "is not opened by the key that its store has"],
  ])("Nothing is changed where the kept key %s", async (_what, slots, text) => {
    const world = await aStagedVolume(kind);
    const first = await keptKey(world);
    for (const [slot, key] of Object.entries(slots)) setSlotByHand(world, Number(slot), key === "kept" ? first : key);
    const before = [...slotKeys(world)];
    await using driver = rotatingDriver(world);
    await proveRefused(driver.rotateKey(rotating), "FAILED_PRECONDITION", text);
    expect(await keysOf(world)).toEqual([before, first]);
  });

  test("A key that is not what was added is not kept, and the old one still opens the volume", async () => {
    const world = await aStagedVolume(kind);
    const first = await keptKey(world);
    const wrong = hostMemoryService(world.host);
    await using driver = rotatingDriver(world, {
      host: {
        ...wrong,
        addCryptKey: (request) =>
          wrong.addCryptKey(request.slot === 0 ? { ...request, next: Redacted.make("half of it") } : request),
      },
    });
    expect(await failureOf(driver.rotateKey(rotating))).toMatchObject({ code: "FAILED_PRECONDITION" });
    expect(await keptKey(world)).toBe(first);
    expect([...slotKeys(world).values()]).toContain(first);
  });
});

test("Slot 0 stays where the old key, once added to slot 1, does not open that", async () => {
  const world = await aStagedVolume("keeper");
  const first = await keptKey(world);
  const wrong = hostMemoryService(world.host);
  await using driver = rotatingDriver(world, {
    host: {
      ...wrong,
      addCryptKey: (request) => wrong.addCryptKey({ ...request, next: Redacted.make("half of it") }),
    },
  });
  expect(await failureOf(driver.rotateKey(rotating))).toMatchObject({ code: "FAILED_PRECONDITION" });
  expect([slotKeys(world).get(0), await keptKey(world)]).toEqual([first, first]);
});

describe("a rotation beside others", () => {
  test("While another node rotates, the caller is told so, and nothing is changed", async () => {
    const world = await aStagedVolume("keeper");
    const before = await keysOf(world);
    const other = cephMemoryService(world.cluster);
    await Effect.runPromise(other.objectLock(POOL, VOLUME, ROTATION_LOCK));
    await using driver = rotatingDriver(world);
    await proveRefused(driver.rotateKey(rotating), "ABORTED", "is given a new key by another node");
    expect(await keysOf(world)).toEqual(before);
    const now = Date.now() + 181_000;
    world.cluster.now = () => now;
    await driver.rotateKey(rotating);
    expect(await keptKey(world)).not.toBe(before[1]);
  });

  test("A rotation whose lock is lost stops before its next change", async () => {
    const world = await aStagedVolume("keeper");
    const first = await keptKey(world);
    const other = cephMemoryService(world.cluster);
    const steal = Effect.andThen(
      Effect.sync(() => world.cluster.objectLocks.clear()),
      Effect.orDie(other.objectLock(POOL, VOLUME, ROTATION_LOCK)),
    );
    await using driver = rotatingDriver(world, {
      host: interceptedHost(hostMemoryService(world.host), ({ method }, act) =>
        method === "addCryptKey" ? Effect.tap(act, () => steal) : act,
      ),
    });
    expect(await failureOf(driver.rotateKey(rotating))).toMatchObject({ code: "ABORTED" });
    expect(await keysOf(world)).toEqual([
      [
        [0, first],
        [1, first],
      ],
      first,
    ]);
    expect(world.cluster.objectLocks.size).toBe(1);
  });

  test("Where the store gets another key meanwhile, no slot of the present one is emptied", async () => {
    const world = await aStagedVolume("keeper");
    const first = await keptKey(world);
    await using driver = rotatingDriver(world, {
      host: interceptedHost(hostMemoryService(world.host), ({ method }, act) =>
        method === "addCryptKey" ? Effect.tap(act, () => Effect.sync(() => world.kept.set(VOLUME, "another"))) : act,
      ),
    });
    expect(await failureOf(driver.rotateKey(rotating))).toMatchObject({ code: "ABORTED" });
    expect([...slotKeys(world)]).toEqual([
      [0, first],
      [1, first],
    ]);
    expect(world.kept.get(VOLUME)).toBe("another");
  });

  test.each(["csi-snap-11111111-2222-4333-8444-777777777777", "csi-vol-11111111-2222-4333-8444-777777777777-temp"])(
    "While the volume is copied through the snapshot %p, its key stays",
    async (name) => {
      const world = await aStagedVolume("keeper");
      const before = await keysOf(world);
      await using driver = rotatingDriver(world);
      await driver.ceph((ceph) => ceph.snapshotCreate(POOL, IMAGE, name));
      await proveRefused(driver.rotateKey(rotating), "ABORTED", `is being copied, as its snapshots say (${name})`);
      expect(await keysOf(world)).toEqual(before);
      await driver.ceph((ceph) => ceph.snapshotRemove(POOL, IMAGE, name));
      await driver.ceph((ceph) => ceph.snapshotCreate(POOL, IMAGE, "of a person"));
      await driver.rotateKey(rotating);
    },
  );

  test("The old key stays in the header while a copy has begun that may have read it", async () => {
    const world = await aStagedVolume("keeper");
    const first = await keptKey(world);
    const name = "csi-snap-11111111-2222-4333-8444-777777777777";
    const begin = cephMemoryService(world.cluster).snapshotCreate(POOL, IMAGE, name);
    const inner = hostMemoryService(world.host);
    await using driver = rotatingDriver(world, {
      host: {
        ...inner,
        addCryptKey: (request) =>
          Effect.tap(inner.addCryptKey(request), () => (request.slot === 0 ? Effect.orDie(begin) : Effect.void)),
      },
    });
    expect(await failureOf(driver.rotateKey(rotating))).toMatchObject({ code: "ABORTED" });
    const second = await keptKey(world);
    expect([...slotKeys(world)]).toEqual([
      [0, second],
      [1, first],
    ]);
    await driver.ceph((ceph) => ceph.snapshotRemove(POOL, IMAGE, name));
    await using next = rotatingDriver(world);
    await next.rotateKey(rotating);
    expect([...slotKeys(world)]).toEqual([[0, await keptKey(world)]]);
  });

  test("An unstage waits for the rotation, and is told who holds the volume", async () => {
    const world = await aStagedVolume("keeper");
    const [begun, end] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    await using driver = rotatingDriver(world, {
      host: interceptedHost(hostMemoryService(world.host), ({ method }, act) =>
        method === "cryptKeySlot"
          ? Effect.andThen(
              Effect.promise(() => {
                begun.resolve();
                return end.promise;
              }),
              act,
            )
          : act,
      ),
    });
    const rotation = driver.rotateKey(rotating);
    await begun.promise;
    const locks = await driver.locks();
    const unstage = driver.unstage(unstaging());
    await eventually(() => locks.table()[0]?.waiting === 1, "the unstage waits");
    expect(locks.table()[0]?.holders[0]?.rpc).toBe("EncryptionKeyRotate");
    end.resolve();
    await rotation;
    await unstage;
    expect(world.host.mounts).toEqual([]);
  });
});

describe("a request that is refused", () => {
  test.each([
    [{ volumeId: "" }, "INVALID_ARGUMENT"],
    [{ secrets: {} }, "INVALID_ARGUMENT"],
    [{ volumeId: "no-such-volume" }, "NOT_FOUND"],
  ])("The request %p is refused with %p", async (more, code) => {
    const world = await aStagedVolume("keeper");
    const before = [...slotKeys(world)];
    await using driver = rotatingDriver(world);
    expect(await failureOf(driver.rotateKey({ ...rotating, ...more }))).toMatchObject({ code });
    expect([...slotKeys(world)]).toEqual(before);
  });

  test("A plain volume has no key to exchange", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await proveRefused(driver.rotateKey(rotating), "FAILED_PRECONDITION", "is not encrypted");
  });

  test("A volume that is not staged on this node keeps its key", async () => {
    const world = await aStagedVolume("keeper");
    await using driver = rotatingDriver(world);
    await driver.unstage(unstaging());
    await proveRefused(driver.rotateKey(rotating), "FAILED_PRECONDITION", "is not staged on this node");
  });

  test("The passphrase of all volumes is not exchanged for one", async () => {
    const { host, cluster } = await aNode();
    toBeEncrypted(cluster);
    await using driver = nodeOn(host);
    await driver.stage(staging(ENCRYPTED));
    const request = { ...rotating, secrets: ENCRYPTED.secrets };
    await proveRefused(driver.rotateKey(request), "FAILED_PRECONDITION", "one passphrase for all volumes");
  });
});

test("The key that a caller brings is not used, and the log says so", async () => {
  const world = await aStagedVolume("keeper");
  await using driver = rotatingDriver(world);
  await driver.rotateKey({ ...rotating, encryptionKey: "of the caller" });
  expect(await keptKey(world)).not.toBe("of the caller");
  expect(driver.log.join("\n")).toContain("encryption_key is not used");
});

test("A static volume gets a new key, by the names in its volume_context", async () => {
  const world = await aStagedVolume("keeper");
  const { host, cluster, kept } = world;
  const stores = storesOf(world);
  await using driver = nodeOn(host, { stores });
  await driver.unstage(unstaging());
  cluster.namespace("rbd", "")?.objects.delete(`csi.volume.${VOLUME.slice(-36)}`);
  kept.set(IMAGE, kept.get(VOLUME) ?? "");
  const volumeContext = { ...contextOfStatic, encryptionKMSID: "keeper" };
  await driver.stage(staging({ volumeId: IMAGE, volumeContext, secrets: SECRETS }));
  await driver.rotateKey({ volumeId: IMAGE, parameters: volumeContext, secrets: SECRETS });
  expect(kept.get(IMAGE)).not.toBe(kept.get(VOLUME));
  expect([...slotKeys(world)]).toEqual([[0, kept.get(IMAGE) ?? ""]]);
});
