/**
 * The services of CSI-Addons, on a socket of their own (`--csi-addons-endpoint`): what the sidecar of the CSI-Addons
 * project asks of a driver besides CSI.
 *
 * Not here: what a service does. Each is a file beside this one that exports an AddOn, and a word in `addOnsOf`.
 *
 * 1. GetCapabilities offers exactly what is served on this socket: each service brings its own capabilities.
 * 2. The services work with the same locks and operations as those of CSI (lib/process/world.ts), so a call of one waits
 *    for a call of the other, and names it.
 * 3. A driver whose command line does not name the socket starts without it where it cannot be served.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { DEFAULT_ADDONS_ENDPOINT } from "../lib/config/flag-table.ts";
import type { Flags } from "../lib/config/flags.ts";
import { type CapabilitySchema, Capability_Service_Type as Side, Identity } from "../lib/gen/csi_addons_identity_pb.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { type AnyRole, type Role, role } from "../lib/process/role.ts";
import { VERSION } from "../lib/process/version.ts";
import type { World } from "../lib/process/world.ts";
import { keyRotation } from "./key-rotation.ts";
import { networkFence } from "./network-fence.ts";
import { reclaimSpaceController, reclaimSpaceNode } from "./reclaim-space.ts";

export type Capability = Exclude<MessageInitShape<typeof CapabilitySchema>, { readonly $typeName: string }>;

/** One service of CSI-Addons, and what GetCapabilities says of it. */
export interface AddOn<R extends AnyRole = AnyRole> {
  readonly role: R;
  readonly offers: readonly Capability[];
}

const addOnsOf = (flags: Flags, world: World) => [
  networkFence(flags, world),
  ...(flags.controllerServer ? [reclaimSpaceController(world)] : []),
  ...(flags.nodeServer ? [reclaimSpaceNode(world), keyRotation(world)] : []),
];

const side = (type: Side): Capability => ({ type: { case: "service", value: { type } } });

/** Which sides of CSI this process is. */
const sidesOf = ({ controllerServer, nodeServer }: Flags): readonly Capability[] => [
  ...(controllerServer ? [side(Side.CONTROLLER_SERVICE)] : []),
  ...(nodeServer ? [side(Side.NODE_SERVICE)] : []),
];

/** `offers`: what is served next to it. */
export const addOnsIdentity = (name: string, offers: readonly Capability[]) =>
  ({
    getIdentity: () => Effect.succeed({ name, vendorVersion: VERSION, manifest: {} }),
    getCapabilities: () => Effect.succeed({ capabilities: [...offers] }),
    probe: () => Effect.succeed({ ready: true }),
  }) satisfies ServiceImpl<typeof Identity>;

const identityRole = (flags: Flags, offers: readonly Capability[]): Role<never> =>
  role({
    name: "CSI-Addons",
    layer: Layer.empty,
    serves: [served(Identity, addOnsIdentity(flags.driverName, [...sidesOf(flags), ...offers]))],
  });

/** Nothing where `--csi-addons-endpoint` is empty. */
export const addOnRoles = (flags: Flags, world: World) => {
  const endpoint = flags.addonsEndpoint;
  if (endpoint === "") return [];
  const spareEndpoint = endpoint === DEFAULT_ADDONS_ENDPOINT;
  const addOns = addOnsOf(flags, world);
  const identity = identityRole(
    flags,
    addOns.flatMap(({ offers }) => offers),
  );
  return [identity, ...addOns.map((each) => each.role)].map((each) => ({ ...each, endpoint, spareEndpoint }));
};
