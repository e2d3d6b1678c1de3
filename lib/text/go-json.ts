/**
 * JSON as Go's decoder would fill a struct from it: keys match without regard to case, the last of two equal keys
 * wins, null means absent, unknown keys do not matter. Only the fields asked for come out; their types are the
 * caller's to check, per entry.
 *
 * Invariant: no text makes parseArray throw, and no wrong element hides another.
 */
import { closest } from "./closest.ts";

export type Fields = Readonly<Record<string, unknown>>;

export const isObject = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The fields of these names, spelled so, that the object has. */
export const fieldsOf = (object: Fields, names: ReadonlyArray<string>): Record<string, unknown> => {
  const byFold = new Map(names.map((name) => [name.toLowerCase(), name]));
  const found: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(object)) {
    const name = byFold.get(key.toLowerCase());
    if (name !== undefined && value !== null) found[name] = value;
  }
  return found;
};

/** The keys that are almost one of these names, which the object lacks; each with that name. */
export const misspelled = (object: Fields, names: ReadonlyArray<string>): ReadonlyArray<readonly [string, string]> => {
  const known = new Set(names.map((name) => name.toLowerCase()));
  const given = new Set(Object.keys(object).map((key) => key.toLowerCase()));
  const lacking = names.filter((name) => !given.has(name.toLowerCase()));
  return Object.keys(object).flatMap((key): ReadonlyArray<readonly [string, string]> => {
    const meant = known.has(key.toLowerCase()) ? undefined : closest(key, lacking);
    return meant === undefined ? [] : [[key, meant]];
  });
};
