/** When a thread tidies up: after much work, once it has nothing to do. */
import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { shrinkAtRest, tidyWhenCalm } from "../../../lib/cells/idle-gc.ts";

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

describe("compiled code", () => {
  const shrinking = () => {
    let times = 0;
    const worked = shrinkAtRest({ restMs: QUIET, few: 3, worth: 5, shrink: () => void (times += 1) });
    const work = (pieces: number) => {
      for (let i = 0; i < pieces; i++) worked();
    };
    return { work, times: () => times };
  };

  test("A process drops its compiled code once, when it has little to do for a while", () => {
    const { work, times } = shrinking();
    work(9);
    // the first while has the work in it
    jest.advanceTimersByTime(QUIET * 2 - 1);
    expect(times()).toBe(0);
    jest.advanceTimersByTime(1);
    expect(times()).toBe(1);
    jest.advanceTimersByTime(QUIET * 5);
    expect(times()).toBe(1);
  });

  test("A process that goes on to work keeps its compiled code, and drops it after the work", () => {
    const { work, times } = shrinking();
    work(5);
    for (let i = 0; i < 4; i++) {
      work(3);
      jest.advanceTimersByTime(QUIET);
    }
    expect(times()).toBe(0);
    jest.advanceTimersByTime(QUIET);
    expect(times()).toBe(1);
  });

  test("Probes are no work: they neither keep compiled code nor, few as they are, have it dropped", () => {
    const { work, times } = shrinking();
    work(5);
    work(2);
    jest.advanceTimersByTime(QUIET);
    expect(times()).toBe(1);
    work(2);
    jest.advanceTimersByTime(QUIET);
    work(2);
    jest.advanceTimersByTime(QUIET * 2);
    expect(times()).toBe(1);
  });
});
