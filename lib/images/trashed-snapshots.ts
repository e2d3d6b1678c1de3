/**
 * The snapshots that keep an image in the trash: a driver's own are removed there, a person's stay and are named.
 *
 * | snapshot | whose | what becomes of it |
 * | --- | --- | --- |
 * | `csi-snap-U@csi-snap-U`: the image's own name | a driver's | removed |
 * | `V-temp@V`: of an image in between, the name of its volume | a driver's | removed, unless V still reads from it |
 * | `S@csi-snap-U`, where the journal has U, with this name and source | a driver's | removed, unless U is not ready or still reads from it |
 * | `S@V-temp`, where the journal has V, in any pool, or has none of that UUID and the name has ceph-csi's own prefix | a driver's | likewise |
 * | kind `trash`: removed, and kept by its clones | nobody's | goes with the last of them, and so does the image |
 * | kind `group`, and all others | not a driver's | stays |
 *
 * A snapshot that its clone still reads from by this name is one of which the clone may not be known to it: such a clone was
 * cut off, and would lose its data.
 *
 * Not here: images that have a name (./persons-snapshots.ts); when an image in the trash is looked at (./purge.ts).
 *
 * 1. Nothing is removed of an image that is not in the trash any more (lib/ceph/cell/trashed-snapshots.ts).
 * 2. Only a snapshot that its exact name, or the journal, proves to be a driver's goes.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { type PoolRef, Rados } from "../ceph/rados.ts";
import { type DriversMark, Rbd, type TrashedSnapshot } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";
import { imageNameOf, readAttributes, SNAPSHOTS, VOLUMES } from "../journal/journal.ts";
import { statusIfThere } from "./races.ts";
import { TEMP_SUFFIX } from "./temp-suffix.ts";
import { TRANSIENT_NAME } from "./transient-snapshots.ts";

/** An image in the trash. */
export interface InTrash {
  readonly pool: PoolRef;
  readonly id: string;
  readonly name: string;
  /** It was moved there with the driver's mark: without one it is another entry than the driver's. */
  readonly mark: DriversMark | undefined;
}

/** What still keeps an image in the trash. */
export interface Keeping {
  /** Names of the snapshots that are not proven to be a driver's: only a person can remove them. */
  readonly persons: readonly string[];
  /** It has clones, or a snapshot of work that is not finished: it may go later. */
  readonly forNow: boolean;
}

/** Removes the snapshots that are a driver's, and tells what is left; `undefined`: the image is not in the trash any more. */
export const clearSnapshots = Effect.fn("images.clearSnapshots")(function* (
  image: InTrash,
): Effect.fn.Return<Keeping | undefined, CephError, Rados | Rbd> {
  const rbd = yield* Rbd;
  const { pool, id, mark } = image;
  const snapshots = yield* snapshotsOf(image);
  if (snapshots === undefined) return undefined;
  const persons: string[] = [];
  let forNow = false;
  for (const { name, kind } of snapshots) {
    const whose = kind === "trash" ? "nobody's" : kind === "user" ? yield* ownerOf(image, name) : "a person's";
    if (whose === "a person's") persons.push(name);
    else if (whose === "unknown") persons.push(`${name} (a copy may need it that the driver cannot read)`);
    else if (whose === "a driver's") {
      const removed = Effect.as(rbd.trashSnapshotRemove(pool, id, name, mark !== undefined), true);
      const isThere = yield* Effect.catchTag(removed, "ImageNotFound", () => Effect.succeed(false));
      if (!isThere) return undefined;
    } else forNow = true;
  }
  return { persons, forNow };
});

/** A clone that lost its parent before it was complete, and an image that is half removed, have none. */
const snapshotsOf = ({
  pool,
  id,
  mark,
}: InTrash): Effect.Effect<readonly TrashedSnapshot[] | undefined, CephError, Rbd> =>
  Effect.flatMap(Rbd, ({ trashSnapshots, trashGet }) =>
    Effect.catchTag(trashSnapshots(pool, id, mark !== undefined), ["ParentLost", "ImageNotFound"], () =>
      Effect.map(trashGet(pool, id), (entry) =>
        entry === undefined || (mark !== undefined && entry.byDriver === undefined) ? undefined : [],
      ),
    ),
  );

type Owner = "a driver's" | "a person's" | "unknown" | "work's that is not finished";

