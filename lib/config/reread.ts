/**
 * Reads a small file that may change while the driver runs, and parses it again only when it has changed. It has no watch
 * and no timer: each look asks the file system for the file's identity, which the symlink swap of a ConfigMap changes.
 *
 * Invariants:
 * 1. A look never returns a content older than the file when the look began, except by the time for which its user trusts
 *    an earlier look.
 * 2. Unchanged files are not read: a look is one stat.
 * 3. A look ends within LOOK_LIMIT, whatever the file system does.
 */
import { open, stat } from "node:fs/promises";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { ConfigInvalid } from "./errors.ts";

export const LOOK_LIMIT = "5 seconds";
/** Trust for files that every call needs: kubelet itself takes a minute to bring a change. */
export const MOMENT_MS = 100;
/** A ConfigMap holds at most 1 MiB; more than this is not one of our files. */
const MAX_BYTES = 16 << 20;
/** File times tick coarsely: a file changed this recently may change again and look the same. */
const SETTLED_AFTER_MS = 100;

export interface RereadOptions<T> {
  readonly path: string;
  /** Reads the text of the file. Runs once per change. */
  readonly parse: (text: string) => Result.Result<T, ConfigInvalid>;
  /** The result when the file does not exist. */
  readonly missing: Result.Result<T, ConfigInvalid>;
  /** Runs after each parse that succeeded, to log it. */
  readonly onRead?: (value: T) => Effect.Effect<void>;
  /** Milliseconds for which a look does without asking again; 0 by default. */
  readonly trustedMs?: number;
}

interface Cached<T> {
  /** Undefined while the file is too young for its times to tell two contents apart. */
  readonly identity: string | undefined;
  readonly text: string;
  readonly outcome: Result.Result<T, ConfigInvalid>;
}

interface Look<T> {
  readonly outcome: Result.Result<T, ConfigInvalid>;
  /** Whether this look parsed a text that differs from the last one. */
  readonly fresh: boolean;
  /** Whether a change of what it found would show. */
  readonly settled: boolean;
}

interface Identified {
  readonly isFile: () => boolean;
  readonly dev: bigint;
  readonly ino: bigint;
  readonly size: bigint;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
}

const identify = (at: Identified): string => [at.dev, at.ino, at.size, at.mtimeNs, at.ctimeNs].join(" ");

const errnoOf = (cause: unknown): string =>
  cause instanceof Error && "code" in cause && typeof cause.code === "string" ? cause.code : "unknown error";

/** An Effect that gives the file's present meaning, each time it is run. */
export const reread = <T>(options: RereadOptions<T>): Effect.Effect<T, ConfigInvalid> => {
  const { path, parse, missing, onRead, trustedMs = 0 } = options;
  let cached: Cached<T> | undefined;
  let recent: { readonly outcome: Result.Result<T, ConfigInvalid>; readonly until: number } | undefined;
  const stale = (outcome: Result.Result<T, ConfigInvalid>): Look<T> => ({ outcome, fresh: false, settled: true });
  const unreadable = (reason: string) =>
    stale(Result.fail(new ConfigInvalid({ kind: "file-unreadable", path, reason })));

  /** Reads and parses; what it identifies is the very file that it reads. */
  const load = async (): Promise<Look<T>> => {
    await using file = await open(path, "r");
    const before = await file.stat({ bigint: true });
    if (before.size > MAX_BYTES) return unreadable(`has ${before.size} bytes, the limit is ${MAX_BYTES}`);
    const text = await file.readFile("utf8");
    const fresh = text !== cached?.text;
    const outcome = cached === undefined || fresh ? parse(text) : cached.outcome;
    const settled = Date.now() - Number(before.ctimeNs / 1_000_000n) > SETTLED_AFTER_MS;
    cached = { identity: settled ? identify(before) : undefined, text, outcome };
    return { outcome, fresh, settled };
  };

  const look = async (): Promise<Look<T>> => {
    try {
      const now = await stat(path, { bigint: true });
      // Opening a FIFO would wait for a writer.
      if (!now.isFile()) return unreadable("is not a regular file");
      if (cached?.identity === identify(now)) return stale(cached.outcome);
      return await load();
    } catch (cause) {
      const errno = errnoOf(cause);
      if (errno === "ENOENT" || errno === "ENOTDIR") return stale(missing);
      return unreadable(`cannot be read (${errno}): make it readable to the driver`);
    }
  };

  const looked = Effect.promise(look).pipe(
    Effect.timeoutOrElse({
      duration: LOOK_LIMIT,
      orElse: () => Effect.succeed(unreadable(`no answer within ${LOOK_LIMIT}`)),
    }),
    Effect.tap(({ outcome, fresh }) =>
      fresh && onRead !== undefined && Result.isSuccess(outcome) ? onRead(outcome.success) : Effect.void,
    ),
  );
  return Effect.suspend(() => {
    const since = performance.now();
    if (recent !== undefined && since < recent.until) return Effect.fromResult(recent.outcome);
    return Effect.flatMap(looked, ({ outcome, settled }) => {
      const until = since + trustedMs;
      // a slow look that began earlier must not bring back what it saw
      if (recent === undefined || recent.until <= until) recent = settled ? { outcome, until } : undefined;
      return Effect.fromResult(outcome);
    });
  });
};
