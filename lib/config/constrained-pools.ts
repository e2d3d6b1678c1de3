/**
 * `topologyConstrainedPools`: JSON that says which pool is for which part of the cluster. Pure.
 *
 * Not here: which of them a volume may be in (lib/volume/topology.ts).
 *
 * 1. Keys match as in Go, without regard to case. A key that is almost one of ours is refused, as it was written: read
 *    without it, a volume would be in a place that nobody asked for. Other unknown keys do not matter.
 * 2. A pool that names no segment is for every part of the cluster.
 */
import * as Result from "effect/Result";
import * as z from "zod";
import { fieldsOf, isObject, misspelled } from "../text/go-json.ts";
import { parseJson } from "../text/json.ts";
import { InvalidParameter } from "./errors.ts";

const FIELD = "topologyConstrainedPools";

const word = z.string("must be a text").min(1, "must not be empty");

/** An object with these keys, and with none that is almost one of them. */
const element = <S extends z.ZodRawShape>(shape: S) =>
  z.preprocess(
    (value, context) => {
      if (!isObject(value)) return value;
      for (const [written, meant] of misspelled(value, Object.keys(shape))) {
        context.addIssue({ code: "custom", path: [written], message: `is not a key: write ${meant}` });
      }
      return fieldsOf(value, Object.keys(shape));
    },
    z.object(shape, "must be an object"),
  );

const pools = z.array(
  element({
    poolName: word,
    dataPool: word.optional(),
    domainSegments: z.array(element({ domainLabel: word, value: word }), "must be a list of objects").default([]),
  }),
  'must be a list of objects, such as [{"poolName": "p", "domainSegments": [{"domainLabel": "zone", "value": "a"}]}]',
);

export type ConstrainedPool = z.infer<typeof pools>[number];

/** `[0].domainSegments[1].value`; "" for the whole. */
const shown = (path: readonly PropertyKey[]): string =>
  path
    .map((part) => (typeof part === "number" ? `[${part}]` : `.${String(part)}`))
    .join("")
    .replace(/^\./, "");

export const readConstrainedPools = (text: string): Result.Result<readonly ConstrainedPool[], InvalidParameter> => {
  const refuse = (reason: string) => Result.fail(new InvalidParameter({ field: FIELD, reason }));
  const json = parseJson(text);
  if (Result.isFailure(json)) return refuse(`is not JSON at ${json.failure}`);
  const parsed = pools.safeParse(json.success);
  if (parsed.success) return Result.succeed(parsed.data);
  const issue = parsed.error.issues[0];
  return refuse(`${shown(issue?.path ?? [])} ${issue?.message ?? "is wrong"}`.trim());
};
