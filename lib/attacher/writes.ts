/**
 * What an attacher writes to the API: the same objects, fields and paths as Kubernetes' external-attacher, so that either
 * may take over from the other.
 *
 * 1. A list of finalizers is written only onto the version of the object that it was made from: no finalizer comes back,
 *    and none is written twice.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import { isMissing, isStale, KubeFailed, maybeStale } from "../kube/errors.ts";
import { answerAs, getIfThere, Kube, type JsonOperation } from "../kube/kube.ts";
import { maskKeys } from "../text/mask.ts";
import {
  type Attachment,
  attachmentSchema,
  ATTACHMENTS,
  NODE_ID,
  VOLUME_HANDLE,
  VOLUMES,
  type WholeVolume,
  wholeVolumeSchema,
} from "./objects.ts";

const attachmentPath = ({ name }: Pick<Attachment, "name">): string => `${ATTACHMENTS}/${encodeURIComponent(name)}`;
const volumePath = (name: string): string => `${VOLUMES}/${encodeURIComponent(name)}`;

const patchStatus = (attachment: Attachment, status: object) =>
  Effect.flatMap(Kube, ({ patch }) => patch(`${attachmentPath(attachment)}/status`, { merge: { status } }));

export const writeAttached = (attachment: Attachment, context: Readonly<Record<string, string>>, hadError: boolean) =>
  patchStatus(attachment, {
    attached: true,
    ...(Object.keys(context).length > 0 && { attachmentMetadata: context }),
    ...(hadError && { attachError: null }),
  });

export const writeDetached = (attachment: Attachment, hadError: boolean) =>
  patchStatus(attachment, { attached: false, attachmentMetadata: null, ...(hadError && { detachError: null }) });

/** Longer ones are of no use on an object. */
const MAX_MESSAGE = 1_000;

/** `code` is gRPC's, for an error of the driver. */
export const writeError = (
  attachment: Attachment,
  field: "attachError" | "detachError",
  message: string,
  code: number | undefined,
) =>
  Effect.flatMap(Clock.currentTimeMillis, (millis) =>
    patchStatus(attachment, {
      [field]: {
        message: maskKeys(message).slice(0, MAX_MESSAGE),
        time: new Date(millis).toISOString().replace(/\.\d+/, ""),
        ...(code !== undefined && field === "attachError" && { errorCode: code }),
      },
    }),
  );

/** Keeps the attachment from going away before it is undone, and with it what undoing needs. */
export const writeClaim = (attachment: Attachment, finalizer: string, nodeId: string, handle: string) => {
  const { finalizers, resourceVersion } = attachment;
  const annotations = { [NODE_ID]: nodeId, [VOLUME_HANDLE]: handle };
  const missing = !finalizers.includes(finalizer) || attachment.nodeId !== nodeId;
  if (!missing) return Effect.succeed(undefined);
  const metadata = {
    resourceVersion,
    annotations,
    finalizers: [...finalizers.filter((f) => f !== finalizer), finalizer],
  };
  return Effect.flatMap(Kube, ({ patch }) => patch(attachmentPath(attachment), { merge: { metadata } }));
};

/** Ends when the attachment has no finalizer of ours, or is gone. */
export const dropClaim = (attachment: Attachment, finalizer: string): Effect.Effect<void, KubeFailed, Kube> =>
  Effect.gen(function* () {
    const { get } = yield* Kube;
    const dropped = yield* dropFrom(attachment, finalizer);
    if (dropped) return;
    const current = attachmentSchema.safeParse(yield* get(attachmentPath(attachment))).data;
    // a new one of the same name is somebody else's to undo
    if (current?.finalizers.includes(finalizer) !== true || !current.deleting) return;
    if (yield* dropFrom(current, finalizer)) return;
    const reason = "the object has changed while it was looked at";
    return yield* new KubeFailed({ verb: "patch", path: attachmentPath(attachment), status: 409, reason });
  }).pipe(Effect.catchIf(isMissing, () => Effect.void));

/** False where that version of the attachment is old. */
const dropFrom = (
  { name, finalizers, resourceVersion }: Attachment,
  finalizer: string,
): Effect.Effect<boolean, KubeFailed, Kube> => {
  const left = finalizers.filter((each) => each !== finalizer);
  const metadata = { resourceVersion, finalizers: left.length === 0 ? null : left };
  return Effect.flatMap(Kube, ({ patch }) => patch(attachmentPath({ name }), { merge: { metadata } })).pipe(
    Effect.as(true),
    Effect.catchIf(isStale, () => Effect.succeed(false)),
  );
};

const wholeVolume = { kind: "a PersistentVolume", schema: wholeVolumeSchema };

export const readVolume = (name: string): Effect.Effect<WholeVolume | undefined, KubeFailed, Kube> =>
  getIfThere(volumePath(name), wholeVolume);

interface KnownVolume {
  readonly name: string;
  readonly resourceVersion: string;
  readonly finalizers: readonly string[];
}

/** Adds the finalizer to that version of the volume. -> the volume as it is then. */
export const protectVolume = (
  { name, resourceVersion, finalizers }: KnownVolume,
  finalizer: string,
): Effect.Effect<WholeVolume, KubeFailed, Kube> => {
  const add: JsonOperation =
    finalizers.length === 0
      ? { op: "add", path: "/metadata/finalizers", value: [finalizer] }
      : { op: "add", path: "/metadata/finalizers/-", value: finalizer };
  return patchVolume(name, resourceVersion, add);
};

/** Takes the finalizer from that version of the volume. */
export const releaseVolume = (
  { name, resourceVersion, finalizers }: KnownVolume,
  finalizer: string,
): Effect.Effect<WholeVolume, KubeFailed, Kube> =>
  patchVolume(name, resourceVersion, { op: "remove", path: `/metadata/finalizers/${finalizers.indexOf(finalizer)}` });

const patchVolume = (name: string, resourceVersion: string, operation: JsonOperation) =>
  Effect.gen(function* () {
    const { patch } = yield* Kube;
    const current: JsonOperation = { op: "test", path: "/metadata/resourceVersion", value: resourceVersion };
    return yield* answerAs(
      volumePath(name),
      wholeVolume,
      yield* patch(volumePath(name), { json: [current, operation] }),
    );
  });

/** `undefined` where that version of the volume may be old: whoever reads it and tries again learns what is wrong. */
export const unlessChanged = <A, R>(patched: Effect.Effect<A, KubeFailed, R>) =>
  Effect.catchIf(patched, maybeStale, () => Effect.succeed(undefined));
