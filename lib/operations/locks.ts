/**
 * Locks of one process, by key: volumes and names that operations must not touch at the same time.
 *
 * Not here: what is locked (the services say) and races between drivers (RADOS compares, in lib/journal).
 *
 * 1. Waiters are served in the order in which they came; shared holders at the head of the line hold together.
 * 2. Nobody waits past the deadline of the operation's last caller; then `LockHeld` names the holder.
 * 3. A lock is released exactly once, however its holder ends.
 * 4. Who needs several takes them in one order, so that no two wait for each other: the name of a group, IDs, other names.
 */
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { LockHeld } from "../csi/errors.ts";
import { CurrentOperation, describeOperation, type Operation } from "./operation.ts";

export type Mode = "exclusive" | "shared";

interface Claim {
  readonly mode: Mode;
  readonly owner: Operation | undefined;
  readonly granted: () => void;
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
  readonly withLock: <A, E, R>(
    key: string,
    mode: Mode,
    use: Effect.Effect<A, E, R>,
  ) => Effect.Effect<A, E | LockHeld, R>;
  readonly table: () => readonly LockRow[];
}

export class Locks extends Context.Service<Locks, LocksService>()("csi-rbd/Locks") {
  static readonly layer = Layer.sync(Locks, () => Locks.of(makeLocks()));
}

export const makeLocks = (): LocksService => {
  const lines = new Map<string, Line>();

  const advance = (key: string, line: Line): void => {
    for (let next = line.waiting[0]; next !== undefined; next = line.waiting[0]) {
      const first = line.held.values().next().value;
      if (first !== undefined && (first.mode === "exclusive" || next.mode === "exclusive")) break;
      line.waiting.shift();
      line.held.add(next);
      next.granted();
    }
    if (line.held.size === 0 && line.waiting.length === 0) lines.delete(key);
  };

  const leave = (key: string, line: Line, claim: Claim): void => {
    line.held.delete(claim);
    const at = line.waiting.indexOf(claim);
    if (at >= 0) line.waiting.splice(at, 1);
    advance(key, line);
  };

  const enter = (key: string, mode: Mode, owner: Operation | undefined) => {
    const line = lines.get(key) ?? { held: new Set(), waiting: [] };
    lines.set(key, line);
    const { promise, resolve } = Promise.withResolvers<void>();
    const claim: Claim = { mode, owner, granted: resolve };
    line.waiting.push(claim);
    advance(key, line);
    return { line, claim, promise };
  };

  /** Ends when the last caller's deadline is over; a retry that joins moves the deadline while this sleeps. */
  const pastDeadline = (owner: Operation): Effect.Effect<void> =>
    Effect.gen(function* () {
      for (;;) {
        const left = owner.deadline - (yield* Clock.currentTimeMillis);
        if (left <= 0) return;
        yield* Effect.sleep(left);
      }
    });

  const held = (key: string, line: Line) =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      const holders = [...line.held].map(({ owner }) =>
        owner === undefined ? "an unnamed task" : describeOperation(owner, now),
      );
      return new LockHeld({ message: `${key} is held by ${holders.join(" and ")}; it goes on, retry later` });
    });

  const withLock: LocksService["withLock"] = (key, mode, use) =>
    Effect.gen(function* () {
      const owner = yield* CurrentOperation;
      return yield* Effect.acquireUseRelease(
        Effect.sync(() => enter(key, mode, owner)),
        ({ line, claim, promise }) => {
          if (line.held.has(claim)) return use;
          const granted = Effect.promise(() => promise);
          const turn =
            owner === undefined
              ? granted
              : Effect.raceFirst(
                  granted,
                  Effect.flatMap(pastDeadline(owner), () => Effect.flatMap(held(key, line), Effect.fail)),
                );
          return Effect.andThen(turn, use);
        },
        ({ line, claim }) => Effect.sync(() => leave(key, line, claim)),
      );
    });

  return {
    withLock,
    table: () =>
      [...lines].map(([key, line]) => ({
        key,
        holders: [...line.held].map(({ owner }) => owner),
        waiting: line.waiting.length,
      })),
  };
};
