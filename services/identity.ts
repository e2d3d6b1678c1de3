/**
 * The CSI Identity service: who the driver is, what it offers, whether it works. Served on every socket.
 *
 * 1. It waits for nothing but `ready`, so Probe answers while every other call hangs.
 * 2. A capability is offered only when its service is: a node plugin that offers CONTROLLER_SERVICE it doesn't have
 *    misleads whoever asks it (ceph-csi does so).
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type { Flags } from "../lib/config/flags.ts";
import {
  Identity,
  type PluginCapabilitySchema,
  PluginCapability_Service_Type as Offered,
  PluginCapability_VolumeExpansion_Type as Expansion,
} from "../lib/gen/csi_pb.ts";
import { type ServiceImpl, served } from "../lib/grpc/service.ts";
import { type Role, role } from "../lib/process/role.ts";
import { VERSION } from "../lib/process/version.ts";

export interface IdentityOptions<R = never> {
  /** The name by which StorageClasses and PersistentVolumes refer to the driver. */
  readonly name: string;
  readonly version?: string;
  /** The Controller service is served on the same socket. */
  readonly controller?: boolean;
  readonly groupController?: boolean;
  readonly snapshotMetadata?: boolean;
  /** Volumes are out of reach for some nodes: the CO has to schedule by topology. */
  readonly accessibilityConstraints?: boolean;
  /** Snapshots can be restored only where their pool can be reached. */
  readonly snapshotAccessibilityConstraints?: boolean;
  /** False while the driver can't serve yet; must answer in milliseconds. */
  readonly ready: Effect.Effect<boolean, never, R>;
}

export const identity = <R = never>(options: IdentityOptions<R>): ServiceImpl<typeof Identity, R> => ({
  getPluginInfo: () => Effect.succeed({ name: options.name, vendorVersion: options.version ?? VERSION, manifest: {} }),
  getPluginCapabilities: () => Effect.succeed({ capabilities: capabilities(options) }),
  probe: () => Effect.map(options.ready, (ready) => ({ ready })),
});

type Capability = MessageInitShape<typeof PluginCapabilitySchema>;

const capabilities = <R>(options: IdentityOptions<R>): Capability[] => {
  const services: readonly (readonly [boolean | undefined, Offered])[] = [
    [options.controller, Offered.CONTROLLER_SERVICE],
    [options.accessibilityConstraints, Offered.VOLUME_ACCESSIBILITY_CONSTRAINTS],
    [options.groupController, Offered.GROUP_CONTROLLER_SERVICE],
    [options.snapshotMetadata, Offered.SNAPSHOT_METADATA_SERVICE],
    [options.snapshotAccessibilityConstraints, Offered.SNAPSHOT_ACCESSIBILITY_CONSTRAINTS],
  ];
  return [
    ...services.flatMap(([offered, type]): Capability[] =>
      offered === true ? [{ type: { case: "service", value: { type } } }] : [],
    ),
    { type: { case: "volumeExpansion", value: { type: Expansion.ONLINE } } },
  ];
};

/** The Identity of a driver with these flags. It offers the services that are served next to it. */
export const identityRole = ({ driverName, controllerServer }: Flags): Role<never> =>
  role({
    name: "identity",
    layer: Layer.empty,
    serves: [
      served(
        Identity,
        identity({
          name: driverName,
          controller: controllerServer,
          groupController: controllerServer,
          snapshotMetadata: controllerServer,
          accessibilityConstraints: true,
          snapshotAccessibilityConstraints: controllerServer,
          ready: Effect.succeed(true),
        }),
      ),
    ],
  });
