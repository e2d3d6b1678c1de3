/**
 * The kinds of value that a flag can have, as zod schemas that read text by Go's rules. Knows no flag by name.
 *
 * Invariant: the message of a failing schema says what to write, not only what is wrong.
 */
import * as Duration from "effect/Duration";
import * as z from "zod";
import { MAX_SOCKET_PATH } from "../grpc/endpoint.ts";
import { goBool, goDuration, goInteger } from "../text/go-values.ts";
import { hasControl } from "../text/printable.ts";

export interface FlagKind<T> {
  /** Only such a flag may stand without a value; it never takes the next argument. */
  readonly isBool: boolean;
  readonly schema: z.ZodType<T, string>;
}

/** A kind from a reader that gives `undefined` for a wrong value. */
const kind = <T>(write: string, read: (text: string) => T | undefined): FlagKind<T> => ({
  isBool: false,
  schema: z.string().transform((text, context) => {
    const value = read(text);
    if (value !== undefined) return value;
    context.addIssue({ code: "custom", message: `write ${write}` });
    return z.NEVER;
  }),
});

export const bool = (): FlagKind<boolean> => ({ ...kind("true or false", goBool), isBool: true });

/** A whole number within the range, ends included. */
export const int = (min: number, max: number): FlagKind<number> =>
  kind(`a whole number from ${min} to ${max}`, (text) => {
    const value = goInteger(text);
    return value === undefined || value < BigInt(min) || value > BigInt(max) ? undefined : Number(value);
  });

/** A duration above zero, at most a year (a longer one does not fit the timers it is meant for). */
export const duration = (): FlagKind<Duration.Duration> =>
  kind("a duration above 0, such as 30s, 1m30s or 150ms", (text) => {
    const nanos = goDuration(text);
    const year = 365n * 24n * 3_600n * 1_000_000_000n;
    return nanos === undefined || nanos <= 0n || nanos > year ? undefined : Duration.nanos(nanos);
  });

/** A duration of 0 or more, at most ten years, as 0 or with a unit. */
export const delay = (): FlagKind<Duration.Duration> =>
  kind("0 or a duration such as 24h or 1h30m", (text) => {
    const nanos = goDuration(text);
    const longest = 3_650n * 24n * 3_600n * 1_000_000_000n;
    return nanos === undefined || nanos < 0n || nanos > longest ? undefined : Duration.nanos(nanos);
  });

/** Any text on one line, also none. */
export const text = (): FlagKind<string> =>
  kind("text without control characters", (value) => (hasControl(value) ? undefined : value));

/** Text that `read` accepts, and may bring into one form. */
export const shaped = (write: string, read: (value: string) => string | undefined): FlagKind<string> =>
  kind(write, (value) => (hasControl(value) ? undefined : read(value)));

/** One of these words. */
export const oneOf = <const W extends string>(words: ReadonlyArray<W>): FlagKind<W> =>
  kind(words.join(", "), (value) => words.find((word) => word === value));

/** Comma-separated words; none from an empty text. */
export const list = (): FlagKind<ReadonlyArray<string>> =>
  kind("words separated by commas", (value) => {
    if (hasControl(value)) return undefined;
    const words = value.split(",").map((word) => word.trim());
    return words.filter((word) => word !== "");
  });

/** An absolute path of the file system. */
export const path = (): FlagKind<string> =>
  shaped("an absolute path", (value) => (value.startsWith("/") ? value : undefined));

/** An absolute path of a unix socket; none from an empty text. */
export const socketPath = (): FlagKind<string> =>
  shaped(`an absolute path of at most ${MAX_SOCKET_PATH} bytes`, (value) =>
    value === "" || (/^\/.*[^/]$/.test(value) && Buffer.byteLength(value) <= MAX_SOCKET_PATH) ? value : undefined,
  );

export interface HttpAddress {
  readonly hostname: string;
  readonly port: number;
}

/** Where an HTTP server listens: `:8080`, `127.0.0.1:8080`, `[::1]:8080`. Nowhere from an empty text. */
export const httpAddress = (): FlagKind<readonly HttpAddress[]> =>
  kind("host:port, or :port for all addresses", (value) => {
    if (value === "") return [];
    const [, bracketed, plain, digits] = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]*)):(\d{1,5})$/.exec(value) ?? [];
    const port = Number(digits);
    if (digits === undefined || port < 1 || port > 65_535) return undefined;
    return [{ hostname: (bracketed ?? plain) || "0.0.0.0", port }];
  });
