/**
 * Attaches and detaches volumes of a driver that publishes them: calls ControllerPublishVolume and its opposite, and
 * keeps the objects in step.
 *
 * Not here: when an attachment is looked at, and again after a failure (./controller.ts).
 *
 * 1. Before the driver is asked to publish, the volume and the attachment have our finalizer, and the attachment says
 *    what a detach needs: whatever dies meanwhile, somebody will unpublish.
 * 2. All that can be checked is checked before the attachment gets its finalizer.
 * 3. The finalizer goes only when the driver has unpublished, or when nobody can know any more what it published.
 * 4. A failure is written to the attachment with its time; no secret is in it.
 */
import * as Effect from "effect/Effect";
import type * as z from "zod";
import type { Informer } from "../kube/informer.ts";
import { isMissing, isStale, KubeFailed } from "../kube/errors.ts";
import { Kube } from "../kube/kube.ts";
import { aSecret, secretPath, secretTexts } from "../kube/secrets.ts";
import { CsiDriver, CsiFailed } from "./csi-driver.ts";
import {
  type Attachment,
  finalizerOf,
  NODES,
  nodeSchema,
  type SecretReference,
  type Volume,
  volumeOf,
  type WholeVolume,
} from "./objects.ts";
import { csiVolume, NotAttachable, type Source, sourceOf } from "./source.ts";
import {
  dropClaim,
  protectVolume,
  readVolume,
  releaseVolume,
  unlessChanged,
  writeAttached,
  writeClaim,
  writeDetached,
  writeError,
} from "./writes.ts";

/** What is known of the cluster without asking. */
export interface Known {
  readonly attachments: Informer<Attachment>;
  readonly volumes: Informer<Volume>;
  readonly nodes: Informer<z.infer<typeof nodeSchema>>;
  /** Handles and secrets of volumes that are gone, while an attachment of theirs is left. */
  readonly departed: ReadonlyMap<string, Volume>;
  readonly defaultFsType: string;
}

type Failure = NotAttachable | KubeFailed | CsiFailed;
type Needs = Kube | CsiDriver;

const refuse = (message: string) => Effect.fail(new NotAttachable({ message }));

/** Looks at one attachment. `again`: do it although the object says that it is done, because the driver says otherwise. */
export const syncAttachment = (
  known: Known,
  attachment: Attachment,
  again: boolean,
  hadError: boolean,
): Effect.Effect<void, Failure, Needs> => {
  const act = attachment.deleting ? detach(known, attachment, again) : attach(known, attachment, again, hadError);
  const field = attachment.deleting ? "detachError" : "attachError";
  return Effect.tapError(act, (failure) => {
    // Somebody else wrote in between: the next attempt sees it, and nothing is wrong with the volume.
    if (failure instanceof KubeFailed && isStale(failure)) return Effect.logDebug(failure.message);
    return writeError(attachment, field, failure.message, failure instanceof CsiFailed ? failure.code : undefined).pipe(
      Effect.map(known.attachments.learn),
      Effect.catch((failed) => (isMissing(failed) ? Effect.void : Effect.logWarning(failed.message))),
      Effect.andThen(Effect.logWarning(`${attachment.name}: ${failure.message}`)),
    );
  });
};

const attach = (known: Known, attachment: Attachment, again: boolean, hadError: boolean) =>
  Effect.gen(function* () {
    if (attachment.attached && !again) return;
    const driver = yield* CsiDriver;
    const { secret, ...source } = yield* sourceFor(known, attachment);
    const secrets = yield* readSecret(secret);
    const nodeId = yield* registeredId(known, attachment.nodeName);
    if (nodeId === undefined) {
      return yield* refuse(
        `node ${attachment.nodeName} has no ID for ${driver.name}: its CSINode does not name the driver. ` +
          "Is the driver's node plugin running there?",
      );
    }
    const claimed = yield* writeClaim(attachment, finalizerOf(driver.name), nodeId, source.volumeId);
    if (claimed !== undefined) known.attachments.learn(claimed);
    const context = yield* driver.publish({ ...source, nodeId, secrets });
    known.attachments.learn(yield* writeAttached(attachment, context, hadError || attachment.hasAttachError));
  });

