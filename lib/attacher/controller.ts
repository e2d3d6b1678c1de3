/**
 * An attacher at work: it watches what is to be attached and detached, and looks at each attachment until it is right.
 *
 * Not here: what is done for one attachment (./csi-handler.ts, ./trivial.ts), who leads (lib/kube/lease.ts), and the
 * process (services/attacher.ts).
 *
 * 1. Attaching, detaching and letting volumes go have workers of their own: none holds up another.
 * 2. One attachment is looked at by one worker at a time.
 * 3. An error that was written does not bring its attachment back: only its wait does, or a change by somebody else.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import { type Change, type Informer, informer } from "../kube/informer.ts";
import type { Kube } from "../kube/kube.ts";
import { type WorkQueue, workQueue } from "../kube/work-queue.ts";
import { CsiDriver, limited } from "./csi-driver.ts";
import { type Known, syncAttachment, syncVolume } from "./csi-handler.ts";
import { queueMetrics } from "./metrics.ts";
import {
  type Attachment,
  ATTACHMENTS,
  attachmentSchema,
  finalizerOf,
  isWorth,
  NODES,
  nodeSchema,
  type Volume,
  VOLUMES,
  volumeSchema,
} from "./objects.ts";
import { reconcile } from "./reconcile.ts";
import { syncTrivially } from "./trivial.ts";

export interface AttacherSettings {
  /** So many publishes are asked of the driver at once, and as many unpublishes. */
  readonly workers: number;
  /** How often everything is looked at again; 0 is for never. */
  readonly resync: Duration.Duration;
  readonly retryStart: Duration.Duration;
  readonly retryMax: Duration.Duration;
  /** How often the driver's list of published volumes is compared with the attachments. */
  readonly reconcileSync: Duration.Duration;
  readonly defaultFsType: string;
}

/** For each call to the driver so many attachments are looked at: most of their time goes by in the API server. */
const LOOKED_AT = 4;

/** Runs until it is interrupted. */
export const runAttacher = (settings: AttacherSettings): Effect.Effect<never, never, Kube | CsiDriver | Scope.Scope> =>
  Effect.gen(function* () {
    const driver = yield* CsiDriver;
    if (!driver.abilities.publish) return yield* runTrivial(settings);
    return yield* Effect.provideService(runCsi(settings), CsiDriver, yield* limited(driver, settings.workers));
  });

/** Of each lane. */
const workersOf = ({ workers }: AttacherSettings): number => workers * LOOKED_AT;

type Lane = "attach" | "detach";

/** The queue of attachments, and what fills it; `work` gets the attachment as it is then. */
const attachmentQueue = <R>(
  settings: AttacherSettings,
  onChange: (change: Change<Attachment>) => void,
  work: (
    attachment: Attachment,
    attempts: number,
    attachments: Informer<Attachment>,
  ) => Effect.Effect<void, { readonly message: string }, R>,
) =>
  Effect.gen(function* () {
    const driver = yield* CsiDriver;
    let queue: WorkQueue | undefined;
    const attachments: Informer<Attachment> = yield* informer(
      { path: ATTACHMENTS, schema: attachmentSchema, wanted: ({ attacher }) => attacher === driver.name },
      (change) => {
        onChange(change);
        if (change.now !== undefined && isWorth(change.before, change.now)) queue?.add(change.key);
      },
    );
    queue = yield* workQueue({
      lanes: { attach: workersOf(settings), detach: workersOf(settings) } satisfies Record<Lane, number>,
      laneOf: (key): Lane => (attachments.get(key)?.deleting === true ? "detach" : "attach"),
      work: (key) =>
        Effect.suspend(() => {
          const attachment = attachments.get(key);
          return attachment === undefined ? Effect.void : work(attachment, queue?.failures(key) ?? 0, attachments);
        }),
      base: settings.retryStart,
      max: settings.retryMax,
    });
    // What the list brought before the queue was there.
    for (const [key] of attachments.entries()) queue.add(key);
    yield* queueMetrics("csi-attacher-va", queue);
    return { attachments, queue };
  });

const everyResync = ({ resync }: AttacherSettings, add: () => void) =>
  Duration.isZero(resync)
    ? Effect.void
    : Effect.asVoid(Effect.forkScoped(Effect.forever(Effect.delay(Effect.sync(add), resync))));

/** Which attachments name each volume. */
const makeReferences = () => {
  const names = new Map<string, Set<string>>();
  return {
    has: (volume: string) => names.has(volume),
    follow: ({ key, before, now }: Change<Attachment>): void => {
      const volume = (now ?? before)?.volume;
      if (volume === undefined) return;
      const users = names.get(volume) ?? new Set();
      if (now === undefined) users.delete(key);
      else users.add(key);
      if (users.size === 0) names.delete(volume);
      else names.set(volume, users);
    },
  };
};

