/**
 * The volumes of a driver that Kubernetes has attached to a node, with what NodeStageVolume was given for each. A driver
 * that has just started knows of no stage before it.
 *
 * 1. A volume that cannot be read is left out, and the log says so: the others do not wait for it.
 * 2. That a volume is not attached is said only if the volume ID of every attachment is known.
 */
import * as Effect from "effect/Effect";
import * as z from "zod";
import type { KubeFailed } from "./errors.ts";
import { getIfThere, Kube } from "./kube.ts";
import { aSecret, secretPath, secretTexts } from "./secrets.ts";

const ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments";
const VOLUMES = "/api/v1/persistentvolumes";
const PAGE = 500;

export interface StagedOnNode {
  readonly volumeId: string;
  readonly volumeContext: Readonly<Record<string, string>>;
  readonly secrets: Readonly<Record<string, string>>;
  /** As in a PersistentVolume: ReadWriteOnce and so on. */
  readonly accessModes: readonly string[];
}

const attachment = z.object({
  spec: z.object({
    attacher: z.string(),
    nodeName: z.string(),
    source: z.object({ persistentVolumeName: z.string().nullish() }),
  }),
  status: z.object({ attached: z.boolean().default(false) }).optional(),
});

const csiSource = z.object({
  driver: z.string(),
  volumeHandle: z.string(),
  volumeAttributes: z.record(z.string(), z.string()).default({}),
  nodeStageSecretRef: z.object({ name: z.string(), namespace: z.string() }).optional(),
});
type CsiSource = z.infer<typeof csiSource>;

const volume = {
  kind: "a PersistentVolume",
  schema: z.object({
    spec: z.object({
      accessModes: z.array(z.string()).default([]),
      csi: csiSource.optional(),
    }),
  }),
};

/** What is attached to a node. */
export interface AttachedToNode {
  /** Those of which all can be read that NodeStageVolume was given. */
  readonly staged: readonly StagedOnNode[];
  /** The volume IDs of all; `undefined`: not all are known. */
  readonly volumeIds: readonly string[] | undefined;
}

export const attachedToNode = Effect.fnUntraced(function* (
  driverName: string,
  nodeName: string,
): Effect.fn.Return<AttachedToNode, KubeFailed, Kube> {
  const { names, areAll } = yield* attachmentsOf(driverName, nodeName);
  const found = yield* Effect.forEach(names, (name) => volumeOf(driverName, name), { concurrency: 8 });
  const volumeIds = found.flatMap(({ volumeId }) => volumeId ?? []);
  return {
    staged: found.flatMap(({ staged }) => staged ?? []),
    volumeIds: areAll && volumeIds.length === names.length ? volumeIds : undefined,
  };
});

/**
 * The names of PersistentVolumes. They are not all if a volume has none, and where nothing of the driver is attached to
 * any node: its CSIDriver may say that it needs no attachment.
 */
const attachmentsOf = Effect.fnUntraced(function* (
  driverName: string,
  nodeName: string,
): Effect.fn.Return<{ readonly names: readonly string[]; readonly areAll: boolean }, KubeFailed, Kube> {
  const { list } = yield* Kube;
  const attached: z.infer<typeof attachment>["spec"][] = [];
  for (let after = ""; ; ) {
    const { items, next } = yield* list(ATTACHMENTS, { limit: PAGE, after });
    for (const item of items) {
      const { data } = attachment.safeParse(item);
      if (data?.spec.attacher === driverName && data.status?.attached === true) attached.push(data.spec);
    }
    if (next === "") break;
    after = next;
  }
  const here = attached.filter((spec) => spec.nodeName === nodeName);
  const names = here.flatMap(({ source }) => source.persistentVolumeName ?? []);
  return { names, areAll: attached.length > 0 && names.length === here.length };
});

interface Found {
  readonly volumeId?: string;
  readonly staged?: StagedOnNode | undefined;
}

const volumeOf = (driverName: string, name: string): Effect.Effect<Found, never, Kube> => {
  const orLog = <A, E extends { readonly message: string }, R>(read: Effect.Effect<A, E, R>) =>
    Effect.catch(read, ({ message }) =>
      Effect.as(Effect.logWarning(`PersistentVolume ${name} is not looked after: ${message}`), undefined),
    );
  return Effect.gen(function* () {
    const spec = (yield* orLog(getIfThere(`${VOLUMES}/${name}`, volume)))?.spec;
    if (spec?.csi?.driver !== driverName) return {};
    return { volumeId: spec.csi.volumeHandle, staged: yield* orLog(stagedVolume(spec.csi, spec.accessModes)) };
  });
};

const stagedVolume = Effect.fnUntraced(function* (
  { volumeHandle, volumeAttributes, nodeStageSecretRef }: CsiSource,
  accessModes: readonly string[],
): Effect.fn.Return<StagedOnNode | undefined, KubeFailed, Kube> {
  if (nodeStageSecretRef === undefined) return undefined;
  const { namespace, name } = nodeStageSecretRef;
  const encoded = (yield* getIfThere(secretPath(namespace, name), aSecret))?.data;
  if (encoded === undefined) return undefined;
  const secrets = secretTexts(encoded);
  return { volumeId: volumeHandle, volumeContext: volumeAttributes, secrets, accessModes };
});
