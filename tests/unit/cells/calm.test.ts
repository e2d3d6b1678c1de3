/** When a thread tidies up: after much work, once it has nothing to do. */
import { expect, test } from "bun:test";
import { tidyWhenCalm } from "../../../lib/cells/idle-gc.ts";

const QUIET = 60;

const counted = (worth: number) => {
  let times = 0;
  const worked = tidyWhenCalm({ quietMs: QUIET, worth, collect: () => void (times += 1) });
  return { worked, times: () => times };
};

test("it tidies once, when the work is over", async () => {
  const { worked, times } = counted(3);
  for (let i = 0; i < 10; i++) worked();
  expect(times()).toBe(0);
  await Bun.sleep(QUIET * 3);
  expect(times()).toBe(1);
  await Bun.sleep(QUIET * 3);
  expect(times()).toBe(1);
});

test("little work is not worth it, and is counted with what follows", async () => {
  const { worked, times } = counted(3);
  worked();
  worked();
  await Bun.sleep(QUIET * 3);
  expect(times()).toBe(0);
  worked();
  await Bun.sleep(QUIET * 3);
  expect(times()).toBe(1);
});

test("not while there is work", async () => {
  const { worked, times } = counted(1);
  for (let i = 0; i < 10; i++) {
    worked();
    // longer in all than what is quiet, each pause shorter
    await Bun.sleep(QUIET / 6);
  }
  expect(times()).toBe(0);
});
