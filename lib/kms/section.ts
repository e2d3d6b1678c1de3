/**
 * One section of the KMS configuration: options by name, each read with its type. Pure.
 *
 * Not here: where sections come from (./config.ts).
 *
 * 1. Options are texts, as in ceph-csi; those that are "true" or "false" may be JSON's booleans. A number where a text
 *    belongs is an error that names the key: unknown is not absent.
 */
import * as Effect from "effect/Effect";
import { goBool } from "../text/go-values.ts";
import { KmsConfigInvalid, type KmsError } from "./errors.ts";
import type { Section } from "./key-store.ts";

export const sectionOf = (place: string, kmsId: string, options: Readonly<Record<string, unknown>>): Section => {
  const wrong = (key: string, reason: string) => new KmsConfigInvalid({ place, section: kmsId, key, reason });
  const has = (key: string) => Object.hasOwn(options, key);
  const as =
    <A>(meaning: (value: unknown) => A | undefined, shape: string) =>
    (key: string): Effect.Effect<A | undefined, KmsError> => {
      if (!has(key)) return Effect.succeed(undefined);
      const found = meaning(options[key]);
      return found === undefined ? Effect.fail(wrong(key, `write ${shape}`)) : Effect.succeed(found);
    };
  const text = (value: unknown) => (typeof value === "string" ? value : undefined);
  const optional = as(text, 'a text in quotes ("…")');
  return {
    kmsId,
    place,
    has,
    optional,
    required: (key) =>
      Effect.flatMap(optional(key), (value) =>
        value === undefined || value === "" ? Effect.fail(wrong(key, "is missing: add it")) : Effect.succeed(value),
      ),
    word: as((value) => (typeof value === "boolean" ? String(value) : text(value)), '"true" or "false"'),
    number: as((value) => (typeof value === "number" && Number.isFinite(value) ? value : undefined), "a number"),
    bool: as(
      (value) => (typeof value === "boolean" ? value : typeof value === "string" ? goBool(value) : undefined),
      '"true" or "false"',
    ),
    wrong,
  };
};
