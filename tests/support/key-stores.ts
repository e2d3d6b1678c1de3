/**
 * Key stores in memory, which outlive the drivers that use them, and drivers that die between them and Ceph.
 *
 * 1. Nothing is overwritten: a store that has a key refuses another, as the interface says.
 * 2. What a store wraps is bound to the volume's ID and to the store: no other unwraps it.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import { KeyExists, KeyNotFound, KmsDenied, type KmsError } from "../../lib/kms/errors.ts";
import type { KeepingStore, KeyStore, WrappingStore } from "../../lib/kms/key-store.ts";
import { keyOf, newKey } from "../../lib/kms/new-key.ts";
import type { HostService } from "../../lib/host/host.ts";
import { intercepted, type Moment } from "./ceph-faults.ts";
import { interceptedHost } from "./host-faults.ts";

/** The texts of the keys by the ID of their volume. */
export type Kept = Map<string, string>;

export const keepingStore = (kept: Kept, name = "keeper"): KeepingStore => {
  const place = (volumeId: string) => `${name}/${volumeId}`;
  const read = (volumeId: string) =>
    Effect.suspend(() => {
      const text = kept.get(volumeId);
      return text === undefined
        ? Effect.fail(new KeyNotFound({ volumeId, place: place(volumeId) }))
        : Effect.succeed(keyOf(text));
    });
  return {
    kind: "keeping",
    name,
    place,
    newKey: newKey("url"),
    read,
    write: (volumeId, key) =>
      Effect.suspend(() => {
        if (kept.has(volumeId)) return Effect.fail(new KeyExists({ volumeId, place: place(volumeId) }));
        kept.set(volumeId, Redacted.value(key));
        return Effect.void;
      }),
    replace: (volumeId, old, key) =>
      Effect.flatMap(read(volumeId), (there) => {
        if (Redacted.value(there) !== Redacted.value(old)) {
          return Effect.fail(new KeyExists({ volumeId, place: place(volumeId) }));
        }
        kept.set(volumeId, Redacted.value(key));
        return Effect.void;
      }),
    remove: (volumeId) => Effect.sync(() => void kept.delete(volumeId)),
  };
};

export const wrappingStore = (name = "wrapper"): WrappingStore => ({
  kind: "wrapping",
  name,
  newKey: newKey("url"),
  wrap: (volumeId, key) =>
    Effect.sync(() => Buffer.from(JSON.stringify([name, volumeId, Redacted.value(key)])).toString("base64")),
  unwrap: (volumeId, wrapped) =>
    Effect.suspend(() => {
      const [by, id, text = ""] = JSON.parse(Buffer.from(wrapped, "base64").toString()) as readonly string[];
      if (by === name && id === volumeId) return Effect.succeed(keyOf(text));
      return Effect.fail(new KmsDenied({ store: name, reason: "another wrapped it", remedy: "Ask that one" }));
    }),
});

/** What a call of either kind is replaced by; `act` is the call. */
export type AroundAny = <A, E>(method: string, act: Effect.Effect<A, E>) => Effect.Effect<A, E>;

type Act = (...args: readonly never[]) => Effect.Effect<unknown, KmsError>;

/** The store, each of whose calls goes through `around`. */
export const interceptedStore = <S extends KeyStore>(store: S, around: AroundAny): S =>
  Object.fromEntries(
    Object.entries(store).map(([name, value]: [string, unknown]) => {
      if (typeof value !== "function" || name === "place") return [name, value];
      return [name, (...args: readonly never[]) => Effect.suspend(() => around(name, (value as Act)(...args)))];
    }),
  ) as unknown as S;

/** A driver that dies at its k-th call, of Ceph, of its node or of a key store: before it is made, or after it is done. */
export const dyingAt = (k: number, moment: Moment) => {
  let calls = 0;
  let died: string | undefined;
  const around: AroundAny = (method, act) =>
    Effect.suspend(() => {
      if (died !== undefined) return Effect.die(new Error(died));
      const n = ++calls;
      if (n !== k) {
        return Effect.flatMap(Effect.exit(act), (exit) => (died === undefined ? exit : Effect.die(new Error(died))));
      }
      died = `the driver died ${moment} call ${n}, ${method}`;
      const death = Effect.die(new Error(died));
      return moment === "before" ? death : Effect.andThen(Effect.exit(act), death);
    });
  return {
    ceph: (inner: CephCalls) => intercepted(inner, ({ method }, act) => around(method, act)),
    host: (inner: HostService) => interceptedHost(inner, ({ method }, act) => around(method, act)),
    store: <S extends KeyStore>(store: S): S => interceptedStore(store, around),
    died: () => died,
  };
};
