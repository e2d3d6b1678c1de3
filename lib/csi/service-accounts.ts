/**
 * The ServiceAccounts whose pods may have a volume, which an administrator writes into the metadata of its image:
 * `rbd image-meta set POOL/IMAGE .rbd.csi.ceph.com/serviceaccount writer,reader`. The key and the form are ceph-csi's. Pure.
 *
 * Not here: where a node keeps them (lib/node/image-meta.ts), and the refusal (lib/node/publish.ts).
 *
 * 1. kubelet tells the ServiceAccount of a pod only if the CSIDriver object has `podInfoOnMount: true`.
 * 2. Only the name counts, in whatever namespace: a claim is used in its own namespace alone.
 */

/** Of the image. librbd copies no key that begins with a dot to a clone: a copy is for all pods. */
export const SERVICE_ACCOUNTS = ".rbd.csi.ceph.com/serviceaccount";

/** Of what ControllerPublishVolume answers and kubelet hands to the node. */
export const PUBLISHED_ACCOUNTS = "serviceAccount";

/** Of the volume context of a publish. */
export const POD_ACCOUNT = "csi.storage.k8s.io/serviceAccount.name";

/** The names in a list, without the blanks around them. */
export const accountsIn = (list: string): readonly string[] =>
  list
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
