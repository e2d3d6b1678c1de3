/**
 * `mapOptions` and `unmapOptions`: one text that carries options for both kernel drivers, `krbd:a,b;nbd:c`. It knows
 * no single option: they pass through.
 *
 * Invariants:
 * 1. No text makes parseMapOptions throw.
 * 2. Options of one mounter never reach the other, and no control character reaches an argument list.
 * 3. A result is a list with a comma between two options, and nothing else around them.
 */
import * as Result from "effect/Result";
import { hasControl, oneLine } from "../text/printable.ts";

export interface MapOptions {
  readonly krbd: string;
  readonly nbd: string;
}

export const NO_MAP_OPTIONS: MapOptions = { krbd: "", nbd: "" };

const isMounter = (word: string): word is keyof MapOptions => word === "krbd" || word === "nbd";

/** Where a group ends: at ";", or at the end of a line where the next one names its mounter. */
const GROUPS = /;|[\r\n]+(?=\s*(?:krbd|nbd)\s*:)/i;

/**
 * What precedes a group's first ":" is its mounter; without one it is krbd's, so that krbd options that hold ":" need
 * their prefix. A later group of the same mounter replaces the earlier. A text of several lines, as a YAML block makes
 * it, and blanks around options mean what they would without. The failure says what to write.
 */
export const parseMapOptions = (text: string): Result.Result<MapOptions, string> => {
  const options = { ...NO_MAP_OPTIONS };
  for (const group of text.split(GROUPS)) {
    if (group.trim() === "") continue;
    const colon = group.indexOf(":");
    const mounter = colon === -1 ? "krbd" : group.slice(0, colon).trim().toLowerCase();
    if (!isMounter(mounter)) {
      return Result.fail(
        `unknown mounter ${oneLine(mounter)}: write krbd:options;nbd:options (":" in options needs the prefix)`,
      );
    }
    const words = optionsIn(group.slice(colon + 1));
    if (words.some(hasControl)) return Result.fail("must not hold control characters inside of an option");
    options[mounter] = words.join(",");
  }
  return Result.succeed(options);
};

const optionsIn = (group: string): ReadonlyArray<string> =>
  group
    .split(/[,\r\n]/)
    .map((option) => option.trim())
    .filter((option) => option !== "");
