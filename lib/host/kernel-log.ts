/**
 * The kernel's log: what it says about a call beyond the errno.
 *
 * Loaded in host cells: no Effect. Best effort: where the log cannot be read there are no lines.
 *
 * Source: Documentation/ABI/testing/dev-kmsg.
 */
import { closeSync, constants, openSync, readSync } from "node:fs";
import { dlopen, FFIType as T } from "bun:ffi";

const LOG = "/dev/kmsg";
const MOST_LINES = 5;
/** No record is longer. */
const RECORD_BYTES = 8192;
const SEEK_END = 2;

export interface LogLine {
  /** Seconds since boot, by the log's own clock, which is not that of /proc/uptime. */
  readonly at: number;
  readonly text: string;
}

const load = () => dlopen("libc.so.6", { lseek: { args: [T.i32, T.i64, T.i32], returns: T.i64 } }).symbols;
/** Bound when it is first used: few cells need it. */
let libc: ReturnType<typeof load> | undefined;

const open = (): number | undefined => {
  try {
    return openSync(LOG, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
};

/** `6,1234,5678901,-;rbd: rbd0: capacity …`, whose third word counts microseconds; lines with a blank before them follow. */
const lineIn = (record: string): LogLine | undefined => {
  const [, at, text] = /^\d+,\d+,(\d+)[^;]*;([^\n]*)/.exec(record) ?? [];
  return at === undefined || text === undefined ? undefined : { at: Number(at) / 1e6, text };
};

/** Whether records were overwritten before they were read. The next ones are there. */
const wasOverwritten = (error: unknown): boolean => (error as { readonly code?: unknown }).code === "EPIPE";

/** The lines from where the file stands to the end. */
const rest = (file: number): readonly LogLine[] => {
  const lines: LogLine[] = [];
  const record = Buffer.alloc(RECORD_BYTES);
  for (;;) {
    try {
      const bytes = readSync(file, record, 0, RECORD_BYTES, null);
      if (bytes === 0) return lines;
      const line = lineIn(record.toString("utf8", 0, bytes));
      if (line !== undefined) lines.push(line);
    } catch (error) {
      if (!wasOverwritten(error)) return lines;
    }
  }
};

/** All lines that the kernel still has, the oldest first. */
export const kernelLog = (): readonly LogLine[] => {
  const file = open();
  if (file === undefined) return [];
  try {
    return rest(file);
  } finally {
    closeSync(file);
  }
};

/** The last lines about a topic that came since, joined; "": there are none. It reads them once. */
export type SaidSince = (topic: RegExp) => string;

/** Runs `use`, which can ask what the kernel has said meanwhile. */
export const withKernelLog = <A>(use: (said: SaidSince) => A): A => {
  const file = open();
  try {
    if (file === undefined) return use(() => "");
    libc ??= load();
    libc.lseek(file, 0, SEEK_END);
    return use((topic) =>
      rest(file)
        .filter(({ text }) => topic.test(text))
        .slice(-MOST_LINES)
        .map(({ text }) => text)
        .join("; "),
    );
  } finally {
    if (file !== undefined) closeSync(file);
  }
};

/** The words of a tool, and those of the kernel about the same call, if there are any. */
export const withLog = (text: string, log: string): string =>
  log === "" ? text : `${text}; the kernel's log says: ${log}`;
