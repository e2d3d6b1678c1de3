/** Processes of the machine that the tests run on, told by their command lines: words that each end with a zero byte. */
import { readdirSync, readFileSync } from "node:fs";

/** The ids of those whose command line fits. One that has ended has none. */
export const processesWith = (fits: (commandLine: string) => boolean): number[] =>
  readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      return fits(readFileSync(`/proc/${name}/cmdline`, "utf8")) ? [Number(name)] : [];
    } catch {
      // it has ended since
      return [];
    }
  });

/** The id of the first one that there is. `call`: what starts it; fails if that ends before. */
export const processOf = async (fits: (commandLine: string) => boolean, call: Promise<unknown>): Promise<number> => {
  const over = new AbortController();
  const end = () => over.abort();
  void call.then(end, end);
  while (!over.signal.aborted) {
    const [pid] = processesWith(fits);
    if (pid !== undefined) return pid;
    await Bun.sleep(5);
  }
  throw new Error("the call ended before its process was found");
};
