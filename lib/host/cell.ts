/**
 * A host cell: the worker in which the driver's blocking calls on this machine run.
 *
 * Not here: the calls themselves (./mapper, ./block.ts, ./paths.ts) and their limits (./live.ts). No Effect.
 */
import { serveCell } from "../cells/cell.ts";
import * as block from "./block.ts";
import { filesystemLack } from "./btrfs.ts";
import { closeCrypt, cryptHeader, formatCrypt, openCrypt, resizeCrypt } from "./crypt.ts";
import { lookForData, prepareCrypt, sealCrypt, wipeCrypt } from "./crypt-integrity.ts";
import * as cryptSlots from "./crypt-slots.ts";
import { asErrno } from "./errno.ts";
import { cryptFolder, setUpCryptFolder, unlockCryptFolder } from "./fscrypt.ts";
import { limitIo } from "./io-limits.ts";
import { sweepKeys } from "./mapper/key-file.ts";
import * as mappers from "./mapper/mappers.ts";
import { endLog } from "./mapper/nbd-log.ts";
import type { IoLimitRequest } from "./host.ts";
import * as paths from "./paths.ts";
import { trouble } from "./trouble.ts";

export const operations = {
  ...mappers,
  sweepKeys,
  endLog,
  limitIo: (request: IoLimitRequest) => limitIo(request),
  ...block,
  filesystemLack,
  cryptHeader,
  formatCrypt,
  openCrypt,
  closeCrypt,
  resizeCrypt,
  prepareCrypt,
  wipeCrypt,
  sealCrypt,
  lookForData,
  ...cryptSlots,
  cryptFolder,
  setUpCryptFolder,
  unlockCryptFolder,
  ...paths,
  trouble,
};
export type HostOperations = typeof operations;

/** Failures of system calls leave the cell as `Errno`, whatever they were thrown as. */
const typed =
  (op: string, handler: (arg: never) => unknown) =>
  (arg: never): unknown => {
    try {
      return handler(arg);
    } catch (error) {
      throw asErrno(op, error);
    }
  };

serveCell(Object.fromEntries(Object.entries(operations).map(([op, handler]) => [op, typed(op, handler)])));
