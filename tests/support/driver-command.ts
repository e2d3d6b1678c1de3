/**
 * The command that starts the driver as a process: from the checkout as `npm start` does, or the executable that the
 * variable DRIVER names (`DRIVER=dist/csi-rbd npm test`).
 *
 * Not here: flags, and the process itself (./driver-process.ts, tests/ceph/driver.ts).
 */
import { isAbsolute, join } from "node:path";
import { ENGINE_SETTINGS } from "../../lib/process/engine-settings.ts";

const checkout = join(import.meta.dir, "../..");

export interface DriverCommand {
  readonly argv: readonly string[];
  /** Besides this process's own variables. The executable brings its settings itself. */
  readonly env: Readonly<Record<string, string>>;
}

/** Path of the executable under test; undefined: the checkout is. */
export const executable = (): string | undefined => {
  const path = process.env["DRIVER"] ?? "";
  if (path === "") return undefined;
  return isAbsolute(path) ? path : join(checkout, path);
};

/** `main` is the file that Bun runs where there is no executable. */
export const driverCommand = (main = join(checkout, "services/main.ts")): DriverCommand => {
  const path = executable();
  return path === undefined ? { argv: [process.execPath, main], env: ENGINE_SETTINGS } : { argv: [path], env: {} };
};
