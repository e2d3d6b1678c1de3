/**
 * `Manager`: long work on images that the Ceph manager does in its own time (its module rbd_support), as an Effect
 * service. If the manager does not answer (`ManagerUnavailable`), the driver does the work itself (lib/images).
 */
import * as Context from "effect/Context";
import type * as Effect from "effect/Effect";
import type { CephError } from "./errors.ts";
import type { ClusterAccess, PoolRef } from "./rados.ts";

export interface ManagerTask {
  readonly id: string;
  readonly action: "flatten" | "trash remove" | "other";
  readonly pool: string;
  readonly namespace: string;
  /** The name of the image for a flatten, its id for a removal. */
  readonly image: string;
  /** 0 to 1; `undefined` while the task waits. */
  readonly progress: number | undefined;
  /** The text of the last failure, if the task failed and will be tried again. */
  readonly failure: string | undefined;
}

export interface ManagerCalls {
  /**
   * Queues `trashRemove` at the manager. Ends when the manager has taken the task; `ImageNotFound` if there is no such image
   * in the trash. What comes of a task only `managerTasks` tells: one that fails is tried again for ever, and one whose image is
   * not in the trash any more is dropped.
   */
  readonly managerTrashRemove: (pool: PoolRef, id: string, onlyMarked?: boolean) => Effect.Effect<void, CephError>;
  /** Queues `imageFlatten` at the manager. Ends when the manager has taken the task, or if there is no parent. */
  readonly managerFlatten: (pool: PoolRef, image: string) => Effect.Effect<void, CephError>;
  readonly managerTasks: (access: ClusterAccess) => Effect.Effect<readonly ManagerTask[], CephError>;
}

export class Manager extends Context.Service<Manager, ManagerCalls>()("csi-rbd/Manager") {}
