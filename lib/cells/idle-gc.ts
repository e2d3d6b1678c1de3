/**
 * Gives memory back when a thread was busy and then has little to do: garbage after a second, compiled code after a minute.
 * The engine collects by allocation, not by time: without this an idle driver keeps the heap of its busiest minute.
 *
 * Cells load this file, too: it imports nothing.
 */

/** Longer than the pauses of a busy thread between two calls. */
const QUIET_MS = 1_000;
/** Less work leaves little garbage. With a probe every few seconds this is once in many minutes. */
const WORTH = 100;

export interface Calm {
  readonly quietMs?: number;
  readonly worth?: number;
  readonly collect?: () => void;
}

/** Gives a function to call at the end of each piece of work. */
export const tidyWhenCalm = ({
  quietMs = QUIET_MS,
  worth = WORTH,
  collect = () => Bun.gc(true),
}: Calm = {}): (() => void) => {
  let done = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  return () => {
    done += 1;
    clearTimeout(timer);
    if (done < worth) return;
    timer = setTimeout(() => {
      done = 0;
      collect();
    }, quietMs);
    timer.unref();
  };
};

/** So long that a pause in a busy hour does not cost the compiled code. */
const REST_MS = 60_000;
/** Calls in that time that are no work: probes come every few seconds. */
const FEW = 20;

export interface Rest {
  readonly restMs?: number;
  readonly few?: number;
  readonly worth?: number;
  readonly shrink?: () => void;
}

/**
 * Gives a function to call at the end of each piece of work. It drops compiled code, some 10 MiB of a driver that was busy,
 * when few pieces came within a minute. The next call compiles what it needs, as the first one after a start does: 40 ms.
 */
export const shrinkAtRest = ({
  restMs = REST_MS,
  few = FEW,
  worth = WORTH,
  shrink = () => Bun.shrink(),
}: Rest = {}): (() => void) => {
  let done = 0;
  let lately = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const watch = () => {
    lately = 0;
    timer = setTimeout(look, restMs);
    timer.unref();
  };
  const look = () => {
    if (lately >= few) return watch();
    timer = undefined;
    done = 0;
    shrink();
  };
  return () => {
    done += 1;
    lately += 1;
    if (done >= worth && timer === undefined) watch();
  };
};
