/**
 * Elects one leader among processes by a Lease (coordination.k8s.io/v1), with client-go's rules, so that one of ours may
 * follow one of upstream's, and the other way round.
 *
 * 1. Work runs only while the lease is held, and has ended before the lease is given back.
 * 2. Whether another holder's lease is over is judged by this process's own clock, from when the record was last seen to
 *    change: the clocks of two machines are never compared.
 * 3. Two that take the lease at once are told apart by its resource version: one of them gets 409.
 * 4. A lost lease ends the work, not the process: it stands for election again.
 * 5. A lease counts from when it was asked for: work does not begin on one that others may believe to be over.
 * 6. A process that stops gives back also what it may have taken without an answer: that would keep everybody else
 *    waiting until it is over.
 */
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Random from "effect/Random";
import type * as Scope from "effect/Scope";
import * as z from "zod";
import { isStale, type KubeFailed } from "./errors.ts";
import { recordEvent } from "./events.ts";
import { answerAs, getIfThere, Kube } from "./kube.ts";

export interface LeaseOptions {
  readonly namespace: string;
  readonly name: string;
  /** Tells this process from every other: in a pod, the pod's name. */
  readonly identity: string;
  /** How long others wait after the last renewal before they take over. */
  readonly leaseDuration: Duration.Duration;
  /** A leader that could not renew for this long stops. */
  readonly renewDeadline: Duration.Duration;
  readonly retryPeriod: Duration.Duration;
  readonly labels?: Readonly<Record<string, string>>;
}

/** A name, or an identity, as Kubernetes' sidecars write it. */
export const leaseName = (text: string): string => {
  const name = text.replaceAll(/[^a-zA-Z0-9-]/g, "-");
  return name.endsWith("-") ? `${name}X` : name;
};

const leaseShape = z.object({
  metadata: z.looseObject({ name: z.string(), resourceVersion: z.string().optional() }),
  spec: z
    .object({
      holderIdentity: z.string().nullish(),
      leaseDurationSeconds: z.number().nullish(),
      acquireTime: z.string().nullish(),
      renewTime: z.string().nullish(),
      leaseTransitions: z.number().nullish(),
    })
    .nullish(),
});
type Lease = z.infer<typeof leaseShape>;
type LeaseRecord = NonNullable<Lease["spec"]>;

interface Election {
  /** The record as it was last seen, and by this process's clock when it was first seen so. */
  seen: { readonly text: string; readonly at: number } | undefined;
  /** The lease as this process wrote it last, while it holds it. */
  held: Lease | undefined;
  renewedAt: number;
  /** The write whose answer nobody has yet: it goes on when who waits for it stops. */
  onTheWay: Fiber.Fiber<Lease, KubeFailed> | undefined;
  /** A write of ours may have made us the holder, and nothing has shown since that somebody else is, or nobody. */
  mayHold: boolean;
}

/** The elections of this process, for its metrics and its health. */
export interface ElectionsService {
  /** The leases that this process stands for, and whether it leads. */
  readonly leading: () => readonly { readonly name: string; readonly leads: boolean }[];
  /** Says so where this process leads and has not renewed for far too long: then it should be started anew. */
  readonly stuck: Effect.Effect<string | undefined>;
  /** Runs the work while this process leads, time and again. It fails only with the work. */
  readonly whileLeading: <E, R>(
    options: LeaseOptions,
    work: Effect.Effect<void, E, R>,
  ) => Effect.Effect<never, E, Exclude<R, Scope.Scope> | Kube>;
}

/** As long as others' checks wait beyond the lease. */
const STUCK_AFTER = Duration.seconds(20);

export const makeElections = (): ElectionsService => {
  const running = new Map<Election, LeaseOptions>();
  return {
    leading: () => Array.from(running, ([{ held }, { name }]) => ({ name, leads: held !== undefined })),
    stuck: Effect.map(now, (at) => {
      for (const [{ held, renewedAt }, { name, leaseDuration }] of running) {
        const patience = Duration.toMillis(leaseDuration) + Duration.toMillis(STUCK_AFTER);
        if (held !== undefined && at - renewedAt > patience) {
          return `the lease ${name} has not been renewed for ${Math.floor((at - renewedAt) / 1000)} s`;
        }
      }
      return undefined;
    }),
    whileLeading: (options, work) =>
      Effect.suspend(() => {
        const election: Election = {
          seen: undefined,
          held: undefined,
          renewedAt: 0,
          onTheWay: undefined,
          mayHold: false,
        };
        return Effect.acquireUseRelease(
          Effect.sync(() => void running.set(election, options)),
          () => electAgain(options, election, work),
          () => Effect.sync(() => void running.delete(election)),
        );
      }),
  };
};

export class Elections extends Context.Service<Elections, ElectionsService>()("csi-rbd/kube/Elections") {
  static readonly layer = Layer.sync(Elections, makeElections);
}

