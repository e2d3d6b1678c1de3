/** A cell for tests of the pool: it answers, fails, dies and hangs when asked to. */
import { dlopen, FFIType } from "bun:ffi";
import { Errno, serveCell } from "../../../lib/cells/cell.ts";

const { symbols: libc } = dlopen("libc.so.6", { usleep: { args: [FFIType.u32], returns: FFIType.i32 } });

serveCell({
  echo: (arg: unknown) => arg,
  fail: ({ errno }: { errno: number }) => {
    throw new Errno("toy_fail", errno);
  },
  throws: () => {
    throw new TypeError("a bug in a cell");
  },
  uncloneable: () => () => {},
  exit: () => process.exit(3),
  /** Blocks the thread in C, as a call of a library does. */
  sleep: ({ ms }: { ms: number }) => {
    const end = performance.now() + ms;
    // a signal ends usleep early
    while (performance.now() < end) libc.usleep(Math.ceil((end - performance.now()) * 1000));
    return ms;
  },
  /** Blocks until somebody sets the first word. */
  wait: ({ gate }: { gate: SharedArrayBuffer }) => Atomics.wait(new Int32Array(gate), 0, 0),
  /** Notes its mark in the shared list: which calls ran, and in what order. */
  note: ({ list, mark }: { list: SharedArrayBuffer; mark: number }) => {
    const words = new Int32Array(list);
    words[Atomics.add(words, 0, 1) + 1] = mark;
  },
});
