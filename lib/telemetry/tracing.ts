/**
 * Spans: one for an RPC, below it one for its operation, below that one for each stage, and below a stage one for each
 * call to Ceph or the host.
 *
 * Not here: who collects spans, and where they are sent (./otlp.ts).
 *
 * 1. Only an RPC begins a trace. Work that belongs to none, such as the purge queue, makes no spans.
 * 2. A span shows names, subjects, codes and messages of typed errors, never a request, its secrets or a defect's text.
 * 3. Where nobody collects spans, a place that could make one costs a look into the fiber.
 * 4. Functions that are named with `Effect.fn` make no spans: Effect's own tracing stays off.
 */
import * as Cause from "effect/Cause";
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import type * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as References from "effect/References";
import type * as Tracer from "effect/Tracer";

/** Where spans go. */
export interface Collector {
  readonly tracer: Tracer.Tracer;
  /** The caller's span, from its W3C `traceparent` header. */
  readonly parent: (traceparent: string) => Tracer.ExternalSpan | undefined;
  /** Whether a trace that begins here, below this caller, is kept. */
  readonly sampled: (parent: Tracer.ExternalSpan | undefined) => boolean;
}

/** Who collects the spans of this process; `undefined`: nobody. */
export const SpanCollector = Context.Reference<Collector | undefined>("csi-rbd/SpanCollector", {
  defaultValue: () => undefined,
});

/** Spans come from this file alone. */
export const onlyOwnSpans: Layer.Layer<never> = Layer.succeed(References.TracerEnabled, false);

interface Open {
  readonly collector: Collector;
  readonly span: Tracer.Span;
}

/** The span that the current fiber works in; `undefined` outside of a trace. */
const OpenSpan = Context.Reference<Open | undefined>("csi-rbd/OpenSpan", { defaultValue: () => undefined });

export type SpanAttributes = Readonly<Record<string, string | number>>;

const within = <A, E, R>(
  collector: Collector,
  about: Pick<Parameters<Tracer.Tracer["span"]>[0], "name" | "kind" | "sampled">,
  parent: Tracer.AnySpan | undefined,
  attributes: SpanAttributes,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  Effect.flatMap(Clock.Clock, (clock) => {
    const span = collector.tracer.span({
      ...about,
      parent: Option.fromUndefinedOr(parent),
      root: parent === undefined,
      annotations: Context.empty(),
      links: [],
      startTime: clock.currentTimeNanosUnsafe(),
    });
    for (const [name, value] of Object.entries(attributes)) span.attribute(name, value);
    return body.pipe(
      Effect.provideService(OpenSpan, { collector, span }),
      Effect.onExit((exit) => Effect.sync(() => end(span, clock.currentTimeNanosUnsafe(), exit))),
    );
  });

/** An error as a span shows it. */
class Shown extends Error {
  constructor(
    override readonly name: string,
    message: string,
  ) {
    super(message);
    this.stack = `${name}: ${message}`;
  }
}

const end = (span: Tracer.Span, at: bigint, exit: Exit.Exit<unknown, unknown>): void => {
  if (Exit.isSuccess(exit)) return span.end(at, Exit.void);
  if (Cause.hasInterruptsOnly(exit.cause)) return span.end(at, exit);
  const shown = shownError(exit.cause);
  span.attribute("error.type", shown.name);
  span.end(at, Exit.fail(shown));
};

const shownError = (cause: Cause.Cause<unknown>): Shown => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause));
  if (error instanceof Error) return new Shown("_tag" in error ? String(error._tag) : error.name, error.message);
  return new Shown("Defect", "a defect; the log has its cause");
};

/** Begins a trace, or continues the caller's, where spans are collected. */
export const rpcSpan = <A, E, R>(
  name: string,
  traceparent: () => string | undefined,
  attributes: () => SpanAttributes,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => {
    const collector = fiber.getRef(SpanCollector);
    if (collector === undefined) return body;
    const header = traceparent();
    const parent = header === undefined ? undefined : collector.parent(header);
    return within(collector, { name, kind: "server", sampled: collector.sampled(parent) }, parent, attributes(), body);
  });

/** A span below the current one; none outside of a trace. */
export const childSpan = <A, E, R>(
  name: string,
  kind: "internal" | "client",
  attributes: SpanAttributes,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> => Effect.withFiber((fiber) => childSpanIn(fiber, name, kind, attributes, body));

/** `childSpan`, for callers that have the fiber that will run `body`. */
export const childSpanIn = <A, E, R>(
  fiber: Fiber.Fiber<unknown, unknown>,
  name: string,
  kind: "internal" | "client",
  attributes: SpanAttributes,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> => {
  const open = fiber.getRef(OpenSpan);
  if (open === undefined) return body;
  const { collector, span } = open;
  return within(collector, { name, kind, sampled: span.sampled }, span, attributes, body);
};

/** Adds to the current span, if there is one. */
export const annotateSpan = (attributes: () => SpanAttributes): Effect.Effect<void> =>
  Effect.map(OpenSpan, (open) => {
    if (open === undefined) return;
    for (const [name, value] of Object.entries(attributes())) open.span.attribute(name, value);
  });

/** The current span, for others to refer to. */
export const currentSpan: Effect.Effect<Tracer.Span | undefined> = Effect.map(OpenSpan, (open) => open?.span);

/** Says that the current span waits for the work of another one, which may be part of another trace. */
export const linkSpan = (other: Tracer.Span | undefined): Effect.Effect<void> =>
  other === undefined
    ? Effect.void
    : Effect.map(OpenSpan, (open) => open?.span.addLinks([{ span: other, attributes: {} }]));
