/**
 * The record of the client by which this node has a volume, from its staging to its unstaging, so that this very client
 * can be fenced when the node is lost (lib/fencing).
 *
 * Not here: how it is written (lib/journal/client-records.ts).
 *
 * 1. Nothing is written to a volume before its record is there: a stage that cannot record fails. A device that was mapped
 *    read-only has none, because nothing is written through it.
 * 2. The client is the one that Ceph itself shows among the image's watchers: the OSDs refuse it by that address. Where more
 *    than one of them may be it, none is recorded: a fence would be for another node. A record that is there already stays
 *    while its client has the image open.
 * 3. NodeUnstageVolume brings no credentials, so those of the staging are kept until then, Redacted. Where there are none,
 *    after a restart of the driver, ControllerUnpublishVolume removes the record.
 * 4. Under a boot that was fenced from a volume the node neither maps that anew nor gives it to a pod. For a volume that is
 *    mapped anew the controller has judged a fence whose boot is in no record. Where the kernel holds writes back, that
 *    counts as one of this boot.
 * 5. A machine that was replaced under the node's name may still run, with a client of its own. So the record also says which
 *    machine it is of, as Kubernetes shows it: others have to compare it with what they see there. It is known only if
 *    Kubernetes shows the boot that this driver sees. Before the volume is mapped here that client is fenced.
 * 6. An unstage waits two seconds at most for the end of its record; the next stage waits until that can no longer take effect,
 *    because it would take the new record with it: both may be of one client.
 * 7. Volumes in no journal, static ones and those of the in-tree plugin, have no record: ControllerUnpublishVolume is not
 *    told where they are.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Rbd } from "../ceph/rbd.ts";
import { type JournalCorrupt, type NotReadyYet, Precondition } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import type { MappedDevice } from "../host/mapped-device.ts";
import { fence } from "../fencing/fence.ts";
import { watchersOf } from "../images/in-use.ts";
import {
  clientOf,
  type FencedClient,
  forgetClient,
  isOfAnotherMachine,
  readRecords,
  recordClient,
  type RecordedImage,
  type Records,
  writtenAs,
} from "../journal/client-records.ts";
import type { NodeState } from "../kube/node-state.ts";
import { stage } from "../operations/pipeline.ts";
import { orSay } from "../operations/within.ts";
import { makeLateWrites } from "./late-writes.ts";
import type { VolumeContext, VolumeImage } from "./volume-context.ts";

const LIMIT = "2 seconds";
/** The same number that kubelet tells Kubernetes; the kernel makes one at each boot. */
const BOOT_ID = "/proc/sys/kernel/random/boot_id";

export interface ClientRecordService {
  /** This node's name, by which it records itself. */
  readonly nodeId: string;
  /** Whether lost nodes are fenced; else it records nothing. */
  readonly enabled: boolean;
  /**
   * `watcher`: the device's client among the image's watchers, if the caller knows it. A `mapped` that is read-only is as the
   * image was mapped, not as a pod has made the device since.
   */
  readonly staged: (
    context: Pick<VolumeContext, "volumeId" | "fixed">,
    image: VolumeImage,
    mapped: MappedDevice,
    watcher?: string,
  ) => Effect.Effect<void, CephError | HostError | Precondition, Ceph | Host>;
  /** The same for a volume that was staged before. -> why no pod may use it, if this boot was fenced from it. */
  readonly renewed: (
    context: Pick<VolumeContext, "volumeId" | "fixed">,
    image: VolumeImage,
    mapped: MappedDevice,
  ) => Effect.Effect<Precondition | undefined, CephError | HostError | Precondition, Ceph | Host>;
  /**
   * Fails if this node was fenced from the volume under this boot, and fences a client of another machine that had the volume
   * under this node's name. `holdsBack`: the kernel holds writes to it back, so a
   * fence of which that is not known counts, too.
   */
  readonly proveNotFenced: (
    context: Pick<VolumeContext, "volumeId" | "fixed">,
    image: VolumeImage,
    holdsBack: boolean,
  ) => Effect.Effect<void, CephError | HostError | JournalCorrupt | NotReadyYet | Precondition, Ceph | Host>;
  /** Fails no call, and holds none up for long. */
  readonly unstaged: (volumeId: string) => Effect.Effect<void, never, Ceph>;
}

export class ClientRecord extends Context.Service<ClientRecord, ClientRecordService>()("csi-rbd/ClientRecord") {}

