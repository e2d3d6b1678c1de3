/**
 * A driver that is killed at moments a seed chooses and started again, for tests of what its death leaves.
 *
 * Not a graceful stop: SIGKILL, as the kernel does it. Callers see their calls fail and ask again.
 */
import { codeName } from "../../lib/grpc/status.ts";
import { type Driver, type DriverOptions, startDriver } from "./driver.ts";
import { isFailed } from "./requests.ts";

export interface Mortal {
  /** The driver that serves now, or the next one. */
  readonly current: () => Promise<Driver>;
  readonly deaths: () => number;
  /** Ends the killing; the driver that serves then is left running. */
  readonly spare: () => Promise<Driver>;
}

export interface KillOptions extends DriverOptions {
  readonly chance: () => number;
  /** The shortest and the longest life of a driver, in milliseconds from its first answer. */
  readonly life: readonly [number, number];
}

/** The first drivers die soon, so that a quick machine sees deaths, too. */
const SHORT_LIVES = 4;

export const startMortal = async ({ chance, life: [shortest, longest], ...options }: KillOptions): Promise<Mortal> => {
  const state = { spared: false };
  let deaths = 0;
  let current = startDriver(options);
  await current;
  const reign = async (): Promise<void> => {
    while (!state.spared) {
      const driver = await current;
      // short lives are the likelier ones: the first calls of a driver are those that heal
      await Bun.sleep(deaths < SHORT_LIVES ? shortest : shortest + (longest - shortest) * chance() ** 2);
      if (state.spared) return;
      current = driver.end("SIGKILL").then(() => startDriver(options));
      deaths += 1;
    }
  };
  const over = reign();
  return {
    current: () => current,
    deaths: () => deaths,
    spare: async () => {
      state.spared = true;
      await over;
      return current;
    },
  };
};

export interface Patience {
  /** Milliseconds of one call with all its tries. */
  readonly limit: number;
  /** Milliseconds; calls that took longer are told at the end. */
  readonly slow: number;
  /** Names that differ from one try to the next, besides UUIDs and numbers. */
  readonly names: RegExp;
}

/** Callers of a driver that is killed, as the sidecars are: they ask again after each failure, until the answer is OK. */
export const patientCallers = (current: () => Promise<Driver>, { limit, slow, names }: Patience) => {
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
      const driver = await current();
      try {
        const answer = await call(driver);
        const ms = Date.now() - started;
        if (ms > slow) late.push(`${what}: ${ms} ms`);
        return answer;
      } catch (error) {
        if (!isFailed(error)) throw error;
        const reason = `${what.split(" ")[0]} ${codeName(error.code)}: ${withoutNames(error.details)}`;
        told.set(reason, (told.get(reason) ?? 0) + 1);
        if (Date.now() - started > limit) throw new Error(`${what} never became OK`, { cause: error });
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
