/**
 * The executable: `bun run start -- --type=rbd …` runs this file, and so does the compiled one.
 *
 * Not here: what a verb does. A verb is a line below; a role is a file beside this one (lib/process/role.ts).
 */
// First, because it may start the process anew.
import "../lib/process/engine-settings.ts";
import {
  type Program,
  type ProgramFlags,
  runCommandLine,
  runProgram,
  runRoles,
  type Verb,
} from "../lib/process/command-line.ts";
import { attacherUsage, parseAttacherFlags } from "../lib/config/attacher-flags.ts";
import { type Flags, usage } from "../lib/config/flags.ts";
import { livenessprobeUsage, parseLivenessprobeFlags } from "../lib/config/livenessprobe-flags.ts";
import { parseRegistrarFlags, registrarUsage } from "../lib/config/registrar-flags.ts";
import type { AnyRole } from "../lib/process/role.ts";
import { versionText } from "../lib/process/version.ts";
import { liveWorld, type World } from "../lib/process/world.ts";
import { attacherRoles } from "./attacher.ts";
import { driverRoles } from "./driver.ts";
import { livenessprobeRoles } from "./health.ts";
import { journalControllerRole } from "./journal-controller.ts";
import { livenessRole } from "./liveness.ts";
import { registrarRoles } from "./registrar.ts";

const help = (): string => {
  const lines = Object.entries(verbs).map(([name, verb]) => `  ${name.padEnd(13)} ${verb.help}`);
  return ["csi-rbd [verb] [argument …]", "", "Verbs:", ...lines, "", usage()].join("\n");
};

/** The roles that each `--type` runs. */
const ROLES: Readonly<Record<Flags["type"], (flags: Flags, world: World) => readonly AnyRole[]>> = {
  rbd: driverRoles,
  liveness: (flags) => [livenessRole(flags)],
  controller: (flags, world) => [journalControllerRole(flags, world)],
};

export const rolesOf = (flags: Flags, world: World = liveWorld(flags)) => ROLES[flags.type](flags, world);

const driver: Verb = {
  help: "serves CSI as the flags below say; the default verb",
  run: runRoles((flags) => rolesOf(flags), help),
};

/** A program with flags of its own. */
const sidecar = <F extends ProgramFlags>(help: string, program: Program<F>): Verb => ({
  help,
  run: runProgram(program),
});

const verbs: Readonly<Record<string, Verb>> = {
  driver,
  registrar: sidecar("registers any CSI driver with kubelet, as node-driver-registrar does", {
    parse: parseRegistrarFlags,
    rolesOf: registrarRoles,
    help: registrarUsage,
  }),
  attacher: sidecar("attaches the volumes of any CSI driver, as external-attacher does", {
    parse: parseAttacherFlags,
    rolesOf: attacherRoles,
    help: attacherUsage,
  }),
  livenessprobe: sidecar("tells over HTTP whether any CSI driver lives, as livenessprobe does", {
    parse: parseLivenessprobeFlags,
    rolesOf: livenessprobeRoles,
    help: livenessprobeUsage,
  }),
  help: { help: "prints this", run: () => console.log(help()) },
  version: {
    help: "prints the version, and that of Bun and of Ceph's libraries",
    run: () => console.log(versionText()),
  },
};

if (import.meta.main) runCommandLine({ verbs, otherwise: driver }, process.argv.slice(2));
