/**
 * The driver's roles: which services one process serves, as the flags ask.
 *
 * Not here: what a service does (the files beside this one) and the command line (./main.ts).
 *
 * 1. `--controllerserver` and `--nodeserver` choose as in ceph-csi: one, both, or with neither given both.
 * 2. No role talks to a cluster to start: a driver starts, and answers Probe, while its clusters are away.
 */
import type { Flags } from "../lib/config/flags.ts";
import type { World } from "../lib/process/world.ts";
import { attacherRole } from "./attacher.ts";
import { controllerRole } from "./controller.ts";
import { addOnRoles } from "./csi-addons.ts";
import { groupControllerRole } from "./group-controller.ts";
import { healthRole } from "./health.ts";
import { identityRole } from "./identity.ts";
import { nodeRole } from "./node.ts";
import { registrarRole } from "./registrar.ts";
import { snapshotMetadataRole } from "./snapshot-metadata.ts";

export const driverRoles = (flags: Flags, world: World) => [
  identityRole(flags),
  ...(flags.controllerServer
    ? [controllerRole(flags, world), groupControllerRole(world), snapshotMetadataRole(world)]
    : []),
  ...(flags.controllerServer && flags.attacher ? [attacherRole(flags, world)] : []),
  ...(flags.nodeServer ? [nodeRole(flags, world)] : []),
  ...addOnRoles(flags, world),
  ...(flags.httpEndpoint.length > 0 || flags.healthPort !== 0 ? [healthRole(flags)] : []),
  ...(flags.nodeServer && flags.kubeletRegistrationPath !== "" ? [registrarRole(flags)] : []),
];
