/**
 * On which nodes a volume is staged: one more key of its journal entry, which node plugins write.
 *
 * In the journal, not in the image's metadata: a compare keeps two nodes from losing each other's name, it costs one
 * operation of RADOS, and it takes no lock of an image that others use. ceph-csi reads keys that begin with `csi.` and
 * does not see it.
 *
 * It may name a node too many, as CSI allows: NodeUnstageVolume brings no credentials, so a node takes its name back
 * only while it knows those of the staging. Who has an image open, librbd knows: `ControllerGetVolume` asks.
 *
 * 1. A volume that one node at a time may have has one name at most: the last.
 * 2. Nothing depends on it but what listings tell. Callers let a failure pass.
 */
import * as Effect from "effect/Effect";
import * as z from "zod";
import { Ceph, type PoolRef } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { uuidObject, VOLUMES } from "../journal.ts";

/** Its value is a JSON array of node IDs. */
export const NODES_KEY = "csi-rbd.nodes";

const names = z.array(z.string().min(1));
/** Another may be writing; after that many turns the list is left as it is. */
const TURNS = 5;

export const nodesIn = (value: string | undefined): readonly string[] => {
  if (value === undefined || value === "") return [];
  try {
    return names.parse(JSON.parse(value));
  } catch {
    return [];
  }
};

export const publishedNodes = (pool: PoolRef, uuid: string): Effect.Effect<readonly string[], CephError, Ceph> =>
  Effect.flatMap(Ceph, (ceph) =>
    Effect.map(ceph.omapGet(pool, uuidObject(VOLUMES, uuid), [NODES_KEY]), (omap) => nodesIn(omap?.get(NODES_KEY))),
  );

const rewrite = (
  pool: PoolRef,
  uuid: string,
  change: (nodes: readonly string[]) => readonly string[],
  guess: readonly string[],
): Effect.Effect<void, CephError, Ceph> =>
  Effect.gen(function* () {
    const ceph = yield* Ceph;
    const object = uuidObject(VOLUMES, uuid);
    const valueOf = (nodes: readonly string[]) => (nodes.length === 0 ? "" : JSON.stringify(nodes));
    const write = (before: string, after: string) =>
      ceph.omapWrite(pool, object, {
        object: "require",
        compare: { [NODES_KEY]: before },
        ...(after === "" ? { remove: [NODES_KEY] } : { set: { [NODES_KEY]: after } }),
      });
    let before = valueOf(guess);
    for (let turn = 0; turn < TURNS; turn += 1) {
      const after = valueOf(change(nodesIn(before)));
      if (turn > 0 && after === before) return;
      const raced = yield* write(before, after).pipe(
        Effect.as(false),
        Effect.catchTag("Raced", () => Effect.succeed(true)),
      );
      if (!raced) return;
      before = (yield* ceph.omapGet(pool, object, [NODES_KEY]))?.get(NODES_KEY) ?? "";
    }
  }).pipe(
    // A static volume, or one that is being deleted.
    Effect.catchTag("ObjectNotFound", () => Effect.void),
  );

/** One call, where nobody else has it. `shared`: other nodes may have it too. */
export const publishNode = (pool: PoolRef, uuid: string, nodeId: string, shared: boolean) =>
  rewrite(pool, uuid, (nodes) => (shared ? [...new Set([...nodes, nodeId])].toSorted() : [nodeId]), []);

/** One call, where nobody else has it. */
export const unpublishNode = (pool: PoolRef, uuid: string, nodeId: string) =>
  rewrite(pool, uuid, (nodes) => nodes.filter((node) => node !== nodeId), [nodeId]);
