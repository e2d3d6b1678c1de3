/** A configuration file whose text is a JSON array. */
import * as Result from "effect/Result";
import { parseJson } from "../text/json.ts";
import { ConfigInvalid } from "./errors.ts";

/** The elements of a file that is one JSON array. */
export const parseArray = (path: string, text: string): Result.Result<ReadonlyArray<unknown>, ConfigInvalid> => {
  const refuse = (reason: string) => Result.fail(new ConfigInvalid({ kind: "not-json", path, reason }));
  const json = parseJson(text);
  if (Result.isFailure(json)) return refuse(`is not valid JSON at ${json.failure}: write a JSON array of objects`);
  const value = json.success;
  if (value === null) return Result.succeed([]);
  return Array.isArray(value) ? Result.succeed(value) : refuse("is not a JSON array: write [ … ] around its entries");
};
