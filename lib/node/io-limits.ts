/**
 * Holds pods to the limits of I/O of their volumes, where the kernel maps these: as a volume is published, and again once
 * its image has other limits (ControllerModifyVolume), while the pod runs.
 *
 * Not here: which limits an image keeps (lib/qos), how the kernel is told (lib/host/io-limits.ts), and rbd-nbd, whose
 * limits librbd reads itself.
 *
 * 1. It fails no call: a pod starts also where its limits cannot be read or set, and the log says why, once.
 * 2. No publish asks Ceph or Kubernetes: it sets what is known. Only `watch` asks, and a cluster that does not answer
 *    holds up no other.
 * 3. What a stage was given, and what it read of the image, is kept in memory, Redacted, until the volume is unstaged. After
 *    a restart Kubernetes is asked for it, if a pod has a volume that nobody here knows. Limits that were set hold until then.
 * 4. Pods and devices are those of the kernel's mount table.
 * 5. A device gets only the limits of an image of the ID that the kernel names.
 * 6. Where an image says nothing of limits, nothing is lifted but what was set before.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as Latch from "effect/Latch";
import * as Redacted from "effect/Redacted";
import * as Result from "effect/Result";
import * as Semaphore from "effect/Semaphore";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Rbd } from "../ceph/rbd.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import type { HostError } from "../host/errors.ts";
import { Host, type IoLimits } from "../host/host.ts";
import { isImage } from "../host/mapped-device.ts";
import { POD_KEYS, podLimits, type PodLimits } from "../qos/image-limits.ts";
import { podUidOf, type UsedDevice, usedByPods } from "./pod-mounts.ts";
import { stackOver } from "./staged-device.ts";
import { asking, type AskKubernetes, type Limitable } from "./staged-before.ts";
import {
  type LocateImageError,
  locateImage,
  toImageName,
  type VolumeContext,
  type VolumeImage,
} from "./volume-context.ts";
import { makeWarnings } from "./warn-once.ts";

/** The image of a volume, and what was read of it: `metadata` has those of POD_KEYS that it has. */
export interface ReadImage {
  readonly image: VolumeImage;
  readonly id: string;
  readonly metadata: ReadonlyMap<string, string>;
}

export type LimitNeeds = Ceph | Clusters | ClusterMapping | Host;

export interface PodLimitsService {
  /** `found`: what a stage has read. */
  readonly remember: (volume: Limitable, found?: ReadImage) => Effect.Effect<void>;
  readonly forget: (volumeId: string) => void;
  /**
   * Holds the pod of a target path to the limits of the volume that it has got there. With credentials, a volume that nobody
   * here knows is known from now on.
   */
  readonly published: (
    volume: { readonly context: VolumeContext; readonly credentials: Credentials | undefined },
    targetPath: string,
  ) => Effect.Effect<void, never, Host>;
  /** Looks once at the limits of all volumes that pods have. */
  readonly look: Effect.Effect<void, never, LimitNeeds>;
  /** Looks again and again, from the start of the driver on. */
  readonly watch: Effect.Effect<void, never, LimitNeeds>;
}

/** How often images with limits are read. */
const EVERY_MS = 60_000;
/** How often images without limits are read. */
const RARELY_MS = 600_000;
/** kubelet may make a pod's control group after it publishes the pod's volumes. */
const GROUP_PAUSE = "1 second";
const GROUP_PATIENCE_MS = 120_000;

interface Known extends Limitable {
  /** Where its image is, once that was found: a volume does not move while it is staged. */
  image: VolumeImage | undefined;
  said: Said | undefined;
  /** Whether the next look reads it, however lately it was read. */
  isAsked: boolean;
  /** Of those who set its limits: what is read last is set last. */
  readonly turn: Semaphore.Semaphore;
}

/** What an image said of limits when it was last read. */
interface Said {
  readonly imageId: string;
  /** `undefined`: nothing. */
  readonly limits: IoLimits | undefined;
  /** In milliseconds since the epoch. */
  readonly at: number;
}

