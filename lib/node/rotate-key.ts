/**
 * EncryptionKeyRotate: gives an encrypted volume that is in use here a new key. What is written stays enciphered as it is:
 * LUKS enciphers with a key of its own, and only the slot that holds this one is exchanged.
 *
 * The order is ceph-csi's, and so are the slots: 0 has the key, 1 the old one meanwhile. What a crash after each step
 * leaves, and that the key which the store has opens the volume at each:
 *
 *   old key into slot 1    opens 0 and 1
 *   slot 0 emptied         opens 1
 *   new key into slot 0    opens 1; slot 0 has a key that nobody knows any more
 *   new key kept           opens 0; or, where the store did not answer, the old one is kept, and opens 1
 *   slot 1 emptied         opens 0
 *
 * A rotation that begins anew finds the slot that the kept key opens, and exchanges the other one first.
 *
 * Not here: the keys (lib/kms/rotate-key.ts) and cryptsetup (lib/host/crypt-slots.ts).
 *
 * 1. A slot is emptied only while the key that the store has was just proven to open the other one.
 * 2. Slot 1 is emptied only after the new key was read back from its store, and opened slot 0.
 * 3. Two rotations of a volume never meet, be they of two nodes or of ceph-csi: a lock in RADOS, which is ceph-csi's own,
 *    keeps them apart. It is renewed before each change, so it outlives each call.
 * 4. Only slots 0 and 1 are touched. Others, such as an administrator's, stay.
 * 5. A copy has the header of one moment and the key of another. So while the image has a snapshot that a copy goes through,
 *    no key is exchanged: looked at first, and before the old key goes. Whoever copies looks at the key once more, too
 *    (lib/kms/keep-key.ts, `holdKey`).
 * 6. A key that a store keeps is not exchanged while the image is mirrored: the header of the other cluster's image is older.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Rados } from "../ceph/rados.ts";
import { type ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { Credentials } from "../config/secrets.ts";
import { type LockHeld, NotReadyYet, Precondition } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { transientAmong } from "../images/transient-snapshots.ts";
import type { KeyExists, KeyNotFound, KmsError } from "../kms/errors.ts";
import type { Key, Texts } from "../kms/key-store.ts";
import type { Kms } from "../kms/kms.ts";
import { beginRotation } from "../kms/rotate-key.ts";
import { volumeKey, type VolumeKeyRequest } from "../kms/volume-key.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { devicesOfImage } from "./mappable.ts";
import { stackOver } from "./staged-device.ts";
import {
  cookieOf,
  locateImage,
  type LocateImageError,
  type VolumeContext,
  type VolumeImage,
} from "./volume-context.ts";

export interface RotateSpec {
  readonly volumeId: string;
  readonly context: VolumeContext;
  readonly credentials: Credentials;
  /** Those of the request, for the key store. */
  readonly secrets: Texts;
}

export type RotateError =
  | CephError
  | HostError
  | KeyExists
  | KeyNotFound
  | KmsError
  | LocateImageError
  | LockHeld
  | NotReadyYet
  | Precondition;

const LIVE = 0;
const BACKUP = 1;

export const rotateKey = Effect.fn("node.rotateKey")(function* (spec: RotateSpec) {
  return yield* (yield* Locks).with([LockKey.volume(spec.volumeId)], rotateLocked(spec));
});

const rotateLocked = Effect.fnUntraced(function* (spec: RotateSpec) {
  const { volumeId, context, credentials, secrets } = spec;
  const image = yield* stage("locate image", locateImage(context, credentials));
  if (image.encryption === undefined) return yield* refusal(volumeId, "is not encrypted");
  if (image.encryption.type === "file") {
    const remedy = "Copy its files into a new volume, which gets a key of its own";
    return yield* refusal(
      volumeId,
      "has its files encrypted (encryptionType file), whose keys are not exchanged",
      remedy,
    );
  }
  const { device, isMirrored } = yield* stage("look at node", writableDevice(spec, image));
  const request: VolumeKeyRequest = { volumeId, image, ...image.encryption, secrets };
  const volume = { request, device, isMirrored, notCopied: proveStillNotCopied(image) };
  yield* whileAlone(volumeId, image, (renew) => exchange(volume, renew));
});

const refusal = (volumeId: string, problem: string, remedy?: string): Precondition =>
  new Precondition({
    subject: `volume ${volumeId}`,
    problem: `${problem}. Its key was not changed`,
    ...(remedy !== undefined && { remedy }),
  });

/** The device under the volume's open LUKS layer, proven to be of this very image. */
const writableDevice = Effect.fnUntraced(function* (
  { volumeId, context }: RotateSpec,
  image: VolumeImage,
): Effect.fn.Return<
  Pick<ToRotate, "device" | "isMirrored">,
  CephError | HostError | NotReadyYet | Precondition,
  Host | Rbd
> {
  const status = yield* (yield* Rbd).imageStatus(image.pool, image.imageName);
  yield* proveNotCopied(image, status);
  const all = (yield* (yield* Host).mappedDevices).map(stackOver);
  const its = devicesOfImage(all, image, status, cookieOf(context)).map(({ mapped }) => mapped);
  const open = its.filter(({ crypt, served }) => crypt !== undefined && served);
  const writable = open.find(({ readOnly }) => !readOnly);
  if (writable !== undefined) return { device: writable.path, isMirrored: status.mirror !== "disabled" };
  if (open.length > 0) return yield* refusal(volumeId, "is mapped read-only on this node", "Use it with a writer");
  return yield* refusal(volumeId, "is not staged on this node, or its device is gone", "Ask a node that has it staged");
});

