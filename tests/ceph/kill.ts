/**
 * A driver that is killed at moments a seed chooses and started again, for tests of what its death leaves.
 *
 * Not a graceful stop: SIGKILL, as the kernel does it. Callers see their calls fail and ask again.
 * Invariants:
 * 1. No driver dies before it answered one call with OK, so that every life brings the callers on.
 * 2. Lives are as long as calls and starts take on this machine, and past `killUntil` nobody dies: the callers get
 *    through on a slow machine, too.
 * 3. An attempt begins when the one before it has ended, with all that it started; it has a folder and a pool of its
 *    own.
 */
import { codeName } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Driver, type DriverOptions, startDriver, testFolder, writeConfig } from "./driver.ts";
import { makePool } from "./inventory.ts";
import { CLUSTER, isFailed } from "./requests.ts";

export interface Mortal {
  /** The driver that serves now, or the next one. */
  readonly current: () => Promise<Driver>;
  /** Tells that a driver answered a call with OK, and after how many milliseconds. */
  readonly answered: (driver: Driver, ms: number) => void;
  /** Milliseconds that a call takes on this machine: the median of the last answers. */
  readonly callLength: () => number;
  readonly deaths: () => number;
  /** Ends the killing; the driver that serves then is left running. */
  readonly spare: () => Promise<Driver>;
}

export interface KillOptions extends DriverOptions {
  readonly chance: () => number;
  /** The longest life of a driver from its first answer: that many milliseconds, or calls' lengths if that is more. */
  readonly longest: { readonly ms: number; readonly calls: number };
  /** Time (`Date.now()`) after which nobody is killed. */
  readonly killUntil: number;
}

/** The first drivers die at their first answer, so that a quick machine sees deaths, too. */
const SHORT_LIVES = 4;
/** Answers of which the median tells how long a call takes. */
const RECENT = 50;

export const startMortal = async ({ chance, longest, killUntil, ...options }: KillOptions): Promise<Mortal> => {
  const over = Promise.withResolvers<void>();
  const state = { over: false };
  const endKilling = () => {
    state.over = true;
    over.resolve();
  };
  const timer = setTimeout(endKilling, killUntil - Date.now());
  let deaths = 0;
  const times: number[] = [];
  const callLength = (): number => times.toSorted((a, b) => a - b)[times.length >> 1] ?? 0;
  let heard = Promise.withResolvers<Driver>();
  let current = startDriver(options);
  await current;

  /** Starting takes a third of the time at most, whatever it takes. */
  const life = (startMs: number): number => {
    if (deaths < SHORT_LIVES) return 0;
    const most = Math.max(longest.ms, longest.calls * callLength(), 6 * startMs);
    // short lives are the likelier ones: the first calls of a driver are those that heal
    return most * chance() ** 2;
  };
  const reign = async (): Promise<void> => {
    for (let started = Date.now(); !state.over; started = Date.now()) {
      const driver = await current;
      const startMs = Date.now() - started;
      let answerer: Driver | undefined;
      while (answerer !== driver && !state.over) {
        answerer = (await Promise.race([heard.promise, over.promise])) ?? undefined;
        heard = Promise.withResolvers<Driver>();
      }
      await Promise.race([Bun.sleep(life(startMs)), over.promise]);
      if (state.over) return;
      current = driver.end("SIGKILL").then(() => startDriver(options));
      deaths += 1;
    }
  };
  const reigned = reign();
  return {
    current: () => current,
    answered: (driver, ms) => {
      times.push(ms);
      if (times.length > RECENT) times.shift();
      heard.resolve(driver);
    },
    callLength,
    deaths: () => deaths,
    spare: async () => {
      clearTimeout(timer);
      endKilling();
      await reigned;
      return current;
    },
  };
};

export interface Patience {
  /** Milliseconds of one call with all its tries; longer where a call itself takes more than a fortieth of it. */
  readonly limit: number;
  /** Milliseconds; calls that took longer are told at the end. */
  readonly slow: number;
  /** Names that differ from one try to the next, besides UUIDs and numbers. */
  readonly names: RegExp;
  /** Ends the callers: no call is begun after it. */
  readonly signal: AbortSignal;
}