const electAgain = <E, R>(
  options: LeaseOptions,
  election: Election,
  work: Effect.Effect<void, E, R>,
): Effect.Effect<never, E, Exclude<R, Scope.Scope> | Kube> => {
  const { name, identity } = options;
  const term = Effect.gen(function* () {
    yield* acquire(options, election);
    yield* Effect.logInfo(`${identity} leads by the lease ${name}`);
    yield* announce(options, "became leader");
    if ((yield* timeLeft(options, election)) <= 0) return yield* Effect.logWarning(`${name}: the answer came too late`);
    // What the work starts ends with it, before anything below runs.
    yield* Effect.raceFirst(Effect.andThen(Effect.scoped(work), Effect.never), renewUntilLost(options, election));
    yield* Effect.logWarning(
      `the lease ${name} is lost: its work has stopped, and ${identity} stands for election again`,
    );
    yield* announce(options, "stopped leading");
  });
  return term.pipe(
    Effect.onExit((exit) => (Exit.isSuccess(exit) ? Effect.void : giveBack(options, election))),
    Effect.ensuring(endTerm(election)),
    Effect.forever,
  );
};

const endTerm = (election: Election): Effect.Effect<void> =>
  Effect.andThen(
    cutOff(election),
    Effect.sync(() => void (election.held = undefined)),
  );

/** Waits no longer for a write. What it has done, the next look at the lease shows. */
const cutOff = (election: Election): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { onTheWay } = election;
    election.onTheWay = undefined;
    return onTheWay === undefined ? Effect.void : Fiber.interrupt(onTheWay);
  });

const announce = ({ namespace, name, identity }: LeaseOptions, what: string) =>
  recordEvent({
    involved: { apiVersion: "coordination.k8s.io/v1", kind: "Lease", namespace, name },
    type: "Normal",
    reason: "LeaderElection",
    message: `${identity} ${what}`,
  });

/** Tries until this process holds the lease. */
const acquire = (options: LeaseOptions, election: Election): Effect.Effect<void, never, Kube> =>
  Effect.gen(function* () {
    const tried = attempt(options, election).pipe(
      Effect.timeoutOrElse({
        duration: options.renewDeadline,
        orElse: () => Effect.as(Effect.logWarning(`the lease ${options.name}: no answer yet; retrying`), false),
      }),
      Effect.catch((failed) =>
        Effect.as(failed.status === 409 ? Effect.void : Effect.logWarning(`${failed.message}; retrying`), false),
      ),
    );
    while (!(yield* Effect.ensuring(tried, cutOff(election)))) {
      const jitter = 1 + 1.2 * (yield* Random.next);
      yield* Effect.sleep(Duration.times(options.retryPeriod, jitter));
    }
  });

/** Milliseconds for which work may go on without a further renewal. */
const timeLeft = ({ renewDeadline }: LeaseOptions, { renewedAt }: Election): Effect.Effect<number> =>
  Effect.map(now, (at) => Duration.toMillis(renewDeadline) - (at - renewedAt));

/** Renews at each period; ends when that has failed for the renewal's deadline, or when somebody else holds the lease. */
const renewUntilLost = (options: LeaseOptions, election: Election): Effect.Effect<void, never, Kube> => {
  const renew = Effect.gen(function* () {
    const left = yield* timeLeft(options, election);
    return left <= 0
      ? "late"
      : yield* attempt(options, election).pipe(
          Effect.map((mine) => (mine ? "renewed" : "lost")),
          Effect.catch((failed) => Effect.as(Effect.logWarning(failed.message), "failed")),
          Effect.timeoutOrElse({ duration: left, orElse: () => Effect.succeed("late") }),
        );
  });
  return Effect.gen(function* () {
    for (;;) {
      yield* Effect.sleep(Math.min(Duration.toMillis(options.retryPeriod), yield* timeLeft(options, election)));
      const outcome = yield* renew;
      if (outcome === "lost" || outcome === "late") return;
    }
  });
};

const millisOf = (nanos: bigint): number => Number(nanos / 1_000_000n);
const now = Effect.map(Clock.monotonicTimeNanos, millisOf);

/** Takes or renews the lease; false where somebody else holds it. */
const attempt = (options: LeaseOptions, election: Election): Effect.Effect<boolean, KubeFailed, Kube> =>
  Effect.gen(function* () {
    const { held } = election;
    if (held !== undefined) {
      const renewed = yield* write(options, election, held).pipe(
        Effect.as(true),
        Effect.catchIf(
          ({ status }) => status === 409 || status === 404,
          () => Effect.succeed(false),
        ),
      );
      if (renewed) return true;
    }
    const found = yield* getIfThere(pathOf(options), aLease);
    if (found === undefined) return yield* Effect.as(create(options, election), true);
    if (yield* isHeldByAnother(options, election, found)) {
      election.held = undefined;
      election.mayHold = false;
      return false;
    }
    return yield* Effect.as(write(options, election, found), true);
  });

