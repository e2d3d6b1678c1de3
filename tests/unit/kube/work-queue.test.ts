/** Keys, workers, lanes and waits of a work queue, in virtual time. */
import { describe, expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { type WorkQueue, workQueue } from "../../../lib/kube/work-queue.ts";
import { kubeWorld } from "../../support/kube-world.ts";
import { settled } from "../../support/virtual-time.ts";

type Work = (key: string) => Effect.Effect<void, { readonly message: string }>;

const started = async (work: Work, workers = 2) => {
  const { time, start } = kubeWorld();
  let queue: WorkQueue | undefined;
  const running = await start(
    Effect.map(
      workQueue({
        lanes: { fast: workers, slow: workers },
        laneOf: (key) => (key.startsWith("slow") ? "slow" : "fast"),
        work,
        base: Duration.seconds(1),
        max: Duration.seconds(10),
      }),
      (made) => (queue = made),
    ),
  );
  if (queue === undefined) throw new Error("the queue has not started");
  return { time, queue, running };
};

describe("a work queue", () => {
  test("A key that is added often while it waits or runs is worked on once more, and never twice at once", async () => {
    let [inside, most, runs] = [0, 0, 0];
    const { time, queue } = await started(() =>
      Effect.gen(function* () {
        runs += 1;
        most = Math.max(most, (inside += 1));
        yield* Effect.sleep("1 second");
        inside -= 1;
      }),
    );
    for (let n = 0; n < 5; n++) queue.add("a");
    await settled();
    for (let n = 0; n < 5; n++) queue.add("a");
    await time.pass("5 seconds");
    expect([runs, most]).toEqual([2, 1]);
  });

  test("A failing key comes again after 1, 2, 4 and 8 seconds, then every 10; a success forgets that", async () => {
    const times: number[] = [];
    let failing = true;
    const { time, queue } = await started(() =>
      Effect.suspend(() => {
        times.push(time.now());
        return failing ? Effect.fail({ message: "no" }) : Effect.void;
      }),
    );
    const waits = () => times.map((at, n) => (at - (times[n - 1] ?? at)) / 1000).slice(1);
    queue.add("a");
    await time.pass("46 seconds");
    expect(waits()).toEqual([1, 2, 4, 8, 10, 10, 10]);
    expect(queue.failures("a")).toBe(8);
    failing = false;
    await time.pass("10 seconds");
    expect(queue.failures("a")).toBe(0);
    failing = true;
    times.length = 0;
    queue.add("a");
    await time.pass("3 seconds");
    expect(waits()).toEqual([1, 2]);
  });

  test("A lane whose workers are all busy does not hold up another lane", async () => {
    const done: string[] = [];
    const { queue } = await started((key) =>
      key.startsWith("slow") ? Effect.never : Effect.sync(() => void done.push(key)),
    );
    for (let n = 0; n < 50; n++) queue.add(`slow-${n}`);
    queue.add("fast");
    await settled();
    expect(done).toEqual(["fast"]);
    expect(queue.state()).toMatchObject({ waiting: 48, adds: 51 });
    expect(queue.state().running).toHaveLength(2);
  });

  test("Work that breaks is logged with its cause and tried again, and its worker goes on", async () => {
    let broken = true;
    const done: string[] = [];
    const { time, queue, running } = await started(
      (key) =>
        Effect.sync(() => {
          if (broken) throw new Error("a bug");
          done.push(key);
        }),
      1,
    );
    queue.add("a");
    await settled();
    broken = false;
    queue.add("b");
    await time.pass("1 second");
    expect(done).toEqual(["b", "a"]);
    expect(running.log.join("\n")).toContain("the work on a broke");
  });
});
