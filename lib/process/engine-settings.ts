/**
 * The settings of the JavaScript engine that come with the compiled executable. The engine reads them from its environment
 * before any code of ours runs, so a process that finds them missing replaces itself by itself, with them set.
 *
 * Imported first by the entry, for its effect: nothing else is loaded twice. In a checkout it has none (`npm start` sets
 * them there).
 *
 * 1. A process replaces itself once at most: what is set by hand stays, and what was set here is found set.
 * 2. Arguments and environment stay byte by byte, and so does the process number: nobody outside notices.
 * 3. Where it cannot be done the process goes on without the settings, and says so on stderr.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { dlopen, FFIType as T, ptr, read } from "bun:ffi";
import { isCompiled } from "../cells/where.ts";

export const ENGINE_SETTINGS: Readonly<Record<string, string>> = {
  // otherwise compiled code is discarded every 20 seconds; compiling it again costs a tenth of the throughput
  BUN_JSC_forceCodeBlockLiveness: "true",
  // the third compiler gains nothing here, and takes 15 MiB
  BUN_JSC_useFTLJIT: "false",
  // what the engine takes for the machine's memory, in bytes: how far its heap grows before it collects garbage. The
  // process takes 45 MiB less at work, and nothing is limited by it
  BUN_JSC_forceRAMSize: "100000000",
  // libc's, which is read at the same moment: each thread's own reserve of memory grows for hours
  MALLOC_ARENA_MAX: "2",
};

/** Holds the number of the process that has replaced itself; a child that inherits it has another number. */
const MARK = "CSI_RBD_ENGINE_SET_BY";

/** What has to be added to this environment; `undefined`: nothing. */
export const missingSettings = (
  environment: Readonly<Record<string, string | undefined>>,
  pid: number,
): Readonly<Record<string, string>> | undefined => {
  if (environment[MARK] === String(pid)) return undefined;
  const missing = Object.entries(ENGINE_SETTINGS).filter(([name]) => environment[name] === undefined);
  return missing.length === 0 ? undefined : { ...Object.fromEntries(missing), [MARK]: String(pid) };
};

/** A C array of texts, from the form of /proc: each ends with a NUL. `bytes` has to live as long as the array. */
const textArray = (bytes: Uint8Array<ArrayBuffer>): BigUint64Array => {
  const starts: bigint[] = [];
  const base = BigInt(ptr(bytes));
  for (let at = 0, end = bytes.indexOf(0); end >= 0; at = end + 1, end = bytes.indexOf(0, at)) {
    starts.push(base + BigInt(at));
  }
  return BigUint64Array.from([...starts, 0n]);
};

const bytesOf = (...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> => {
  const bytes = new Uint8Array(new ArrayBuffer(parts.reduce((sum, { length }) => sum + length, 0)));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
};

/** Returns only where it failed. */
const replaceItself = (added: Readonly<Record<string, string>>): never => {
  const more = Object.entries(added).map(([name, value]) => Buffer.from(`${name}=${value}\0`));
  const words = bytesOf(readFileSync("/proc/self/cmdline"));
  const variables = bytesOf(readFileSync("/proc/self/environ"), ...more);
  const libc = dlopen("libc.so.6", {
    execve: { args: [T.cstring, T.ptr, T.ptr], returns: T.i32 },
    __errno_location: { args: [], returns: T.ptr },
  }).symbols;
  libc.execve("/proc/self/exe", textArray(words), textArray(variables));
  const place = libc.__errno_location();
  const errno = place === null ? 0 : read.i32(place, 0);
  throw new Error(`execve failed with errno ${errno}, for ${words.length + variables.length} bytes of text`);
};

/** The kernel names a process by the last part of the path that it was started with, which is "exe" here. */
const restoreName = (): void => {
  try {
    const [program = ""] = readFileSync("/proc/self/cmdline", "utf8").split("\0");
    writeFileSync("/proc/self/comm", program.slice(program.lastIndexOf("/") + 1));
  } catch {
    // a name that only ps shows is not worth a word
  }
};

const apply = (): void => {
  if (process.env[MARK] === String(process.pid)) return restoreName();
  const added = missingSettings(process.env, process.pid);
  if (added === undefined) return;
  try {
    replaceItself(added);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    console.error(`the settings of the JavaScript engine are not in effect, so the driver runs slower: ${why}`);
  }
};

if (isCompiled) apply();