const ownerOf = Effect.fnUntraced(function* (
  image: InTrash,
  snapshot: string,
): Effect.fn.Return<Owner, CephError, Rados | Rbd> {
  if (snapshot === image.name) return "a driver's";
  if (snapshot + TEMP_SUFFIX === image.name) return yield* unlessRead(image, snapshot, [snapshot]);
  const [, uuid, temp] = TRANSIENT_NAME.exec(snapshot) ?? [];
  if (uuid === undefined) return "a person's";
  if (temp === undefined) {
    const made = yield* readAttributes(SNAPSHOTS, image.pool, uuid);
    if (made?.source !== image.name || imageNameOf(SNAPSHOTS, uuid, made) !== snapshot) return "a person's";
    if (made.imageId === undefined) return "work's that is not finished";
    return yield* unlessRead(image, snapshot, [snapshot]);
  }
  return yield* ownerOfCopys(image, snapshot, uuid, snapshot.slice(0, -temp.length));
});

/** A copy, and the image that it goes through, may be in another pool than its source, and so may its journal. */
const ownerOfCopys = Effect.fnUntraced(function* (
  image: InTrash,
  snapshot: string,
  uuid: string,
  copyName: string,
): Effect.fn.Return<Owner, CephError, Rados | Rbd> {
  let isProven = snapshot.startsWith(VOLUMES.defaultImagePrefix);
  const listed = yield* (yield* Rados).pools(image.pool.access);
  const pools = new Set([image.pool.pool, ...listed.map(({ name }) => name)]);
  if (pools.size > MOST_POOLS) return "unknown";
  for (const name of pools) {
    const found = yield* lookForCopy(image, snapshot, { ...image.pool, pool: name }, uuid, copyName).pipe(
      Effect.catchTags({
        // what cannot be read may have a copy that reads from the snapshot
        AccessDenied: () => Effect.succeed("unknown" as const),
        PoolNotFound: () => Effect.void,
      }),
    );
    if (found === "unknown") return found;
    if (found === "unfinished") return "work's that is not finished";
    if (found === "complete") isProven = true;
  }
  return isProven ? "a driver's" : "a person's";
});

/** A cluster with more is not searched. */
const MOST_POOLS = 256;

const lookForCopy = Effect.fnUntraced(function* (
  image: InTrash,
  snapshot: string,
  pool: PoolRef,
  uuid: string,
  copyName: string,
): Effect.fn.Return<"complete" | "unfinished" | "unknown" | undefined, CephError, Rados | Rbd> {
  const copy = yield* readAttributes(VOLUMES, pool, uuid);
  if (copy !== undefined && copy.imageId === undefined) return "unfinished";
  const whose = yield* unlessRead(image, snapshot, [snapshot, copyName], pool);
  if (whose === "unknown") return whose;
  if (whose !== "a driver's") return "unfinished";
  return copy && "complete";
});

/** Whether one of those images is a clone of the snapshot, which has its name still. */
const unlessRead = Effect.fnUntraced(function* (
  { pool, id }: InTrash,
  snapshot: string,
  clones: readonly string[],
  at: PoolRef = pool,
): Effect.fn.Return<Owner, CephError, Rbd> {
  for (const clone of clones) {
    const look = Effect.map(statusIfThere(at, clone), (image) => image?.parent);
    // which parent it has lost cannot be told
    const parent = yield* Effect.catchTag(look, "ParentLost", () => Effect.succeed("lost" as const));
    if (parent === "lost") return "unknown";
    const isOfImage = parent?.imageId === id && parent.pool === pool.pool && parent.namespace === pool.namespace;
    if (isOfImage && parent.snapshot === snapshot) return "work's that is not finished";
  }
  return "a driver's";
});

/** A message names so many snapshots, and counts the others. */
const NAMED = 5;

const named = (persons: readonly string[]): string =>
  `${persons.length === 1 ? "a snapshot that is" : "snapshots that are"} not known to be a driver's: ${persons.slice(0, NAMED).join(", ")}${persons.length > NAMED ? ` and ${persons.length - NAMED} more` : ""}`;

const toDo = ({ pool, id }: InTrash): string =>
  `To keep what is there, take the image out of the trash with "rbd trash restore ${imageLabel(pool, id)}". If nobody needs it, remove each with "rbd snap rm --pool ${pool.pool}${pool.namespace === "" ? "" : ` --namespace ${pool.namespace}`} --image-id ${id} --snap NAME"`;

/** For the log: a look at the image's snapshots failed. */
export const notSeen = ({ pool, id }: InTrash, reason: string): string =>
  `could not see why image ${imageLabel(pool, id)} stays in the trash: ${reason}`;

export const keptByPersons = (image: InTrash, persons: readonly string[]): string =>
  `image ${imageLabel(image.pool, image.id)} (${image.name}) stays in the trash, and so does its space: it has ${named(persons)}. ${toDo(image)}; the driver removes the image then`;

export const refuseKept = (image: InTrash, persons: readonly string[]): Precondition =>
  new Precondition({
    subject: `image ${imageLabel(image.pool, image.id)} (${image.name})`,
    problem: `is in the trash, and has ${named(persons)}`,
    remedy: `${toDo(image)}, then retry`,
  });
