/**
 * Failures over what an earlier call has left on the node.
 *
 * kubelet takes most codes for proof that a call did nothing. After an earlier call without a clear end, that makes it forget
 * the volume: no unstage or unpublish follows, the image stays mapped, and no other node gets it. So a failure says that
 * its outcome is unknown as long as something of the volume is there: then kubelet comes back, or takes it away.
 *
 * Not here: what a call itself leaves when it fails half-way (lib/operations/compensation.ts).
 *
 * 1. What is there is looked up after the failure. A look that fails proves nothing, so the outcome is unknown then, too.
 * 2. A Conflict stays what it is: the volume is there in another way than the request asks for, by another request.
 */
import * as Effect from "effect/Effect";
import type { Precondition } from "../csi/errors.ts";
import { type HostError, HostStuck } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { mountsAt } from "../host/mountinfo.ts";
import { type DomainError, isFinal } from "../operations/outcomes.ts";
import { shownBy } from "./staged-device.ts";
import { devicesOfVolume, lookAtStagedVolume, type StagedPlace, type StagedVolume } from "./staged-volume.ts";

const UNDONE_BY = { stage: "NodeUnstageVolume", publish: "NodeUnpublishVolume" } as const;

type Op = keyof typeof UNDONE_BY;

/** What a failed call says of what is there, `/dev/rbd0` for example, and of what can be done. */
export const overWhatIsThere = (
  op: Op,
  volumeId: string,
  left: readonly string[],
  { message }: { readonly message: string },
): HostStuck =>
  new HostStuck({
    op,
    subject: `volume ${volumeId}`,
    reason: `${message}. Something of volume ${volumeId} is there (${left.join(", ")}): a retry completes it, ${UNDONE_BY[op]} removes it`,
  });

const overWhatIsNotSeen = (
  op: Op,
  volumeId: string,
  { message }: { readonly message: string },
  look: { readonly message: string },
): HostStuck =>
  new HostStuck({
    op,
    subject: `volume ${volumeId}`,
    reason: `${message}. Something of volume ${volumeId} may be there (${look.message}): a retry finds out, ${UNDONE_BY[op]} removes it`,
  });

/** `look` tells what of the volume is there. */
export const overLeftOvers =
  (op: Op, volumeId: string, look: Effect.Effect<readonly string[], HostError | Precondition, Host>) =>
  <A, E extends DomainError, R>(body: Effect.Effect<A, E, R>): Effect.Effect<A, E | HostStuck, R | Host> =>
    Effect.catchIf(
      body,
      (error) => isFinal(error) && error._tag !== "Conflict",
      (error): Effect.Effect<never, E | HostStuck, Host> =>
        Effect.matchEffect(look, {
          onFailure: (failure) => Effect.fail(overWhatIsNotSeen(op, volumeId, error, failure)),
          onSuccess: (left) => Effect.fail(left.length === 0 ? error : overWhatIsThere(op, volumeId, left, error)),
        }),
    );

/** What of a staged volume is there. */
export const leftStaged = (place: StagedPlace): Effect.Effect<readonly string[], HostError, Host> =>
  Effect.flatMap(lookAtStagedVolume(place), (now) =>
    Effect.map(devicesIn(now), (devices) => [
      ...now.mounts.slice(-1).map(({ point }) => `the mount at ${point}`),
      ...devices,
      ...(now.imageMeta.kind === "absent" ? [] : ["image-meta.json"]),
    ]),
  );

/** Where a volume is staged and published. */
export interface PublishedPlace extends StagedPlace {
  /** The request's target_path. */
  readonly targetPath: string;
}

/** The mount of a volume at its target path. */
export const leftPublished = Effect.fnUntraced(function* (
  place: PublishedPlace,
): Effect.fn.Return<readonly string[], HostError | Precondition, Host> {
  const target = yield* (yield* Host).resolvePath(place.targetPath);
  if (target === undefined) return [];
  const now = yield* lookAtStagedVolume(place);
  const visible = mountsAt(now.mountTable, target).at(-1);
  if (visible === undefined) return [];
  const isIts = shownBy(visible, yield* devicesOfVolume(now)) !== undefined;
  return isIts ? [`the mount at ${visible.point}`] : [];
});

/** If it is not known which devices are the volume's, the error names those that may be. */
const devicesIn = (now: StagedVolume): Effect.Effect<readonly string[]> =>
  Effect.match(devicesOfVolume(now), {
    onFailure: ({ holders = [] }) => holders,
    onSuccess: (devices) => devices.map(({ mapped }) => mapped.path),
  });
