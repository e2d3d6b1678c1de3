/**
 * The queue of tasks of the manager. Loaded in cells only.
 *
 * Not here: the same work done by this process (./clones.ts, ./trash.ts).
 *
 * 1. The manager gets no task for an image in a full pool: its writes would wait there for room, the one that notes the
 *    task first, and meanwhile it would do nothing for any pool.
 */
import { Errno } from "../../cells/cell.ts";
import { imageLabel } from "../label.ts";
import type { ManagerTask } from "../manager.ts";
import { PARENT } from "./ancestry.ts";
import { ENOENT, ENOSPC } from "./ffi.ts";
import { fullPoolOf } from "./full-pools.ts";
import { type Fields, listIn } from "./json.ts";
import { managerCommand, type PoolArg, withPool } from "./rados.ts";
import { id as idOf, isThere } from "./rbd.ts";
import { entryFor } from "./trash.ts";

const ask = (cluster: bigint, command: Readonly<Record<string, string>>): string => {
  const { result, status, output } = managerCommand(cluster, JSON.stringify({ ...command, format: "json" }));
  // librados reports a time-out of its own as a positive errno
  if (result !== 0) throw new Errno("rados_mgr_command", Math.abs(result), status);
  return output;
};

/** Fails as the manager does that takes no task. */
const proveRoom = (where: PoolArg, id: (io: bigint) => string | undefined): void => {
  const full = fullPoolOf(where, id);
  if (full === undefined) return;
  throw new Errno("rados_mgr_command", ENOSPC, `pool ${full} is full, and the manager would wait there for room`);
};

export const addTrashRemove = (where: PoolArg, id: string, onlyMarked = false): void => {
  if (onlyMarked && withPool(where, (io) => entryFor(io, id, onlyMarked)) === undefined) {
    throw new Errno("rbd_open", ENOENT);
  }
  proveRoom(where, () => id);
  ask(where.cluster, { prefix: "rbd task add trash remove", image_id_spec: imageLabel(where, id) });
};

export const addFlatten = (where: PoolArg, image: string): void => {
  proveRoom(where, (io) => idOf(io, image));
  try {
    ask(where.cluster, { prefix: "rbd task add flatten", image_spec: imageLabel(where, image) });
  } catch (error) {
    // releases differ in how the manager names the image
    if (error instanceof Errno && error.message.includes("does not have a parent")) return;
    // the manager says so, too, if it cannot open the parent
    const gone = error instanceof Errno && error.message.includes("does not exist");
    if (gone && withPool(where, (io) => isThere(io, image))) throw new Errno(PARENT, ENOENT);
    throw error;
  }
};

export const list = (cluster: bigint): readonly ManagerTask[] => {
  const prefix = "rbd task list";
  return listIn(prefix, ask(cluster, { prefix })).map(described);
};

/** A task of another kind may lack the fields of these two. */
const described = (task: Fields): ManagerTask => {
  const refs = task.has("refs") ? task.object("refs") : undefined;
  const ref = (name: string): string => refs?.text(name, "") ?? "";
  const named = ref("action");
  const action = named === "flatten" || named === "trash remove" ? named : "other";
  const failure = task.text("retry_message", "");
  return {
    id: task.text("id"),
    action,
    pool: ref("pool_name"),
    namespace: ref("pool_namespace"),
    image: ref(action === "trash remove" ? "image_id" : "image_name"),
    progress: task.flag("in_progress") ? task.number("progress", 0) : undefined,
    failure: failure === "" ? undefined : failure,
  };
};
