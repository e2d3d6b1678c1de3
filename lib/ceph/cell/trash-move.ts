/**
 * Moves images to the trash. Loaded in cells only.
 *
 * Not here: who may move an image (lib/images/removal.ts); what becomes of a move that was cut off (./repair.ts).
 *
 * `rbd_trash_move` opens the image and takes its lock first, which is nine tenths of its time. An image that nobody can
 * have a hold on is moved without that, by the same writes of the same methods of the object class (stable since Ceph
 * 14): its entry in the trash, marked as on the way; then its name and its entry in the directory; then the mark goes.
 *
 * 1. Only a plain image is moved so: nobody has its lock, and it is in no group, not mirrored, not being migrated, and has
 *    no journal. Everything else is left to librbd, which waits for the holder of the lock, or says what is wrong.
 * 2. A crash leaves what a crash of librbd leaves, or a name without an entry in the directory: librbd finds both by
 *    their entry in the trash, and goes on.
 * 3. An image is moved in a full pool, too: its removal is what makes room.
 * 4. A name is removed only while it leads to this image: another client may have moved it, and a third one may have
 *    given the name to a new image.
 */
import { FFIType as T } from "bun:ffi";
import { Errno, midway } from "../../cells/cell.ts";
import { HEADER_FEATURES } from "../feature-bits.ts";
import { type DriversMark, driversMark } from "../rbd.ts";
import { type Change, changeAll } from "./changes.ts";
import { Decoder } from "./decoder.ts";
import { encode, type Field } from "./encoder.ts";
import {
  bind,
  check,
  EBUSY,
  ECANCELED,
  EDQUOT,
  EEXIST,
  ENOENT,
  ENOSPC,
  ERANGE,
  ESTALE,
  plain,
  slot,
  zeroed,
} from "./ffi.ts";
import { readMany } from "./omaps.ts";
import { execute } from "./rados.ts";
import { id as idOf, isThere } from "./rbd.ts";
import { get } from "./trash.ts";

const rbd = bind("librbd.so.1", {
  rbd_trash_move: { args: [T.u64, T.cstring, T.u64], returns: T.i32 },
});
const rados = bind("librados.so.2", {
  rados_list_lockers: {
    args: [T.u64, T.cstring, T.cstring, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr, T.ptr],
    returns: T.i32,
  },
});

/**
 * Before `keepSeconds` are over the image is only removed by force. An image is moved also if it has watchers, and librbd
 * refuses to remove it then. The caller asks about them before. `only`: the id of the image that is meant; if the name leads
 * to another one, there is no such image. `onlyBegun`: one that is out of the trash again has changed.
 */
export const move = (
  io: bigint,
  image: string,
  keepSeconds = 0,
  otherwise = byLibrbd,
  only?: string,
  onlyBegun = false,
): DriversMark | undefined =>
  withTrash(io, () => {
    const id = idInDirectory(io, image);
    const named = id ?? idOf(io, image);
    const known = named ?? only;
    if (only !== undefined && known !== only) throw new Errno(OP, ENOENT);
    if (onlyBegun && (known === undefined || get(io, known) === undefined)) {
      throw named === undefined ? new Errno(OP, ENOENT) : new Errno("rados_write_op_operate", ECANCELED);
    }
    if (id !== undefined && isPlain(io, id)) {
      if (write(io, image, id, keepSeconds)) return driversMark(keepSeconds);
    } else otherwise(io, image, keepSeconds);
    // a move that was interrupted may have left an entry, and that one stays
    return known === undefined ? undefined : midway(() => get(io, known)?.byDriver);
  });

/** Moves the image with this id. Does nothing if the name leads to another one, or to none. */
export const moveOwn = (io: bigint, image: string, id: string): void => {
  if (idOf(io, image) !== id) return;
  // librbd moves by name, and the name may lead to another image by then
  if (!isPlain(io, id)) throw new Errno(OP, EBUSY);
  withTrash(io, () => write(io, image, id, 0));
};

/**
 * Older releases of Ceph make the trash of a pool with the first image that is moved there, and a full pool takes no new
 * object. Both ways of a move write to the trash first.
 */
const withTrash = <A>(io: bigint, act: () => A): A => {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof Errno) || error.midway || !mayLackTrash(error)) throw error;
    must(io, { object: TRASH, state: "exclusive", evenIfFull: true, calls: [] }, [EEXIST]);
    return act();
  }
};

/** librbd forgets why its entry was refused, and then does not find it. */
const mayLackTrash = ({ op, errno }: Errno): boolean => op === STAYS || errno === EDQUOT || errno === ENOSPC;

