/** JSON that a person wrote: where it is wrong, and what is wrong there. */
import { expect, test } from "bun:test";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import { parseJson } from "../../../lib/text/json.ts";

test.each([
  ["", "line 1, column 1: a value is missing, found the text ends"],
  ["[", "line 1, column 2: a value is missing, found the text ends"],
  ["[{]", 'line 1, column 3: a key is missing, found "]"'],
  ['[\n  {"a": 1},\n]', 'line 2, column 11: a comma before "]"'],
  ["{'a': 1}", "line 1, column 2: a key in single quotes: write double ones"],
  ["['a']", "line 1, column 2: a text in single quotes: write double ones"],
  ['{"a" 1}', 'line 1, column 6: ":" is missing after a key, found "1"'],
  ['{"a": 1\n "b": 2}', `line 2, column 2: "," or "}" is missing, found '"'`],
  ['["a\nb"]', "line 1, column 2: a text that does not end on its line"],
  ['["a\\x"]', "line 1, column 2: a text that does not end on its line"],
  ["\uFEFF[]", "line 1, column 1: a value is missing, found a byte order mark: save the file without it"],
  ["[1] x", 'line 1, column 5: nothing may follow here, found "x"'],
  ["[01]", 'line 1, column 2: a value is missing, found "0"'],
  ["[yes]", 'line 1, column 2: a value is missing, found "y"'],
  ["[\u0001]", "line 1, column 2: a value is missing, found the character U+0001"],
  ["# a comment\n[]", 'line 1, column 1: a value is missing, found "#"'],
  ["[".repeat(100_000), "line 1, column 502: lists and objects that are nested too deeply"],
])("The reader of JSON names the place in %j", (text, failure) => {
  const parsed = parseJson(text);
  expect(Result.isFailure(parsed) ? parsed.failure : "").toStartWith(failure);
});

test("The reader of JSON takes what JSON.parse takes, and finds a place in every other text", () => {
  const piece = fc.constantFrom(
    ...'[ ] { } , : " \\ 0 1 - . e'.split(" "),
    " ",
    "\n",
    "true",
    "nul",
    '"a"',
    "\u2028",
    "\ud800",
    "é",
  );
  const damaged = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(""));
  const cut = fc.tuple(fc.json(), fc.nat()).map(([json, at]) => json.slice(0, at % (json.length + 1)));
  fc.assert(
    fc.property(fc.oneof(damaged, cut, fc.json()), (text) => {
      let value: unknown;
      try {
        value = JSON.parse(text);
      } catch {
        const parsed = parseJson(text);
        expect(Result.isFailure(parsed) ? parsed.failure : "").toMatch(/^line \d+, column \d+: (?!is not JSON)[^\n]+$/);
        return;
      }
      expect(parseJson(text)).toEqual(Result.succeed(value));
    }),
    { numRuns: 3000 },
  );
});
