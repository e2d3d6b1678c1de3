/**
 * JSON that a person wrote: its value, or the line and the column of what is wrong in it, which the engine's own errors
 * lack; and JSON of programs, of which nobody asks where it is wrong. Pure.
 *
 * 1. What JSON.parse takes is taken; the scanner only runs after it has refused a text.
 */
import * as Result from "effect/Result";

/** The failure is a clause: `line 2, column 7: a comma before "]"`. */
export const parseJson = (text: string): Result.Result<unknown, string> => {
  try {
    return Result.succeed(JSON.parse(text));
  } catch {
    const { at, problem } = faultIn(text);
    const before = text.slice(0, at).split("\n");
    return Result.fail(`line ${before.length}, column ${(before.at(-1) ?? "").length + 1}: ${problem}`);
  }
};

/** The value of a text; `undefined`: it is not JSON. */
export const jsonOf = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

class Fault extends Error {
  constructor(
    readonly at: number,
    readonly problem: string,
  ) {
    super(problem);
  }
}

const BLANK = /[ \t\r\n]*/y;
// oxlint-disable-next-line no-control-regex -- JSON has none in its texts
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SCALAR = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])|(?:true|false|null)(?!\w)/y;
/** Deeper than anything that a person writes; the scanner calls itself for each level. */
const MAX_DEPTH = 500;

/** The first place at which the text is not JSON. */
const faultIn = (text: string): Fault => {
  let at = 0;
  const found = (): string => {
    const character = text.codePointAt(at);
    if (character === undefined) return "the text ends";
    if (character === 0xfe_ff) return "a byte order mark: save the file without it";
    const shown = String.fromCodePoint(character);
    return /^[\p{L}\p{N}\p{P}\p{S}]$/u.test(shown)
      ? JSON.stringify(shown).replace(/^"\\""$/, "'\"'")
      : `the character U+${character.toString(16).toUpperCase().padStart(4, "0")}`;
  };
  const fail = (problem: string): never => {
    throw new Fault(at, problem);
  };
  const eat = (pattern: RegExp): boolean => {
    pattern.lastIndex = at;
    const matched = pattern.exec(text)?.[0];
    at += matched?.length ?? 0;
    return matched !== undefined;
  };
  const next = (): string | undefined => (eat(BLANK), text[at]);
  const string = (what: string): void => {
    if (next() !== '"') {
      if (text[at] === "'") fail(`${what} in single quotes: write double ones`);
      fail(`${what} is missing, found ${found()}`);
    }
    if (!eat(STRING)) fail('a text that does not end on its line, or has a "\\" before a character that needs none');
  };
  /** Elements up to the end of a list or an object. */
  const elements = (end: "]" | "}", element: () => void): void => {
    at += 1;
    if (next() === end) return void (at += 1);
    for (;;) {
      element();
      const sign = next();
      if (sign === end) return void (at += 1);
      if (sign !== ",") fail(`"," or "${end}" is missing, found ${found()}`);
      const comma = at;
      at += 1;
      if (next() === end) {
        at = comma;
        fail(`a comma before "${end}"`);
      }
    }
  };
  const value = (depth: number): void => {
    const sign = next();
    if (depth > MAX_DEPTH) fail("lists and objects that are nested too deeply");
    else if (sign === "[") elements("]", () => value(depth + 1));
    else if (sign === "{") {
      elements("}", () => {
        string("a key");
        if (next() !== ":") fail(`":" is missing after a key, found ${found()}`);
        at += 1;
        value(depth + 1);
      });
    } else if (sign === '"' || sign === "'") string("a text");
    else if (!eat(SCALAR)) fail(`a value is missing, found ${found()}`);
  };
  try {
    value(0);
    if (next() !== undefined) fail(`nothing may follow here, found ${found()}`);
  } catch (fault) {
    if (fault instanceof Fault) return fault;
    throw fault;
  }
  return new Fault(0, "is not JSON");
};
