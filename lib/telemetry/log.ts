/**
 * The log: one line of JSON per event on stderr, with the call and the operation that it belongs to.
 *
 * Not here: what is worth a line.
 */
import { formatJson } from "effect/Formatter";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as References from "effect/References";
import { CurrentOperation } from "../operations/operation.ts";

/** The stage is the operation's: where members of a group run side by side, the one that began last. */
const line = Logger.make((event) => {
  const entry = Logger.formatStructured.log(event);
  const operation = event.fiber.getRef(CurrentOperation);
  if (operation === undefined) return formatJson(entry);
  const { rpc, subject, stage } = operation;
  return formatJson({ ...entry, annotations: { ...entry.annotations, rpc, subject, stage } });
});

/** klog's `--v` as a level: 4 and more tells every request, 5 and more everything. */
const levelOf = (verbosity: number) => (verbosity >= 5 ? "Trace" : verbosity >= 4 ? "Debug" : "Info");

export const logLayer = (verbosity: number): Layer.Layer<never> =>
  Layer.mergeAll(
    Logger.layer([Logger.withConsoleError(line)]),
    Layer.succeed(References.MinimumLogLevel, levelOf(verbosity)),
    // nothing exports spans yet
    Layer.succeed(References.TracerEnabled, false),
  );
