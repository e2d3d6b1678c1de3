/**
 * Looks after the rbd-nbd processes of this node's staged volumes: one that has died gets a successor, whether it died
 * under this driver or before it started.
 *
 * Not here: how a device gets a new process (./heal.ts).
 *
 * 1. What a stage was given is kept in memory, Redacted, until the volume is unstaged. After a restart Kubernetes is
 *    asked for it, and only if a process is missing.
 * 2. A volume that Kubernetes does not have attached to this node any more is not healed: another node may have written
 *    to it. Where Kubernetes cannot be asked, or does not know all, ./heal.ts has the record of the nodes alone.
 * 3. Volumes may share a cookie: those that the in-tree plugin made have the name of their image. A device whose cookie is
 *    that of several volumes here is left alone: it may be the device of any of them. Kernels before 5.14 keep no cookie:
 *    there a device is that of the volume at whose staging target it is mounted, if its image-meta.json says so, too.
 * 4. A device is healed under its volume's lock, and only if it still lacks its process then. Of several devices of one
 *    volume it is the mounted one, and none if that is not one.
 * 5. Each volume is healed by itself: one whose healing hangs holds up no other, nor the next look (./healing-turns.ts). The
 *    log names its device and its image, and so does the lock of the volume to whoever waits for it.
 */
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Latch from "effect/Latch";
import * as Schedule from "effect/Schedule";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { ClusterMapping } from "../config/mapping.ts";
import type { Credentials } from "../config/secrets.ts";
import {
  type JournalCorrupt,
  type LockHeld,
  type NotReadyYet,
  Precondition,
  type VolumeNotFound,
} from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import type { MappedDevice } from "../host/mapped-device.ts";
import type { Placement } from "../kube/placement.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { CurrentOperation, describeOperation, type Operation } from "../operations/operation.ts";
import { stage } from "../operations/pipeline.ts";
import type { ClientRecord } from "./client-record.ts";
import { healDevice, proveNotElsewhere, type StagedAs } from "./heal.ts";
import { makeHealingTurns } from "./healing-turns.ts";
import type { PublishedNodeRecord } from "./published-node-record.ts";
import { otherMounts, stackOver } from "./staged-device.ts";
import { isNameless, ownerOf } from "./staged-volume.ts";
import { cookieOf, locateImage, type VolumeContext, type VolumeImage } from "./volume-context.ts";

/** What is needed to give the device of a volume a new process. */
export interface Healable extends StagedAs {
  readonly credentials: Credentials;
}

/** What Kubernetes has attached to this node. */
export interface Attached {
  /** Those that are known well enough to heal them. */
  readonly staged: readonly Healable[];
  /** The IDs of all; `undefined`: not all are known. */
  readonly volumeIds: readonly string[] | undefined;
}

type AskKubernetes = Effect.Effect<Attached, { readonly message: string }>;

export type HealNeeds = Ceph | ClientRecord | Clusters | ClusterMapping | Host | Placement | PublishedNodeRecord;
export type HealError =
  | CephError
  | ConfigError
  | HostError
  | JournalCorrupt
  | NotReadyYet
  | Precondition
  | VolumeNotFound;

export interface HealingService {
  readonly remember: (staged: Healable) => void;
  readonly forget: (volumeId: string) => void;
  /**
   * Looks once for devices without a process, and gives each another one; ends when none is being healed any more. Failures
   * are for the log: it looks again.
   */
  readonly look: Effect.Effect<void, never, HealNeeds | Locks>;
  /** Looks again and again, from the start of the driver on, while there is anything to look after. */
  readonly watch: Effect.Effect<void, never, HealNeeds | Locks>;
  /** Gives a device a process so that what is not written yet is not lost, if anybody knows how. The caller has the lock. */
  readonly revive: (volumeId: string, device: MappedDevice) => Effect.Effect<void, never, HealNeeds>;
  /** Ends the process of a device in good order, and gives it another one. The caller has the volume's lock. */
  readonly renew: (volumeId: string, device: MappedDevice) => Effect.Effect<void, HealError, HealNeeds>;
}