/** The queue of deleted volumes that have a finalizer of ours. */
const volumeQueueOf = (
  settings: AttacherSettings,
  known: Pick<Known, "volumes">,
  references: ReturnType<typeof makeReferences>,
) =>
  Effect.gen(function* () {
    const queue = yield* workQueue({
      lanes: { volumes: workersOf(settings) },
      laneOf: () => "volumes" as const,
      work: (key) => syncVolume(known, key, references.has),
      base: settings.retryStart,
      max: settings.retryMax,
    });
    yield* queueMetrics("csi-attacher-pv", queue);
    return queue;
  });

const runTrivial = (settings: AttacherSettings): Effect.Effect<never, never, Kube | CsiDriver | Scope.Scope> =>
  Effect.gen(function* () {
    const { name } = yield* CsiDriver;
    const finalizer = finalizerOf(name);
    const references = makeReferences();
    let volumeQueue: WorkQueue | undefined;
    const { attachments, queue } = yield* attachmentQueue(
      settings,
      (change) => {
        references.follow(change);
        if (change.now === undefined && change.before?.volume !== undefined) volumeQueue?.add(change.before.volume);
      },
      (attachment, _, store) => syncTrivially(store, attachment),
    );
    // Those that an attacher with more to do has protected.
    const volumes = yield* informer<Volume>(
      { path: VOLUMES, schema: volumeSchema, wanted: ({ finalizers }) => finalizers.includes(finalizer) },
      ({ key, now }) => {
        if (now?.deleting === true) volumeQueue?.add(key);
      },
    );
    const everything = () => {
      for (const [key, { attached, deleting }] of attachments.entries()) if (!attached || deleting) queue.add(key);
      for (const [key, { deleting }] of volumes.entries()) if (deleting) volumeQueue?.add(key);
    };
    yield* Effect.forkScoped(
      Effect.gen(function* () {
        // A volume is let go when it is known who names it. Nobody who is attached waits for that.
        yield* attachments.synced;
        volumeQueue = yield* volumeQueueOf(settings, { volumes }, references);
        everything();
      }),
    );
    yield* everyResync(settings, everything);
    yield* Effect.logInfo(`attaches the volumes of ${name} without asking the driver, which has nothing to do for it`);
    return yield* Effect.never;
  });

const runCsi = (settings: AttacherSettings): Effect.Effect<never, never, Kube | CsiDriver | Scope.Scope> =>
  Effect.gen(function* () {
    const driver = yield* CsiDriver;
    const finalizer = finalizerOf(driver.name);
    const references = makeReferences();
    const departed = new Map<string, Volume>();
    const forced = new Set<string>();
    let volumeQueue: WorkQueue | undefined;

    const volumes = yield* informer<Volume>(
      {
        path: VOLUMES,
        schema: volumeSchema,
        wanted: ({ driver: of, finalizers }) => of === driver.name || finalizers.includes(finalizer),
      },
      ({ key, before, now }) => {
        if (now !== undefined) departed.delete(key);
        else if (before !== undefined && references.has(key)) departed.set(key, before);
        if (now?.deleting === true) volumeQueue?.add(key);
      },
    );
    const nodes = yield* informer(
      { path: NODES, schema: nodeSchema, wanted: ({ ids }) => ids.has(driver.name) },
      () => undefined,
    );
    // An attachment is looked at when what it names is known.
    yield* Effect.all([volumes.synced, nodes.synced]);
    const { attachments, queue } = yield* attachmentQueue(
      settings,
      (change) => {
        references.follow(change);
        const volume = change.before?.volume;
        if (change.now !== undefined || volume === undefined) return;
        volumeQueue?.add(volume);
        if (!references.has(volume)) departed.delete(volume);
      },
      (attachment, attempts) => {
        const again = forced.delete(attachment.name);
        return Effect.tapError(syncAttachment(known, attachment, again, attempts > 0), () =>
          Effect.sync(() => void (again && forced.add(attachment.name))),
        );
      },
    );
    const { defaultFsType } = settings;
    const known: Known = { attachments, volumes, nodes, departed, defaultFsType };
    yield* attachments.synced;
    volumeQueue = yield* volumeQueueOf(settings, known, references);
    const everything = () => {
      for (const [key] of attachments.entries()) queue.add(key);
      for (const [key, { deleting }] of volumes.entries()) if (deleting) volumeQueue?.add(key);
    };
    everything();
    yield* everyResync(settings, everything);
    if (driver.abilities.listPublishedNodes) {
      const compare = reconcile(known, (key) => {
        forced.add(key);
        queue.add(key);
      });
      yield* Effect.forkScoped(Effect.forever(Effect.delay(compare, settings.reconcileSync)));
    }
    yield* Effect.logInfo(`attaches the volumes of ${driver.name} by ControllerPublishVolume`);
    return yield* Effect.never;
  });
