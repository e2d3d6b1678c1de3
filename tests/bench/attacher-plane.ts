/**
 * Kubernetes' API for the attachers' bench: objects in bulk, and which requests each attacher has made of it.
 *
 * Not here: the attachers (./attacher.ts).
 *
 * 1. Each attacher is a user of its own, and requests are counted in the server's audit log.
 * 2. Nobody else writes: no controller of Kubernetes that knows volumes runs, and volumes get no finalizer that one would
 *    have to take off.
 */
import { readFileSync, writeFileSync } from "node:fs";
import * as Effect from "effect/Effect";
import * as z from "zod";
import { type Attachment, ATTACHMENTS, attachmentSchema, NODES, VOLUMES } from "../../lib/attacher/objects.ts";
import { informer } from "../../lib/kube/informer.ts";
import { Kube } from "../../lib/kube/kube.ts";
import { kubeAccess } from "../../lib/kube/kubeconfig.ts";
import { makeKube } from "../../lib/kube/request.ts";
import { type ControlPlane, startControlPlane } from "../rig/kubernetes/control-plane.ts";

export const NODE = "bench";
const AT_ONCE = 32;

const UNPROTECTED = "--disable-admission-plugins=StorageObjectInUseProtection";

const auditOf = (dir: string) => ({ policy: `${dir}.audit-policy`, log: `${dir}.audit-log` });

/** A control plane that knows `users`, and notes what they ask for. */
export const startBenchPlane = async (dir: string, users: readonly string[]): Promise<ControlPlane> => {
  const { policy, log } = auditOf(dir);
  const rules = [{ level: "Metadata", users }, { level: "None" }];
  const omitStages = ["RequestReceived", "ResponseStarted"];
  writeFileSync(policy, JSON.stringify({ apiVersion: "audit.k8s.io/v1", kind: "Policy", omitStages, rules }));
  return startControlPlane({
    dir,
    users: Object.fromEntries(users.map((user) => [user, ["system:masters"]])),
    apiServerFlags: [`--audit-policy-file=${policy}`, `--audit-log-path=${log}`, UNPROTECTED],
    managerFlags: ["--controllers=namespace-controller"],
  });
};

const Line = z.object({
  user: z.object({ username: z.string() }),
  verb: z.string(),
  requestReceivedTimestamp: z.string(),
  stageTimestamp: z.string(),
  objectRef: z.object({ resource: z.string(), subresource: z.string().default("") }),
});

export interface Asked {
  readonly requests: number;
  /** From the arrival of the first one to the answer of the last one. */
  readonly milliseconds: number;
  /** `patch volumeattachments/status` → how many. */
  readonly kinds: Readonly<Record<string, number>>;
}

/** What a user has asked for in the log from that byte on, besides lists and watches. */
export const askedBy = ({ dir }: ControlPlane, user: string, from: number): Asked => {
  const text = readFileSync(auditOf(dir).log).subarray(from).toString();
  const lines = text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => Line.parse(JSON.parse(line)))
    .filter((line) => line.user.username === user && line.verb !== "list" && line.verb !== "watch");
  const kinds: Record<string, number> = {};
  for (const { verb, objectRef } of lines) {
    const kind = `${verb} ${objectRef.resource}${objectRef.subresource && "/"}${objectRef.subresource}`;
    kinds[kind] = (kinds[kind] ?? 0) + 1;
  }
  const first = Math.min(...lines.map((line) => Date.parse(line.requestReceivedTimestamp)));
  const last = Math.max(...lines.map((line) => Date.parse(line.stageTimestamp)));
  return { requests: lines.length, milliseconds: last - first, kinds };
};

export const logEnd = ({ dir }: ControlPlane): number => Bun.file(auditOf(dir).log).size;

/** Objects of one driver. */
export interface Bulk {
  readonly node: () => Promise<void>;
  readonly volumes: (count: number, from?: number) => Promise<void>;
  readonly attachments: (count: number, from?: number) => Promise<void>;
  readonly untilAttached: (count: number) => Promise<void>;
  /** Asks for the end of all attachments, then of all volumes, and waits for it. */
  readonly deleteAll: () => Promise<void>;
}

