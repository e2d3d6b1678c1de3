/**
 * JSON as Go's decoder would fill a struct from it: keys match without regard to case, the last of two equal keys
 * wins, null means absent, unknown keys do not matter. Only the fields asked for come out; their types are the
 * caller's to check, per entry.
 *
 * Invariant: no text makes parseArray throw, and no wrong element hides another.
 */
import * as Result from "effect/Result";
import { ConfigInvalid } from "../config/errors.ts";

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

/** The elements of a file that is one JSON array. */
export const parseArray = (path: string, text: string): Result.Result<ReadonlyArray<unknown>, ConfigInvalid> => {
  const refuse = (reason: string) => Result.fail(new ConfigInvalid({ kind: "not-json", path, reason }));
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const detail = cause instanceof Error ? cause.message.replaceAll(/\s+/g, " ").slice(0, 120) : "unknown error";
    return refuse(`is not valid JSON (${detail}): write a JSON array of objects`);
  }
  if (value === null) return Result.succeed([]);
  return Array.isArray(value) ? Result.succeed(value) : refuse("is not a JSON array: write [ … ] around its entries");
};
