/**
 * The kinds of value a StorageClass parameter can have, as zod schemas. Knows no parameter by name.
 *
 * Invariant: the message of a failing schema says what to write, and holds no part of another parameter.
 */
import * as Result from "effect/Result";
import * as z from "zod";
import { goBool } from "../text/go-values.ts";
import { hasControl } from "../text/printable.ts";
import { InvalidParameter } from "./errors.ts";

export type ParameterMap = Readonly<Record<string, string>>;

export const text = z.string("is missing").refine((value) => !hasControl(value), "must not hold control characters");

export const name = text.refine((value) => value !== "", "must not be empty");

/** A schema from a reader that says what is wrong. */
export const read = <T>(reader: (value: string) => Result.Result<T, string>) =>
  z.string().transform((value, context) => {
    const result = reader(value);
    if (Result.isSuccess(result)) return result.success;
    context.addIssue({ code: "custom", message: result.failure });
    return z.NEVER;
  });

export const bool = read((value) => {
  const parsed = goBool(value);
  return parsed === undefined ? Result.fail("write true or false") : Result.succeed(parsed);
});

/** Reads the parameters that the schema names. Names the first one that is wrong. */
export const readParameters = <S extends z.ZodType>(
  schema: S,
  parameters: ParameterMap,
): Result.Result<z.output<S>, InvalidParameter> => {
  // Without the prototype, a field is there only if the request has it.
  const parsed = schema.safeParse(Object.assign(Object.create(null), parameters));
  if (parsed.success) return Result.succeed(parsed.data);
  const issue = parsed.error.issues[0];
  const field = String(issue?.path[0] ?? "parameters");
  return Result.fail(new InvalidParameter({ field, reason: issue?.message ?? "is wrong" }));
};
