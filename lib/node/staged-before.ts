/**
 * What volumes were staged with before this driver started, as Kubernetes tells it.
 *
 * Not here: how Kubernetes is asked (lib/kube/staged-volumes.ts).
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import * as Semaphore from "effect/Semaphore";
import type { Credentials } from "../config/secrets.ts";
import type { VolumeContext } from "./volume-context.ts";

/** What is needed to read the limits of a volume. */
export interface Limitable {
  readonly context: VolumeContext;
  readonly credentials: Credentials;
}

export type AskKubernetes = Effect.Effect<{ readonly staged: readonly Limitable[] }, { readonly message: string }>;

/** How long Kubernetes is not asked again after it did not answer, or for a volume that it did not name. */
const ASK_AGAIN_MS = 600_000;

/**
 * What Kubernetes knows. It is asked as soon as there is an image that it was not asked about yet, and about the same ones
 * again after ten minutes: one of its answers may have failed. The caller has the turn.
 */
export const asking = (attached: AskKubernetes) => {
  const askedAt = new Map<string, number>();
  let failedAt = Number.NEGATIVE_INFINITY;
  let failure: string | undefined;
  return {
    turn: Semaphore.makeUnsafe(1),
    /** Why a volume is unknown. */
    why: (): string => failure ?? "Kubernetes does not tell what it was staged with",
    ask: Effect.fnUntraced(function* (imageIds: readonly string[]): Effect.fn.Return<readonly Limitable[]> {
      for (const id of askedAt.keys()) if (!imageIds.includes(id)) askedAt.delete(id);
      const now = yield* Clock.currentTimeMillis;
      const isLate = (at = Number.NEGATIVE_INFINITY) => now - at >= ASK_AGAIN_MS;
      if (!isLate(failedAt) || !imageIds.some((id) => isLate(askedAt.get(id)))) return [];
      for (const id of imageIds) askedAt.set(id, now);
      const answer = yield* Effect.result(attached);
      if (Result.isSuccess(answer)) {
        failure = undefined;
        return answer.success.staged;
      }
      failedAt = now;
      failure = answer.failure.message;
      yield* Effect.logInfo(
        `limits of I/O of volumes that were staged before this driver started stay as they are until these are staged again: ${failure}`,
      );
      return [];
    }),
  };
};
