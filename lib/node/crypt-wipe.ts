/**
 * The first format of a volume whose LUKS layer has integrity. All of the layer is written before it can be used, so librbd
 * cannot prove any more that the image was never used. This is the order, and what a crash after each step leaves to the
 * next stage:
 *
 *   record of the wipe    nothing is on the image. Proven as without integrity, or by the record.
 *   format, and open      no header is on the image, but the layer is open: it is closed, and all begins anew.
 *   wipe                  the same.
 *   close                 the same, without a layer.
 *   header                none, one without a key slot, or the whole one. The whole one is opened as any other.
 *   "encrypted"           takes the record away in the same write.
 *
 * So a whole header that this driver wrote has a whole layer behind it; ceph-csi writes its header before it wipes. While
 * there is none, and the record is there, nobody has ever written anything through a layer of the image: whoever opens one
 * says "encrypted" first, ceph-csi too.
 *
 * Not here: the proof before (./crypt-layer.ts), who may begin a wipe anew that was cut off (./wipe-record.ts), and the calls
 * themselves (lib/host/crypt-integrity.ts).
 *
 * 1. Before each call that writes, the image is proven to be this wipe's still: nobody else has it open, and record and
 *    state are those of this wipe. ceph-csi, which does not know the record, changes the state, or
 *    is seen by its watch. What it writes while this node does not run in the midst of one such call may be written over.
 * 2. A part that fails is written again, after the same proof, a few times: only then does the wipe end.
 * 3. The wipe takes as long as the volume is big, in calls of seconds. The operation says how far it is.
 */
import * as Effect from "effect/Effect";
import * as Schedule from "effect/Schedule";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { Rbd } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";
import type { HostError, UnexpectedContent } from "../host/errors.ts";
import { type CryptPrepare, Host } from "../host/host.ts";
import { type ImageKeys, isUnchanged, recordWipe } from "../kms/image-keys.ts";
import { type Compensations, step } from "../operations/compensation.ts";
import { CurrentOperation } from "../operations/operation.ts";
import { stage } from "../operations/pipeline.ts";
import type { ClientRecord } from "./client-record.ts";
import type { VolumeImage } from "./volume-context.ts";
import { newWipeRecord } from "./wipe-record.ts";

/** An image as the proof before the wipe has found it. */
export interface ProvenImage {
  readonly image: VolumeImage;
  /** What its metadata says. */
  readonly now: Pick<ImageKeys, "stateAsRead" | "wiping">;
  /** This node's client among its watchers, if it is known. */
  readonly watcher: string | undefined;
  /** Fails if anybody else has it open. */
  readonly proveAlone: Effect.Effect<unknown, CephError | Precondition | UnexpectedContent, Rbd>;
}

/**
 * Three minutes. Who opens an image to make a snapshot, say, has it open for a moment, and Ceph does not answer while an OSD
 * comes up again: that is no reason to begin a wipe of hours anew. Nothing is written meanwhile.
 */
const PATIENCE = Schedule.spaced("3 seconds").pipe(Schedule.upTo({ times: 60 }));
const PASSING: readonly string[] = ["Busy", "CallStuck", "TimedOut", "Unreachable"];
const isPassing = ({ _tag }: { readonly _tag: string }): boolean => PASSING.includes(_tag);

/** For each part that fails. */
const ONCE_MORE = Schedule.spaced("5 seconds").pipe(Schedule.upTo({ times: 5 }));
/** Not that of a call that goes on for all that is known: what closes the layer then has to wait for it. */
const ofPart = ({ _tag }: { readonly _tag: string }): boolean => ["HostFailed", "HostUnexplained"].includes(_tag);

export const formatWithIntegrity = Effect.fnUntraced(function* (
  request: CryptPrepare,
  { image, now, watcher, proveAlone }: ProvenImage,
): Effect.fn.Return<void, CephError | HostError | Precondition, ClientRecord | Compensations | Host | Rbd> {
  const host = yield* Host;
  const { device, over } = request;
  const record = yield* newWipeRecord(watcher);
  yield* stage("record wipe", recordWipe(image, record, now));
  const look = Effect.gen(function* () {
    yield* proveAlone;
    if (!(yield* isUnchanged(image, { ...now, wiping: record }))) return yield* overtaken(image);
  });
  const isStillOurs = Effect.retry(look, { schedule: PATIENCE, while: isPassing });
  const { crypt, header } = yield* step("format LUKS", host.prepareCrypt(request), {
    undo: (prepared) => host.closeCrypt(prepared.crypt),
  });
  const wipePart = (from: bigint) => Effect.andThen(isStillOurs, host.wipeCrypt(crypt, from));
  yield* stage(
    "wipe",
    throughAll(crypt.sizeBytes, "wipe", (from) => Effect.retry(wipePart(from), { schedule: ONCE_MORE, while: ofPart })),
  );
  yield* stage("close LUKS", host.closeCrypt(crypt));
  yield* stage("prove wipe ours", isStillOurs);
  yield* stage("write LUKS header", host.sealCrypt({ device, header, over }));
});

const overtaken = ({ pool, imageName }: VolumeImage): Precondition =>
  new Precondition({
    subject: `image ${imageLabel(pool, imageName)}`,
    problem:
      "was changed by another driver while this node wiped it: the record of the wipe or the state is another one. The wipe was ended, and no header was written",
    remedy: "The automatic retry looks at it anew",
  });

/** Whether a layer of which all was written once reads as zeros, which it does if nothing else was written since. */
export const readsAsZeros = Effect.fnUntraced(function* ({
  path,
  sizeBytes,
}: {
  readonly path: string;
  readonly sizeBytes: bigint;
}): Effect.fn.Return<boolean, HostError, Host> {
  const host = yield* Host;
  let zeros = true;
  yield* throughAll(sizeBytes, "prove empty", (from) =>
    Effect.map(host.lookForData(path, from), (look) => {
      zeros = look.kind === "zeros";
      return look.kind === "zeros" ? look.next : sizeBytes;
    }),
  );
  return zeros;
});

/** Goes on from where each call has come to, up to the end, and shows in the operation's stage how far it is. */
const throughAll = Effect.fnUntraced(function* <E, R>(
  sizeBytes: bigint,
  name: string,
  from: (at: bigint) => Effect.Effect<bigint, E, R>,
): Effect.fn.Return<void, E, R> {
  const operation = yield* CurrentOperation;
  for (let at = 0n; at < sizeBytes; ) {
    if (operation !== undefined) operation.stage = `${name}, ${(at * 100n) / sizeBytes} %`;
    at = yield* from(at);
  }
});
