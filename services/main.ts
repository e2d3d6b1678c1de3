/**
 * The executable: `bun run start -- --type=rbd …` runs this file, and so does the compiled one.
 *
 * Not here: what a verb does. A verb is a line below; a role is a file beside this one (lib/process/role.ts).
 */
import { runCommandLine, runRoles, type Verb } from "../lib/process/command-line.ts";
import { usage } from "../lib/config/flags.ts";
import { VERSION } from "../lib/process/version.ts";
import { liveWorld } from "../lib/process/world.ts";
import { driverRoles } from "./driver.ts";

const help = (): string => {
  const lines = Object.entries(verbs).map(([name, verb]) => `  ${name.padEnd(8)} ${verb.help}`);
  return ["csi-rbd [verb] [argument …]", "", "Verbs:", ...lines, "", usage()].join("\n");
};

const driver: Verb = {
  help: "serves CSI as the flags below say; this verb may be left out",
  run: runRoles((flags) => driverRoles(flags, liveWorld(flags)), help),
};

const verbs: Readonly<Record<string, Verb>> = {
  driver,
  help: { help: "prints this", run: () => console.log(help()) },
  version: { help: "prints the version", run: () => console.log(VERSION) },
};

if (import.meta.main) runCommandLine({ verbs, otherwise: driver }, process.argv.slice(2));
