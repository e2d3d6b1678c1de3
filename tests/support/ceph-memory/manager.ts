/**
 * The calls of `Manager` on a cluster in memory.
 *
 * Not here: the queue of tasks (./task-queue.ts) and what a task does (./cluster.ts).
 */
import { ImageNotFound, ManagerUnavailable, ParentLost } from "../../../lib/ceph/errors.ts";
import { imageLabel } from "../../../lib/ceph/label.ts";
import type { ManagerCalls } from "../../../lib/ceph/manager.ts";
import { admit, call, enter, refuse } from "./call.ts";
import { type MemoryCluster, trashed } from "./cluster.ts";

const askManager = (cluster: MemoryCluster, user: string, op: string, subject: string): void => {
  if (!cluster.managerUp) throw refuse(new ManagerUnavailable({ op, subject, reason: "no manager answers" }));
  if (cluster.users.get(user)?.manager !== true) {
    throw refuse(new ManagerUnavailable({ op, subject, reason: `client.${user} has no mgr caps` }));
  }
};

export const managerCalls = (cluster: MemoryCluster): ManagerCalls => ({
  managerTrashRemove: (ref, id, onlyMarked = false) =>
    call(() => {
      const op = "rbd task add trash remove";
      const subject = imageLabel(ref, id);
      const { trash } = enter(cluster, ref, op);
      askManager(cluster, ref.access.user, op, subject);
      if (trashed(trash, id, onlyMarked) === undefined) throw refuse(new ImageNotFound({ op, subject }));
      cluster.queueTask("trash remove", ref.pool, ref.namespace, id);
    }),

  managerFlatten: (ref, image) =>
    call(() => {
      const op = "rbd task add flatten";
      const subject = imageLabel(ref, image);
      const { images } = enter(cluster, ref, op);
      askManager(cluster, ref.access.user, op, subject);
      const found = images.get(image);
      if (found === undefined) throw refuse(new ImageNotFound({ op, subject }));
      if (found.lostParent) throw refuse(new ParentLost({ op, subject }));
      if (found.parent !== undefined) cluster.queueTask("flatten", ref.pool, ref.namespace, image);
    }),

  managerTasks: (access) =>
    call(() => {
      const op = "rbd task list";
      admit(cluster, access, op);
      askManager(cluster, access.user, op, access.monitors.join(","));
      return cluster.tasks();
    }),
});
