/** A configuration file whose text is a JSON array. */
import * as Result from "effect/Result";
import { ConfigInvalid } from "./errors.ts";

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