export class Healing extends Context.Service<Healing, HealingService>()("csi-rbd/Healing") {}

const EVERY = "10 seconds";
/** How often Kubernetes is asked about a device that nobody here knows. */
const ASK_AGAIN_MS = 60_000;
/** Volumes wait for it, some of them under their locks. */
const ASK_LIMIT = "20 seconds";

export const makeHealing = (askKubernetes: AskKubernetes): HealingService => {
  const attached: AskKubernetes = Effect.timeoutOrElse(askKubernetes, {
    duration: ASK_LIMIT,
    orElse: () => Effect.fail({ message: `Kubernetes did not say within ${ASK_LIMIT} what is attached to this node` }),
  });
  /** By their volume IDs. */
  const known = new Map<string, Healable>();
  const withCookie = (cookie: string) => [...known.values()].filter(({ context }) => cookieOf(context) === cookie);
  const withName = ({ cookie, volumeId }: DeviceName) => {
    if (volumeId === undefined) return withCookie(cookie);
    const staged = known.get(volumeId);
    return staged === undefined ? [] : [staged];
  };
  const ofDevice = (volumeId: string, { cookie }: MappedDevice) => {
    // The caller knows whose it is.
    if (cookie === "") return known.get(volumeId);
    const [only, ...others] = withCookie(cookie);
    return others.length === 0 && only?.context.volumeId === volumeId ? only : undefined;
  };
  const wanted = Latch.makeUnsafe(false);
  const remember = (staged: Healable): void => {
    if (staged.context.mounter === "rbd" && !staged.context.tryOtherMounters) return;
    known.set(staged.context.volumeId, staged);
    wanted.openUnsafe();
  };
  const turns = makeHealingTurns();
  const begin = Effect.gen(function* () {
    const devices = (yield* (yield* Host).mappedDevices).filter(({ mapper }) => mapper === "rbd-nbd");
    if (devices.length > 0) wanted.openUnsafe();
    const dead = yield* deadAmong(devices);
    if (dead.some(({ name }) => withName(name).length === 0)) yield* askAtTimes;
    const once = new Map(dead.map((each) => [each.name.volumeId ?? each.name.cookie, each]));
    for (const { name, device } of once.values()) {
      const [staged, ...others] = withName(name);
      if (staged === undefined) continue;
      if (others.length > 0) yield* sayShared(name.cookie, [staged, ...others]);
      else {
        const { heal, sayLong } = yield* healing(staged, device, attached);
        yield* turns.begin(staged.context.volumeId, heal, sayLong);
      }
    }
  }).pipe(Effect.catch(({ message }) => Effect.logWarning(`cannot look after rbd-nbd: ${message}`)));
  const { ask, askAtTimes } = asking(attached, ({ staged }) => {
    for (const each of staged) if (!known.has(each.context.volumeId)) remember(each);
  });
  const revived = Effect.fnUntraced(function* (
    volumeId: string,
    device: MappedDevice,
  ): Effect.fn.Return<void, HealError, HealNeeds> {
    if (!known.has(volumeId)) yield* ask;
    const sharing = withCookie(device.cookie);
    if (sharing.length > 1) return yield* sayShared(device.cookie, sharing);
    const staged = ofDevice(volumeId, device);
    if (staged === undefined) {
      return yield* new Precondition({
        subject: `volume ${volumeId}`,
        problem: "is one that neither this driver has staged nor Kubernetes knows, so what is not written yet is lost",
        remedy: "Check its VolumeAttachment, its PersistentVolume and the Secret that this one names",
      });
    }
    const needy = yield* deadDevice(staged.context);
    if (needy?.path === device.path) yield* succeeded(device, staged, attached);
  });
  return {
    remember,
    forget: (volumeId) => void known.delete(volumeId),
    look: Effect.scoped(Effect.andThen(begin, turns.ended)),
    watch: Effect.scoped(Effect.asVoid(Effect.repeat(Effect.andThen(begin, wanted.await), Schedule.spaced(EVERY)))),
    revive: (volumeId, device) =>
      Effect.catch(revived(volumeId, device), ({ message }) =>
        Effect.logWarning(`${device.path} lacks its rbd-nbd process, and gets no other one: ${message}`),
      ),
    renew: Effect.fnUntraced(function* (volumeId, device) {
      const staged = ofDevice(volumeId, device);
      if (staged === undefined) return;
      if (!staged.shared) {
        // While the process still runs: none that ends here stays without a successor for that.
        const image = yield* stage("locate image", locateImage(staged.context, staged.credentials));
        yield* proveNotElsewhere(staged.context, image);
        yield* proveAttached(staged.context, attached);
      }
      yield* stage("detach", (yield* Host).detach(device));
      yield* succeeded({ ...device, served: false }, staged, attached);
    }),
  };
};

