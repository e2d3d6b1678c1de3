/**
 * Failures over what an earlier call has left on the node.
 *
 * kubelet takes most codes for proof that a call did nothing. After an earlier call without a clear end, that makes it forget
 * the volume: no unstage or unpublish follows, the image stays mapped, and no other node gets it. So a failure says that
 * its outcome is unknown as long as something of the volume is there: then kubelet comes back, or takes it away.
 *
 * Not here: what a call itself leaves when it fails half-way (lib/operations/compensation.ts).
 *
 * 1. A second look tells what is left. If it fails, the first one counts.
 * 2. A Conflict stays what it is: the volume is there in another way than the request asks for, by another request.
 */
import * as Effect from "effect/Effect";
import { HostStuck } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { mountsAt } from "../host/mountinfo.ts";
import { type DomainError, outcomeOf } from "../operations/outcomes.ts";
import { shownBy } from "./staged-device.ts";
import { devicesOfVolume, lookAtStagedVolume, type StagedVolume } from "./staged-volume.ts";

const WORDS = {
  stage: { done: "half-staged", undo: "NodeUnstageVolume" },
  publish: { done: "half-published", undo: "NodeUnpublishVolume" },
} as const;

/** What stays, and what can be done: `half-staged (/dev/rbd0 is left): …`. */
export const halfDone = (
  op: keyof typeof WORDS,
  volumeId: string,
  left: readonly string[],
  { message }: { readonly message: string },
): HostStuck =>
  new HostStuck({
    op,
    subject: `volume ${volumeId}`,
    reason: `${message}. Volume ${volumeId} is ${WORDS[op].done} (${left.join(", ")} is left): a retry completes it, ${WORDS[op].undo} removes it`,
  });

/** `look` tells what of the volume is there. */
export const overLeftOvers =
  (op: keyof typeof WORDS, volumeId: string, look: Effect.Effect<readonly string[], never, Host>) =>
  <A, E extends DomainError, R>(body: Effect.Effect<A, E, R>): Effect.Effect<A, E | HostStuck, R | Host> =>
    Effect.catchIf(
      body,
      (error) => outcomeOf(error) === "none" && error._tag !== "Conflict",
      (error): Effect.Effect<never, E | HostStuck, Host> =>
        Effect.flatMap(look, (left) => Effect.fail(left.length === 0 ? error : halfDone(op, volumeId, left, error))),
    );

/** What of a staged volume is there. `first`: an earlier look. */
export const leftStaged = (first: StagedVolume, stagingPath: string): Effect.Effect<readonly string[], never, Host> =>
  lookAtStagedVolume(first.volumeId, stagingPath).pipe(
    Effect.orElseSucceed(() => first),
    Effect.flatMap((now) =>
      Effect.map(devicesIn(now), (devices) => [
        ...now.mounts.slice(-1).map(({ point }) => `the mount at ${point}`),
        ...devices,
        ...(now.imageMeta.kind === "absent" ? [] : ["image-meta.json"]),
      ]),
    ),
  );

/** The mount of a volume at a target path. */
export const leftPublished = (now: StagedVolume, targetPath: string): Effect.Effect<readonly string[], never, Host> =>
  Effect.gen(function* () {
    const host = yield* Host;
    const target = yield* host.resolvePath(targetPath);
    const visible = target === undefined ? undefined : mountsAt(yield* host.mountTable, target).at(-1);
    const devices = yield* devicesOfVolume(now);
    const isIts = visible !== undefined && shownBy(visible, devices) !== undefined;
    return isIts ? [`the mount at ${visible.point}`] : [];
  }).pipe(Effect.orElseSucceed((): string[] => []));

/** If it is not known which devices are the volume's, the error names those that may be. */
const devicesIn = (now: StagedVolume): Effect.Effect<readonly string[]> =>
  Effect.match(devicesOfVolume(now), {
    onFailure: ({ holders = [] }) => holders,
    onSuccess: (devices) => devices.map(({ mapped }) => mapped.path),
  });
