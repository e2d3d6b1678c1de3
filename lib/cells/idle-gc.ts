/**
 * Collects garbage when a thread was busy and then idle for a while. The engine collects by allocation, not by time:
 * without this an idle driver keeps the heap of its busiest minute.
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