const numbers = (count: number, from: number) => Array.from({ length: count }, (_, n) => from + n);

export const bulkOf = async (plane: ControlPlane, driver: string): Promise<Bulk> => {
  const kube = makeKube(await Effect.runPromise(kubeAccess(plane.kubeconfig, {})));
  const nameOf = (n: number) => `${driver.split(".")[0]}-${n}`;
  const createAll = (path: string, count: number, from: number, objectOf: (n: number) => object) =>
    Effect.runPromise(
      Effect.forEach(numbers(count, from), (n) => kube.create(path, objectOf(n)), {
        concurrency: AT_ONCE,
        discard: true,
      }),
    );
  const untilCount = (
    path: string,
    schema: z.ZodType<{ resourceVersion: string }>,
    done: (all: unknown[]) => boolean,
  ) =>
    Effect.gen(function* () {
      const { entries, synced } = yield* informer({ path, schema }, () => undefined);
      yield* synced;
      while (!done(Array.from(entries(), ([, object]) => object))) yield* Effect.sleep("50 millis");
    }).pipe(Effect.scoped, Effect.provideService(Kube, kube), Effect.timeout("30 minutes"), Effect.runPromise);
  const isOurs = ({ attacher }: Attachment) => attacher === driver;
  const volume = z
    .object({ metadata: z.object({ resourceVersion: z.string() }) })
    .transform(({ metadata }) => metadata);
  const remove = async (path: string) => {
    const headers = { authorization: `Bearer ${plane.tokenOf("admin")}` };
    const tls = { ca: readFileSync(plane.caFile, "utf8") };
    const answer = await fetch(plane.url + path, { method: "DELETE", headers, tls, timeout: false } as RequestInit);
    if (!answer.ok) throw new Error(`delete ${path}: ${await answer.text()}`);
  };
  return {
    node: async () => {
      const spec = { drivers: [{ name: driver, nodeID: `id-of-${NODE}`, topologyKeys: null }] };
      const kind = { apiVersion: "storage.k8s.io/v1", kind: "CSINode" };
      await createAll(NODES, 1, 0, () => ({ ...kind, metadata: { name: `${NODE}-${nameOf(0)}` }, spec }));
    },
    volumes: (count, from = 0) =>
      createAll(VOLUMES, count, from, (n) => ({
        apiVersion: "v1",
        kind: "PersistentVolume",
        metadata: { name: nameOf(n), annotations: { "pv.kubernetes.io/provisioned-by": driver } },
        spec: {
          capacity: { storage: "1Gi" },
          accessModes: ["ReadWriteOnce"],
          persistentVolumeReclaimPolicy: "Retain",
          storageClassName: "bench",
          csi: {
            driver,
            volumeHandle: `handle-${n}`,
            fsType: "ext4",
            volumeAttributes: {
              clusterID: "bench",
              pool: "bench",
              imageName: `csi-vol-${n}`,
              imageFeatures: "layering",
            },
          },
        },
      })),
    attachments: (count, from = 0) =>
      createAll(ATTACHMENTS, count, from, (n) => ({
        apiVersion: "storage.k8s.io/v1",
        kind: "VolumeAttachment",
        metadata: { name: nameOf(n) },
        spec: { attacher: driver, nodeName: `${NODE}-${nameOf(0)}`, source: { persistentVolumeName: nameOf(n) } },
      })),
    untilAttached: (count) =>
      untilCount(
        ATTACHMENTS,
        attachmentSchema,
        (all) => (all as Attachment[]).filter((each) => isOurs(each) && each.attached).length >= count,
      ),
    deleteAll: async () => {
      await remove(ATTACHMENTS);
      await untilCount(ATTACHMENTS, attachmentSchema, (all) => all.length === 0);
      await remove(VOLUMES);
      await untilCount(VOLUMES, volume, (all) => all.length === 0);
    },
  };
};
