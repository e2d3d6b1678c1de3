/** When a thread tidies up: after much work, once it has nothing to do. */
import { afterEach, beforeEach, expect, jest, test } from "bun:test";
import { tidyWhenCalm } from "../../../lib/cells/idle-gc.ts";

const QUIET = 60;

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

const counted = (worth: number) => {
  let times = 0;
  const worked = tidyWhenCalm({ quietMs: QUIET, worth, collect: () => void (times += 1) });
  return { worked, times: () => times };
};

test("A process that works tidies once, when the work is over", () => {
  const { worked, times } = counted(3);
  for (let i = 0; i < 10; i++) worked();
  expect(times()).toBe(0);
  jest.advanceTimersByTime(QUIET * 3);
  expect(times()).toBe(1);
  jest.advanceTimersByTime(QUIET * 3);
  expect(times()).toBe(1);
});

test("A process does not tidy after little work, and counts that work with what follows", () => {
  const { worked, times } = counted(3);
  worked();
  worked();
  jest.advanceTimersByTime(QUIET * 3);
  expect(times()).toBe(0);
  worked();
  jest.advanceTimersByTime(QUIET * 3);
  expect(times()).toBe(1);
});

test("A process does not tidy while there is work", () => {
  const { worked, times } = counted(1);
  for (let i = 0; i < 10; i++) {
    worked();
    // longer in all than what is quiet, each pause shorter
    jest.advanceTimersByTime(QUIET / 6);
  }
  expect(times()).toBe(0);
});
