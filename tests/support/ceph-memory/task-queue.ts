/**
 * The queue of the manager of a cluster in memory.
 *
 * Not here: access checks (./manager.ts) and the work itself (./cluster.ts).
 *
 * 1. Tasks run in order, never in the middle of a call. A task that fails stays queued with its failure.
 * 2. A task that is queued already is not queued twice.
 */
import type { ManagerTask } from "../../../lib/ceph/manager.ts";

interface Wanted {
  readonly action: "flatten" | "trash remove";
  readonly pool: string;
  readonly namespace: string;
  readonly image: string;
}

interface Task extends Wanted {
  readonly id: string;
  progress: number | undefined;
  failure: string | undefined;
}

const isSame = (a: Wanted, b: Wanted): boolean =>
  a.action === b.action && a.pool === b.pool && a.namespace === b.namespace && a.image === b.image;

export class TaskQueue {
  /** Down: it takes no tasks, shows none and does none. */
  up = true;
  /** Held: it takes tasks and does none until `run`. */
  held = false;
  #tasks: Task[] = [];
  #next = 1;

  /** @param work does a task -> why it could not, or `undefined` when there is nothing more to do. */
  constructor(private readonly work: (task: Wanted) => string | undefined) {}

  queue(wanted: Wanted): void {
    if (!this.#tasks.some((task) => isSame(task, wanted))) {
      const id = `00000000-0000-4000-9000-${String(this.#next++).padStart(12, "0")}`;
      this.#tasks.push({ ...wanted, id, progress: undefined, failure: undefined });
    }
    // a microtask: after the call that queued it, whatever clock the test runs on
    if (!this.held) queueMicrotask(() => this.run());
  }

  tasks(): readonly ManagerTask[] {
    return this.#tasks.map((task) => ({ ...task }));
  }

  /** Says of a task that is held that it is at work, from 0 to 1, or (`undefined`) that it waits. */
  progress(image: string, progress: number | undefined): void {
    for (const task of this.#tasks) if (task.image === image) task.progress = progress;
  }

  /** -> how many tasks are done with. */
  run(): number {
    if (!this.up) return 0;
    const before = this.#tasks.length;
    this.#tasks = this.#tasks.filter((task) => {
      task.progress = undefined;
      task.failure = this.work(task);
      return task.failure !== undefined;
    });
    return before - this.#tasks.length;
  }
}
