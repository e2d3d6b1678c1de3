/**
 * What a Ceph daemon said before it ended.
 *
 * Not here: who starts and watches daemons, which is ceph.ts.
 */
import { readFileSync } from "node:fs";

export type Daemon = "mon.a" | "mgr.x" | "osd.0";

const LINES = 30;
/** After the report of a crash a daemon writes thousands of lines that it had kept in memory. */
const DUMP = "--- begin dump of recent events ---";

const linesOf = (file: string): ReadonlyArray<string> => {
  try {
    return readFileSync(file, "utf8").trimEnd().split("\n");
  } catch {
    return [];
  }
};

/** The daemon's name, how it ended, and the end of its log, which is the crash where there was one. */
export const lastWords = (dir: string, name: Daemon, end: string | number | null): string => {
  const lines = linesOf(`${dir}/log/${name}.log`);
  const dump = lines.indexOf(DUMP);
  const words = (dump === -1 ? lines : lines.slice(0, dump)).slice(-LINES);
  const how = typeof end === "string" ? `signal ${end}` : `exit status ${end}`;
  return [
    `${name} ended with ${how}, though nobody stopped it`,
    "Its last words:",
    ...words.map((line) => `    ${line}`),
  ].join("\n");
};
