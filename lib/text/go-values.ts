/**
 * Values as Go programs read them, since ceph-csi's flags and parameters were read by Go: booleans, integers with a
 * base prefix, floats, durations. Pure. `undefined` means that the text is not one.
 *
 * Invariant: no text makes a function here throw, and each takes time linear in the text's length.
 */

const TRUE = new Set(["1", "t", "T", "TRUE", "true", "True"]);
const FALSE = new Set(["0", "f", "F", "FALSE", "false", "False"]);

/** `strconv.ParseBool`. */
export const goBool = (text: string): boolean | undefined => {
  if (TRUE.has(text)) return true;
  return FALSE.has(text) ? false : undefined;
};

// An underscore may stand between digits, and after a base prefix.
const INTEGER =
  /^(?<sign>[+-]?)(?<digits>0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0(?:_?[0-7])+|0|[1-9](?:_?[0-9])*)$/;
const MAX_DIGITS = 80;

/** `strconv.ParseInt` with base 0: decimal, 0x, 0o, 0b, and a leading 0 for octal. Range is the caller's concern. */
export const goInteger = (text: string): bigint | undefined => {
  if (text.length > MAX_DIGITS) return undefined;
  const groups = INTEGER.exec(text)?.groups;
  if (groups === undefined) return undefined;
  const digits = (groups["digits"] ?? "").replaceAll("_", "");
  const value = BigInt(/^0[0-7]/.test(digits) ? `0o${digits.slice(1)}` : digits);
  return groups["sign"] === "-" ? -value : value;
};

const DECIMAL = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;
const HEXADECIMAL = /^[+-]?0[xX](?:(?:_?[0-9a-fA-F])+\.?(?:[0-9a-fA-F]_?)*|\.[0-9a-fA-F]+)[pP][+-]?\d+$/;
const NOT_FINITE = /^(?:[+-]?inf(?:inity)?|nan)$/i;

/** Whether `strconv.ParseFloat` takes it: `5`, `5.`, `.5`, `1e3`, `0x1p-2`, `inf`. Nothing here needs the value. */
export const isGoFloat = (text: string): boolean => {
  if (text.length > MAX_DIGITS) return false;
  return (DECIMAL.test(text) && Number.isFinite(Number(text))) || HEXADECIMAL.test(text) || NOT_FINITE.test(text);
};

const NANOS: Readonly<Record<string, bigint>> = {
  ns: 1n,
  us: 1_000n,
  "\u00b5s": 1_000n,
  "\u03bcs": 1_000n,
  ms: 1_000_000n,
  s: 1_000_000_000n,
  m: 60_000_000_000n,
  h: 3_600_000_000_000n,
};
const TERM = String.raw`(?:(\d+)(?:\.(\d*))?|\.(\d+))(ns|us|\u00b5s|\u03bcs|ms|s|m|h)`;
const DURATION = new RegExp(`^[+-]?(?:${TERM})+$`);
const MAX_DURATION = 2n ** 63n - 1n;

/** `time.ParseDuration`: `30s`, `1m30s`, `1.5h`, `150ms`, `0`. Nanoseconds. */
export const goDuration = (text: string): bigint | undefined => {
  if (/^[+-]?0$/.test(text)) return 0n;
  if (text.length > MAX_DIGITS || !DURATION.test(text)) return undefined;
  let total = 0n;
  for (const [, whole = "0", fractionAfter = "", fractionAlone = "", unit = ""] of text.matchAll(
    new RegExp(TERM, "g"),
  )) {
    const nanos = NANOS[unit] ?? 0n;
    const fraction = fractionAfter + fractionAlone;
    total += BigInt(whole) * nanos + (BigInt(`0${fraction}`) * nanos) / 10n ** BigInt(fraction.length);
  }
  if (total > MAX_DURATION) return undefined;
  return text.startsWith("-") ? -total : total;
};
