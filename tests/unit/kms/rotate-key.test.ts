/** A volume's new key: kept in place of the one that was read, and of no other. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import { Rbd } from "../../../lib/ceph/rbd.ts";
import type { KeyStore } from "../../../lib/kms/key-store.ts";
import { Kms } from "../../../lib/kms/kms.ts";
import { beginRotation } from "../../../lib/kms/rotate-key.ts";
import { volumeKey, type VolumeKeyRequest } from "../../../lib/kms/volume-key.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { POOL } from "../../support/copies-world.ts";
import { type Kept, keepingStore, wrappingStore } from "../../support/key-stores.ts";
import { aCluster, seedImage } from "../../support/world.ts";

const DEK = "rbd.csi.ceph.com/dek";
const OLD_DEK = ".rbd.csi.ceph.com/dek";
const OLD_STATE = ".rbd.csi.ceph.com/encrypted";

/** A volume that is formatted, with the key OLD, and stores under `keeper` and `wrapper`. */
const aVolume = async (kmsId: string) => {
  const cluster = aCluster();
  await seedImage(cluster, "image");
  const kept: Kept = new Map([["id", "OLD"]]);
  const stores: Readonly<Record<string, KeyStore>> = { keeper: keepingStore(kept), wrapper: wrappingStore() };
  const { meta } = cluster.image("rbd", "image");
  const wrapped = await Effect.runPromise(wrappingStore().wrap("id", Redacted.make("OLD")));
  if (kmsId === "wrapper") meta.set(DEK, wrapped);
  meta.set("rbd.csi.ceph.com/encrypted", "encrypted");
  const layer = Layer.merge(Kms.layerOf(stores), Layer.succeed(Rbd, Rbd.of(cephMemoryService(cluster))));
  const request: VolumeKeyRequest = {
    volumeId: "id",
    image: { pool: POOL, imageName: "image" },
    kmsId,
    owner: undefined,
    secrets: { encryptionPassphrase: "all" },
  };
  const run = <A, E>(effect: Effect.Effect<A, E, Kms | Rbd>) => Effect.runPromise(Effect.provide(effect, layer));
  const key = async () => Redacted.value(await run(volumeKey(request)));
  return { kept, meta, request, run, key };
};

describe.each(["keeper", "wrapper"])("rotation with the key store %p", (kmsId) => {
  test("The old key is kept until the new one is, and then the new one is", async () => {
    const { request, run, key, meta } = await aVolume(kmsId);
    const { old, next, keepNext } = await run(beginRotation(request));
    expect([Redacted.value(old), await key()]).toEqual(["OLD", "OLD"]);
    await run(keepNext);
    expect(await key()).toBe(Redacted.value(next));
    expect(meta.get("rbd.csi.ceph.com/encrypted")).toBe("encrypted");
  });

  test("Of two rotations that began with one key, one is kept", async () => {
    const { request, run, key } = await aVolume(kmsId);
    const [one, other] = [await run(beginRotation(request)), await run(beginRotation(request))];
    await run(one.keepNext);
    const failure = await run(Effect.flip(other.keepNext));
    expect(["KeyExists", "Raced"]).toContain(failure._tag);
    expect(await key()).toBe(Redacted.value(one.next));
  });
});

test("A wrapped key under the name of older drivers is read, and its successor has the newer name", async () => {
  const { request, run, key, meta } = await aVolume("wrapper");
  meta.set(OLD_DEK, meta.get(DEK) ?? "").set(OLD_STATE, "encrypted");
  meta.delete(DEK);
  meta.delete("rbd.csi.ceph.com/encrypted");
  expect(await key()).toBe("OLD");
  const { next, keepNext } = await run(beginRotation(request));
  await run(keepNext);
  expect(await key()).toBe(Redacted.value(next));
  expect(meta.get(OLD_DEK)).toBeDefined();
});

test("The passphrase of all volumes is not rotated for one", async () => {
  const { request, run } = await aVolume("default");
  expect(await run(Effect.flip(beginRotation(request)))).toMatchObject({ _tag: "KmsRefused" });
});
