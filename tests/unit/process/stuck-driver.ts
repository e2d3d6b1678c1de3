/**
 * The driver over a Ceph in memory, as a process of its own, where an operation never ends: its image is never made.
 * With STUCK=uninterruptible it does not even end when it is interrupted, as a thread stuck in C would not.
 *
 * It says so on stdout when the operation is at that point.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { cephLayer } from "../../../lib/ceph/ceph.ts";
import { ClusterSecrets } from "../../../lib/config/cluster-secrets.ts";
import { Clusters } from "../../../lib/config/clusters.ts";
import { ClusterMapping, NO_MAPPING } from "../../../lib/config/mapping.ts";
import { DriverSettings } from "../../../lib/config/settings.ts";
import { runRoles } from "../../../lib/process/command-line.ts";
import { liveWorld } from "../../../lib/process/world.ts";
import { driverRoles } from "../../../services/driver.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { aCluster, EAST } from "../../support/world.ts";

const forever = process.env["STUCK"] === "uninterruptible" ? Effect.uninterruptible(Effect.never) : Effect.never;

const ceph = intercepted(cephMemoryService(aCluster()), ({ method }, act) =>
  method === "imageCreate"
    ? Effect.andThen(
        Effect.sync(() => console.log("stuck")),
        forever,
      )
    : act,
);

runRoles(
  (flags) =>
    driverRoles(flags, {
      ...liveWorld(flags),
      ceph: cephLayer(ceph),
      configuration: Layer.mergeAll(
        Clusters.layerOf([EAST]),
        ClusterMapping.layerOf(NO_MAPPING),
        ClusterSecrets.layerOf({}),
        DriverSettings.layer(flags),
      ),
    }),
  () => "",
)(process.argv.slice(2));
