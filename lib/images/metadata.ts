/**
 * Image metadata that names what Kubernetes made an image for. A clone inherits its parent's: what is the other kind's
 * has to go.
 */
import type { VolumeOptions } from "../config/settings.ts";

type Parameters = Readonly<Record<string, string>>;

const PREFIX = "csi.storage.k8s.io/";
const VOLUME_KEYS = ["pvc/name", "pvc/namespace", "pv/name"].map((key) => PREFIX + key);
const SNAPSHOT_KEYS = ["volumesnapshot/name", "volumesnapshot/namespace", "volumesnapshotcontent/name"].map(
  (key) => PREFIX + key,
);
const CLUSTER_KEY = "csi.ceph.com/cluster/name";

/** The namespace of a claim: what encryption keys are looked up by. */
export const ownerOf = (parameters: Parameters): string | undefined =>
  parameters[`${PREFIX}pvc/namespace`] || undefined;

/** What to write (a text) and what to take away (`undefined`) on an image, `cloned` if it may have inherited. */
const entries = (
  keys: readonly string[],
  foreign: readonly string[],
  { setMetadata, clusterName }: VolumeOptions,
  parameters: Parameters,
  cloned: boolean,
): Readonly<Record<string, string | undefined>> => ({
  ...(cloned && Object.fromEntries([...foreign, CLUSTER_KEY].map((key) => [key, undefined]))),
  ...(setMetadata && Object.fromEntries(keys.flatMap((key) => (parameters[key] ? [[key, parameters[key]]] : [])))),
  ...(setMetadata && clusterName !== "" && { [CLUSTER_KEY]: clusterName }),
});

export const volumeMetadata = (options: VolumeOptions, parameters: Parameters, cloned: boolean) =>
  entries(VOLUME_KEYS, SNAPSHOT_KEYS, options, parameters, cloned);

export const snapshotMetadata = (options: VolumeOptions, parameters: Parameters) =>
  entries(SNAPSHOT_KEYS, VOLUME_KEYS, options, parameters, true);

/** Of an intermediate image: it is neither's. */
export const noMetadata: Readonly<Record<string, undefined>> = Object.fromEntries(
  [...VOLUME_KEYS, CLUSTER_KEY].map((key) => [key, undefined]),
);
