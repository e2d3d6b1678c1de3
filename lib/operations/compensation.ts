/**
 * Undoing what a failed operation has done so far: each step says how it is undone, and a failure that certainly had no
 * effect undoes the steps before it, the last first.
 *
 * Not here: which failures had no effect (./outcomes.ts).
 *
 * 1. After an unknown outcome, or when another driver works on the same, nothing is undone: the next call for the name
 *    inspects the real state and finishes or undoes it.
 * 2. An undo that fails ends the undoing, because undoing an earlier step would harm then (no reservation goes before
 *    its image). The log says so, and the next call heals what is left.
 * 3. An interrupt undoes nothing, as a crash would not.
 */
import * as Cause from "effect/Cause";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Option from "effect/Option";
import { type DomainError, outcomeOf } from "./outcomes.ts";
import { stage } from "./pipeline.ts";

interface Compensation {
  readonly name: string;
  readonly undo: Effect.Effect<unknown, unknown>;
  readonly leaves: string | undefined;
  undone: boolean;
}

/** The steps of the operation so far, in the order in which they began. */
export class Compensations extends Context.Service<Compensations, Compensation[]>()("csi-rbd/Compensations") {}

interface Leaves {
  /** What stays if the step is not undone; `compensated` hands it to its `left`. */
  readonly leaves?: string;
}

/** `done` (the default): the step is undone if it succeeded. */
export interface UndoWhenDone<A, E, R> extends Leaves {
  readonly when?: "done";
  readonly undo: (made: A) => Effect.Effect<unknown, E, R>;
}

/** `started`: the step is undone also if it failed itself, because a part of it may be there. */
export interface UndoWhenStarted<E, R> extends Leaves {
  readonly when: "started";
  readonly undo: Effect.Effect<unknown, E, R>;
}

/** A stage that a later failure undoes. */
export const step: {
  <A, E, R, E2, R2>(
    name: string,
    body: Effect.Effect<A, E, R>,
    how: UndoWhenStarted<E2, R2>,
  ): Effect.Effect<A, E, R | R2 | Compensations>;
  <A, E, R, E2, R2>(
    name: string,
    body: Effect.Effect<A, E, R>,
    how: UndoWhenDone<A, E2, R2>,
  ): Effect.Effect<A, E, R | R2 | Compensations>;
} = <A, E, R, E2, R2>(
  name: string,
  body: Effect.Effect<A, E, R>,
  how: UndoWhenStarted<E2, R2> | UndoWhenDone<A, E2, R2>,
) =>
  Effect.gen(function* () {
    const compensations = yield* Compensations;
    const context = yield* Effect.context<R2>();
    const register = (undo: Effect.Effect<unknown, E2, R2>) =>
      void compensations.push({ name, undo: Effect.provide(undo, context), leaves: how.leaves, undone: false });
    if (how.when === "started") {
      register(how.undo);
      return yield* stage(name, body);
    }
    const made = yield* stage(name, body);
    register(how.undo(made));
    return made;
  });

/**
 * Runs steps so that a failure without effect undoes them. `left` turns the failure into another one when something
 * stays behind that a step named in `leaves`.
 */
export const compensated = <A, E extends DomainError, R, E2 extends DomainError = never>(
  body: Effect.Effect<A, E, R>,
  left?: (what: readonly string[], error: E) => E2,
): Effect.Effect<A, E | E2, Exclude<R, Compensations>> =>
  Effect.suspend(() => {
    const compensations: Compensation[] = [];
    return body.pipe(
      Effect.provideService(Compensations, compensations),
      Effect.onExit((exit) => {
        const failure = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined;
        return failure !== undefined && outcomeOf(failure) === "none" ? undoAll(compensations) : Effect.void;
      }),
      Effect.mapError((error): E | E2 => {
        const what = compensations.flatMap(({ leaves, undone }) => (leaves === undefined || undone ? [] : [leaves]));
        return left === undefined || what.length === 0 ? error : left(what, error);
      }),
    );
  });

const undoAll = (compensations: readonly Compensation[]): Effect.Effect<void> =>
  Effect.forEach(
    compensations.toReversed(),
    (compensation) =>
      compensation.undo.pipe(
        Effect.andThen(Effect.sync(() => (compensation.undone = true))),
        Effect.tapCause((cause) =>
          Effect.logWarning(`could not undo "${compensation.name}"; the next call for this name undoes it`, cause),
        ),
      ),
    { discard: true },
  ).pipe(Effect.ignore);
