/** Events below an object: written once, counted when they are repeated, and never in the way of work. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { type KubeEvent, recordEvent } from "../../../lib/kube/events.ts";
import { kubeWorld } from "../../support/kube-world.ts";

const LIST = "/api/v1/namespaces/default/events";
const event: KubeEvent = {
  involved: { apiVersion: "v1", kind: "PersistentVolume", name: "pv-1", uid: "u-1" },
  type: "Warning",
  reason: "Failed",
  message: "no such pool",
};

test("A repeated event raises the count of the first; another message makes another", async () => {
  const { memory, time, start } = kubeWorld();
  const work = Effect.gen(function* () {
    yield* recordEvent(event);
    yield* Effect.sleep("1 minute");
    yield* recordEvent(event);
    yield* recordEvent({ ...event, message: "x".repeat(5000) });
  });
  await start(work);
  await time.pass("1 minute");
  const found = memory.objects(LIST).toSorted((a, b) => Number(b["count"]) - Number(a["count"]));
  expect(found).toMatchObject([{ count: 2, message: "no such pool" }, { count: 1 }]);
  expect(found[0]?.["lastTimestamp"]).not.toBe(found[0]?.["firstTimestamp"]);
  expect(String(found[1]?.["message"])).toHaveLength(1024);
});

test("An event that the server has forgotten is written anew", async () => {
  const { memory, start } = kubeWorld();
  const work = Effect.gen(function* () {
    yield* recordEvent(event);
    for (const { metadata } of memory.objects(LIST)) memory.remove(`${LIST}/${metadata.name}`);
    yield* recordEvent(event);
  });
  await start(work);
  expect(memory.objects(LIST)).toMatchObject([{ count: 1 }]);
});

test("A server that hangs costs the work five seconds, and no failure", async () => {
  const { time, start } = kubeWorld();
  let done = false;
  const work = Effect.andThen(
    recordEvent(event),
    Effect.sync(() => void (done = true)),
  );
  await start(work, () => Effect.never);
  await time.pass("5 seconds");
  expect(done).toBe(true);
});
