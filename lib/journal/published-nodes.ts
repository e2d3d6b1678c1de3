/**
 * On which nodes a volume is staged: a key beside its name in the journal, which node plugins write.
 *
 * There, and not in the image's metadata: one read tells it of a whole page of names, a compare keeps two nodes from
 * losing each other's, it takes no lock of an image that others use, and it goes in the operation that frees the name.
 *
 * It may name a node too many, as CSI allows: NodeUnstageVolume brings no credentials, so a node takes its name back
 * only while it knows those of the staging. Who has an image open, librbd knows: ControllerGetVolume asks.
 *
 * 1. A volume that one node at a time may have has one name at most: the last.
 * 2. What was written for another volume of that name counts for nothing.
 * 3. Nothing depends on it but what listings tell. Callers let a failure pass.
 */
import * as Effect from "effect/Effect";
import * as z from "zod";
import type { CephError } from "../ceph/errors.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { directoryObject, nodesKey, VOLUMES } from "./journal.ts";

/** A volume in the journal. */
export interface Volume {
  readonly pool: PoolRef;
  readonly instanceId: string;
  readonly requestName: string;
  readonly uuid: string;
}

/** A JSON array: the volume's UUID, then the node IDs. */
const form = z.array(z.string().min(1)).min(1);
/** Others may be writing; after that many turns the list is left as it is. */
const TURNS = 5;

const nodesIn = (value: string | undefined, uuid: string): readonly string[] => {
  if (value === undefined || value === "") return [];
  try {
    const [of, ...nodes] = form.parse(JSON.parse(value));
    return of === uuid ? nodes : [];
  } catch {
    return [];
  }
};

const valueOf = (uuid: string, nodes: readonly string[]): string =>
  nodes.length === 0 ? "" : JSON.stringify([uuid, ...nodes]);

/** In the order of the names; one call. */
export const publishedNodes = (
  pool: PoolRef,
  instanceId: string,
  names: readonly Pick<Volume, "requestName" | "uuid">[],
): Effect.Effect<readonly (readonly string[])[], CephError, Rados> =>
  Effect.flatMap(Rados, (rados) =>
    Effect.map(
      rados.omapGet(
        pool,
        directoryObject(VOLUMES, instanceId),
        names.map(({ requestName }) => nodesKey(requestName)),
      ),
      (omap) => names.map(({ requestName, uuid }) => nodesIn(omap?.get(nodesKey(requestName)), uuid)),
    ),
  );

const rewrite = (
  { pool, instanceId, requestName, uuid }: Volume,
  change: (nodes: readonly string[]) => readonly string[],
  guess: readonly string[],
): Effect.Effect<void, CephError, Rados> =>
  Effect.gen(function* () {
    const rados = yield* Rados;
    const directory = directoryObject(VOLUMES, instanceId);
    const key = nodesKey(requestName);
    let before = valueOf(uuid, guess);
    for (let turn = 0; turn < TURNS; turn += 1) {
      const after = valueOf(uuid, change(nodesIn(before, uuid)));
      if (turn > 0 && after === before) return;
      const part = after === "" ? { remove: [key] } : { set: { [key]: after } };
      const raced = yield* rados
        .omapWrite(pool, directory, { object: "require", compare: { [key]: before }, ...part })
        .pipe(
          Effect.as(false),
          Effect.catchTag("Raced", () => Effect.succeed(true)),
        );
      if (!raced) return;
      before = (yield* rados.omapGet(pool, directory, [key]))?.get(key) ?? "";
    }
  }).pipe(Effect.catchTag("ObjectNotFound", () => Effect.void));

/** One call where nobody else has it. `shared`: other nodes may have it too. */
export const publishNode = (volume: Volume, nodeId: string, shared: boolean) =>
  rewrite(volume, (nodes) => (shared ? [...new Set([...nodes, nodeId])].toSorted() : [nodeId]), []);

/** One call where nobody else has it. */
export const unpublishNode = (volume: Volume, nodeId: string) =>
  rewrite(volume, (nodes) => nodes.filter((node) => node !== nodeId), [nodeId]);