const listPath = ({ namespace }: LeaseOptions): string => `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
const pathOf = (options: LeaseOptions): string => `${listPath(options)}/${options.name}`;

const aLease = { kind: "a Lease", schema: leaseShape };

const isHeldByAnother = ({ identity }: LeaseOptions, election: Election, { spec }: Lease): Effect.Effect<boolean> =>
  Effect.map(now, (at) => {
    const text = JSON.stringify(spec ?? {});
    if (election.seen?.text !== text) election.seen = { text, at };
    const { holderIdentity: holder, leaseDurationSeconds: seconds } = spec ?? {};
    if (!holder || holder === identity) return false;
    return at < election.seen.at + (seconds ?? 0) * 1000;
  });

/** RFC 3339 with microseconds, as the API wants it. */
const microTime = Effect.map(Clock.currentTimeMillis, (millis) => new Date(millis).toISOString().replace("Z", "000Z"));

const ownRecord = ({ identity, leaseDuration }: LeaseOptions, before: LeaseRecord | undefined) =>
  Effect.map(microTime, (time): LeaseRecord => {
    const mine = before?.holderIdentity === identity;
    const transitions = before?.leaseTransitions ?? 0;
    return {
      holderIdentity: identity,
      leaseDurationSeconds: Math.ceil(Duration.toSeconds(leaseDuration)),
      acquireTime: mine ? (before.acquireTime ?? time) : time,
      renewTime: time,
      leaseTransitions: mine || before === undefined ? transitions : transitions + 1,
    };
  });

const create = (options: LeaseOptions, election: Election): Effect.Effect<void, KubeFailed, Kube> =>
  Effect.gen(function* () {
    const spec = yield* ownRecord(options, undefined);
    const { name, namespace, labels = {} } = options;
    const body = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata: { name, namespace, labels }, spec };
    yield* keep(options, election, (yield* Kube).create(listPath(options), body));
  });

const write = (options: LeaseOptions, election: Election, lease: Lease): Effect.Effect<void, KubeFailed, Kube> =>
  Effect.gen(function* () {
    const labels = { ...(lease.metadata["labels"] as object | undefined), ...options.labels };
    const spec = yield* ownRecord(options, lease.spec ?? {});
    const body = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata: { ...lease.metadata, labels }, spec };
    yield* keep(options, election, (yield* Kube).update(pathOf(options), body));
  });

/** The lease counts from when the write was sent: others may have seen it then. */
const keep = (options: LeaseOptions, election: Election, send: Effect.Effect<unknown, KubeFailed>) =>
  Effect.gen(function* () {
    const began = yield* now;
    const answer = Effect.flatMap(send, (sent) => answerAs(pathOf(options), aLease, sent));
    election.mayHold = true;
    election.onTheWay = yield* Effect.forkDetach(answer);
    const exit = yield* Fiber.await(election.onTheWay);
    election.onTheWay = undefined;
    if (Exit.isSuccess(exit)) {
      election.held = exit.value;
      election.renewedAt = began;
    }
    yield* exit;
  });

/** Lets another one lead at once. Whatever fails here, the lease ends by itself. */
const giveBack = (options: LeaseOptions, election: Election): Effect.Effect<void, never, Kube> =>
  Effect.gen(function* () {
    if (election.onTheWay !== undefined) {
      const last = yield* Effect.timeoutOption(Fiber.await(election.onTheWay), options.renewDeadline);
      if (Option.isSome(last) && Exit.isSuccess(last.value)) election.held = last.value.value;
      yield* cutOff(election);
    }
    const { held, mayHold } = election;
    if (held === undefined && !mayHold) return;
    const released = yield* (held === undefined ? releaseAsFound(options) : releaseHeld(options, held)).pipe(
      Effect.timeout(options.renewDeadline),
    );
    if (released) yield* Effect.logInfo(`${options.identity} gave the lease ${options.name} back`);
  }).pipe(
    Effect.catch(({ message }) => Effect.logInfo(`the lease ${options.name} could not be given back: ${message}`)),
  );

const releaseHeld = (options: LeaseOptions, held: Lease) =>
  release(options, held).pipe(
    Effect.as(true),
    // somebody else wrote to it, to its labels perhaps
    Effect.catchIf(isStale, () => releaseAsFound(options)),
  );

const release = (options: LeaseOptions, { metadata, spec: before }: Lease) =>
  Effect.gen(function* () {
    const time = yield* microTime;
    const spec = { ...before, holderIdentity: "", leaseDurationSeconds: 1, acquireTime: time, renewTime: time };
    const body = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata, spec };
    yield* (yield* Kube).update(pathOf(options), body);
  });

/** -> whether it was ours. */
const releaseAsFound = (options: LeaseOptions) =>
  Effect.gen(function* () {
    const found = yield* getIfThere(pathOf(options), aLease);
    if (found?.spec?.holderIdentity !== options.identity) return false;
    yield* release(options, found);
    return true;
  });