const toIoLimits = ({ ReadBps, WriteBps, ReadIops, WriteIops }: PodLimits): IoLimits => ({
  ...(ReadBps !== undefined && { readBytes: ReadBps }),
  ...(WriteBps !== undefined && { writeBytes: WriteBps }),
  ...(ReadIops !== undefined && { readOps: ReadIops }),
  ...(WriteIops !== undefined && { writeOps: WriteIops }),
});

const WORDS = { readBytes: "bytes read", writeBytes: "bytes written", readOps: "reads", writeOps: "writes" } as const;

const textOf = (limits: IoLimits): string =>
  (["readBytes", "writeBytes", "readOps", "writeOps"] as const)
    .flatMap((what) => (limits[what] === undefined ? [] : [`${limits[what]} ${WORDS[what]}`]))
    .join(", ") || "anything";

export const makePodLimits = (attached: AskKubernetes): PodLimitsService => {
  const known = new Map<string, Known>();
  /** What was set last, by pod and device. */
  const held = new Map<string, string>();
  /** Until when the control group of a pod is waited for, by pod and volume. */
  const waiting = new Map<string, number>();
  /** Volumes that nobody here knows, and the pods to which they were published. */
  const unknown = new Map<string, Set<string>>();
  /** Clusters that are being read. */
  const busy = new Set<string>();
  /** Open while there is anything to look after. */
  const wanted = Latch.makeUnsafe(false);
  const woken = Latch.makeUnsafe(false);
  let isDue = false;
  const [ofVolumes, ofPods] = [makeWarnings(), makeWarnings()];

  const lookSoon = (): void => {
    isDue = true;
    wanted.openUnsafe();
    woken.openUnsafe();
  };

  const remember = Effect.fnUntraced(function* (
    { context, credentials }: Limitable,
    found?: ReadImage,
  ): Effect.fn.Return<void> {
    const { volumeId, mapper } = context;
    if (mapper !== "krbd") return;
    const before = known.get(volumeId);
    const same = before !== undefined && isSameUser(before.credentials, credentials);
    const volume: Known = {
      context,
      credentials,
      image: same ? before.image : undefined,
      said: same ? before.said : undefined,
      isAsked: false,
      turn: before?.turn ?? Semaphore.makeUnsafe(1),
    };
    known.set(volumeId, volume);
    wanted.openUnsafe();
    if (found !== undefined) yield* heard(volume, found);
  });

  /** Takes over what was read of an image. */
  const heard = Effect.fnUntraced(function* (volume: Known, { image, id, metadata }: ReadImage) {
    const { volumeId } = volume.context;
    const at = yield* Clock.currentTimeMillis;
    const read = podLimits(metadata);
    volume.image = image;
    volume.isAsked = false;
    if (Result.isSuccess(read)) {
      volume.said = { imageId: id, limits: read.success && toIoLimits(read.success), at };
      return ofVolumes.over(volumeId);
    }
    volume.said = { imageId: id, limits: volume.said?.limits, at };
    const { key, text } = read.failure;
    const where = `image ${imageLabel(image.pool, image.imageName)} has ${JSON.stringify(text.slice(0, 60))} as its metadata ${key}`;
    yield* ofVolumes.once(volumeId, `the limits of I/O of volume ${volumeId} stay as they are, because ${where}`);
  });

  // ------------------------------------------------------------------------------------------------------- the kernel

  /** What a kernel has lost is set again: of limits that are set every time, `held` is for the log alone. */
  const hold = Effect.fnUntraced(function* (
    volumeId: string,
    podUid: string,
    { top: { major, minor } }: UsedDevice["device"],
    limits: IoLimits | undefined,
  ): Effect.fn.Return<"done" | "no group", HostError, Host> {
    const key = keyOf(podUid, `${major}:${minor}`);
    const before = held.get(key);
    if (limits === undefined && before === undefined) return "done";
    const text = textOf(limits ?? {});
    if (before === text && text === textOf({})) return "done";
    const answer = yield* (yield* Host).limitIo({ podUid, major, minor, limits: limits ?? {} });
    if (answer.kind === "no-group") return "no group";
    if (answer.kind === "gone") return "done";
    if (answer.kind === "unsupported") {
      const what = `pod ${podUid} is not held to the limits of volume ${volumeId} (${text} a second)`;
      yield* ofPods.once(key, `${what}: ${answer.reason}`);
      return "done";
    }
    if (limits === undefined) held.delete(key);
    else held.set(key, text);
    ofPods.over(key);
    if (before !== text) yield* Effect.logInfo(`pod ${podUid} may do ${text} a second with volume ${volumeId}`);
    return "done";
  });

  /** Begins or goes on to wait for the control group of a pod, or says that it does not come. */
  const awaitGroup = Effect.fnUntraced(function* (volumeId: string, podUid: string) {
    const key = keyOf(podUid, volumeId);
    const now = yield* Clock.currentTimeMillis;
    const until = waiting.get(key) ?? now + GROUP_PATIENCE_MS;
    waiting.set(key, until);
    if (now < until) return woken.openUnsafe();
    const text = `kubelet has no control group for pod ${podUid}: the limits of volume ${volumeId} do not hold`;
    yield* ofPods.once(key, text);
  });

  /** Sets the limits that a volume is known to have, for the pods that have it. */
  const apply = (volume: Known, used: readonly UsedDevice[]): Effect.Effect<void, never, Host> => {
    const { volumeId } = volume.context;
    const each = Effect.fnUntraced(function* (device: UsedDevice["device"], podUid: string, { limits }: Said) {
      const key = keyOf(podUid, volumeId);
      const outcome = yield* hold(volumeId, podUid, device, limits);
      if (outcome === "no group") return yield* awaitGroup(volumeId, podUid);
      waiting.delete(key);
      ofPods.over(key);
    });
    return volume.turn.withPermit(
      Effect.gen(function* () {
        const { said } = volume;
        if (said === undefined) return;
        for (const { device, pods } of used.filter((one) => isOf(volume, one))) {
          for (const podUid of pods) {
            yield* Effect.catch(each(device, podUid, said), ({ message }) =>
              ofPods.once(keyOf(podUid, volumeId), `the limits of volume ${volumeId} do not hold: ${message}`),
            );
          }
        }
      }),
    );
  };

  // ------------------------------------------------------------------------------------------------------------- Ceph

  const cannotRead = ({ context: { volumeId } }: Known, { message }: { readonly message: string }) =>
    ofVolumes.once(volumeId, `the limits of I/O of volume ${volumeId} stay as they are: ${message}`);

  /** Reads the limits of volumes of one cluster, until it does not answer. */
  const read = Effect.fnUntraced(function* (
    volumes: readonly Known[],
  ): Effect.fn.Return<void, never, Ceph | Clusters | ClusterMapping> {
    const rbd = yield* Rbd;
    const found: { readonly volume: Known; readonly image: VolumeImage }[] = [];
    for (const volume of volumes) {
      const located = yield* Effect.result(
        volume.image ? Effect.succeed(volume.image) : locateImage(volume.context, volume.credentials),
      );
      if (Result.isSuccess(located)) {
        volume.image = located.success;
        found.push({ volume, image: located.success });
        continue;
      }
      yield* cannotRead(volume, located.failure);
      if (isSilence(located.failure)) return;
    }
    const pools = Map.groupBy(found, ({ image: { pool } }) => poolKey(pool));
    for (const [first, ...others] of pools.values()) {
      if (first === undefined) continue;
      const members = [first, ...others];
      const names = members.map(({ image }) => image.imageName);
      const briefs = yield* Effect.result(rbd.imageBriefs(first.image.pool, names, POD_KEYS));
      if (Result.isFailure(briefs)) {
        for (const { volume } of members) yield* cannotRead(volume, briefs.failure);
        if (isSilence(briefs.failure)) return;
        continue;
      }
      for (const [i, { volume, image }] of members.entries()) {
        // One that has gone says nothing. No device has its ID.
        const { id, metadata } = briefs.success[i] ?? { id: volume.said?.imageId ?? "", metadata: new Map() };
        yield* heard(volume, { image, id, metadata });
      }
    }
  });

  /** Reads limits, and sets them. Clusters are read side by side, each by one at a time. */
  const adjust = (volumes: readonly Known[]): Effect.Effect<void, HostError, LimitNeeds> => {
    const clusters = Map.groupBy(volumes, ({ context }) => clusterOf(context));
    return Effect.forEach(
      [...clusters].filter(([cluster]) => !busy.has(cluster)),
      ([cluster, members]) => {
        busy.add(cluster);
        return Effect.gen(function* () {
          yield* read(members);
          // Reading may have taken long.
          const used = yield* usedDevices;
          for (const volume of members) yield* apply(volume, used);
        }).pipe(Effect.ensuring(Effect.sync(() => busy.delete(cluster))));
      },
      { concurrency: "unbounded", discard: true },
    );
  };

  // ------------------------------------------------------------------------------------------------------- Kubernetes

  const kubernetes = asking(attached);
  const isFound = (one: UsedDevice): boolean => [...known.values()].some((volume) => isOf(volume, one));

  /**
   * Asks what the volumes were staged with that pods have and nobody here knows; -> those that are known since. The caller
   * has the turn.
   */
  const learn = Effect.fnUntraced(function* (used: readonly UsedDevice[]) {
    const strangers = used.filter((each) => !isFound(each)).map(({ device: { mapped } }) => mapped.imageId);
    const learned = (yield* kubernetes.ask(strangers)).filter(({ context: { volumeId } }) => !known.has(volumeId));
    for (const volume of learned) yield* remember(volume);
    return learned.flatMap(({ context: { volumeId } }) => known.get(volumeId) ?? []);
  });

  const sayUnknown = Effect.gen(function* () {
    const missed = [...unknown];
    unknown.clear();
    for (const [volumeId, pods] of missed) {
      if (known.has(volumeId)) continue;
      const what = `pod ${[...pods].join(", ")} is held to no limits of I/O that volume ${volumeId} may have, until that is staged again`;
      yield* Effect.logInfo(`${what}: it was staged before this driver started, and ${kubernetes.why()}`);
    }
  });

  // ------------------------------------------------------------------------------------------------------- the watch

  /** What has ended is forgotten. A pod that is new meanwhile is told of twice at worst. */
  const prune = Effect.fnUntraced(function* (used: readonly UsedDevice[]) {
    const now = yield* Clock.currentTimeMillis;
    const pods = new Set(used.flatMap((each) => each.pods));
    const isCurrent = (key: string) => pods.has(key.slice(0, key.indexOf(" ")));
    for (const key of held.keys()) if (!isCurrent(key)) held.delete(key);
    for (const [key, until] of waiting) if (until <= now && !isCurrent(key)) waiting.delete(key);
    ofPods.keep(isCurrent);
  });

  /** `all`: not only what has not been read yet. */
  const lookAt = (all: boolean): Effect.Effect<void, never, LimitNeeds> =>
    Effect.gen(function* () {
      const used = yield* usedDevices;
      yield* prune(used);
      if (used.length === 0 && known.size === 0 && unknown.size === 0) wanted.closeUnsafe();
      else wanted.openUnsafe();
      const now = yield* Clock.currentTimeMillis;
      const isToBeRead = ({ said, isAsked }: Known): boolean =>
        said === undefined || isAsked || (all && (said.limits !== undefined || now - said.at >= RARELY_MS));
      const volumes = [...known.values()].filter(
        (volume) => volume.image === undefined || used.some((one) => isOf(volume, one)),
      );
      if (used.length > 0) {
        for (const volume of volumes) if (!isToBeRead(volume)) yield* apply(volume, used);
        yield* adjust(volumes.filter(isToBeRead));
        yield* adjust(yield* kubernetes.turn.withPermit(learn(used)));
      }
      yield* sayUnknown;
    }).pipe(Effect.catch(cannotLook));

  /** The volumes whose pods have no control group yet. */
  const withoutGroup = Effect.map(Clock.currentTimeMillis, (now) =>
    [...known.values()].filter(({ context: { volumeId } }) =>
      [...waiting].some(([key, until]) => key.endsWith(` ${volumeId}`) && now < until),
    ),
  );

  const untilNextLook = Effect.fnUntraced(function* (next: number) {
    for (;;) {
      if (isDue) return;
      const left = next - (yield* Clock.currentTimeMillis);
      if (left <= 0) return;
      const volumes = yield* withoutGroup;
      if (volumes.length === 0) {
        yield* Effect.timeoutOption(woken.await, left);
        woken.closeUnsafe();
        continue;
      }
      yield* Effect.sleep(GROUP_PAUSE);
      const looked = Effect.flatMap(usedDevices, (used) => Effect.forEach(volumes, (volume) => apply(volume, used)));
      yield* Effect.catch(Effect.asVoid(looked), cannotLook);
    }
  });

  const watch = Effect.gen(function* () {
    for (let next = Number.NEGATIVE_INFINITY; ; ) {
      const now = yield* Clock.currentTimeMillis;
      const all = now >= next;
      if (all) next = now + EVERY_MS;
      isDue = false;
      // A look waits for clusters that do not answer, and nothing waits for it.
      yield* Effect.forkChild(lookAt(all), { startImmediately: true });
      yield* wanted.await;
      yield* untilNextLook(next);
    }
  });

  return {
    remember,
    forget: (volumeId) => {
      known.delete(volumeId);
      for (const key of waiting.keys()) if (key.endsWith(` ${volumeId}`)) waiting.delete(key);
      ofVolumes.over(volumeId);
    },
    published: Effect.fnUntraced(function* ({ context, credentials }, targetPath) {
      const { volumeId, mapper } = context;
      const podUid = podUidOf(targetPath);
      if (mapper !== "krbd" || podUid === undefined) return;
      if (!known.has(volumeId) && credentials !== undefined) yield* remember({ context, credentials });
      const volume = known.get(volumeId);
      if (volume === undefined) {
        unknown.set(volumeId, (unknown.get(volumeId) ?? new Set()).add(podUid));
        return lookSoon();
      }
      const { said } = volume;
      if (said?.limits !== undefined) {
        const applied = Effect.flatMap(usedDevices, (used) => apply(volume, used));
        return yield* Effect.catch(applied, cannotLook);
      }
      if (said !== undefined && (yield* Clock.currentTimeMillis) - said.at < EVERY_MS) return;
      volume.isAsked = true;
      lookSoon();
    }),
    look: lookAt(true),
    watch,
  };
};

