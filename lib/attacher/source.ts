/**
 * What of a volume the driver is told: from a PersistentVolume, from a volume that stands in the attachment itself, or
 * from one that an in-tree plugin made and Kubernetes migrated. Pure.
 *
 * 1. An in-tree RBD volume gets the handle and the attributes that kubelet gives the driver for it, so that both name one
 *    volume.
 */
import { createHash } from "node:crypto";
import * as Data from "effect/Data";
import * as Result from "effect/Result";
import type { AccessMode, CsiAbilities, PublishRequest } from "./csi-driver.ts";
import type { SecretReference, VolumeSpec } from "./objects.ts";

/** An attachment that cannot be made as its objects are. */
export class NotAttachable extends Data.TaggedError("NotAttachable")<{ readonly message: string }> {}

const refuse = (message: string) => Result.fail(new NotAttachable({ message }));

export type Source = Omit<PublishRequest, "nodeId" | "secrets"> & { readonly secret: SecretReference | undefined };

/** `what` names the volume in messages. */
export const sourceOf = (
  spec: VolumeSpec,
  what: string,
  abilities: CsiAbilities,
  defaultFsType: string,
): Result.Result<Source, NotAttachable> =>
  Result.gen(function* () {
    const { csi, accessModes } = yield* csiVolume(spec, what, "this attacher cannot attach it");
    const mode = yield* accessMode(accessModes, what, abilities.singleNodeMultiWriter);
    const fsType = csi.fsType === "" ? defaultFsType : csi.fsType;
    return {
      volumeId: csi.volumeHandle,
      access: spec.volumeMode === "Block" ? ("block" as const) : { fsType, mountFlags: spec.mountOptions },
      mode,
      readOnly: abilities.publishReadOnly && csi.readOnly,
      volumeContext: csi.volumeAttributes,
      secret: csi.controllerPublishSecretRef,
    };
  });

/** The CSI volume that a spec is, or was migrated to. `cannot`: what cannot be done with any other. */
export const csiVolume = (
  spec: VolumeSpec,
  what: string,
  cannot: string,
): Result.Result<VolumeSpec & { readonly csi: NonNullable<VolumeSpec["csi"]> }, NotAttachable> => {
  const { csi, ...rest } = migrated(spec);
  return csi === undefined
    ? refuse(`${what} is not a CSI volume, and no in-tree RBD volume: ${cannot}`)
    : Result.succeed({ ...rest, csi });
};

const IN_TREE_IMAGE = "kubernetes-dynamic-pvc-";

/** An in-tree RBD volume as the CSI volume that it is now; any other as it is. */
export const migrated = (spec: VolumeSpec): VolumeSpec => {
  const { rbd } = spec;
  if (rbd === undefined || spec.csi !== undefined) return spec;
  const clusterID = createHash("md5").update(rbd.monitors.join(",")).digest("hex");
  const image = rbd.image.replace(IN_TREE_IMAGE, "");
  return {
    ...spec,
    accessModes: [rbd.readOnly ? "ReadOnlyMany" : "ReadWriteOnce"],
    csi: {
      driver: "rbd.csi.ceph.com",
      volumeHandle: `mig_mons-${clusterID}_image-${image}_${Buffer.from(rbd.pool).toString("hex")}`,
      readOnly: false,
      fsType: rbd.fsType,
      volumeAttributes: {
        staticVolume: "true",
        clusterID,
        imageName: rbd.image,
        pool: rbd.pool,
        imageFeatures: "layering",
        migration: "true",
        tryOtherMounters: "true",
      },
    },
  };
};

const MODES: Readonly<Record<string, readonly [plain: AccessMode, precise: AccessMode]>> = {
  ReadWriteMany: ["MULTI_NODE_MULTI_WRITER", "MULTI_NODE_MULTI_WRITER"],
  ReadOnlyMany: ["MULTI_NODE_READER_ONLY", "MULTI_NODE_READER_ONLY"],
  ReadWriteOnce: ["SINGLE_NODE_WRITER", "SINGLE_NODE_MULTI_WRITER"],
  ReadWriteOncePod: ["SINGLE_NODE_WRITER", "SINGLE_NODE_SINGLE_WRITER"],
};

/** CSI has one mode per call, Kubernetes a list per volume. */
const accessMode = (
  modes: readonly string[],
  what: string,
  precise: boolean,
): Result.Result<AccessMode, NotAttachable> => {
  const has = (mode: string) => modes.includes(mode);
  const listed = modes.join(", ");
  if (modes.length === 0) return refuse(`${what} has no access modes`);
  if (has("ReadWriteOncePod") && modes.length > 1)
    return refuse(`${what} has the access modes ${listed}: ReadWriteOncePod excludes others`);
  if (has("ReadWriteOnce") && has("ReadOnlyMany") && !has("ReadWriteMany"))
    return refuse(`${what} has the access modes ${listed}, which CSI cannot express together`);
  const chosen = Object.entries(MODES).find(([mode]) => has(mode))?.[1];
  if (chosen === undefined) return refuse(`${what} has the access modes ${listed}, which this attacher does not know`);
  return Result.succeed(chosen[precise ? 1 : 0]);
};