const sayShared = (cookie: string, staged: readonly Healable[]) =>
  Effect.logWarning(
    `a device with the cookie ${cookie} lacks its rbd-nbd process, and gets no other one, because several volumes here have that cookie: ` +
      `${staged.map(({ context }) => context.volumeId).join(", ")}. End the pods that use it`,
  );

/** By what the volume of a device without a process is known: its cookie, or its ID where there is no cookie. */
interface DeviceName {
  readonly cookie: string;
  readonly volumeId?: string;
}

interface DeadDevice {
  readonly device: MappedDevice;
  readonly name: DeviceName;
}

/** The devices of rbd-nbd that lack their process. Those of other programs have no cookie, and are in no volume's place. */
const deadAmong = Effect.fnUntraced(function* (
  devices: readonly MappedDevice[],
): Effect.fn.Return<readonly DeadDevice[], HostError, Host> {
  const dead = devices.filter(({ mapper, served }) => mapper === "rbd-nbd" && !served);
  const table = dead.some(isNameless) ? yield* (yield* Host).mountTable : [];
  const named = (device: MappedDevice): Effect.Effect<readonly DeadDevice[], never, Host> => {
    const { cookie } = device;
    if (!isNameless(device)) return Effect.succeed([{ device, name: { cookie } }]);
    return Effect.map(ownerOf(device, table), (volumeId) =>
      volumeId === undefined ? [] : [{ device, name: { cookie, volumeId } }],
    );
  };
  return (yield* Effect.forEach(dead, named)).flat();
});

/** `askAtTimes` asks at most once a minute; an ask that failed does not count. */
const asking = (attached: AskKubernetes, learn: (found: Attached) => void) => {
  let askedAt = Number.NEGATIVE_INFINITY;
  const ask = Effect.flatMap(Clock.currentTimeMillis, (now) =>
    Effect.matchEffect(attached, {
      onSuccess: (found) =>
        Effect.sync(() => {
          askedAt = now;
          learn(found);
        }),
      onFailure: ({ message }) =>
        Effect.logWarning(`an rbd-nbd process is missing, and who staged its volume is not known: ${message}`),
    }),
  );
  const askAtTimes = Effect.flatMap(Clock.currentTimeMillis, (now) =>
    now - askedAt < ASK_AGAIN_MS ? Effect.void : ask,
  );
  return { ask, askAtTimes };
};

