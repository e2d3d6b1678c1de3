/**
 * `mapOptions` and `unmapOptions`: one text that carries options for both kernel drivers, `krbd:a,b;nbd:c`. It knows
 * no single option: they pass through.
 *
 * Invariants:
 * 1. No text makes parseMapOptions throw.
 * 2. Options of one mounter never reach the other, and no control character reaches an argument list.
 */
import * as Result from "effect/Result";
import { hasControl, oneLine } from "../text/printable.ts";

export interface MapOptions {
  readonly krbd: string;
  readonly nbd: string;
}

export const NO_MAP_OPTIONS: MapOptions = { krbd: "", nbd: "" };

const isMounter = (word: string): word is keyof MapOptions => word === "krbd" || word === "nbd";

/**
 * Groups end at ";". What precedes a group's first ":" is its mounter; without one it is krbd's, so that krbd options
 * that hold ":" need their prefix. A later group of the same mounter replaces the earlier. The failure says what to
 * write.
 */
export const parseMapOptions = (text: string): Result.Result<MapOptions, string> => {
  if (hasControl(text)) return Result.fail("must not hold control characters");
  const options = { ...NO_MAP_OPTIONS };
  for (const group of text.split(";")) {
    if (group.trim() === "") continue;
    const colon = group.indexOf(":");
    const mounter = colon === -1 ? "krbd" : group.slice(0, colon).trim().toLowerCase();
    if (!isMounter(mounter)) {
      return Result.fail(
        `unknown mounter ${oneLine(mounter)}: write krbd:options;nbd:options (":" in options needs the prefix)`,
      );
    }
    options[mounter] = group.slice(colon + 1).trim();
  }
  return Result.succeed(options);
};
