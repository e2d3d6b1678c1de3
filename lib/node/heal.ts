/**
 * Gives the device of a staged volume a new rbd-nbd process after its own has died. Until then the kernel holds the I/O of
 * the pods back, and they go on afterwards.
 *
 * Not here: when that is looked for (./stage.ts, ./healing.ts).
 *
 * 1. The new process is another client of Ceph, which no fence of the old one keeps out. So it is attached only when
 *    nobody has the image open. The watch of the old process, which nothing tells from others, ends after about 30 s.
 * 2. Another node may have written to the image since the process died, and what the mounted filesystem holds back would
 *    then damage newer data. So the record of the volume's nodes must not name another one (./published-node-record.ts).
 *    That is no full proof: a node that fails to record itself, and a client that is not of this driver, leave no trace.
 *    So the volume must also be attached to this node by Kubernetes, which attaches one that is ReadWriteOnce alone to no
 *    second node: NodeStageVolume says so by its call, and ./healing.ts asks, where Kubernetes can be asked. Not seen is
 *    an attachment that has come back from another node which left no record.
 * 3. Whoever opens the image at the same time is seen after the attach, and then the new process ends again. What the
 *    kernel held back may have reached the image until then.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { JournalCorrupt, NotReadyYet, Precondition } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import type { MappedDevice } from "../host/mapped-device.ts";
import type { Placement } from "../kube/placement.ts";
import { stage } from "../operations/pipeline.ts";
import { ClientRecord } from "./client-record.ts";
import { mapRequest } from "./map-image.ts";
import { proveOurs, untilUnused } from "./mappable.ts";
import { PublishedNodeRecord } from "./published-node-record.ts";
import { type StagedDevice, stackOver } from "./staged-device.ts";
import type { VolumeContext, VolumeImage } from "./volume-context.ts";

type HealDeviceNeeds = Ceph | ClientRecord | Host | Placement | PublishedNodeRecord;

/** How a volume was staged, as far as a new process has to know it. */
export interface StagedAs {
  readonly context: VolumeContext;
  readonly shared: boolean;
  /** It was mapped read-only. A device may be read-only besides because a pod reads it. */
  readonly mapReadOnly: boolean;
}

/** `proveAttached` is asked of a volume that is not shared. */
export const healDevice = Effect.fnUntraced(function* (
  { context, shared, mapReadOnly }: StagedAs,
  image: VolumeImage,
  device: StagedDevice,
  proveAttached: Effect.Effect<void, Precondition> = Effect.void,
): Effect.fn.Return<void, CephError | HostError | JournalCorrupt | NotReadyYet | Precondition, HealDeviceNeeds> {
  const { mapped } = device;
  const before = yield* untilUnused(image, shared, () => []);
  if (!shared) {
    yield* proveNotElsewhere(context, image);
    yield* proveAttached;
  }
  const readOnly = mapReadOnly && mapped.readOnly;
  const request = yield* mapRequest({ image, context, mapReadOnly: readOnly }, "rbd-nbd");
  const host = yield* Host;
  const end = (attached: MappedDevice) =>
    Effect.catch(host.detach(attached), ({ message }) =>
      Effect.logWarning(`the new rbd-nbd process of ${mapped.path} must not stay, and does: ${message}`),
    );
  const { enabled, proveNotFenced, staged } = yield* ClientRecord;
  // What the kernel holds back reaches the image as soon as there is a process.
  if (enabled) yield* stage("prove not fenced", proveNotFenced(context, image, true));
  // The new process is another client than the one that a fence of this node would be for.
  const proveAndRecord = Effect.fnUntraced(function* (attached: MappedDevice) {
    const watcher = yield* stage("prove ours", proveOurs(image, shared, before, stackOver(attached)));
    if (!enabled) return;
    yield* stage("record client", staged(context, image, { ...attached, readOnly }, watcher));
    // After the record: whoever fences this node from now on fences the new client.
    yield* stage("prove not fenced", proveNotFenced(context, image, true));
  });
  // Also if the driver ends before the proof.
  yield* Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(restore(stage("attach", host.attach(mapped, request))), (attached) =>
      restore(proveAndRecord(attached)).pipe(Effect.onError(() => end(attached))),
    ),
  );
  yield* Effect.logWarning(
    `volume ${context.volumeId} has a new rbd-nbd process for ${mapped.path}, because the old one had died`,
  );
});

/** Fails if another node has had the volume since. */
export const proveNotElsewhere = (
  { volumeId }: VolumeContext,
  { journal }: VolumeImage,
): Effect.Effect<void, CephError | Precondition, Ceph | PublishedNodeRecord> =>
  Effect.flatMap(PublishedNodeRecord, (record) =>
    stage("read published nodes", record.proveNotElsewhere(volumeId, journal)),
  );
