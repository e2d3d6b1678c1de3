/**
 * Gives memory back when a thread has had much to do and then nothing for a while. The engine collects garbage by what
 * is allocated, not by time: without this a driver at rest keeps the heap of its busiest minute.
 *
 * Cells load this file too: it imports nothing.
 */

/** Long enough that a thread that pauses between two calls is not held up. */
const QUIET_MS = 1_000;
/** Less work leaves no garbage that matters: with a probe every few seconds this is once in many minutes. */
const WORTH = 100;

export interface Calm {
  readonly quietMs?: number;
  readonly worth?: number;
  readonly collect?: () => void;
}

/** -> to be called at the end of each piece of work. */
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
