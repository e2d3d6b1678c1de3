/**
 * The log: one line of JSON per event on stderr, with the fields of the operation that it belongs to.
 *
 * Not here: what is worth a line, and which fields an operation has (lib/operations/operation.ts).
 *
 * 1. No cephx key is in a line, whatever tool or library wrote the text.
 */
import { formatJson } from "effect/Formatter";
import type * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as References from "effect/References";
import { maskKeys } from "../text/mask.ts";

/** Further annotations of a line, from the fiber that writes it. */
export type FieldsOf = (fiber: Fiber.Fiber<unknown, unknown>) => Readonly<Record<string, string>> | undefined;

const lineWith = (fieldsOf: FieldsOf) =>
  Logger.make((event) => {
    const entry = Logger.formatStructured.log(event);
    const fields = fieldsOf(event.fiber);
    return maskKeys(
      formatJson(fields === undefined ? entry : { ...entry, annotations: { ...entry.annotations, ...fields } }),
    );
  });

/** klog's `--v` as a level: 4 and more tells every request, 5 and more everything. */
const levelOf = (verbosity: number) => (verbosity >= 5 ? "Trace" : verbosity >= 4 ? "Debug" : "Info");

export const logLayer = (verbosity: number, fieldsOf: FieldsOf): Layer.Layer<never> =>
  Layer.mergeAll(
    Logger.layer([Logger.withConsoleError(lineWith(fieldsOf))]),
    Layer.succeed(References.MinimumLogLevel, levelOf(verbosity)),
  );
