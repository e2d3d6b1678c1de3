/**
 * The command line of the executable: `csi-rbd [verb] [argument …]`. Without a verb it is the driver, with ceph-csi's
 * flags.
 *
 * Not here: which verbs there are (services/main.ts) and which flags (lib/config/flag-table.ts).
 *
 * 1. A wrong command line gets one line on stderr that says what to write, and nothing is started.
 */
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type * as Scope from "effect/Scope";
import { type Flags, parseFlags } from "../config/flags.ts";
import { closest } from "../text/closest.ts";
import { oneLine } from "../text/printable.ts";
import { compose, type ProcessFlags } from "./compose.ts";
import { type Grace, makeGrace } from "./grace.ts";
import { launch } from "./launch.ts";
import type { AnyRole, RoleError } from "./role.ts";
import { versionText } from "./version.ts";

class WrongCommand extends Data.TaggedError("WrongCommand")<{ readonly message: string }> {}

const refuse = (message: string): void => launch(Effect.fail(new WrongCommand({ message })));

export interface Verb {
  /** One line for `csi-rbd help`. */
  readonly help: string;
  /** Gets the arguments after the verb. */
  readonly run: (argv: readonly string[]) => void;
}

export interface CommandLine {
  readonly verbs: Readonly<Record<string, Verb>>;
  /** Runs when the first argument is a flag, or absent. */
  readonly otherwise: Verb;
}

/** Runs the verb that the first argument names. */
export const runCommandLine = ({ verbs, otherwise }: CommandLine, argv: readonly string[]): void => {
  const [word] = argv;
  if (word === undefined || word.startsWith("-")) return otherwise.run(argv);
  const verb = Object.hasOwn(verbs, word) ? verbs[word] : undefined;
  if (verb !== undefined) return verb.run(argv.slice(1));
  const names = Object.keys(verbs);
  const near = closest(word, names);
  const hint = near === undefined ? "" : ` Did you mean ${near}?`;
  return refuse(
    `unknown verb ${oneLine(word)}: write ${names.join(", ")}, or no verb and --flag=value for the driver.${hint}`,
  );
};

/** A program of its own behind a verb: its flags, and the roles that they ask for. */
export interface Program<F extends ProgramFlags> {
  readonly parse: (argv: readonly string[]) => Result.Result<F, string>;
  readonly rolesOf: (flags: F) => readonly AnyRole[];
  /** The text of `--help`. */
  readonly help: () => string;
}

export type ProgramFlags = ProcessFlags & Pick<Flags, "help" | "version">;

/** Runs the roles that the flags ask for, until a signal, or until their work is done where they serve nothing. */
export const runProgram =
  <F extends ProgramFlags>({ parse, rolesOf, help }: Program<F>) =>
  (argv: readonly string[]): void => {
    const parsed = parse(argv);
    if (Result.isFailure(parsed)) return refuse(parsed.failure);
    const asked = whatFlagsAsk(parsed.success, rolesOf, help);
    return "text" in asked ? console.log(asked.text) : launch(asked.run, asked.grace);
  };

/** The driver, with ceph-csi's flags. */
export const runRoles = (rolesOf: (flags: Flags) => readonly AnyRole[], help: () => string) =>
  runProgram({ parse: parseFlags, rolesOf, help });

/** Decides what flags ask for: a text to print, or an Effect to run and its grace budget. */
export const whatFlagsAsk = <F extends ProgramFlags>(
  flags: F,
  rolesOf: (flags: F) => readonly AnyRole[],
  help: () => string,
): { readonly text: string } | { readonly run: Effect.Effect<void, RoleError, Scope.Scope>; readonly grace: Grace } => {
  if (flags.help) return { text: help() };
  if (flags.version) return { text: versionText() };
  const grace = makeGrace(flags.gracePeriod);
  return { run: compose(flags, rolesOf(flags), grace), grace };
};
