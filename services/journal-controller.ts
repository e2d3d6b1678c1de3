/**
 * `--type=controller`: writes the journal of each PersistentVolume's image anew where it is missing, as ceph-csi's does
 * after a failover to a cluster that has the images and not their journal.
 *
 * Not here: what is written (lib/volume/regenerate.ts).
 *
 * 1. Of the PersistentVolumes only names and versions are kept in memory; one is read when it is looked at.
 * 2. One volume is looked at at a time, by the process that leads.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as z from "zod";
import type { Flags } from "../lib/config/flags.ts";
import { isMissing } from "../lib/kube/errors.ts";
import { recordEvent } from "../lib/kube/events.ts";
import { type Informer, informer } from "../lib/kube/informer.ts";
import { Kube } from "../lib/kube/kube.ts";
import { makeElections } from "../lib/kube/lease.ts";
import { type WorkQueue, workQueue } from "../lib/kube/work-queue.ts";
import { role } from "../lib/process/role.ts";
import type { World } from "../lib/process/world.ts";
import { type ClaimedVolume, regenerateJournal } from "../lib/volume/regenerate.ts";
import { leaseOf } from "./attacher.ts";
import { credentials } from "./fields.ts";

const VOLUMES = "/api/v1/persistentvolumes";

const reference = z.object({ name: z.string().default(""), namespace: z.string().default("") });
const volumeShape = z.object({
  metadata: z.object({
    name: z.string(),
    uid: z.string().default(""),
    resourceVersion: z.string(),
    deletionTimestamp: z.string().optional(),
  }),
  spec: z.object({
    claimRef: z.object({ namespace: z.string().default(""), name: z.string().default("") }).optional(),
    csi: z
      .object({
        driver: z.string(),
        volumeHandle: z.string(),
        volumeAttributes: z.record(z.string(), z.string()).default({}),
        controllerExpandSecretRef: reference.optional(),
        nodeStageSecretRef: reference.optional(),
      })
      .optional(),
  }),
});
type Volume = z.infer<typeof volumeShape>;

/** Whether its image is this driver's, is in use by a claim, and has a journal. */
const isOurs = ({ metadata, spec: { claimRef, csi } }: Volume, driverName: string): boolean =>
  csi?.driver === driverName &&
  claimRef !== undefined &&
  metadata.deletionTimestamp === undefined &&
  csi.volumeAttributes["staticVolume"] !== "true";

const slimSchema = (driverName: string) =>
  volumeShape.transform((volume) => ({
    resourceVersion: volume.metadata.resourceVersion,
    ours: isOurs(volume, driverName),
  }));

export const journalControllerRole = (flags: Flags, { configuration, ceph, kube }: World) => {
  const elections = makeElections();
  const runs = Effect.gen(function* () {
    const { driverName, driverNamespace } = flags;
    const election = { ...ELECTION, leaderElectionNamespace: driverNamespace };
    const lease = yield* leaseOf(election, `${driverName}-${driverNamespace}`);
    return yield* elections.whileLeading(lease, Effect.scoped(watchVolumes(driverName)));
  });
  const layer = Layer.mergeAll(kube, configuration, ceph);
  return role({ name: "journal controller", layer, runs, checks: { "/healthz/leader-election": elections.stuck } });
};

/** As ceph-csi's, which has no flags for it. The name of its Lease is used as it is, unlike those of the sidecars. */
const ELECTION = {
  leaderElection: true,
  leaderElectionLabels: "",
  leaseDuration: Duration.seconds(15),
  renewDeadline: Duration.seconds(10),
  retryPeriod: Duration.seconds(2),
};

const watchVolumes = (driverName: string) =>
  Effect.gen(function* () {
    let queue: WorkQueue | undefined;
    const schema = slimSchema(driverName);
    const volumes: Informer<z.infer<typeof schema>> = yield* informer(
      { path: VOLUMES, schema, wanted: ({ ours }) => ours },
      ({ key, now }) => {
        if (now !== undefined) queue?.add(key);
      },
    );
    queue = yield* workQueue({
      lanes: { volumes: 1 },
      laneOf: () => "volumes" as const,
      work: (name) => lookAt(name, driverName),
      base: Duration.seconds(1),
      max: Duration.minutes(5),
    });
    for (const [key] of volumes.entries()) queue.add(key);
    yield* Effect.logInfo(`watches the PersistentVolumes of ${driverName} for journals that are missing`);
    return yield* Effect.never;
  });

const lookAt = (name: string, driverName: string) =>
  Effect.gen(function* () {
    const { get } = yield* Kube;
    const answer = yield* get(`${VOLUMES}/${encodeURIComponent(name)}`).pipe(
      Effect.catchIf(isMissing, () => Effect.succeed(undefined)),
    );
    const volume = volumeShape.safeParse(answer).data;
    if (volume === undefined || !isOurs(volume, driverName)) return;
    yield* regenerate(volume).pipe(
      Effect.tapError(({ message }) =>
        Effect.andThen(
          Effect.logWarning(`the journal of ${name} cannot be written: ${message}`),
          tellVolume(volume, message),
        ),
      ),
    );
  });

const tellVolume = ({ metadata: { name, uid } }: Volume, message: string) =>
  recordEvent({
    involved: { apiVersion: "v1", kind: "PersistentVolume", name, uid },
    type: "Warning",
    reason: "JournalNotWritten",
    message,
  });

const regenerate = (volume: Volume) =>
  Effect.gen(function* () {
    const { what, handle } = yield* regenerateJournal(yield* claimed(volume));
    const { name } = volume.metadata;
    if (what === "was there") return yield* Effect.logDebug(`the journal of ${name} ${what}`);
    yield* Effect.logInfo(`the journal of ${name} ${what}; its volume ID here is ${handle}`);
  });

const secretShape = z.object({ data: z.record(z.string(), z.string()).default({}) });

const claimed = ({ metadata, spec: { csi, claimRef } }: Volume) =>
  Effect.gen(function* () {
    const { get } = yield* Kube;
    const secret = [csi?.controllerExpandSecretRef, csi?.nodeStageSecretRef].find((each) => each?.name);
    const path = `/api/v1/namespaces/${secret?.namespace}/secrets/${secret?.name}`;
    const { data = {} } = secret === undefined ? {} : (secretShape.safeParse(yield* get(path)).data ?? {});
    const texts = Object.entries(data).map(([key, value]) => [key, Buffer.from(value, "base64").toString("utf8")]);
    const claim: ClaimedVolume = {
      requestName: metadata.name,
      handle: csi?.volumeHandle ?? "",
      attributes: csi?.volumeAttributes ?? {},
      claim: { namespace: claimRef?.namespace ?? "", name: claimRef?.name ?? "" },
      credentials: yield* credentials(Object.fromEntries(texts)),
    };
    return claim;
  });
