/**
 * The methods of `Manager`, each one call in a cell.
 *
 * Not here: the calls themselves (lib/ceph/cell/tasks.ts).
 *
 * 1. A manager that does not answer is `ManagerUnavailable`, as is one that is down. The driver then does the work itself.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { type CephError, ManagerUnavailable } from "../errors.ts";
import type { ManagerCalls } from "../manager.ts";
import type { About, Calls } from "./call.ts";

/** All calls share one key, so that a manager that hangs occupies one cell, not one for each image. */
const KEY = "manager";

/** Of the list of tasks, which may be long. Nobody waits for a manager that is away any longer than needed. */
const LIST_LIMIT = Duration.seconds(5);

/**
 * Queueing a task takes a few milliseconds. The limit is short because DeleteVolume must not wait for a manager that does
 * not answer. A task that the manager takes after the limit is harmless, also if the driver does the same work itself.
 * While such a call hangs, the next ones fail at once.
 */
const TASK: Partial<About> = { limit: Duration.millis(800), key: KEY, changes: true };

export const managerCalls = ({ call, inCluster }: Calls): ManagerCalls => {
  const trashRemove = call("managerTrashRemove", ["id", "onlyMarked"], TASK);
  const flatten = call("managerFlatten", ["image"], TASK);
  return {
    managerTrashRemove: (pool, id, onlyMarked) => unavailable(trashRemove(pool, id, onlyMarked)),
    managerFlatten: (pool, image) => unavailable(flatten(pool, image)),
    managerTasks: (access) => unavailable(inCluster(access, "managerTasks", {}, { key: KEY, limit: LIST_LIMIT })),
  };
};

const unavailable = <A>(call: Effect.Effect<A, CephError>): Effect.Effect<A, CephError> =>
  Effect.catchTag(call, "CallStuck", ({ op, subject, reason }) =>
    Effect.fail(new ManagerUnavailable({ op, subject, reason })),
  );
