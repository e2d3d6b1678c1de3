/**
 * The part of `Host` over this machine that is cryptsetup and fscrypt: the answers of their calls (./crypt.ts,
 * ./fscrypt.ts) as values and errors.
 *
 * 1. A passphrase leaves its `Redacted` in the call to the cell, and nowhere else.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { HostOperations } from "./cell.ts";
import { DeviceBusy, type HostError, HostRefused, UnexpectedContent } from "./errors.ts";
import type { SlotAnswer } from "./crypt-slots.ts";
import type { CryptFolderAnswer } from "./fscrypt.ts";
import type { HostService, PreparedCrypt } from "./host.ts";

type Op =
  | "cryptHeader"
  | "formatCrypt"
  | "prepareCrypt"
  | "wipeCrypt"
  | "sealCrypt"
  | "lookForData"
  | "openCrypt"
  | "closeCrypt"
  | "resizeCrypt"
  | "cryptKeySlot"
  | "addCryptKey"
  | "killCryptSlot"
  | "setUpCryptFolder"
  | "unlockCryptFolder";

type Call = <K extends Op>(
  op: K,
  arg: unknown,
  subject: string,
  does?: "reads" | "changes",
  cells?: "crypt" | "wipe",
) => Effect.Effect<Awaited<ReturnType<HostOperations[K]>>, HostError>;

/** Why nothing was written where a header goes. */
const notFormatted = (
  op: string,
  subject: string,
  answer: { readonly kind: "refused"; readonly reason: string } | { readonly kind: "occupied"; readonly found: string },
): Effect.Effect<never, HostError> =>
  answer.kind === "refused"
    ? Effect.fail(new HostRefused({ op, subject, reason: answer.reason }))
    : Effect.fail(new UnexpectedContent({ op, subject, reason: `it holds ${answer.found} by now` }));

const WRONG_KEY =
  "the passphrase does not open its LUKS header. Nothing was changed. Give the Secret or the key store the passphrase that the volume was formatted with";

const WRONG_FOLDER_KEY =
  "the key does not unlock its encrypted files. Nothing was changed. Give the Secret or the key store the key that the volume was first staged with";

/** What fscrypt says to a change of the encrypted folder. */
const folderChanged =
  (op: string, subject: string) =>
  (answer: CryptFolderAnswer): Effect.Effect<void, HostRefused> => {
    if (answer.kind === "unlocked") return Effect.void;
    const reason = answer.kind === "wrong-key" ? WRONG_FOLDER_KEY : answer.reason;
    return Effect.fail(new HostRefused({ op, subject, reason }));
  };

/** What cryptsetup says to a change of key slots. */
const slotsChanged =
  (op: string, subject: string) =>
  (answer: SlotAnswer): Effect.Effect<void, HostRefused> =>
    answer.kind === "done" ? Effect.void : Effect.fail(new HostRefused({ op, subject, reason: answer.reason }));

export const cryptService = (call: Call): Pick<HostService, Op> => ({
  cryptHeader: (device) => call("cryptHeader", { device }, device, "reads"),
  formatCrypt: ({ key, ...request }) =>
    Effect.flatMap(
      call("formatCrypt", { ...request, key: Redacted.value(key) }, request.device),
      (answer): Effect.Effect<bigint, HostError> =>
        answer.kind === "made"
          ? Effect.succeed(answer.headerBytes)
          : notFormatted("luksFormat", request.device, answer),
    ),
  prepareCrypt: ({ key, ...request }) =>
    Effect.flatMap(
      call("prepareCrypt", { ...request, key: Redacted.value(key) }, request.device),
      (answer): Effect.Effect<PreparedCrypt, HostError> =>
        answer.kind === "prepared"
          ? Effect.succeed({ crypt: answer.crypt, header: answer.header })
          : notFormatted("luksFormat", request.device, answer),
    ),
  wipeCrypt: (crypt, from) => call("wipeCrypt", { crypt, from }, crypt.path, "changes", "wipe"),
  sealCrypt: (request) =>
    Effect.flatMap(
      call("sealCrypt", request, request.device),
      (answer): Effect.Effect<bigint, HostError> =>
        answer.kind === "sealed"
          ? Effect.succeed(answer.headerBytes)
          : notFormatted("luksFormat", request.device, answer),
    ),
  lookForData: (device, from) => call("lookForData", { device, from }, device, "reads", "wipe"),
  openCrypt: ({ key, ...request }) =>
    Effect.flatMap(call("openCrypt", { ...request, key: Redacted.value(key) }, request.device), (answer) =>
      answer.kind === "opened"
        ? Effect.succeed({ crypt: answer.crypt, headerBytes: answer.headerBytes })
        : Effect.fail(
            new HostRefused({
              op: "luksOpen",
              subject: request.device,
              reason: answer.kind === "wrong-key" ? WRONG_KEY : answer.reason,
            }),
          ),
    ),
  closeCrypt: (crypt) =>
    Effect.flatMap(call("closeCrypt", { crypt }, crypt.path), (answer) =>
      answer.kind === "closed"
        ? Effect.void
        : Effect.fail(new DeviceBusy({ op: "luksClose", subject: crypt.path, holders: answer.holders })),
    ),
  resizeCrypt: (crypt, device) =>
    Effect.flatMap(call("resizeCrypt", { crypt, device }, crypt.path), (answer) =>
      answer.kind === "sized"
        ? Effect.succeed(answer.sizeBytes)
        : Effect.fail(new HostRefused({ op: "cryptsetup resize", subject: crypt.path, reason: answer.reason })),
    ),
  cryptKeySlot: ({ key, ...request }) =>
    call("cryptKeySlot", { ...request, key: Redacted.value(key) }, request.device, "reads"),
  addCryptKey: ({ key, next, ...request }) =>
    Effect.flatMap(
      call("addCryptKey", { ...request, key: Redacted.value(key), next: Redacted.value(next) }, request.device),
      slotsChanged("luksAddKey", request.device),
    ),
  killCryptSlot: ({ key, ...request }) =>
    Effect.flatMap(
      call("killCryptSlot", { ...request, key: Redacted.value(key) }, request.device),
      slotsChanged("luksKillSlot", request.device),
    ),
  setUpCryptFolder: ({ key, ...request }) =>
    Effect.flatMap(
      call("setUpCryptFolder", { ...request, key: Redacted.value(key) }, request.point),
      folderChanged("fscrypt encrypt", request.point),
    ),
  unlockCryptFolder: ({ key, ...request }) =>
    Effect.flatMap(
      call("unlockCryptFolder", { ...request, key: Redacted.value(key) }, request.point),
      folderChanged("fscrypt unlock", request.point),
    ),
});
