/**
 * A CreateVolume that fails over an image that an earlier one made.
 *
 * external-provisioner takes most codes for proof that there is no volume. If its claim is gone by then, it forgets the
 * name, and nobody deletes the image. So a failure says that its outcome is unknown while the image is there: the provisioner comes
 * back, also for a claim that is gone, and deletes the volume once it is whole.
 *
 * Not here: what a call itself has made when it fails (lib/operations/compensation.ts).
 *
 * 1. What is there is looked up after the failure. A look that fails proves nothing.
 * 2. A Conflict stays what it is: the name is another volume's.
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { HalfMade } from "../csi/errors.ts";
import { tempImage } from "../images/intermediate.ts";
import { type DomainError, isFinal } from "../operations/outcomes.ts";

/** `image`: of the volume, which may go through another one. */
export const overHalfMade =
  (requestName: string, pool: PoolRef, image: string) =>
  <A, E extends DomainError, R>(body: Effect.Effect<A, E, R>): Effect.Effect<A, E | HalfMade, R | Rbd> =>
    Effect.catchIf(
      body,
      (error) => isFinal(error) && error._tag !== "Conflict",
      (error): Effect.Effect<never, E | HalfMade, Rbd> => {
        const overWhatIs = (left: string) =>
          Effect.fail(new HalfMade({ subject: `volume ${requestName}`, reason: error.message, left }));
        return Effect.matchEffect(firstThere(pool, [image, tempImage(image)]), {
          onFailure: () => overWhatIs(""),
          onSuccess: (found): Effect.Effect<never, E | HalfMade> =>
            found === undefined ? Effect.fail(error) : overWhatIs(`image ${imageLabel(pool, found)}`),
        });
      },
    );

const firstThere = Effect.fnUntraced(function* (pool: PoolRef, names: readonly string[]) {
  const rbd = yield* Rbd;
  for (const name of names) if ((yield* rbd.imageId(pool, name)) !== undefined) return name;
  return undefined;
});
