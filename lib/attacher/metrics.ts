/** What a queue tells its metrics, by the names that Kubernetes' own controllers use. */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import type { WorkQueue } from "../kube/work-queue.ts";
import { type Figure, Metrics } from "../telemetry/metrics.ts";

export const queueMetrics = (name: string, { state }: WorkQueue) =>
  Effect.gen(function* () {
    const metrics = yield* Metrics;
    const clock = yield* Clock.Clock;
    yield* metrics.add(() => {
      const { waiting, oldest, adds, retries, running } = state();
      const now = clock.currentTimeMillisUnsafe();
      const ages = running.map((since) => (now - since) / 1000);
      const figure = (suffix: string, help: string, value: number): Figure => ({
        name: `workqueue_${suffix}`,
        help,
        labels: { name },
        value,
      });
      return [
        figure("depth", "Keys that wait for a worker.", waiting),
        figure(
          "oldest_seconds",
          "How long the first of them has waited.",
          oldest === undefined ? 0 : (now - oldest) / 1000,
        ),
        figure("adds_total", "Keys that were added.", adds),
        figure("retries_total", "Keys that came again after a failure.", retries),
        figure(
          "unfinished_work_seconds",
          "Seconds of work in progress.",
          ages.reduce((sum, age) => sum + age, 0),
        ),
        figure("longest_running_processor_seconds", "Seconds of the longest work in progress.", Math.max(0, ...ages)),
      ];
    });
  });
