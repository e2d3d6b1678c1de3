/**
 * Starts the worker thread of a cell and watches for its end.
 *
 * Not here: what it is given to do (./pool.ts), and its inside (./cell.ts).
 *
 * 1. `ready` is called once at most, before which no message may be sent. `ended` may come before it, after it, or more
 *    than once.
 */
import { CELL_READY } from "./cell.ts";

export interface WorkerEvents {
  readonly ready: () => void;
  readonly ended: (reason: string) => void;
}

/** A load failure arrives as an event: `new Worker` itself does not throw. */
export const startWorker = (url: string | URL, { ready, ended }: WorkerEvents): Worker => {
  // a cell's heap is nearly all garbage of calls: kept small, eight of them take 10 MiB less
  const worker = new Worker(url, { smol: true });
  worker.onerror = (event) => ended(reasonIn(event.message));
  worker.addEventListener("close", () => ended("its thread closed"));
  worker.onmessage = ({ data }: MessageEvent<unknown>) => {
    if (data === CELL_READY) ready();
  };
  return worker;
};

/** The line of an uncaught error's report that names the error; the report quotes the source, too. */
const reasonIn = (report: string): string =>
  report
    .split("\n")
    .find((line) => /^\s*(\w*Error|error)\b/.test(line))
    ?.trim() ?? report.trim();