const sourceFor = (known: Known, { volume, inline }: Attachment): Effect.Effect<Source, Failure, Needs> =>
  Effect.gen(function* () {
    const { abilities, name } = yield* CsiDriver;
    const read = (spec: WholeVolume["spec"], what: string) =>
      Effect.fromResult(sourceOf(spec, what, abilities, known.defaultFsType));
    if (volume !== undefined && inline !== undefined)
      return yield* refuse("its source has both persistentVolumeName and inlineVolumeSpec");
    if (inline !== undefined) return yield* read(inline, "the inline volume");
    if (volume === undefined) return yield* refuse("its source has neither persistentVolumeName nor inlineVolumeSpec");
    const { spec } = yield* protectedVolume(known, volume, finalizerOf(name));
    return yield* read(spec, `PersistentVolume ${volume}`);
  });

/** The volume, with our finalizer. */
const protectedVolume = (
  { volumes }: Known,
  name: string,
  finalizer: string,
): Effect.Effect<WholeVolume, Failure, Kube> =>
  Effect.gen(function* () {
    const cached = volumes.get(name);
    // One patch answers with the whole volume: in the usual case nothing has to be read before.
    if (cached !== undefined && !cached.deleting && !cached.finalizers.includes(finalizer)) {
      const patched = yield* unlessChanged(protectVolume({ name, ...cached }, finalizer));
      if (patched !== undefined) return patched;
    }
    const found = yield* readVolume(name);
    if (found === undefined) return yield* refuse(`PersistentVolume ${name} does not exist`);
    const { deleting, finalizers, resourceVersion } = volumeOf(found);
    if (deleting) return yield* refuse(`PersistentVolume ${name} is being deleted`);
    if (finalizers.includes(finalizer)) return found;
    return yield* protectVolume({ name, finalizers, resourceVersion }, finalizer);
  });

const readSecret = (
  reference: SecretReference | undefined,
): Effect.Effect<Readonly<Record<string, string>>, Failure, Kube> => {
  if (reference === undefined || reference.name === "") return Effect.succeed({});
  return Effect.flatMap(Kube, ({ get }) => get(secretPath(reference.namespace, reference.name))).pipe(
    Effect.map((answer) => secretTexts(aSecret.schema.safeParse(answer).data?.data ?? {})),
  );
};

/** By its CSINode; `undefined` where that does not name the driver. */
const registeredId = ({ nodes }: Known, name: string): Effect.Effect<string | undefined, KubeFailed, Needs> =>
  Effect.gen(function* () {
    const driver = yield* CsiDriver;
    const cached = nodes.get(name)?.ids.get(driver.name);
    if (cached !== undefined) return cached;
    const { get } = yield* Kube;
    const answer = yield* get(`${NODES}/${encodeURIComponent(name)}`).pipe(
      Effect.catchIf(isMissing, () => Effect.succeed(undefined)),
    );
    return nodeSchema.safeParse(answer).data?.ids.get(driver.name);
  });

const detach = (known: Known, attachment: Attachment, again: boolean) =>
  Effect.gen(function* () {
    const driver = yield* CsiDriver;
    const finalizer = finalizerOf(driver.name);
    const ours = attachment.finalizers.includes(finalizer);
    // Without our finalizer nothing has been published for it.
    if (!ours && !again) return;
    const published = yield* publishedVolume(known, attachment);
    if (published === undefined) yield* sayLost(attachment);
    else {
      const nodeId = (yield* registeredId(known, attachment.nodeName)) ?? attachment.nodeId;
      if (nodeId === undefined) {
        return yield* refuse(
          `neither the CSINode of ${attachment.nodeName} nor the attachment says which ID ${driver.name} gave the node`,
        );
      }
      const secrets = yield* readSecret(published.secret);
      yield* driver.unpublish({ volumeId: published.handle, nodeId, secrets });
    }
    if (ours) yield* dropClaim(attachment, finalizer);
    // With the last finalizer the object went.
    if (ours && attachment.finalizers.length === 1) return;
    yield* writeDetached(attachment, attachment.hasDetachError).pipe(Effect.catchIf(isMissing, () => Effect.void));
  });

