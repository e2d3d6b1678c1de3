/**
 * What the manager does for its clients in its own time: its queue of tasks. Loaded in cells only.
 *
 * Not here: the same things done by this process (./clones.ts, ./trash.ts).
 */
import { Errno } from "../../cells/cell.ts";
import type { ManagerTask } from "../manager.ts";
import { PARENT } from "./ancestry.ts";
import { ENOENT } from "./ffi.ts";
import { managerCommand, type PoolArg, withPool } from "./rados.ts";
import { isThere } from "./rbd.ts";

const ask = (cluster: bigint, command: Readonly<Record<string, string>>): string => {
  const { result, said, output } = managerCommand(cluster, JSON.stringify({ ...command, format: "json" }));
  // librados answers a time-out of its own with a positive errno
  if (result !== 0) throw new Errno("rados_mgr_command", Math.abs(result), said);
  return output;
};

const specOf = ({ pool, namespace }: PoolArg, name: string): string =>
  namespace === "" ? `${pool}/${name}` : `${pool}/${namespace}/${name}`;

export const addTrashRemove = (where: PoolArg, id: string): void => {
  ask(where.cluster, { prefix: "rbd task add trash remove", image_id_spec: specOf(where, id) });
};

export const addFlatten = (where: PoolArg, image: string): void => {
  try {
    ask(where.cluster, { prefix: "rbd task add flatten", image_spec: specOf(where, image) });
  } catch (error) {
    // the manager names the image its own way, and releases differ in it
    if (error instanceof Errno && error.message.includes("does not have a parent")) return;
    // so it says also of one that it can't open, for its parent is away
    const gone = error instanceof Errno && error.message.includes("does not exist");
    if (gone && withPool(where, (io) => isThere(io, image))) throw new Errno(PARENT, ENOENT);
    throw error;
  }
};

interface Task {
  readonly id: string;
  readonly refs?: {
    readonly action?: string;
    readonly pool_name?: string;
    readonly pool_namespace?: string;
    readonly image_name?: string;
    readonly image_id?: string;
  };
  readonly in_progress?: boolean;
  readonly progress?: number;
  readonly retry_message?: string;
}

export const list = (cluster: bigint): readonly ManagerTask[] =>
  (JSON.parse(ask(cluster, { prefix: "rbd task list" })) as readonly Task[]).map(describe);

const describe = ({ id, refs, in_progress: running, progress, retry_message: failure }: Task): ManagerTask => {
  const action = refs?.action === "flatten" || refs?.action === "trash remove" ? refs.action : "other";
  return {
    id,
    action,
    pool: refs?.pool_name ?? "",
    namespace: refs?.pool_namespace ?? "",
    image: (action === "trash remove" ? refs?.image_id : refs?.image_name) ?? "",
    progress: running === true ? (progress ?? 0) : undefined,
    failure: failure === undefined || failure === "" ? undefined : failure,
  };
};
