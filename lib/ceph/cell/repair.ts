/**
 * Repairs images whose creation or move to the trash was interrupted by a crash of the client. Loaded in cells only.
 *
 * Not here: data. A repair changes names without a header, and object maps that do not exist.
 *
 * Each of these steps is one RADOS operation. A creation writes the entry in `rbd_directory` and the name
 * (`rbd_id.<name>`), then the header and the object map; librbd one after the other, ./image-create.ts both of a pair at
 * once. A move to the trash writes the entry in the trash, then removes the name,
 * then the entry in the directory.
 *
 * 1. A name is removed only if it still has no header a second later, because another client may be creating the image.
 * 2. The entry in the directory is removed first and the name last, so that an interrupted repair can be repeated.
 */
import { midway } from "../../cells/cell.ts";
import { FEATURE_BITS } from "../feature-bits.ts";
import { Decoder } from "./decoder.ts";
import { encode } from "./encoder.ts";
import { exists } from "./omaps.ts";
import { execute, objectRemove } from "./rados.ts";
import { features, hasHeader, id as idOf, renewObjectMap, withImage } from "./rbd.ts";
import { get as trashGet } from "./trash.ts";

const { "object-map": OBJECT_MAP, "fast-diff": FAST_DIFF } = FEATURE_BITS;
const SETTLE_MS = 1000;

/** Gives whether an image of that name exists at the end. */
export const mend = (io: bigint, image: string): boolean => {
  const id = idOf(io, image);
  if (id === undefined) {
    dropStaleEntry(io, image);
    return false;
  }
  if (hasHeader(io, id)) {
    mendObjectMap(io, image, id);
    return true;
  }
  Bun.sleepSync(SETTLE_MS);
  if (hasHeader(io, id)) return true;
  if (idOf(io, image) !== id) return idOf(io, image) !== undefined;
  dropEntry(io, image, id);
  midway(() => {
    objectRemove(io, `rbd_object_map.${id}`);
    objectRemove(io, `rbd_id.${image}`);
  });
  return false;
};

const mendObjectMap = (io: bigint, image: string, id: string): void => {
  if (exists(io, `rbd_object_map.${id}`)) return;
  withImage(io, image, "write", (handle) => {
    const has = features(handle);
    if ((has & OBJECT_MAP) !== 0n) renewObjectMap(handle, has & (OBJECT_MAP | FAST_DIFF));
  });
};

/** Removes the directory entry of an image that is in the trash, because its name could not be used again. */
const dropStaleEntry = (io: bigint, image: string): void => {
  const answer = execute(io, "rbd_directory", "dir_get_id", encode({ text: image }));
  if (answer === undefined) return;
  const id = new Decoder(answer).text();
  if (trashGet(io, id) !== undefined || !hasHeader(io, id)) dropEntry(io, image, id);
};

const dropEntry = (io: bigint, image: string, id: string): void => {
  execute(io, "rbd_directory", "dir_remove_image", encode({ text: image }, { text: id }));
};