const proveNotCopied = (
  { pool, imageName }: VolumeImage,
  { namedSnapshots }: Pick<ImageStatus, "namedSnapshots">,
): Effect.Effect<void, NotReadyYet> => {
  const copied = transientAmong(namedSnapshots);
  if (copied.length === 0) return Effect.void;
  return Effect.fail(
    new NotReadyYet({
      subject: `image ${imageLabel(pool, imageName)}`,
      problem: `is being copied, as its snapshots say (${copied.join(", ")}), and a copy has the key of its moment`,
      remedy: 'Retry later. What a copy left that nobody asks for any more is removed with "rbd snap rm"',
    }),
  );
};

/** As `proveNotCopied`, of the image as it is by now. */
const proveStillNotCopied = Effect.fnUntraced(function* (image: VolumeImage) {
  yield* proveNotCopied(image, yield* (yield* Rbd).imageStatus(image.pool, image.imageName));
});

// ------------------------------------------------------------------------------------------------------- the lock

/** As long as ceph-csi holds it: longer than any one call of the host. */
const LOCK_SECONDS = 180;

/** Does `use` while no other node rotates the key. `renew` fails if that cannot be relied on any more. */
const whileAlone = Effect.fnUntraced(function* <A, E, R>(
  volumeId: string,
  { pool, imageName }: VolumeImage,
  use: (renew: Effect.Effect<void, CephError | NotReadyYet>) => Effect.Effect<A, E, R>,
) {
  const rados = yield* Rados;
  const lock = { name: `${volumeId}-mutexlock`, cookie: `${volumeId}-enc-key-rotate`, seconds: LOCK_SECONDS };
  const renew = rados.objectLock(pool, volumeId, lock).pipe(
    Effect.catchTag("Busy", () =>
      Effect.fail(
        new NotReadyYet({
          subject: `image ${imageLabel(pool, imageName)}`,
          problem: "is given a new key by another node, or by one that died less than three minutes ago",
          remedy: "Retry later",
        }),
      ),
    ),
  );
  yield* stage("lock image", renew);
  // The object is the lock's alone, and goes with it. Where it cannot be removed, the lock ends by itself.
  const release = Effect.ignore(Effect.andThen(renew, rados.objectRemove(pool, volumeId)));
  return yield* Effect.onExit(use(renew), () => release);
});

// -------------------------------------------------------------------------------------------------------- the keys

const isSame = (one: Key, other: Key): boolean => Redacted.value(one) === Redacted.value(other);

interface ToRotate {
  readonly request: VolumeKeyRequest;
  readonly device: string;
  readonly isMirrored: boolean;
  readonly notCopied: Effect.Effect<void, CephError | NotReadyYet, Rbd>;
}

const exchange = Effect.fnUntraced(function* (
  { request, device, isMirrored, notCopied }: ToRotate,
  renew: Effect.Effect<void, CephError | NotReadyYet>,
): Effect.fn.Return<void, RotateError, Host | Kms | Rbd> {
  const host = yield* Host;
  const { volumeId } = request;
  const { state, old, next, isInStore, keepNext } = yield* stage("make new key", beginRotation(request));
  if (isMirrored && isInStore) return yield* refusal(volumeId, ...MIRRORED);
  if (state !== "encrypted") return yield* refusal(volumeId, "was never staged, as its image says");
  const empty = (slot: number, key: Key) =>
    host.killCryptSlot({ device, slot, key, by: slot === LIVE ? BACKUP : LIVE });
  const put = (slot: number, key: Key) =>
    Effect.andThen(renew, empty(slot, old)).pipe(
      Effect.andThen(renew),
      Effect.andThen(host.addCryptKey({ device, slot, key: old, next: key })),
    );

  const slot = yield* stage("test old key", host.cryptKeySlot({ device, key: old }));
  if (slot !== LIVE && slot !== BACKUP) return yield* refusal(volumeId, ...whereElse(slot));
  if (slot === LIVE) yield* stage("keep old key in slot 1", put(BACKUP, old));
  yield* stage("look whether key is still kept", proveKept(request, old));
  yield* stage("put new key into slot 0", put(LIVE, next));
  yield* stage("test new key", proveOpens(volumeId, device, next));
  yield* stage("keep new key", Effect.andThen(renew, keepNext));
  yield* stage("read new key back", proveKept(request, next));
  yield* stage("look for copies", notCopied);
  yield* stage("remove old key", Effect.andThen(renew, empty(BACKUP, next)));
});

/** A failover may come between the two. */
const MIRRORED = [
  "is mirrored to another cluster, which gets the new header later than its key store gets the new key",
  'Disable mirroring of the image ("rbd mirror image disable") until the key is exchanged, or copy it into a class with a KMS that wraps keys: those travel with the image',
] as const;

const whereElse = (slot: number | undefined): readonly [problem: string, remedy: string] =>
  slot === undefined
    ? [
        "is not opened by the key that its store has",
        "Restore the key there before the volume is unstaged: without it, it cannot be opened again",
      ]
    : [
        `has its key in key slot ${slot} of its LUKS header, and slots 0 and 1 may have somebody else's`,
        'Put it into slot 0 with "cryptsetup luksAddKey --key-slot 0"',
      ];

/** Somebody else changes keys in the store, whom the lock does not keep out. Nothing is removed then. */
const proveKept = Effect.fnUntraced(function* (request: VolumeKeyRequest, key: Key) {
  if (isSame(yield* volumeKey(request), key)) return;
  return yield* new NotReadyYet({
    subject: `volume ${request.volumeId}`,
    problem: "has got another key in its store meanwhile",
    remedy: "Find out who changes keys there, then retry",
  });
});

const proveOpens = Effect.fnUntraced(function* (volumeId: string, device: string, key: Key) {
  if ((yield* (yield* Host).cryptKeySlot({ device, key, slot: LIVE })) !== undefined) return;
  return yield* refusal(volumeId, "is not opened by the key that was just added");
});