const sayLost = ({ name, volume, nodeName }: Attachment) =>
  Effect.logError(
    `${name}: PersistentVolume ${volume} is gone, and nothing says which volume it was: it may still be published on ` +
      `node ${nodeName} on the storage's side. The detach ends here`,
  );

interface PublishedVolume {
  readonly handle: string;
  readonly secret: SecretReference | undefined;
}

/**
 * What to unpublish; `undefined` where nobody knows any more. What the attachment says was published: the volume of that
 * name may be another one by now, whose secret is not for it. A volume that is there and cannot be translated ends no
 * detach: it may be published.
 */
const publishedVolume = (
  known: Known,
  attachment: Attachment,
): Effect.Effect<PublishedVolume | undefined, Failure, Kube> =>
  Effect.gen(function* () {
    const { handle } = attachment;
    const named = yield* namedVolume(known, attachment).pipe(
      Effect.catchTag("NotAttachable", (failure) =>
        handle === undefined ? Effect.fail(failure) : Effect.succeed(undefined),
      ),
    );
    if (handle === undefined || named?.handle === handle) return named;
    const { secret, handle: before } = known.departed.get(attachment.volume ?? "") ?? {};
    return { handle, secret: before === handle ? secret : undefined };
  });

/** The volume that the attachment names, as it is now, or as it was last seen. */
const namedVolume = (
  { volumes, departed }: Known,
  { volume, inline }: Attachment,
): Effect.Effect<PublishedVolume | undefined, Failure, Kube> =>
  Effect.gen(function* () {
    if (inline !== undefined) return yield* handleIn(inline, "the inline volume");
    if (volume === undefined) return undefined;
    const cached = volumes.get(volume);
    if (cached !== undefined && cached.handle !== "") return cached;
    const found = yield* readVolume(volume);
    if (found !== undefined) return yield* handleIn(found.spec, `PersistentVolume ${volume}`);
    const gone = departed.get(volume);
    return gone === undefined || gone.handle === "" ? undefined : gone;
  });

const CANNOT_DETACH =
  "this attacher cannot detach it. If it is detached on the storage's side, remove the attachment's finalizer by hand";

const handleIn = (spec: WholeVolume["spec"], what: string): Effect.Effect<PublishedVolume, NotAttachable> =>
  Effect.map(Effect.fromResult(csiVolume(spec, what, CANNOT_DETACH)), ({ csi }) => ({
    handle: csi.volumeHandle,
    secret: csi.controllerPublishSecretRef,
  }));

/** Lets a deleted volume go once no attachment of ours names it. */
export const syncVolume = (
  known: Pick<Known, "volumes">,
  name: string,
  isReferenced: (volume: string) => boolean,
): Effect.Effect<void, KubeFailed | NotAttachable, Needs> =>
  Effect.gen(function* () {
    const finalizer = finalizerOf((yield* CsiDriver).name);
    const cached = known.volumes.get(name);
    if (cached?.deleting !== true || !cached.finalizers.includes(finalizer) || isReferenced(name)) return;
    const released = yield* unlessChanged(releaseVolume({ name, ...cached }, finalizer));
    if (released !== undefined) return;
    const found = yield* readVolume(name);
    if (found === undefined || !found.metadata.finalizers.includes(finalizer)) return;
    yield* releaseVolume({ name, ...volumeOf(found) }, finalizer);
  }).pipe(Effect.catchIf(isMissing, () => Effect.void));