/** Callers of a driver that is killed, as the sidecars are: they ask again after each failure, until the answer is OK. */
export const patientCallers = (mortal: Mortal, { limit, slow, names, signal }: Patience) => {
  /** What they were told besides OK, and how often. */
  const told = new Map<string, number>();
  const late: string[] = [];
  const withoutNames = (text: string): string =>
    text
      .replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "…")
      .replaceAll(names, "…")
      .replaceAll(/\d+/g, "…");

  /** -> the answer. `what` begins with a word for the kind of call. */
  const insist = async <A>(what: string, call: (driver: Driver) => Promise<A>): Promise<A> => {
    const started = Date.now();
    for (let wait = 20; ; wait = Math.min(wait * 2, 2000)) {
      const driver = await mortal.current();
      signal.throwIfAborted();
      const asked = Date.now();
      try {
        const answer = await call(driver);
        mortal.answered(driver, Date.now() - asked);
        const ms = Date.now() - started;
        if (ms > slow) late.push(`${what}: ${ms} ms`);
        return answer;
      } catch (error) {
        if (!isFailed(error)) throw error;
        const reason = `${what.split(" ")[0]} ${codeName(error.code)}: ${withoutNames(error.details)}`;
        told.set(reason, (told.get(reason) ?? 0) + 1);
        if (Date.now() - started > Math.max(limit, 40 * mortal.callLength()))
          throw new Error(`${what} never became OK`, { cause: error });
      }
      await Bun.sleep(wait);
    }
  };

  const report = (): string =>
    [
      ...[...told].toSorted(([, a], [, b]) => b - a).map(([text, times]) => `${times} x ${text}`),
      ...(late.length > 0 ? [`longer than ${slow / 1000} s: ${late.join(", ")}`] : []),
    ].join("\n");

  return { insist, report };
};

export interface Attempt {
  /** Its driver's folder, with the cluster in its configuration. */
  readonly dir: string;
  readonly pool: string;
  /** Part of every name that the attempt gives. */
  readonly mark: string;
  /** Aborted when the attempt is to end. */
  readonly signal: AbortSignal;
  /** Runs callers side by side. The first that fails ends the others, and all have ended when this rejects. */
  readonly together: (callers: readonly (() => Promise<void>)[]) => Promise<void>;
  /** Runs at the attempt's end, whatever it is; the last one first. */
  readonly atEnd: (undo: () => Promise<unknown>) => void;
}

/** Attempts at one test. The second one, where the first failed, shares nothing with it but the cluster. */
export const attempts = (prefix: string) => {
  let count = 0;
  let last: { readonly stop: AbortController; readonly ended: Promise<unknown> } | undefined;
  const end = async (): Promise<void> => {
    last?.stop.abort(new Error("the attempt is over"));
    await last?.ended;
  };
  const one = async (stop: AbortController, run: (attempt: Attempt) => Promise<void>): Promise<void> => {
    const undos: (() => Promise<unknown>)[] = [];
    try {
      const dir = testFolder(prefix);
      writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
      const pool = await makePool(prefix);
      undos.push(pool.remove);
      await run({
        dir,
        pool: pool.name,
        mark: `${prefix}${count}`,
        signal: stop.signal,
        together: async (callers) => {
          const ends = callers.map((caller) => caller());
          await Promise.all(ends).catch((error: unknown) => stop.abort(error));
          await Promise.allSettled(ends);
          stop.signal.throwIfAborted();
        },
        atEnd: (undo) => undos.push(undo),
      });
    } finally {
      // the attempt's own failure is the one to be told
      for (const undo of undos.toReversed()) await undo().catch((error: unknown) => console.error(error));
    }
  };
  return {
    begin: async (run: (attempt: Attempt) => Promise<void>): Promise<void> => {
      await end();
      count += 1;
      const stop = new AbortController();
      const running = one(stop, run);
      last = { stop, ended: running.catch(() => undefined) };
      await running;
    },
    end,
  };
};
