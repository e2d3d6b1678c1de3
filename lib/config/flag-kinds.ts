/**
 * The kinds of value that a flag can have, as zod schemas that read text by Go's rules. Knows no flag by name.
 *
 * Invariant: the message of a failing schema says what to write, not only what is wrong.
 */
import { resolve } from "node:path";
import * as Duration from "effect/Duration";
import * as Result from "effect/Result";
import * as z from "zod";
import { ENDPOINT_FORM, formatEndpoint, MAX_SOCKET_PATH, parseAddress } from "../grpc/endpoint.ts";
import { goBool, goDuration, goInteger, isGoFloat } from "../text/go-values.ts";
import { hasControl } from "../text/printable.ts";

export interface FlagKind<T> {
  /** Only such a flag may stand without a value; it never takes the next argument. */
  readonly isBool: boolean;
  readonly schema: z.ZodType<T, string>;
  /** Whether Go's flag package reads the text, whatever its program makes of the value. */
  readonly isGo: (text: string) => boolean;
}

/** A kind from a reader that gives `undefined` for a wrong value. */
const kind = <T>(
  write: string,
  read: (text: string) => T | undefined,
  isGo: FlagKind<T>["isGo"] = () => true,
): FlagKind<T> => ({
  isBool: false,
  schema: z.string().transform((text, context) => {
    const value = read(text);
    if (value !== undefined) return value;
    context.addIssue({ code: "custom", message: `write ${write}` });
    return z.NEVER;
  }),
  isGo,
});

export const bool = (): FlagKind<boolean> => ({
  ...kind("true or false", goBool, (text) => goBool(text) !== undefined),
  isBool: true,
});

const whole = <T>(write: string, read: (value: bigint) => T | undefined): FlagKind<T> =>
  kind(
    write,
    (text) => {
      const value = goInteger(text);
      return value === undefined ? undefined : read(value);
    },
    (text) => goInteger(text) !== undefined,
  );

/** A whole number within the range, ends included. */
export const int = (min: number, max: number): FlagKind<number> =>
  whole(`a whole number from ${min} to ${max}`, (value) =>
    value < BigInt(min) || value > BigInt(max) ? undefined : Number(value),
  );

/** A whole number up to `max`, of which none below 0 means more than 0 does. */
export const count = (max: number): FlagKind<number> =>
  whole(`a whole number from 0 to ${max}`, (value) => {
    if (value < 0n) return 0;
    return value > BigInt(max) ? undefined : Number(value);
  });

/** How much the log tells. */
export const verbosity = (): FlagKind<number> => int(-(2 ** 31), 2 ** 31 - 1);

const lasting = (write: string, read: (nanos: bigint) => Duration.Duration | undefined): FlagKind<Duration.Duration> =>
  kind(
    write,
    (text) => {
      const nanos = goDuration(text);
      return nanos === undefined ? undefined : read(nanos);
    },
    (text) => goDuration(text) !== undefined,
  );

/** Longer than any process runs, and short enough for the timers that a duration is meant for. */
const YEAR = Duration.days(365);
const DURATION_FORM = "a duration above 0, such as 30s, 1m30s or 150ms";

/** A duration above zero; one of more than a year counts as a year. */
export const duration = (): FlagKind<Duration.Duration> =>
  lasting(DURATION_FORM, (nanos) => (nanos <= 0n ? undefined : Duration.min(Duration.nanos(nanos), YEAR)));

/** The same, but `least` in place of 0 or less, where Go's programs do not wait at all. */
export const durationOr = (least: Duration.Input): FlagKind<Duration.Duration> =>
  lasting(DURATION_FORM, (nanos) =>
    nanos <= 0n ? Duration.fromInputUnsafe(least) : Duration.min(Duration.nanos(nanos), YEAR),
  );

/** How often something is done, or how long it is put off: never, or not at all, for 0 or less. */
export const durationOrNone = (): FlagKind<Duration.Duration> =>
  lasting("0 or a duration such as 24h or 1h30m", (nanos) =>
    nanos <= 0n ? Duration.zero : Duration.min(Duration.nanos(nanos), Duration.times(YEAR, 10)),
  );

/** Values of flags without effect: whatever Go's flag package reads as one of the type. */
export const ANY = {
  bool: bool(),
  text: kind("text", (text) => text),
  int: whole("a whole number", (value) => value),
  float: kind("a number", (text) => (isGoFloat(text) ? text : undefined), isGoFloat),
  duration: lasting("a duration, such as 30s", (nanos) => Duration.nanos(nanos)),
};

/** Any text on one line, also none. */
export const text = (): FlagKind<string> =>
  kind("text without control characters", (value) => (hasControl(value) ? undefined : value));

/** Text that `read` accepts, and may bring into one form. */
export const shaped = (write: string, read: (value: string) => string | undefined): FlagKind<string> =>
  kind(write, (value) => (hasControl(value) ? undefined : read(value)));

/** The path of a page that an HTTP server has. */
export const webPath = (): FlagKind<string> =>
  shaped("a path such as /metrics", (value) => (value.startsWith("/") ? value : `/${value}`));

/** One of these words. */
export const oneOf = <const W extends string>(words: ReadonlyArray<W>): FlagKind<W> =>
  kind(words.join(", "), (value) => words.find((word) => word === value));

/** Comma-separated words; none from an empty text. */
export const list = (): FlagKind<ReadonlyArray<string>> =>
  kind("words separated by commas", (value) => {
    const words = value.split(",").map((word) => word.trim());
    return words.filter((word) => word !== "");
  });

/** An absolute path of the file system. */
export const path = (): FlagKind<string> =>
  shaped("an absolute path", (value) => (value.startsWith("/") ? value : undefined));

/** A path, from the working folder on if it is not absolute. */
export const anyPath = (): FlagKind<string> => shaped("a path", (value) => resolve(value));

/** An absolute path of a unix socket; none from an empty text. */
export const socketPath = (): FlagKind<string> =>
  shaped(`an absolute path of at most ${MAX_SOCKET_PATH} bytes`, (value) =>
    value === "" || (/^\/.*[^/]$/.test(value) && Buffer.byteLength(value) <= MAX_SOCKET_PATH) ? value : undefined,
  );

export interface HttpAddress {
  readonly hostname: string;
  readonly port: number;
}

/** Where a client finds a gRPC server, in every form that csi-lib-utils takes and this client can reach. */
export const serverAddress = (): FlagKind<string> =>
  shaped(`a path, ${ENDPOINT_FORM}`, (value) => {
    const parsed = parseAddress(value);
    return Result.isSuccess(parsed) ? formatEndpoint(parsed.success) : undefined;
  });

/** Where an HTTP server listens: `:8080`, `127.0.0.1:8080`, `[::1]:8080`. Nowhere from an empty text. Port 0: any. */
export const httpAddress = (): FlagKind<readonly HttpAddress[]> =>
  kind("host:port, or :port for all addresses", (value) => {
    if (value === "") return [];
    const [, bracketed, plain, digits] = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]*)):(\d{1,5})$/.exec(value) ?? [];
    const port = Number(digits);
    if (digits === undefined || port > 65_535) return undefined;
    return [{ hostname: (bracketed ?? plain) || "0.0.0.0", port }];
  });
