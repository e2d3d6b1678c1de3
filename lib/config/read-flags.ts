/**
 * An argument list, read by Go's rules into typed values: `-f=v`, `--f v`, booleans alone or with `=`, the last one wins.
 *
 * Not here: which flags a program has (./flag-table.ts and the tables of the sidecars). Prints nothing and ends no
 * process: the entry does that.
 *
 * Invariants:
 * 1. No argument list makes `readArguments` throw; each gives values or one line that says what to write.
 * 2. A flag that has no effect is named in `withoutEffect`, and in `warnings` if its effect is missed; an unknown one is
 *    named in `warnings`. Nothing is dropped silently.
 * 3. An unknown flag never ends the start: operators pass new ones with every release. A known one with a wrong value does,
 *    unless Go reads the value and nothing here uses it.
 */
import * as Result from "effect/Result";
import { closest } from "../text/closest.ts";
import { oneLine } from "../text/printable.ts";
import type { FlagKind } from "./flag-kinds.ts";
import type { Flag, WithoutEffect } from "./flag-table.ts";

type FlagSet = Readonly<Record<string, Flag<string, unknown>>>;

/** The flags of one program. */
export interface FlagTable<F extends FlagSet> {
  readonly flags: F;
  readonly withoutEffect: Readonly<Record<string, WithoutEffect>>;
  /** What to say of a wrong value, in place of what its kind says. */
  readonly refusal?: (name: string, value: string) => string | undefined;
  /**
   * How these arguments use a flag, where that is not by its kind in the table: by another kind of the same type, or not at
   * all. Of one that is not used a wrong value is as good as none, if Go reads it.
   */
  readonly use?: (name: string, given: ReadonlyMap<string, string>) => FlagKind<unknown> | "none" | undefined;
}

export type ValuesOf<F extends FlagSet> = {
  readonly [N in keyof F as F[N]["key"]]: F[N] extends Flag<string, infer T> ? T : never;
};

export interface Remarks {
  /** Arguments that were given and have no effect, each with the reason. */
  readonly withoutEffect: ReadonlyArray<string>;
  /** What the log warns of, a line each. No line holds the value of an unknown flag, which may be a secret. */
  readonly warnings: ReadonlyArray<string>;
}

export interface ReadArguments<F extends FlagSet> extends Remarks {
  /** One for each flag, defaults filled in. */
  readonly values: ValuesOf<F>;
  /** The texts of the flags that were given. */
  readonly given: ReadonlyMap<string, string>;
}

type Kinds = ReadonlyMap<string, FlagKind<unknown>>;

const kindsOf = ({ flags, withoutEffect }: FlagTable<FlagSet>): Kinds =>
  new Map<string, FlagKind<unknown>>([
    ...Object.entries(flags),
    ...Object.entries(withoutEffect).map(([name, { kind }]) => [name, kind] as const),
  ]);

const unknownFlag = (name: string, known: Kinds): string => {
  const near = closest(name, [...known.keys()]);
  const hint = near === undefined ? "--help lists all flags" : `did you mean --${near}?`;
  return `unknown flag --${plainName(name)} has no effect: ${hint}`;
};

/** A name from the command line, safe to print. */
const plainName = (name: string): string => (/^[\w.-]{1,60}$/.test(name) ? name : oneLine(name));

/** Go's `-h` and `--help` are flags of their own. */
const canonical = (name: string): string => (name === "h" ? "help" : name);

interface Given {
  /** Text per flag, in the order of first mention; later mentions replace the text. */
  readonly texts: ReadonlyMap<string, string>;
  readonly unknown: ReadonlySet<string>;
  readonly rest: ReadonlyArray<string>;
}

/**
 * Splits arguments into flags and texts, and checks nothing but that. A word after an unknown flag is its value: alone it
 * would be nothing.
 */
const split = (argv: ReadonlyArray<string>, known: Kinds): Result.Result<Given, string> => {
  const texts = new Map<string, string>();
  const unknown = new Set<string>();
  for (let at = 0; at < argv.length; at++) {
    const argument = argv[at] ?? "";
    // What a template leaves of an option that is not set.
    if (argument === "") continue;
    if (argument === "--") return Result.succeed({ texts, unknown, rest: argv.slice(at + 1) });
    const [, spelled, assigned] = /^--?([^-=][^=]*)(?:=(.*))?$/s.exec(argument) ?? [];
    if (spelled === undefined) {
      const hint = goWord(argument)
        ? "write booleans as --flag=true, and every flag as --flag=value"
        : "flags are written --flag=value";
      return Result.fail(`unexpected argument ${oneLine(argument)}: ${hint}`);
    }
    const name = canonical(spelled);
    const flag = known.get(name);
    if (flag === undefined) {
      unknown.add(name);
      if (assigned === undefined && argv[at + 1]?.startsWith("-") === false) at++;
    } else if (assigned !== undefined) {
      texts.set(name, assigned);
    } else if (flag.isBool) {
      texts.set(name, "true");
    } else {
      at++;
      const next = argv[at];
      if (next === undefined) return Result.fail(`--${name} has no value: write --${name}=value`);
      texts.set(name, next);
    }
  }
  return Result.succeed({ texts, unknown, rest: [] });
};

