/**
 * Many calls at once, timed: latencies of each, and how long all took.
 *
 * Not here: what is called (./sides.ts) and what is good enough (./bench.ts).
 */
import { readFileSync } from "node:fs";

/** What some rounds of one kind of call took. */
export interface Sample {
  readonly latencies: number[];
  /** Sum of the rounds' own durations, in milliseconds. */
  wallMs: number;
  /** What the process that did the work spent on it, in milliseconds of one CPU. */
  cpuMs: number;
}

export const emptySample = (): Sample => ({ latencies: [], wallMs: 0, cpuMs: 0 });

/** CPU time of a process since its start, in milliseconds; counted by the kernel in steps of ten. */
export const cpuMsOf = (pid: number): number => {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) * 10;
};

/** Runs `call` for each item, `atOnce` of them at a time, and adds the times to the sample; `pid` does the work. */
export const timed = async <A>(
  sample: Sample,
  items: readonly A[],
  { atOnce, pid }: { readonly atOnce: number; readonly pid: number },
  call: (item: A) => Promise<void>,
): Promise<void> => {
  const left = items.values();
  const caller = async () => {
    for (const item of left) {
      const started = performance.now();
      await call(item);
      sample.latencies.push(performance.now() - started);
    }
  };
  const started = performance.now();
  const cpu = cpuMsOf(pid);
  await Promise.all(Array.from({ length: atOnce }, caller));
  sample.wallMs += performance.now() - started;
  sample.cpuMs += cpuMsOf(pid) - cpu;
};

export const quantile = ({ latencies }: Sample, q: number): number => {
  const sorted = latencies.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
};

export const perSecond = ({ latencies, wallMs }: Sample): number => latencies.length / (wallMs / 1000);

export const cpuPerCall = ({ latencies, cpuMs }: Sample): number => cpuMs / latencies.length;

/** The middle one of some values. */
export const middle = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

/** A field of /proc/PID/status, such as VmRSS, in MiB. */
export const memoryMiB = (pid: number, field: string): number =>
  Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;

/** The middle one of the slopes between any two points: one odd point does not tilt it. */
export const slope = (points: readonly (readonly [x: number, y: number])[]): number =>
  middle(points.flatMap(([x, y], i) => points.slice(i + 1).map(([x2, y2]) => (y2 - y) / (x2 - x))));