/** By pod and device, or by pod and volume. */
const keyOf = (podUid: string, what: string): string => `${podUid} ${what}`;

const isSameUser = (one: Credentials, other: Credentials): boolean =>
  one.user === other.user && Redacted.value(one.key) === Redacted.value(other.key);

/** Whether a device is a volume's, by name and, once that was read, by ID. */
const isOf = ({ image, said }: Known, { device: { mapped } }: UsedDevice): boolean =>
  image !== undefined && isImage(mapped, toImageName(image)) && (said === undefined || said.imageId === mapped.imageId);

const poolKey = ({ pool, namespace, access: { monitors, user, key } }: VolumeImage["pool"]): string =>
  JSON.stringify([monitors, user, Redacted.value(key), pool, namespace]);

/** The cluster that a volume names: a volume ID that has none is of one cluster with all such. */
const clusterOf = ({ volumeId, fixed }: VolumeContext): string =>
  fixed?.clusterId ?? Result.match(parseVolumeId(volumeId), { onSuccess: (id) => id.clusterId, onFailure: () => "" });

/** Whether a failure means that the next call would also wait in vain. */
const isSilence = ({ _tag }: LocateImageError | CephError): boolean =>
  _tag === "TimedOut" || _tag === "Unreachable" || _tag === "CallStuck";

const cannotLook = ({ message }: HostError) => Effect.logWarning(`cannot look after the limits of I/O: ${message}`);

/** The devices that the kernel maps and pods have. */
const usedDevices = Effect.gen(function* () {
  const host = yield* Host;
  const mapped = (yield* host.mappedDevices).filter(({ mapper }) => mapper === "krbd");
  if (mapped.length === 0) return [];
  const table = yield* host.mountTable;
  return mapped.map((each) => usedByPods(table, stackOver(each))).filter(({ pods }) => pods.length > 0);
});
