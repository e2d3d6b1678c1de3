/**
 * A driver that is killed at moments a seed chooses and started again, for tests of what its death leaves.
 *
 * Not a graceful stop: SIGKILL, as the kernel does it. Callers see their calls fail and ask again.
 */
import { type Driver, type DriverOptions, startDriver } from "./driver.ts";

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

export const startMortal = async ({ chance, life: [shortest, longest], ...options }: KillOptions): Promise<Mortal> => {
  const state = { spared: false };
  let deaths = 0;
  let current = startDriver(options);
  await current;
  const reign = async (): Promise<void> => {
    while (!state.spared) {
      const driver = await current;
      // short lives are the likelier ones: the first calls of a driver are those that heal
      await Bun.sleep(shortest + (longest - shortest) * chance() ** 2);
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
