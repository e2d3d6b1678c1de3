/**
 * The command line, read by Go's rules into typed values: `-f=v`, `--f v`, booleans alone or with `=`, the last one
 * wins. The table of flags is flag-table.ts. Prints nothing and ends no process: the entry does that.
 *
 * Invariants:
 * 1. No argument list makes parseFlags throw; each gives Flags or one line that says what to write.
 * 2. A flag that has no effect is named in `withoutEffect`, and in `warnings` if its effect is missed; an unknown one is
 *    named in `warnings`. Nothing is dropped silently.
 * 3. An unknown flag never ends the start: operators pass new ones with every release. A known one with a wrong value does.
 */
import * as Result from "effect/Result";
import { closest } from "../text/closest.ts";
import { oneLine } from "../text/printable.ts";
import type { FlagKind } from "./flag-kinds.ts";
import { type Flag, FLAGS, OTHER_TYPES, WITHOUT_EFFECT } from "./flag-table.ts";

type Table = typeof FLAGS;
type Values = {
  readonly [N in keyof Table as Table[N]["key"]]: Table[N] extends Flag<string, infer T> ? T : never;
};

/**
 * All values, defaults filled in. `controllerServer` and `nodeServer` say what to serve: both are true when neither flag
 * was given. With `help` or `version` nothing else has been checked across flags.
 */
export type Flags = Values & {
  /** Arguments that were given and have no effect, each with the reason. */
  readonly withoutEffect: ReadonlyArray<string>;
  /** What the log warns of, a line each. No line holds the value of an unknown flag, which may be a secret. */
  readonly warnings: ReadonlyArray<string>;
};

const known: ReadonlyMap<string, FlagKind<unknown>> = new Map<string, FlagKind<unknown>>([
  ...Object.entries(FLAGS),
  ...Object.entries(WITHOUT_EFFECT).map(([name, { kind }]) => [name, kind] as const),
]);
const keys: ReadonlyMap<string, string> = new Map(Object.entries(FLAGS).map(([name, flag]) => [name, flag.key]));

const unknownFlag = (name: string): string => {
  const near = closest(name, [...known.keys()]);
  const hint = near === undefined ? "--help lists all flags" : `did you mean --${near}?`;
  return `unknown flag --${plainName(name)} has no effect: ${hint}`;
};

/** A name from the command line, safe to print. */
const plainName = (name: string): string => (/^[\w.-]{1,60}$/.test(name) ? name : oneLine(name));

const wrongValue = (name: string, value: string, reason: string): string =>
  name === "type" && Object.hasOwn(OTHER_TYPES, value)
    ? `--type=${value}: ${OTHER_TYPES[value]}`
    : `--${name}=${value === "" ? "" : oneLine(value)}: ${reason}`;

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
const split = (argv: ReadonlyArray<string>): Result.Result<Given, string> => {
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
const read = (texts: ReadonlyMap<string, string>): Result.Result<Map<string, unknown>, string> => {
  const values = new Map<string, unknown>();
  for (const flag of Object.values(FLAGS)) values.set(flag.key, flag.schema.parse(flag.fallback));
  for (const [name, given] of texts) {
    const flag = known.get(name);
    const parsed = flag?.schema.safeParse(given);
    if (parsed?.success !== true) {
      return Result.fail(wrongValue(name, given, parsed?.error?.issues[0]?.message ?? "write another value"));
    }
    const key = keys.get(name);
    if (key !== undefined) values.set(key, parsed.data);
  }
  return Result.succeed(values);
};

/** Checks flags against each other. Returns what is wrong. */
const across = (flags: Flags, given: ReadonlyMap<string, string>): string | undefined => {
  if (!given.has("type")) return "--type is missing: write --type=rbd";
  if (flags.type === "rbd" && flags.nodeId === "") return "--nodeid is missing: write --nodeid=NAME, this node's name";
  const pairs = [
    ["rbdsoftmaxclonedepth", flags.rbdSoftMaxCloneDepth, "rbdhardmaxclonedepth", flags.rbdHardMaxCloneDepth],
    ["minsnapshotsonimage", flags.minSnapshotsOnImage, "maxsnapshotsonimage", flags.maxSnapshotsOnImage],
  ] as const;
  for (const [low, lowValue, high, highValue] of pairs) {
    if (lowValue > highValue) return `--${low}=${lowValue}: write at most ${highValue}, the value of --${high}`;
  }
  return undefined;
};

/** Flags that are for another type than the driver. */
const LIVENESS_ONLY = ["polltime", "timeout"];

/** Names the flags that change nothing. */
const remarksOn = (texts: ReadonlyMap<string, string>) => {
  const withoutEffect: string[] = [];
  const warnings: string[] = [];
  for (const [name, value] of texts) {
    const unused = Object.hasOwn(WITHOUT_EFFECT, name) ? WITHOUT_EFFECT[name] : undefined;
    if (unused?.missed?.(value) === true) {
      warnings.push(`--${name}=${oneLine(value)} has no effect: ${unused.reason}`);
    } else if (unused !== undefined) {
      withoutEffect.push(`--${name} (${unused.reason})`);
    } else if (LIVENESS_ONLY.includes(name) && texts.get("type") === "rbd") {
      withoutEffect.push(`--${name} (for --type=liveness)`);
    }
  }
  return { withoutEffect, warnings };
};

/** Reads the arguments after the program's own. The failure is one line for stderr. */
export const parseFlags = (argv: ReadonlyArray<string>): Result.Result<Flags, string> =>
  Result.gen(function* () {
    const { texts, unknown, rest } = yield* split(argv);
    const values = yield* read(texts);
    const { withoutEffect, warnings } = remarksOn(texts);
    withoutEffect.push(...rest.map((word) => `${oneLine(word)} (after --)`));
    warnings.push(...[...unknown].map(unknownFlag));
    // Every key of the table has been set above, each with a value of its own kind.
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a loop over the table cannot be typed per key
    const flags = { ...Object.fromEntries(values), withoutEffect, warnings } as unknown as Flags;
    if (flags.help || flags.version) return flags;
    const wrong = across(flags, texts);
    if (wrong !== undefined) return yield* Result.fail(wrong);
    const neither = !flags.controllerServer && !flags.nodeServer;
    return neither ? { ...flags, controllerServer: true, nodeServer: true } : flags;
  });

/** The text of `--help`: a line per flag with its default, then the flags that have no effect, with the reasons. */
export const usage = (): string => {
  const rows = Object.entries(FLAGS).map(
    ([name, flag]) => [flag.isBool ? `--${name}` : `--${name}=${flag.fallback}`, flag.help] as const,
  );
  const unused = Object.entries(WITHOUT_EFFECT).map(([name, { reason }]) => [`--${name}`, reason] as const);
  return [
    "Flags, each with its default (-flag and --flag, =value or a space before the value):",
    ...columns(rows),
    "",
    "Flags of ceph-csi that are accepted without effect, and why:",
    ...columns(unused),
    "",
  ].join("\n");
};

const columns = (rows: ReadonlyArray<readonly [left: string, right: string]>): ReadonlyArray<string> => {
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows.toSorted(([a], [b]) => a.localeCompare(b)).map(([left, right]) => `  ${left.padEnd(width)}  ${right}`);
};
