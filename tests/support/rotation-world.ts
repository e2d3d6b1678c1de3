/**
 * What tests of the rotation of a key ask for: an encrypted volume that is staged, by either kind of key store, and which
 * key is kept and which keys open its device.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { diskOf, type Luks, type MemoryNode, setSlot, slotsOf } from "./host-memory.ts";
import { type AroundAny, interceptedStore, type Kept, keepingStore, wrappingStore } from "./key-stores.ts";
import { aNode, ENCRYPTED, IMAGE, nodeOn, STAGING, staging, UUID, VOLUME } from "./node-world.ts";
import type { MemoryCluster } from "./ceph-memory/memory.ts";
import type { DriverWorld } from "./one-world.ts";
import { PARAMETERS, SECRETS } from "./world.ts";

export type Kind = "keeper" | "wrapper";
export const KINDS: readonly Kind[] = ["keeper", "wrapper"];
const DEK = "rbd.csi.ceph.com/dek";
const FIRST_KEY = "the first key";

export const rotating = { volumeId: VOLUME, secrets: SECRETS };
export const stagingRotated = staging({ ...ENCRYPTED, secrets: SECRETS });

export interface RotationWorld {
  readonly cluster: MemoryCluster;
  readonly host: MemoryNode;
  readonly kind: Kind;
  readonly kept: Kept;
}

export const storesOf = ({ kept }: Pick<RotationWorld, "kept">) => ({
  keeper: keepingStore(kept),
  wrapper: wrappingStore(),
});

/** The volume's key stores, each of whose calls goes through `around`. */
export const interceptedStores = (world: Pick<RotationWorld, "kept">, around: AroundAny) => {
  const { keeper, wrapper } = storesOf(world);
  return { keeper: interceptedStore(keeper, around), wrapper: interceptedStore(wrapper, around) };
};

/** A driver of the node with the volume's key stores. */
export const rotatingDriver = (world: RotationWorld, given: Pick<DriverWorld, "ceph" | "host"> = {}) =>
  nodeOn(world.host, { stores: storesOf(world), ...given });

/** The lock that keeps rotations apart, as whoever rotates takes it. */
export const ROTATION_LOCK = { name: `${VOLUME}-mutexlock`, cookie: `${VOLUME}-enc-key-rotate`, seconds: 180 };

/** A volume with its first key, staged and with a file. */
export const aStagedVolume = async (kind: Kind): Promise<RotationWorld> => {
  const { cluster, host } = await aNode();
  const world: RotationWorld = { cluster, host, kind, kept: new Map() };
  const journal = cluster.namespace("rbd", "")?.objects.get(`csi.volume.${UUID}`);
  journal?.set("csi.volume.encryptKMS", kind).set("csi.volume.encryptionType", "block");
  const { meta } = cluster.image("rbd", IMAGE);
  meta.set("rbd.csi.ceph.com/encrypted", "encryptionPrepared");
  if (kind === "keeper") world.kept.set(VOLUME, FIRST_KEY);
  else meta.set(DEK, await Effect.runPromise(wrappingStore().wrap(VOLUME, Redacted.make(FIRST_KEY))));
  await using driver = rotatingDriver(world);
  await driver.stage(stagingRotated);
  host.files(`${STAGING}/${VOLUME}`).set("data", "precious");
  return world;
};

/** The key that a node would get. */
export const keptKey = ({ cluster, kind, kept }: RotationWorld): Promise<string> => {
  const stores = storesOf({ kept });
  const wrapped = cluster.image("rbd", IMAGE).meta.get(DEK) ?? "";
  const read = kind === "keeper" ? stores.keeper.read(VOLUME) : stores.wrapper.unwrap(VOLUME, wrapped);
  return Effect.runPromise(Effect.map(read, Redacted.value));
};

const headerOf = ({ cluster }: RotationWorld): Luks => {
  const disk = diskOf(cluster.image("rbd", IMAGE));
  if (disk.kind !== "luks") throw new Error("the LUKS header is gone");
  return disk;
};

/** The keys of the device by the number of their slot. */
export const slotKeys = (world: RotationWorld): ReadonlyMap<number, string> => slotsOf(headerOf(world));

/** Puts a key into a slot, or empties it, behind the driver's back. */
export const setSlotByHand = (world: RotationWorld, slot: number, key: string | undefined): void =>
  setSlot(headerOf(world), slot, key);

export const contextOfStatic = { ...PARAMETERS, staticVolume: "true", encrypted: "true" };
