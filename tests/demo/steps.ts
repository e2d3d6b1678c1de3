/**
 * How the demo shows itself: numbered steps, each with its time and what exists afterwards; a failed one ends it.
 *
 * Not here: the story (./story.ts).
 */
import { spawnSync } from "node:child_process";

export interface Step {
  <A>(title: string, act: () => Promise<A>, exists: (made: A) => string | Promise<string>): Promise<A>;
}

export const makeStep = (): Step => {
  let number = 0;
  return async (title, act, exists) => {
    number += 1;
    const started = performance.now();
    const label = `${String(number).padStart(2)}  ${title}`;
    try {
      const made = await act();
      const took = ((performance.now() - started) / 1000).toFixed(2);
      console.log(`${label.padEnd(52)} ${took.padStart(6)} s   ${await exists(made)}`);
      return made;
    } catch (error) {
      console.log(`${label.padEnd(52)} FAILED`);
      throw error;
    }
  };
};

/** A command's output, without the newline at its end. */
export const output = (...[command, ...args]: readonly [string, ...string[]]): string => {
  const done = spawnSync(command, args, { encoding: "utf8", timeout: 60_000 });
  if (done.status !== 0) throw new Error(`${command} ${args.join(" ")}: ${done.stderr || done.error?.message}`);
  return done.stdout.trim();
};

/** For proofs of absence: what a pool holds, one name per line. */
export const expectEqual = (what: string, found: string, wanted: string): void => {
  if (found !== wanted) throw new Error(`${what}: found ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
};
