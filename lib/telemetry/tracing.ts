/**
 * Spans: one for an RPC, below it one for its operation, below that one for each stage, and below a stage one for each
 * call to Ceph or the host.
 *
 * Not here: who collects spans, and where they are sent (./otlp.ts).
 *
 * 1. Only an RPC begins a trace. Work that belongs to none, such as the purge queue, makes no spans.
 * 2. A span shows names, subjects, codes and messages of typed errors, never a request, its secrets or a defect's text.
 * 3. Where nobody collects spans, a place that could make one costs next to nothing (./armed.ts).
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
import { maskKeys } from "../text/mask.ts";
import { isArmed } from "./armed.ts";

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

export interface SpanAbout {
  readonly name: string;
  readonly attributes?: SpanAttributes;
  /** Asked when the span ends. */
  readonly lastAttributes?: () => SpanAttributes;
  /** Gets the span at its start. */
  readonly started?: (span: Tracer.Span) => void;
}

const annotate = (span: Tracer.Span, attributes: SpanAttributes = {}): void => {
  for (const [name, value] of Object.entries(attributes)) span.attribute(name, value);
};

const within = <A, E, R>(
  collector: Collector,
  options: Pick<Parameters<Tracer.Tracer["span"]>[0], "kind" | "sampled">,
  parent: Tracer.AnySpan | undefined,
  { name, attributes, lastAttributes, started }: SpanAbout,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  Effect.flatMap(Clock.Clock, (clock) => {
    const span = collector.tracer.span({
      ...options,
      name,
      parent: Option.fromUndefinedOr(parent),
      root: parent === undefined,
      annotations: Context.empty(),
      links: [],
      startTime: clock.currentTimeNanosUnsafe(),
    });
    annotate(span, attributes);
    started?.(span);
    return body.pipe(
      Effect.provideService(OpenSpan, { collector, span }),
      Effect.onExit((exit) => {
        annotate(span, lastAttributes?.());
        end(span, clock.currentTimeNanosUnsafe(), exit);
        return Effect.void;
      }),
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
  if (error instanceof Error)
    return new Shown("_tag" in error ? String(error._tag) : error.name, maskKeys(error.message));
  return new Shown("Defect", "a defect; the log has its cause");
};

/** Begins a trace, or continues the caller's, where spans are collected. */
export const rpcSpan = <A, E, R>(
  traceparent: () => string | undefined,
  about: SpanAbout,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  isArmed()
    ? Effect.withFiber((fiber) => {
        const collector = fiber.getRef(SpanCollector);
        if (collector === undefined) return body;
        const header = traceparent();
        const parent = header === undefined ? undefined : collector.parent(header);
        return within(collector, { kind: "server", sampled: collector.sampled(parent) }, parent, about, body);
      })
    : body;

/** A span below the current one; none outside of a trace. `client`: the work is done elsewhere, and waited for here. */
export const childSpan = <A, E, R>(
  kind: "internal" | "client",
  about: SpanAbout,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> => (isArmed() ? Effect.withFiber((fiber) => childSpanIn(fiber, kind, about, body)) : body);

/** `childSpan`, for callers that have the fiber that will run `body`. */
export const childSpanIn = <A, E, R>(
  fiber: Fiber.Fiber<unknown, unknown>,
  kind: "internal" | "client",
  about: SpanAbout,
  body: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> => {
  const open = fiber.getRef(OpenSpan);
  // What an RPC leaves behind, such as a connection, outlives its span and belongs to no trace.
  if (open === undefined || open.span.status._tag === "Ended") return body;
  const { collector, span } = open;
  return within(collector, { kind, sampled: span.sampled }, span, about, body);
};

/** Says that the current span waits for the work of another one, which may be part of another trace. */
export const linkSpan = (other: Tracer.Span | undefined): Effect.Effect<void> =>
  other === undefined
    ? Effect.void
    : Effect.map(OpenSpan, (open) => open?.span.addLinks([{ span: other, attributes: {} }]));
