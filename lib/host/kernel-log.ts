/**
 * The kernel's log: what it says about a call beyond the errno.
 *
 * Loaded in host cells: no Effect. Best effort: where the log cannot be read there are no lines.
 */
import { run } from "./child.ts";

const LIMIT_MS = 5_000;
const MOST_LINES = 5;

export interface LogLine {
  /** Seconds since boot, by the log's own clock, which is not that of /proc/uptime. */
  readonly at: number;
  readonly text: string;
}

/** All lines that the kernel still has, the oldest first. */
export const kernelLog = (): readonly LogLine[] => {
  try {
    return run(["dmesg"], { limit: LIMIT_MS })
      .stdout.split("\n")
      .flatMap((line) => {
        const [, at, text] = /^\[\s*(\d+\.\d+)\]\s(.*)$/.exec(line) ?? [];
        return at === undefined || text === undefined ? [] : [{ at: Number(at), text }];
      });
  } catch {
    return [];
  }
};

/** The moment of the newest line. */
export const lastLogged = (): number => kernelLog().at(-1)?.at ?? 0;

/** The words of a tool, and those of the kernel about the same call, if there are any. */
export const withLog = (text: string, log: string): string =>
  log === "" ? text : `${text}; the kernel's log says: ${log}`;

/** The last lines about `topic` that came after that moment, joined. */
export const loggedSince = (since: number, topic: RegExp): string =>
  kernelLog()
    .filter(({ at, text }) => at > since && topic.test(text))
    .slice(-MOST_LINES)
    .map(({ text }) => text)
    .join("; ");