/** Heals the device of a volume, if it needs it once the volume's lock is there. `sayLong`: what it waits for, to the log. */
const healing = Effect.fnUntraced(function* (
  staged: Healable,
  { path }: MappedDevice,
  attached: AskKubernetes,
): Effect.fn.Return<
  { readonly heal: Effect.Effect<void, never, HealNeeds | Locks>; readonly sayLong: Effect.Effect<void> },
  never,
  Locks
> {
  const locks = yield* Locks;
  const { volumeId, fixed } = staged.context;
  const lock = LockKey.volume(volumeId);
  const startedAt = yield* Clock.currentTimeMillis;
  // It waits for the lock as long as it takes, and for nothing else: it looks again.
  const deadline = Number.POSITIVE_INFINITY;
  const operation: Operation = { rpc: "healing", subject: `volume ${volumeId}`, startedAt, deadline, stage: "wait" };
  let image = fixed === undefined ? "an image that is not located yet" : `image ${fixed.pool}/${fixed.imageName}`;
  const found = (is: VolumeImage) => void (image = `image ${imageLabel(is.pool, is.imageName)}`);
  const locked = Effect.suspend(() => {
    operation.deadline = 0;
    operation.stage = "look at node";
    return healLocked(staged, attached, found);
  });
  const sayLong = Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const holders = locks.table().find(({ key }) => key === lock.text)?.holders ?? [];
    const others = holders.flatMap((each) => (each === undefined || each === operation ? [] : [each]));
    const held = others.map((each) => `; ${describeOperation(each, now)}`).join("");
    return Effect.logWarning(
      `${path}, the device of ${image}, still lacks its rbd-nbd process: ${describeOperation(operation, now)}${held}. No other volume waits for it`,
    );
  });
  const heal = locks.with([lock], locked).pipe(
    Effect.catch(({ message }: HealError | LockHeld) =>
      Effect.logWarning(`volume ${volumeId} lacks its rbd-nbd process, and gets no other one yet: ${message}`),
    ),
    Effect.provideService(CurrentOperation, operation),
  );
  return { heal, sayLong };
});

const healLocked = Effect.fnUntraced(function* (
  staged: Healable,
  attached: AskKubernetes,
  found: (image: VolumeImage) => void,
): Effect.fn.Return<void, HealError, HealNeeds> {
  const device = yield* deadDevice(staged.context);
  if (device === undefined) return;
  yield* succeeded(device, staged, attached, found);
});

/** The one device of a volume that needs a process. */
const deadDevice = Effect.fnUntraced(function* (
  context: VolumeContext,
): Effect.fn.Return<MappedDevice | undefined, HostError, Host> {
  const host = yield* Host;
  const cookie = cookieOf(context);
  const isIts = ({ name }: DeadDevice) =>
    name.volumeId === undefined ? name.cookie === cookie : name.volumeId === context.volumeId;
  const dead = (yield* deadAmong(yield* host.mappedDevices)).filter(isIts).map(({ device }) => device);
  if (dead.length < 2) return dead[0];
  const table = yield* host.mountTable;
  const mounted = dead.filter((each) => otherMounts(table, stackOver(each), []).length > 0);
  if (mounted.length === 1) return mounted[0];
  const those = (mounted.length === 0 ? dead : mounted).map(({ path }) => path).join(", ");
  const which = mounted.length === 0 ? "none of them is mounted" : "they are mounted";
  yield* Effect.logWarning(
    `several devices of ${cookie} lack their rbd-nbd process, and get no other one, because ${which}: ${those}`,
  );
  return undefined;
});

/** Gives a device another process, by what the first one was given. */
const succeeded = Effect.fnUntraced(function* (
  device: MappedDevice,
  staged: Healable,
  attached: AskKubernetes,
  found: (image: VolumeImage) => void = () => {},
): Effect.fn.Return<void, HealError, HealNeeds> {
  const image = yield* stage("locate image", locateImage(staged.context, staged.credentials));
  found(image);
  yield* healDevice(staged, image, stackOver(device), proveAttached(staged.context, attached));
});

/** Fails if Kubernetes knows that the volume is not attached to this node. */
const proveAttached = ({ volumeId }: VolumeContext, attached: AskKubernetes): Effect.Effect<void, Precondition> =>
  Effect.match(attached, { onFailure: () => undefined, onSuccess: ({ volumeIds }) => volumeIds }).pipe(
    Effect.flatMap((volumeIds) =>
      volumeIds === undefined || volumeIds.includes(volumeId)
        ? Effect.void
        : Effect.fail(
            new Precondition({
              subject: `volume ${volumeId}`,
              problem: "has no VolumeAttachment to this node any more, so another node may have written to it",
              remedy: "End the pods that use it on this node",
            }),
          ),
    ),
  );
