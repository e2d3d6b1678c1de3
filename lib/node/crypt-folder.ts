/**
 * The encrypted folder of a volume whose files are encrypted (fscrypt), in its mounted filesystem. Pods get the folder in
 * place of the filesystem's root.
 *
 * This is the order of the first stage, and what a crash after each step leaves to the next one:
 *
 *   mkfs            as of a plain volume: see ./prepare-filesystem.ts.
 *   key kept        the folder is set up with it.
 *   wrapped keys    they encrypt nothing: they are removed, and made again.
 *   folder          it is unlocked with the key of the store.
 *
 * Not here: where the key comes from (lib/kms/file-key.ts), and fscrypt (lib/host/fscrypt.ts).
 *
 * 1. A folder that is encrypted is only unlocked. If its key is not in its store, no other one is made.
 * 2. Nothing is set up for readers.
 * 3. The key is asked of its store before anything is mapped.
 */
import * as Effect from "effect/Effect";
import { imageLabel } from "../ceph/label.ts";
import { Precondition } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { ENCRYPTED_FOLDER, Host } from "../host/host.ts";
import type { KeyNotFound, KmsError } from "../kms/errors.ts";
import { fileKeyIn, fileKeyLost, type FileKeyStore, makeFileKey, openFileKeyStore } from "../kms/file-key.ts";
import type { Key, Texts } from "../kms/key-store.ts";
import type { Kms } from "../kms/kms.ts";
import { stage } from "../operations/pipeline.ts";
import type { VolumeImage } from "./volume-context.ts";

/** What unlocks the folder of a volume. */
export interface FolderKey {
  readonly store: FileKeyStore;
  /** `undefined`: the volume was never staged, or its key is lost. */
  readonly key: Key | undefined;
}

export interface FolderWanted {
  readonly volumeId: string;
  /** The secrets of the request. */
  readonly secrets: Texts;
  readonly readOnly: boolean;
}

/** The key of a volume, before anything is changed on the node; `undefined`: its files are not encrypted. */
export const folderKey = Effect.fnUntraced(function* (
  { volumeId, secrets }: FolderWanted,
  { encryption }: VolumeImage,
): Effect.fn.Return<FolderKey | undefined, KmsError, Kms> {
  if (encryption?.type !== "file") return undefined;
  const store = yield* openFileKeyStore({ ...encryption, secrets });
  return { store, key: yield* fileKeyIn(store, volumeId) };
});

/** Unlocks the folder of a volume that is mounted, and makes it first if there is none. */
export const unlockFolder = Effect.fnUntraced(function* (
  point: string,
  { volumeId, readOnly }: FolderWanted,
  { pool, imageName }: VolumeImage,
  { store, key }: FolderKey,
): Effect.fn.Return<void, HostError | KeyNotFound | KmsError | Precondition, Host> {
  const host = yield* Host;
  const { source } = store;
  const found = yield* stage("look at encrypted folder", host.cryptFolder(point));
  const refuse = (problem: string, remedy?: string) =>
    new Precondition({ subject: `image ${imageLabel(pool, imageName)}`, problem, ...(remedy && { remedy }) });
  switch (found.kind) {
    case "unlocked":
      return;
    case "locked":
      if (key === undefined) return yield* fileKeyLost(store, volumeId);
      return yield* stage("unlock files", host.unlockCryptFolder({ point, source, key }));
    case "other":
      return yield* refuse(`was left as it is: ${found.reason}`);
    case "none":
    case "half-made": {
      if (readOnly) {
        const problem = "has no encrypted files yet, and is staged read-only";
        return yield* refuse(problem, "Stage it for a writer first");
      }
      const made = key ?? (yield* stage("make key", makeFileKey(store, volumeId)));
      yield* stage("encrypt folder", host.setUpCryptFolder({ point, source, key: made }));
    }
  }
});

/** -> the path of the folder in the filesystem that is staged there. Fails unless its files can be read. */
export const unlockedFolder = Effect.fnUntraced(function* (
  volumeId: string,
  point: string,
): Effect.fn.Return<string, HostError | Precondition, Host> {
  const { kind } = yield* stage("look at encrypted folder", (yield* Host).cryptFolder(point));
  if (kind === "unlocked") return `${point}/${ENCRYPTED_FOLDER}`;
  return yield* new Precondition({
    subject: `volume ${volumeId}`,
    problem: `is staged at ${point}, but its encrypted folder ${ENCRYPTED_FOLDER} is not unlocked there (${kind})`,
    remedy: "Stage it again (NodeStageVolume)",
  });
});

/** As the kernel's mount table names the folder. */
export const FOLDER_ROOT = `/${ENCRYPTED_FOLDER}`;
