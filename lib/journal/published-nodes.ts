/**
 * The nodes on which a volume is staged: a key beside the volume's name in the journal, which node plugins write.
 *
 * The key is there, and not in the image's metadata, because one read gets it for a whole page of names, a compare keeps
 * two nodes from losing each other's entry, writing it needs no lock of an image that others use, and it goes in the
 * operation that frees the name.
 *
 * It may name a node too many, as CSI permits: NodeUnstageVolume brings no credentials, so a node removes its entry only
 * while it knows those of the staging. Who has an image open, librbd knows: ControllerGetVolume asks it.
 *
 * Not here: when a node writes its entry (lib/node).
 *
 * 1. A volume that only one node at a time may have has one entry at most: the last.
 * 2. Entries that were written for another volume of the same name do not count.
 * 3. Callers that write let a failure pass. Listings read it, and whoever heals a device (lib/node/heal.ts).
 */
import * as Effect from "effect/Effect";
import * as z from "zod";
import type { CephError } from "../ceph/errors.ts";
import { type OmapWrite, type PoolRef, Rados } from "../ceph/rados.ts";
import { directoryObject, nodesKey, VOLUMES } from "./journal.ts";

/** A volume in the journal. */
export interface JournalVolume {
  readonly pool: PoolRef;
  readonly instanceId: string;
  readonly requestName: string;
  readonly uuid: string;
}

/** A JSON array: the volume's UUID, then the node IDs. */
const form = z.array(z.string().min(1)).min(1);
/** Other nodes may write at the same time; after that many turns the list stays as it is. */
const TURNS = 5;

const nodesIn = (value: string | undefined, uuid: string): readonly string[] => {
  if (value === undefined || value === "") return [];
  try {
    const [volumeUuid, ...nodes] = form.parse(JSON.parse(value));
    return volumeUuid === uuid ? nodes : [];
  } catch {
    return [];
  }
};

const valueOf = (uuid: string, nodes: readonly string[]): string =>
  nodes.length === 0 ? "" : JSON.stringify([uuid, ...nodes]);

/** The nodes of each volume, in the order of the names; one call. */
export const publishedNodes = Effect.fn("journal.publishedNodes")(function* (
  pool: PoolRef,
  instanceId: string,
  names: readonly Pick<JournalVolume, "requestName" | "uuid">[],
): Effect.fn.Return<readonly (readonly string[])[], CephError, Rados> {
  const rados = yield* Rados;
  const keys = names.map(({ requestName }) => nodesKey(requestName));
  const values = yield* rados.omapGet(pool, directoryObject(VOLUMES, instanceId), keys);
  return names.map(({ requestName, uuid }) => nodesIn(values?.get(nodesKey(requestName)), uuid));
});

/** Adds the node; one call if no other node has the volume. `shared`: other nodes may have it too. -> whether it is there. */
export const publishNode = (
  volume: JournalVolume,
  nodeId: string,
  shared: boolean,
): Effect.Effect<boolean, CephError, Rados> =>
  rewrite(volume, (nodes) => (shared ? [...new Set([...nodes, nodeId])].toSorted() : [nodeId]), []);

/** Removes the node; one call if no other node has the volume. -> whether it is gone. */
export const unpublishNode = (volume: JournalVolume, nodeId: string): Effect.Effect<boolean, CephError, Rados> =>
  rewrite(volume, (nodes) => nodes.filter((node) => node !== nodeId), [nodeId]);

/** Writes the changed list, at first as if it were `guess` now: a compare shows whether it is. -> whether the list is so now. */
const rewrite = Effect.fn("journal.rewriteNodes")(
  function* (
    { pool, instanceId, requestName, uuid }: JournalVolume,
    change: (nodes: readonly string[]) => readonly string[],
    guess: readonly string[],
  ): Effect.fn.Return<boolean, CephError, Rados> {
    const rados = yield* Rados;
    const directory = directoryObject(VOLUMES, instanceId);
    const key = nodesKey(requestName);
    let before = valueOf(uuid, guess);
    for (let turn = 0; turn < TURNS; turn += 1) {
      const after = valueOf(uuid, change(nodesIn(before, uuid)));
      if (turn > 0 && after === before) return true;
      if (yield* replaceKey(pool, directory, key, before, after)) return true;
      before = (yield* rados.omapGet(pool, directory, [key]))?.get(key) ?? "";
    }
    return false;
  },
  Effect.catchTag("ObjectNotFound", () => Effect.succeed(false)),
);

/** -> whether the value was `before`; "" is an absent key. */
const replaceKey = (
  pool: PoolRef,
  object: string,
  key: string,
  before: string,
  after: string,
): Effect.Effect<boolean, CephError, Rados> => {
  const change: Partial<OmapWrite> = after === "" ? { remove: [key] } : { set: { [key]: after } };
  return Effect.flatMap(Rados, (rados) =>
    rados.omapWrite(pool, object, { object: "require", compare: { [key]: before }, ...change }).pipe(
      Effect.as(true),
      Effect.catchTag("Raced", () => Effect.succeed(false)),
    ),
  );
};
