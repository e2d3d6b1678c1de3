/**
 * The key slots of a LUKS header: which of them a key opens, a key more, a key less. What is written through the layer is
 * not touched: all slots hold the one key that it is enciphered with.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: the order in which a volume gets a new key (lib/node/rotate-key.ts), and the layer itself (./crypt.ts).
 *
 * 1. No slot is emptied unless a key was just proven to open another one.
 * 2. A tool that does not end is killed before its call is put aside: nothing changes a header once its call is over.
 */
import { Errno } from "../cells/cell.ts";
import { type Finished, failure, outputOf } from "./child.ts";
import { EXIT, isRefusal, midway, PBKDF_MEMORY, type PlainKeys, withKeys } from "./cryptsetup.ts";
import { afterChange } from "./errno.ts";
import type { CryptKeyAdd, CryptKeyTest, CryptSlotKill } from "./host.ts";

export type SlotAnswer = { readonly kind: "done" } | { readonly kind: "refused"; readonly reason: string };

const DONE = { kind: "done" } as const;

/** Milliseconds for one tool. A call runs two at most, and has 150 seconds. */
const LIMIT = 70_000;

/** Opens nothing: cryptsetup tries the key and says which slot it is in. */
export const cryptKeySlot = ({ device, key, slot }: PlainKeys<CryptKeyTest>): number | undefined => {
  const one = slot === undefined ? [] : ["--key-slot", String(slot)];
  const argv = ["cryptsetup", "open", "--test-passphrase", "--verbose", ...one, device, "-d", "-"];
  const done = withKeys(argv, [key], LIMIT);
  if (done.code === EXIT.NO_PERMISSION) return undefined;
  // a slot that is asked for and empty
  if (slot !== undefined && isRefusal(done)) return undefined;
  if (done.code !== 0) throw failure("cryptsetup open", done);
  const opened = /key slot (\d+) unlocked/i.exec(`${done.stdout}\n${done.stderr}`)?.[1];
  if (opened === undefined) throw new Errno("cryptsetup open", 0, "its output does not name the key slot");
  return Number(opened);
};

/**
 * Both keys follow each other in the one input, of which cryptsetup reads as many bytes as it is told. By the name
 * /dev/stdin it would open the input anew, and where that is a file it would read the first key twice.
 */
export const addCryptKey = ({ device, key, slot, next }: PlainKeys<CryptKeyAdd>): SlotAnswer => {
  const sizes = [
    ["--keyfile-size", String(Buffer.byteLength(key))],
    ["--new-keyfile-size", String(Buffer.byteLength(next))],
  ].flat();
  const where = ["--key-slot", String(slot), "--key-file", "-", ...sizes, device, "-"];
  const done = withKeys(["cryptsetup", "luksAddKey", ...PBKDF_MEMORY, ...where], [key, next], LIMIT);
  return answerOf("cryptsetup luksAddKey", done);
};

export const killCryptSlot = ({ device, key, slot, by }: PlainKeys<CryptSlotKill>): SlotAnswer => {
  if (by === slot || cryptKeySlot({ device, key, slot: by }) === undefined) {
    return { kind: "refused", reason: `the key does not open key slot ${by}. Nothing was changed` };
  }
  const done = withKeys(["cryptsetup", "luksKillSlot", device, String(slot), "--key-file", "-"], [key], LIMIT);
  if (done.code === EXIT.WRONG_PARAMETERS && /is not active/.test(done.stderr)) return DONE;
  return answerOf("cryptsetup luksKillSlot", done);
};

const answerOf = (op: string, done: Finished): SlotAnswer => {
  if (done.code === 0) return afterChange(op, () => DONE);
  if (isRefusal(done, EXIT.NO_PERMISSION)) return { kind: "refused", reason: outputOf(done) };
  throw midway(op, done);
};
