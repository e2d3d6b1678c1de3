/**
 * Frees the zeros that images hold, a few images at a time: each reads all that its image holds.
 *
 * Not here: which image may be sparsified (lib/volume/reclaim.ts).
 *
 * 1. What is done when its turn comes is looked up when its turn comes: it may be hours after the request.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Semaphore from "effect/Semaphore";
import { stage } from "../operations/pipeline.ts";

/** A CronJob asks for all volumes of a cluster at once. More side by side only slow down the clients. */
const SIDE_BY_SIDE = 4;

export class SparsifyTurns extends Context.Service<
  SparsifyTurns,
  { readonly inTurn: <A, E, R>(work: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> }
>()("csi-rbd/SparsifyTurns") {
  static readonly layer = Layer.effect(
    SparsifyTurns,
    Effect.map(Semaphore.make(SIDE_BY_SIDE), (turns) =>
      SparsifyTurns.of({
        inTurn: (work) =>
          Effect.uninterruptibleMask((restore) =>
            Effect.flatMap(restore(stage("wait for turn", turns.take(1))), () =>
              Effect.ensuring(restore(work), turns.release(1)),
            ),
          ),
      }),
    ),
  );
}