/** Moves any image, and finishes a move that was cut off. */
export const byLibrbd = (io: bigint, image: string, keepSeconds = 0): void => {
  const result = rbd.rbd_trash_move(io, plain(image), BigInt(keepSeconds));
  // it opens no parent, so an entry is missing, of the image in `rbd_directory` or in the trash: the image is not absent
  if (result === -ENOENT && isThere(io, image)) throw new Errno(STAYS, ENOENT);
  check(OP, result);
};

const OP = "rbd_trash_move";
const STAYS = "rbd_trash_move of an image that is there";
const DIRECTORY = "rbd_directory";
const TRASH = "rbd_trash";

const idInDirectory = (io: bigint, image: string): string | undefined => {
  const answer = execute(io, DIRECTORY, "dir_get_id", encode({ text: plain(image) }));
  return answer && new Decoder(answer).text();
};

const FEATURES = "features";
const GROUP = "rbd_group_ref";

/** Whether nobody can have a hold on the image but who has it open without its lock. */
export const isPlain = (io: bigint, id: string): boolean => {
  const header = `rbd_header.${id}`;
  const [own, mirrored] = readMany(io, [
    { object: header, keys: [FEATURES, GROUP] },
    { object: "rbd_mirroring", keys: [`image_${id}`] },
  ]);
  const features = own?.get(FEATURES);
  if (features === undefined || own?.has(GROUP) === true || (mirrored?.size ?? 0) > 0) return false;
  return (new Decoder(features).u64() & ~HEADER_FEATURES) === 0n && !isLocked(io, header);
};

const LOCKERS_BYTES = 1024;

const isLocked = (io: bigint, header: string): boolean => {
  const texts = [zeroed(LOCKERS_BYTES), zeroed(LOCKERS_BYTES), zeroed(LOCKERS_BYTES), zeroed(LOCKERS_BYTES)] as const;
  const [tag, clients, cookies, addresses] = texts;
  const size = () => slot(BigInt(LOCKERS_BYTES));
  const [exclusive, tagSize, clientsSize, cookiesSize, addressesSize] = [slot(), size(), size(), size(), size()];
  const count = rados.rados_list_lockers(
    io,
    plain(header),
    "rbd_lock",
    exclusive,
    tag,
    tagSize,
    clients,
    clientsSize,
    cookies,
    cookiesSize,
    addresses,
    addressesSize,
  );
  return count === -ERANGE || check("rados_list_lockers", count) > 0;
};

const SOURCE_USER = 0;
const STATE = { normal: 0, moving: 1 } as const;

/** Gives whether its entry is the one that is there. */
const write = (io: bigint, image: string, id: string, keepSeconds: number): boolean => {
  const now = Date.now();
  const until = now + keepSeconds * 1000;
  const entry: Field = {
    version: 2,
    of: [{ u8: SOURCE_USER }, { text: image }, ...timeOf(now), ...timeOf(until), { u8: STATE.moving }],
  };
  const add = { method: "trash_add", input: encode({ text: id }, entry) };
  const isNew = must(io, { object: TRASH, state: "ensure", calls: [add] }, [EEXIST]);
  midway(() => {
    const name = encode({ text: id });
    const out = { method: "dir_remove_image", input: encode({ text: image }, { text: id }) };
    const names: readonly Change[] = [
      { object: `rbd_id.${image}`, state: "require", calls: { removeIf: name } },
      { object: DIRECTORY, state: "require", calls: [out] },
    ];
    for (const result of changeAll(io, names)) expect(result, NOT_OURS);
    const done = { method: "trash_state_set", input: encode({ text: id }, { u8: STATE.normal }, { u8: STATE.moving }) };
    // whoever removes images from the trash may have been faster
    must(io, { object: TRASH, state: "require", calls: [done] }, [ENOENT, ESTALE]);
  });
  return isNew;
};

/** What an OSD answers if the name or the entry is gone, or leads to another image. The last is of a `removeIf`. */
const NOT_OURS = [ENOENT, ESTALE];

/** Gives whether it was done. */
const must = (io: bigint, change: Change, unless: readonly number[]): boolean => {
  const [result = 0] = changeAll(io, [change]);
  expect(result, unless);
  return result >= 0;
};

const expect = (result: number, unless: readonly number[]): void => {
  if (result < 0 && !unless.includes(-result)) throw new Errno(OP, -result);
};

const timeOf = (ms: number): readonly Field[] => [{ u32: Math.floor(ms / 1000) }, { u32: (ms % 1000) * 1_000_000 }];
