/**
 * `Manager`: long work on images that the Ceph manager does in its own time (its module rbd_support), as an Effect
 * service. The manager may be away (`ManagerUnavailable`): then the driver does the work itself (lib/images).
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
  /** Image name of a flatten, image id of a removal. */
  readonly image: string;
  /** 0 to 1; `undefined` while it waits. */
  readonly progress: number | undefined;
  /** The last failure's text, if it failed and will be tried again. */
  readonly failure: string | undefined;
}

export interface ManagerCalls {
  /** Has the manager do `trashRemove` in its own time. Done when the manager has taken it. */
  readonly managerTrashRemove: (pool: PoolRef, id: string) => Effect.Effect<void, CephError>;
  /** Has the manager do `imageFlatten`. Done when the manager has taken it, or when there is no parent. */
  readonly managerFlatten: (pool: PoolRef, image: string) => Effect.Effect<void, CephError>;
  readonly managerTasks: (access: ClusterAccess) => Effect.Effect<readonly ManagerTask[], CephError>;
}

export class Manager extends Context.Service<Manager, ManagerCalls>()("csi-rbd/Manager") {}
