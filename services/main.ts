/**
 * The executable: `bun run start -- --type=rbd …` runs this file, and so does the compiled one.
 *
 * Not here: what a verb does. A verb is a line below; a role is a file beside this one (lib/process/role.ts).
 */
// First, because it may start the process anew.
import "../lib/process/engine-settings.ts";
import { runCommandLine, runRoles, type Verb } from "../lib/process/command-line.ts";
import { type Flags, usage } from "../lib/config/flags.ts";
import type { AnyRole } from "../lib/process/role.ts";
import { versionText } from "../lib/process/version.ts";
import { liveWorld, type World } from "../lib/process/world.ts";
import { driverRoles } from "./driver.ts";
import { journalControllerRole } from "./journal-controller.ts";
import { livenessRole } from "./liveness.ts";

const help = (): string => {
  const lines = Object.entries(verbs).map(([name, verb]) => `  ${name.padEnd(8)} ${verb.help}`);
  return ["csi-rbd [verb] [argument …]", "", "Verbs:", ...lines, "", usage()].join("\n");
};

/** The roles that each `--type` runs. */
const ROLES: Readonly<Record<Flags["type"], (flags: Flags, world: World) => readonly AnyRole[]>> = {
  rbd: driverRoles,
  liveness: (flags) => [livenessRole(flags)],
  controller: () => [journalControllerRole],
};

export const rolesOf = (flags: Flags, world: World = liveWorld(flags)) => ROLES[flags.type](flags, world);

const driver: Verb = {
  help: "serves CSI as the flags below say; the default verb",
  run: runRoles((flags) => rolesOf(flags), help),
};

const verbs: Readonly<Record<string, Verb>> = {
  driver,
  help: { help: "prints this", run: () => console.log(help()) },
  version: {
    help: "prints the version, and that of Bun and of Ceph's libraries",
    run: () => console.log(versionText()),
  },
};

if (import.meta.main) runCommandLine({ verbs, otherwise: driver }, process.argv.slice(2));
