/**
 * The outside of a process as layers: its configuration, Ceph, this machine, Kubernetes. Tests bring a world
 * in memory (tests/support); everything else of a test is then the product's own.
 *
 * Not here: which role needs which part (services/).
 *
 * 1. A layer is made once per world, and is built only if a role names it: a plugin without a node starts no host cells.
 */
import * as Layer from "effect/Layer";
import type { Ceph } from "../ceph/ceph.ts";
import { cephLayerLive } from "../ceph/live/live.ts";
import { ClusterSecrets } from "../config/cluster-secrets.ts";
import { Clusters } from "../config/clusters.ts";
import type { Flags } from "../config/flags.ts";
import { ClusterMapping } from "../config/mapping.ts";
import { DriverSettings } from "../config/settings.ts";
import type { Host } from "../host/host.ts";
import { hostLayerLive } from "../host/live.ts";
import type { Kms } from "../kms/kms.ts";
import { kmsLayerLive } from "../kms/live.ts";
import type { Kube } from "../kube/kube.ts";
import { Placement } from "../kube/placement.ts";
import { kubeAccess, type KubeconfigVariable } from "../kube/kubeconfig.ts";
import { kubeLayer } from "../kube/request.ts";
import { Locks } from "../operations/locks.ts";
import { Operations } from "../operations/pipeline.ts";
import type { RoleError } from "./role.ts";

/** The services that read the administrator's files and the flags. */
export type Configuration = Clusters | ClusterMapping | ClusterSecrets | DriverSettings;

export interface World {
  readonly configuration: Layer.Layer<Configuration>;
  readonly ceph: Layer.Layer<Ceph, RoleError>;
  readonly host: Layer.Layer<Host, RoleError>;
  /** The place of this node in the cluster. */
  readonly placement: Layer.Layer<Placement, RoleError>;
  /** The key stores of encrypted volumes. */
  readonly kms: Layer.Layer<Kms>;
  /** The API of Kubernetes. */
  readonly kube: Layer.Layer<Kube, RoleError>;
}

/** ceph-csi's client has a variable of its own, and controller-runtime, in its controller, reads that of kubectl. */
const KUBECONFIG_VARIABLES: Readonly<Record<Flags["type"], readonly KubeconfigVariable[]>> = {
  rbd: ["KUBERNETES_CONFIG_PATH"],
  liveness: [],
  controller: ["KUBERNETES_CONFIG_PATH", "KUBECONFIG"],
};

/** Makes the real world from the flags, and from the variables that say how to reach Kubernetes. */
export const liveWorld = (flags: Flags): World => {
  const access = kubeAccess(flags.kubeconfig, process.env, KUBECONFIG_VARIABLES[flags.type]);
  return {
    configuration: Layer.mergeAll(
      Clusters.layer(flags.configDir, { readAffinity: flags.enableReadAffinity }),
      ClusterMapping.layer(flags.configDir),
      ClusterSecrets.layer(flags.secretsDir),
      DriverSettings.layer(flags),
    ),
    ceph: cephLayerLive({
      cells: flags.cells,
      osdTimeout: flags.osdTimeout,
      monTimeout: flags.monTimeout,
      connectTimeout: flags.connectTimeout,
      cephConf: flags.cephConf,
    }),
    host: hostLayerLive({ cells: flags.hostCells }),
    placement: Placement.layer(flags, access),
    kms: kmsLayerLive({ kmsConfig: flags.kmsConfig, access }),
    kube: kubeLayer(access),
  };
};

/** The layers that every role needs that works on volumes. */
export const volumesLayer = (world: World): Layer.Layer<Configuration | Ceph | Kms | Locks | Operations, RoleError> =>
  Layer.mergeAll(world.configuration, world.ceph, world.kms, Locks.layer, Operations.layer);
