/**
 * The key of a volume or snapshot whose image is gone: it goes from a store that keeps keys. A wrapped key was in the
 * image's metadata and is gone with it.
 *
 * 1. Only for callers that have proven the image gone, before the journal forgets where the key is: a removal that was
 *    cut off in between is found by the ID and goes on.
 * 2. While the image waits in the trash for an administrator, its key stays: restored without it, it would be lost. So it
 *    is with --rbdtrashmaxdelay, and with an image that a person has put there with a time of protection.
 * 3. A key that can't be removed does not stop the removal. Where the namespace of the claim is deleted with its token, no
 *    retry would succeed, and a key without an image does no harm. The log says where it is.
 */
import * as Effect from "effect/Effect";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { Rados } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { encryptionIn } from "../config/encryption.ts";
import type { LocatedVolume } from "../journal/locate.ts";
import type { Making } from "../journal/making.ts";
import type { KmsError } from "../kms/errors.ts";
import type { ImageRef } from "../kms/image-keys.ts";
import { dropKey, type KeyRequest } from "../kms/keep-key.ts";
import type { Kms } from "../kms/kms.ts";
import { stage } from "../operations/pipeline.ts";
import { Purge } from "./purge.ts";

/** What the key is found by; `undefined`: it is plain. */
export const keyRequestOf = (
  { handle, attributes }: Pick<LocatedVolume, "attributes" | "handle">,
  secrets: KeyRequest["secrets"],
): KeyRequest | undefined => {
  const encryption = encryptionIn(attributes);
  return encryption && { ...encryption, volumeId: handle, owner: attributes?.owner, secrets };
};

export const removeKey = Effect.fn("images.removeKey")(function* (
  located: Pick<LocatedVolume, "attributes" | "handle" | "pool">,
  secrets: KeyRequest["secrets"],
): Effect.fn.Return<void, never, Kms | Purge | Rbd> {
  const request = keyRequestOf(located, secrets);
  if (request === undefined) return;
  const { kmsId } = request;
  if ((yield* Purge).keepSeconds > 0) {
    return yield* Effect.logInfo(
      `the key of ${located.handle} stays in KMS ${kmsId}, because its image is in the trash`,
    );
  }
  yield* stage("remove key", dropKey(request, isNotKept(located))).pipe(
    Effect.catch(({ message }) =>
      Effect.logWarning(`the key of ${located.handle} may be left over in KMS ${kmsId}: ${message}`),
    ),
  );
});

/** Whether nobody keeps the image in the trash. A time of protection that no driver gave it says that a person does. */
const isNotKept = Effect.fnUntraced(function* ({
  attributes,
  handle,
  pool,
}: Pick<LocatedVolume, "attributes" | "handle" | "pool">): Effect.fn.Return<boolean, CephError, Rbd> {
  const id = attributes?.imageId;
  const entry = id === undefined ? undefined : yield* (yield* Rbd).trashGet(pool, id);
  if (entry?.protectedUntil === undefined) return true;
  yield* Effect.logWarning(
    `the key of ${handle} stays, because image ${imageLabel(pool, entry.name)} is kept in the trash and needs its key when it is restored. Remove the key by hand when the image is gone`,
  );
  return false;
});

/** Undoes the choice of a key for an image that is being made: drops it, if the image is gone. */
export const undoKey = (
  making: Pick<Making, "undo">,
  { pool, imageName }: ImageRef,
  request: KeyRequest,
): Effect.Effect<void, CephError | KmsError, Kms | Rados | Rbd> =>
  making.undo(
    Effect.gen(function* () {
      if ((yield* (yield* Rbd).imageId(pool, imageName)) === undefined) yield* dropKey(request);
    }),
  );
