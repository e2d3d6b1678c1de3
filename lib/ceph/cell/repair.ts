/**
 * Images whose creation or move to the trash was cut off by the death of the client that was at it. Cells only.
 *
 * Not a repair of data: it touches names that lead nowhere and object maps that are not there.
 *
 * How librbd goes about it, one RADOS operation each: a creation makes the name (`rbd_id.<name>`), the entry in
 * `rbd_directory`, the header, the object map; a move to the trash adds the trash's entry, then takes away the name,
 * then the entry in the directory.
 *
 * 1. A name is taken away only when, a second later, it still leads to no header: somebody else may be creating it.
 * 2. The directory's entry goes first and the name last, so that a mending that is cut off can be done again.
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

/** -> whether an image of that name is there in the end. */
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
  midway(() => objectRemove(io, `rbd_id.${image}`));
  return false;
};

const mendObjectMap = (io: bigint, image: string, id: string): void => {
  if (exists(io, `rbd_object_map.${id}`)) return;
  withImage(io, image, "write", (handle) => {
    const has = features(handle);
    if ((has & OBJECT_MAP) !== 0n) renewObjectMap(handle, has & (OBJECT_MAP | FAST_DIFF));
  });
};

/** The directory may still name an image that is in the trash: its name could not be used again. */
const dropStaleEntry = (io: bigint, image: string): void => {
  const answer = execute(io, "rbd_directory", "dir_get_id", encode({ text: image }));
  if (answer === undefined) return;
  const id = new Decoder(answer).text();
  if (trashGet(io, id) !== undefined || !hasHeader(io, id)) dropEntry(io, image, id);
};

const dropEntry = (io: bigint, image: string, id: string): void => {
  execute(io, "rbd_directory", "dir_remove_image", encode({ text: image }, { text: id }));
};
