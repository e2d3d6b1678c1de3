/**
 * Attaches volumes of a driver that has nothing to do for it: an attachment is a word that keeps a volume to one node.
 *
 * 1. Attaching is one write.
 * 2. A finalizer that an attacher with more to do has left is taken off a deleted attachment, which would stay for ever, and
 *    off a deleted PersistentVolume once no attachment names it (./controller.ts).
 */
import * as Effect from "effect/Effect";
import type { Informer } from "../kube/informer.ts";
import { isMissing, type KubeFailed } from "../kube/errors.ts";
import type { Kube } from "../kube/kube.ts";
import { CsiDriver } from "./csi-driver.ts";
import { type Attachment, finalizerOf } from "./objects.ts";
import { dropClaim, writeAttached } from "./writes.ts";

export const syncTrivially = (
  { learn }: Pick<Informer<Attachment>, "learn">,
  attachment: Attachment,
): Effect.Effect<void, KubeFailed, Kube | CsiDriver> =>
  Effect.gen(function* () {
    const finalizer = finalizerOf((yield* CsiDriver).name);
    if (attachment.deleting && attachment.finalizers.includes(finalizer))
      return yield* dropClaim(attachment, finalizer);
    if (!attachment.attached) learn(yield* writeAttached(attachment, {}, attachment.hasAttachError));
  }).pipe(
    Effect.catchIf(isMissing, () => Effect.void),
    Effect.tapError(({ message }) => Effect.logWarning(`${attachment.name}: ${message}`)),
  );
