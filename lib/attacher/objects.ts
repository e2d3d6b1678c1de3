/**
 * The objects that an attacher reads, with the fields that it reads of them. Nothing else of them is kept in memory.
 *
 * Not here: where they come from (lib/kube/informer.ts) and what is written to them (./writes.ts).
 */
import * as z from "zod";

export const ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments";
export const VOLUMES = "/api/v1/persistentvolumes";
export const NODES = "/apis/storage.k8s.io/v1/csinodes";

/** Where the ID of the node is kept for the detach, when the node may be gone. */
export const NODE_ID = "csi.alpha.kubernetes.io/node-id";
/** Our own: the handle, for a detach after the PersistentVolume is gone. */
export const VOLUME_HANDLE = "csi-rbd/volume-handle";

/** On objects that this attacher keeps from going away. */
export const finalizerOf = (driver: string): string => `external-attacher/${driver.replaceAll(/[^a-zA-Z0-9-]/g, "-")}`;

const texts = z.record(z.string(), z.string());
const reference = z.object({ name: z.string().default(""), namespace: z.string().default("") });
export type SecretReference = z.infer<typeof reference>;

const csiShape = z.object({
  driver: z.string(),
  volumeHandle: z.string(),
  readOnly: z.boolean().default(false),
  fsType: z.string().default(""),
  volumeAttributes: texts.default({}),
  controllerPublishSecretRef: reference.optional(),
});

/** What is attached: of a PersistentVolume, or stated in the attachment itself. */
const volumeSpec = z.object({
  csi: csiShape.optional(),
  rbd: z
    .object({
      monitors: z.array(z.string()),
      image: z.string(),
      pool: z.string().default("rbd"),
      fsType: z.string().default(""),
      readOnly: z.boolean().default(false),
    })
    .optional(),
  accessModes: z.array(z.string()).default([]),
  mountOptions: z.array(z.string()).default([]),
  volumeMode: z.string().default("Filesystem"),
});
export type VolumeSpec = z.infer<typeof volumeSpec>;

const none: readonly string[] = [];
const metadata = z.object({
  name: z.string(),
  resourceVersion: z.string(),
  finalizers: z.array(z.string()).default([...none]),
  annotations: texts.default({}),
  deletionTimestamp: z.string().optional(),
});

const attachmentShape = z.object({
  metadata,
  spec: z.object({
    attacher: z.string(),
    nodeName: z.string(),
    source: z.object({ persistentVolumeName: z.string().nullish(), inlineVolumeSpec: volumeSpec.nullish() }),
  }),
  status: z
    .object({
      attached: z.boolean().default(false),
      attachError: z.unknown().optional(),
      detachError: z.unknown().optional(),
    })
    .optional(),
});

/** A VolumeAttachment. */
export interface Attachment {
  readonly name: string;
  readonly resourceVersion: string;
  readonly attacher: string;
  readonly nodeName: string;
  readonly volume: string | undefined;
  readonly inline: VolumeSpec | undefined;
  readonly finalizers: readonly string[];
  readonly nodeId: string | undefined;
  readonly handle: string | undefined;
  readonly deleting: boolean;
  readonly attached: boolean;
  readonly hasAttachError: boolean;
  readonly hasDetachError: boolean;
}

export const attachmentSchema = attachmentShape.transform(({ metadata: meta, spec, status }): Attachment => {
  const { finalizers, annotations } = meta;
  return {
    name: meta.name,
    resourceVersion: meta.resourceVersion,
    attacher: spec.attacher,
    nodeName: spec.nodeName,
    volume: spec.source.persistentVolumeName ?? undefined,
    inline: spec.source.inlineVolumeSpec ?? undefined,
    finalizers: finalizers.length === 0 ? none : finalizers,
    nodeId: annotations[NODE_ID],
    handle: annotations[VOLUME_HANDLE],
    deleting: meta.deletionTimestamp !== undefined,
    attached: status?.attached ?? false,
    hasAttachError: (status?.attachError ?? undefined) !== undefined,
    hasDetachError: (status?.detachError ?? undefined) !== undefined,
  };
});

/**
 * Whether a change asks for a look at once. What an attacher writes before it is done (an error, a finalizer) does not:
 * it would end the wait after a failure.
 */
export const isWorth = (before: Attachment | undefined, now: Attachment): boolean =>
  before === undefined ||
  before.attached !== now.attached ||
  before.deleting !== now.deleting ||
  before.volume !== now.volume ||
  !Bun.deepEquals(before.inline, now.inline);

/** Of a PersistentVolume what detaching and the finalizer need; attaching reads the whole of it. */
export interface Volume {
  readonly resourceVersion: string;
  readonly handle: string;
  readonly secret: SecretReference | undefined;
  readonly finalizers: readonly string[];
  readonly deleting: boolean;
  /** "" for one that is not CSI's. */
  readonly driver: string;
}

const wholeVolume = z.object({ metadata, spec: volumeSpec });
export type WholeVolume = z.infer<typeof wholeVolume>;
export const wholeVolumeSchema: z.ZodType<WholeVolume> = wholeVolume;

export const volumeOf = ({ metadata: meta, spec }: WholeVolume): Volume => ({
  resourceVersion: meta.resourceVersion,
  driver: spec.csi?.driver ?? "",
  handle: spec.csi?.volumeHandle ?? "",
  secret: spec.csi?.controllerPublishSecretRef,
  finalizers: meta.finalizers,
  deleting: meta.deletionTimestamp !== undefined,
});

export const volumeSchema = wholeVolume.transform(volumeOf);

/** A CSINode: the drivers that are registered on a node, and what each calls the node. */
export const nodeSchema = z
  .object({
    metadata: z.object({ resourceVersion: z.string() }),
    spec: z.object({ drivers: z.array(z.object({ name: z.string(), nodeID: z.string() })).nullish() }),
  })
  .transform(({ metadata: { resourceVersion }, spec }) => ({
    resourceVersion,
    ids: new Map((spec.drivers ?? []).map(({ name, nodeID }) => [name, nodeID] as const)),
  }));
