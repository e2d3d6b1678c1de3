/**
 * Image metadata that names the Kubernetes objects behind an image. A clone inherits the metadata of its parent, so keys
 * that do not get a value of their own are removed.
 */
import type { Settings } from "../config/settings.ts";

type Parameters = Readonly<Record<string, string>>;

const PREFIX = "csi.storage.k8s.io/";
const VOLUME_KEYS = ["pvc/name", "pvc/namespace", "pv/name"].map((key) => PREFIX + key);
const SNAPSHOT_KEYS = ["volumesnapshot/name", "volumesnapshot/namespace", "volumesnapshotcontent/name"].map(
  (key) => PREFIX + key,
);
const CLUSTER_KEY = "csi.ceph.com/cluster/name";

/** The namespace of a claim, by which encryption keys are looked up. */
export const ownerOf = (parameters: Parameters): string | undefined =>
  parameters[`${PREFIX}pvc/namespace`] || undefined;

/** The keys to write (a text) and to remove (`undefined`) on an image; `cloned` if it may have inherited some. */
const entries = (
  keys: readonly string[],
  foreign: readonly string[],
  { clusterName }: Settings,
  parameters: Parameters,
  cloned: boolean,
): Readonly<Record<string, string | undefined>> => ({
  ...(cloned && Object.fromEntries([...keys, ...foreign, CLUSTER_KEY].map((key) => [key, undefined]))),
  ...Object.fromEntries(keys.flatMap((key) => (parameters[key] ? [[key, parameters[key]]] : []))),
  ...(clusterName !== "" && { [CLUSTER_KEY]: clusterName }),
});

export const volumeMetadata = (options: Settings, parameters: Parameters, cloned: boolean) =>
  entries(VOLUME_KEYS, SNAPSHOT_KEYS, options, parameters, cloned);

export const snapshotMetadata = (options: Settings, parameters: Parameters) =>
  entries(SNAPSHOT_KEYS, VOLUME_KEYS, options, parameters, true);

/** For an image in between, which is neither a volume's nor a snapshot's. */
export const noMetadata: Readonly<Record<string, undefined>> = Object.fromEntries(
  [...VOLUME_KEYS, CLUSTER_KEY].map((key) => [key, undefined]),
);
