/**
 * Locks of one process: volumes, names and paths that operations must not touch at the same time.
 *
 * Not here: what is locked and in which order (./lock-keys.ts), and races between drivers, which RADOS compares settle
 * (lib/journal).
 *
 * 1. Waiters are served in the order in which they came; shared holders at the head of the line hold together.
 * 2. Nobody waits past the deadline of the operation's last caller; then `LockHeld` names the holder.
 * 3. A lock is released exactly once, however its holder ends.
 * 4. An operation takes its locks in the order of their ranks. One that does not is a defect, and dies of it at once.
 */
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import { LockHeld } from "../csi/errors.ts";
import { inOrder, type LockKey, type LockMode } from "./lock-keys.ts";
import { CurrentOperation, describeOperation, type Operation } from "./operation.ts";
import { stage } from "./pipeline.ts";
import { pastDeadline } from "./until-deadline.ts";

interface Claim {
  readonly mode: LockMode;
  readonly owner: Operation | undefined;
  readonly granted: Deferred.Deferred<void>;
}

interface Line {
  readonly held: Set<Claim>;
  readonly waiting: Claim[];
}

export interface LockRow {
  readonly key: string;
  readonly holders: readonly (Operation | undefined)[];
  readonly waiting: number;
}

export interface LocksService {
  /** Holds all of these locks while `use` runs. A key that is absent is not needed. */
  readonly with: <A, E, R>(
    keys: readonly (LockKey | undefined)[],
    use: Effect.Effect<A, E, R>,
  ) => Effect.Effect<A, E | LockHeld, R>;
  /** What is held and waited for now. */
  readonly table: () => readonly LockRow[];
}

export class Locks extends Context.Service<Locks, LocksService>()("csi-rbd/Locks") {
  static readonly layer = Layer.sync(Locks, () => Locks.of(makeLocks()));
}

/** The highest rank that the current fiber holds. */
const HeldRank = Context.Reference<number>("csi-rbd/HeldRank", { defaultValue: () => -1 });

export const makeLocks = (): LocksService => {
  const lines = new Map<string, Line>();

  const advance = (key: string, line: Line): void => {
    for (let next = line.waiting[0]; next !== undefined; next = line.waiting[0]) {
      const first = line.held.values().next().value;
      if (first !== undefined && (first.mode === "exclusive" || next.mode === "exclusive")) break;
      line.waiting.shift();
      line.held.add(next);
      Deferred.doneUnsafe(next.granted, Exit.void);
    }
    if (line.held.size === 0 && line.waiting.length === 0) lines.delete(key);
  };

  const leave = (key: string, line: Line, claim: Claim): void => {
    line.held.delete(claim);
    const at = line.waiting.indexOf(claim);
    if (at >= 0) line.waiting.splice(at, 1);
    advance(key, line);
  };

  const enter = ({ text, mode }: LockKey, owner: Operation | undefined) => {
    const line = lines.get(text) ?? { held: new Set(), waiting: [] };
    lines.set(text, line);
    const claim: Claim = { mode, owner, granted: Deferred.makeUnsafe<void>() };
    line.waiting.push(claim);
    advance(text, line);
    return { line, claim };
  };

  const heldBy = (subject: string, line: Line) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const holders = [...line.held].map(({ owner }) =>
        owner === undefined ? "an unnamed task holds it" : describeOperation(owner, now),
      );
      return Effect.fail(new LockHeld({ subject, holders }));
    });

  const turn = ({ text }: LockKey, line: Line, { owner, granted }: Claim) => {
    const wait = Deferred.await(granted);
    return stage(
      "wait for lock",
      owner === undefined ? wait : Effect.raceFirst(wait, Effect.andThen(pastDeadline(owner), heldBy(text, line))),
    );
  };

  const hold = <A, E, R>(key: LockKey, owner: Operation | undefined, use: Effect.Effect<A, E, R>) =>
    Effect.acquireUseRelease(
      Effect.sync(() => enter(key, owner)),
      ({ line, claim }): Effect.Effect<A, E | LockHeld, R> =>
        line.held.has(claim) ? use : Effect.andThen(turn(key, line, claim), use),
      ({ line, claim }) => Effect.sync(() => leave(key.text, line, claim)),
    );

  return {
    with: (keys, use) =>
      Effect.withFiber((fiber) => {
        const wanted = inOrder(keys.filter((key) => key !== undefined));
        const [first, last] = [wanted[0], wanted.at(-1)];
        if (first === undefined || last === undefined) return use;
        if (first.rank <= fiber.getRef(HeldRank)) {
          return Effect.die(new Error(`${first.text} is locked after a lock of its rank or a higher one`));
        }
        const owner = fiber.getRef(CurrentOperation);
        return wanted.reduceRight(
          (inner, key) => hold(key, owner, inner),
          Effect.provideService(use, HeldRank, last.rank) as Effect.Effect<
            Effect.Success<typeof use>,
            Effect.Error<typeof use> | LockHeld,
            Effect.Services<typeof use>
          >,
        );
      }),
    table: () =>
      [...lines].map(([key, line]) => ({
        key,
        holders: [...line.held].map(({ owner }) => owner),
        waiting: line.waiting.length,
      })),
  };
};