/** `shown`: what Kubernetes shows of this node; `undefined`: it does not tell. */
export const makeClientRecord = (
  nodeId: string,
  enabled: boolean,
  shown: Effect.Effect<NodeState | undefined>,
): ClientRecordService => {
  const writes = makeLateWrites();
  const recorded = new Map<string, { readonly image: RecordedImage; readonly client: string }>();
  let known = "";
  const here = Effect.gen(function* () {
    const bootId = yield* bootIdNow;
    if (known === "") {
      const state = yield* shown;
      // Else it is of an earlier boot, or of a machine that sees its boot otherwise than a pod does.
      if (state !== undefined && bootId !== "" && state.bootId === bootId) known = state.machine;
    }
    return { bootId, machine: known };
  });
  const ofAnotherMachine = ({ clients }: Records, now: { readonly bootId: string; readonly machine: string }) =>
    clients.find((each) => each.nodeId === nodeId && isOfAnotherMachine(each, now));
  // The recorded boot is one that a driver saw on this node, as this one does; what Kubernetes shows may differ.
  const fencedNow = (volumeId: string, { fenced }: Records, bootId: string, holdsBack: boolean) => {
    const its = fenced.find(
      (each) => each.nodeId === nodeId && (each.bootId === "" ? holdsBack : bootId === "" || each.bootId === bootId),
    );
    return its && wasFenced(volumeId, its);
  };
  return {
    nodeId,
    enabled,
    staged: Effect.fnUntraced(function* ({ volumeId, fixed }, { pool, imageName }, mapped, watcher) {
      if (!enabled || fixed !== undefined || mapped.readOnly) return;
      yield* writes.settled(volumeId);
      const image = { volumeId, pool, imageName };
      const client = clientOf(watcher ?? ownWatcher(yield* watchersNow(image), mapped));
      if (client === undefined) return yield* unknownClient(image, mapped);
      yield* recordClient(image, { nodeId, client, ...(yield* here) });
      recorded.set(volumeId, { image, client });
    }),
    renewed: Effect.fnUntraced(function* ({ volumeId, fixed }, { pool, imageName }, mapped) {
      if (!enabled || fixed !== undefined || mapped.readOnly) return undefined;
      yield* writes.settled(volumeId);
      const image = { volumeId, pool, imageName };
      const records = yield* readRecords(image);
      const now = yield* here;
      const { bootId } = now;
      const fenced = fencedNow(volumeId, records, bootId, false);
      if (fenced !== undefined) return fenced;
      const other = ofAnotherMachine(records, now);
      if (other !== undefined) return yield* hadByAnother(volumeId, other);
      const watchers = yield* watchersNow(image);
      const own = clientOf(ownWatcher(watchers, mapped));
      const its = records.clients.find((each) => each.nodeId === nodeId && each.exact && each.bootId === bootId);
      const isOpen = its !== undefined && watchers.some((watcher) => clientOf(watcher) === its.client);
      const client = isOpen && mapped.watcherId === "" ? its.client : own;
      if (client === undefined) return yield* unknownClient(image, mapped);
      if (!isOpen || its.client !== client) yield* recordClient(image, { nodeId, client, ...now });
      recorded.set(volumeId, { image, client });
      return undefined;
    }),
    proveNotFenced: Effect.fnUntraced(function* ({ volumeId, fixed }, { pool, imageName }, holdsBack) {
      if (!enabled || fixed !== undefined) return;
      const image = { volumeId, pool, imageName };
      const records = yield* readRecords(image);
      // A fence that cannot be read may be one of this node.
      const unknown = records.unreadable.find((each) => each.nodeId === undefined);
      if (holdsBack && unknown !== undefined) return yield* unknown.error;
      const now = yield* here;
      const fenced = fencedNow(volumeId, records, now.bootId, holdsBack);
      if (fenced !== undefined) return yield* fenced;
      const other = ofAnotherMachine(records, now);
      if (other === undefined) return;
      if (holdsBack) return yield* hadByAnother(volumeId, other);
      yield* stage("fence", fence(image, other, { outOfService: false, ready: true, ...now }));
    }),
    unstaged: (volumeId) =>
      Effect.suspend(() => {
        const its = recorded.get(volumeId);
        if (its === undefined) return Effect.void;
        recorded.delete(volumeId);
        const stays = (message: string) =>
          Effect.logDebug(`the record that ${nodeId} has volume ${volumeId} stays until it is detached: ${message}`);
        const forgotten = forgetClient(its.image, nodeId, writtenAs(nodeId, its.client));
        return orSay(LIMIT, stays, (limit) => writes.write(volumeId, forgotten, limit));
      }),
  };
};

/** "": it is not known. */
export const bootIdNow = Effect.flatMap(Host, ({ readText }) =>
  Effect.map(readText(BOOT_ID), (text = "") => text.trim()),
);

const watchersNow = ({ pool, imageName }: RecordedImage) =>
  Effect.flatMap(Rbd, ({ imageStatus }) => Effect.map(imageStatus(pool, imageName), ({ watchers }) => watchers));

/** "": none of the image's watchers is the device's client, or more than one may be it. */
const ownWatcher = (watchers: readonly string[], mapped: MappedDevice): string => {
  const [its = "", ...more] = watchersOf(watchers, mapped);
  return more.length === 0 ? its : "";
};

const wasFenced = (volumeId: string, { client }: FencedClient): Precondition =>
  new Precondition({
    subject: `volume ${volumeId}`,
    problem: `was taken from this node while it was lost: its client ${client} is fenced, so what this node has not written yet would damage newer data`,
    remedy: `Boot the node. If it has booted since, attach the volume to it anew, which lifts the fence if it can`,
  });

const hadByAnother = (volumeId: string, { client, nodeId }: Pick<Records["clients"][number], "client" | "nodeId">) =>
  new Precondition({
    subject: `volume ${volumeId}`,
    problem: `is recorded for ${client} of another boot, and maybe of another machine that is called ${nodeId} too: what this node has not written yet may damage newer data`,
    remedy: `Delete the pods that use the volume on this node, so that it is staged anew: then that client is fenced`,
  });

const unknownClient = ({ volumeId, pool, imageName }: RecordedImage, { path }: MappedDevice): Precondition =>
  new Precondition({
    subject: `volume ${volumeId}`,
    problem: `cannot be fenced on this node, so it is not staged anew: of those that have image ${imageLabel(pool, imageName)} open, none or more than one may be the client of ${path}`,
    remedy: '"rbd status" shows them. The automatic retry tries it again',
  });
