/**
 * A wrapping store that reads its options and its Secret when a key is first wrapped or unwrapped.
 *
 * 1. A volume is removed without them: its wrapped key goes with its image.
 */
import * as Effect from "effect/Effect";
import type { KmsError } from "./errors.ts";
import type { StoreContext, WrappingStore } from "./key-store.ts";

type Wrapping = Pick<WrappingStore, "wrap" | "unwrap">;

/** `open` runs at most once. */
export const wrappingOnUse = (
  { section }: StoreContext,
  newKey: WrappingStore["newKey"],
  open: Effect.Effect<Wrapping, KmsError>,
  passphrase?: WrappingStore["passphrase"],
): Effect.Effect<WrappingStore> =>
  Effect.map(Effect.cached(open), (opened) => ({
    kind: "wrapping",
    name: `KMS ${section.kmsId}`,
    newKey,
    ...(passphrase !== undefined && { passphrase }),
    wrap: (volumeId, key) => Effect.flatMap(opened, ({ wrap }) => wrap(volumeId, key)),
    unwrap: (volumeId, wrapped) => Effect.flatMap(opened, ({ unwrap }) => unwrap(volumeId, wrapped)),
  }));
