/**
 * The control group of rbd-nbd processes: outside of the driver's, because whatever ends the driver (a container engine,
 * systemd) ends all processes of its group.
 *
 * Loaded in host cells: no Effect. Best effort: where the groups cannot be written, the process ends with the driver, and
 * the next driver attaches another one.
 */
import { mkdirSync, writeFileSync } from "node:fs";

const ROOT = "/sys/fs/cgroup";
/** With control groups of version 1 the systemd hierarchy is the one by which processes are ended. */
const GROUPS = [`${ROOT}/csi-rbd-nbd`, `${ROOT}/systemd/csi-rbd-nbd`, `${ROOT}/unified/csi-rbd-nbd`];

export const leaveCgroup = (pid: number): void => {
  for (const group of GROUPS) {
    try {
      mkdirSync(group);
    } catch {
      // It exists, or there is no such hierarchy.
    }
    try {
      writeFileSync(`${group}/cgroup.procs`, String(pid), { flag: "r+" });
    } catch {
      // There is no such hierarchy, or it is read-only here.
    }
  }
};