const goWord = (argument: string): boolean => /^(true|false|t|f|1|0)$/i.test(argument);

/** Reads every text by its flag's kind. The first wrong one ends it. */
const read = (
  texts: ReadonlyMap<string, string>,
  known: Kinds,
  { flags, refusal, use }: FlagTable<FlagSet>,
): Result.Result<Map<string, unknown>, string> => {
  const values = new Map<string, unknown>();
  for (const flag of Object.values(flags)) values.set(flag.key, flag.schema.parse(flag.fallback));
  for (const [name, given] of texts) {
    const ordinary = known.get(name);
    const used = use?.(name, texts) ?? ordinary;
    const parsed = (used === "none" ? ordinary : used)?.schema.safeParse(given);
    if (parsed?.success !== true) {
      if (used === "none" && ordinary?.isGo(given) === true) continue;
      const own = refusal?.(name, given);
      if (own !== undefined) return Result.fail(`--${name}=${given}: ${own}`);
      const reason = parsed?.error?.issues[0]?.message ?? "write another value";
      return Result.fail(`--${name}=${given === "" ? "" : oneLine(given)}: ${reason}`);
    }
    const key = Object.hasOwn(flags, name) ? flags[name]?.key : undefined;
    if (key !== undefined) values.set(key, parsed.data);
  }
  return Result.succeed(values);
};

/** Names the flags that change nothing. */
const remarksOn = (texts: ReadonlyMap<string, string>, table: FlagTable<FlagSet>) => {
  const withoutEffect: string[] = [];
  const warnings: string[] = [];
  for (const [name, value] of texts) {
    const unused = Object.hasOwn(table.withoutEffect, name) ? table.withoutEffect[name] : undefined;
    if (unused === undefined) continue;
    if (unused.missed?.(value) === true) warnings.push(`--${name}=${oneLine(value)} has no effect: ${unused.reason}`);
    else withoutEffect.push(`--${name} (${unused.reason})`);
  }
  return { withoutEffect, warnings };
};

/** Reads the arguments after the program's own, and its verb's. The failure is one line for stderr. */
export const readArguments = <F extends FlagSet>(
  table: FlagTable<F>,
  argv: ReadonlyArray<string>,
): Result.Result<ReadArguments<F>, string> =>
  Result.gen(function* () {
    const known = kindsOf(table);
    const { texts, unknown, rest } = yield* split(argv, known);
    const values = Object.fromEntries(yield* read(texts, known, table));
    const { withoutEffect, warnings } = remarksOn(texts, table);
    withoutEffect.push(...rest.map((word) => `${oneLine(word)} (after --)`));
    warnings.push(...[...unknown].map((name) => unknownFlag(name, known)));
    // Every key of the table has been set above, each with a value of its own kind.
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a loop over the table cannot be typed per key
    return { values: values as ValuesOf<F>, given: texts, withoutEffect, warnings };
  });

/** The text of `--help`: a line per flag with its default, then the flags that have no effect, with the reasons. */
export const usageOf = ({ flags, withoutEffect }: FlagTable<FlagSet>, of: string): string => {
  const rows = Object.entries(flags).map(
    ([name, flag]) => [flag.isBool ? `--${name}` : `--${name}=${flag.fallback}`, flag.help] as const,
  );
  const unused = Object.entries(withoutEffect).map(([name, { reason }]) => [`--${name}`, reason] as const);
  return [
    "Flags, each with its default (-flag and --flag, =value or a space before the value):",
    ...columns(rows),
    "",
    `Flags of ${of} that are accepted without effect, and why:`,
    ...columns(unused),
    "",
  ].join("\n");
};

const columns = (rows: ReadonlyArray<readonly [left: string, right: string]>): ReadonlyArray<string> => {
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows.toSorted(([a], [b]) => a.localeCompare(b)).map(([left, right]) => `  ${left.padEnd(width)}  ${right}`);
};
