/**
 * NodePublishVolume: binds a staged volume at a target path.
 *
 * Not here: staging (./stage.ts) and the guard of raw devices (./device.ts).
 *
 * 1. A target path that is in use in another way than the request asks for is left as it is, with an error. Only what it allows
 *    beyond the request is taken from it: a driver that was killed, this one or ceph-csi, leaves a bind that is writable still.
 */
import * as Effect from "effect/Effect";
import type { Capability } from "../csi/capability.ts";
import { type Conflict, type LockHeld, NotAllowed, Precondition } from "../csi/errors.ts";
import { accountsIn, SERVICE_ACCOUNTS } from "../csi/service-accounts.ts";
import type { HostError } from "../host/errors.ts";
import { bindOptions } from "../host/filesystem.ts";
import { Host } from "../host/host.ts";
import { type MountEntry, mountsAt } from "../host/mountinfo.ts";
import { compensated, type Compensations, step } from "../operations/compensation.ts";
import { LockKey } from "../operations/lock-keys.ts";
import { Locks } from "../operations/locks.ts";
import { stage } from "../operations/pipeline.ts";
import { remark } from "../operations/remark.ts";
import { oneLine } from "../text/printable.ts";
import { FOLDER_ROOT, unlockedFolder } from "./crypt-folder.ts";
import { guardDevice, guardForReader } from "./device.ts";
import { leftPublished, overLeftOvers, type PublishedPlace } from "./left-over.ts";
import { allowsMore, proveMounted, provePublished, unmountAll } from "./mounts.ts";
import { otherUses, type ShownDevice, shownBy } from "./staged-device.ts";
import { lookAtStagedVolume, type StagedVolume } from "./staged-volume.ts";

export interface PublishSpec extends PublishedPlace {
  readonly access: Capability["access"];
  readonly readOnly: boolean;
  /** Whether its files are encrypted: then the folder with them is bound, and not the filesystem's root. */
  readonly encryptedFiles: boolean;
  /** Whether the volume may be published at one target path only. */
  readonly once: boolean;
  readonly pod: PublishedPod;
}

/** What kubelet says of the pod. */
export interface PublishedPod {
  /** `namespace/name` for messages; "": it does not say. */
  readonly name: string;
  /** Its ServiceAccount; "": it does not say. */
  readonly serviceAccount: string;
  /** Those that ControllerPublishVolume found in the image's metadata, as they are written there; "": none. */
  readonly allowed: string;
}

export type PublishError = Conflict | HostError | LockHeld | NotAllowed | Precondition;

export const publishVolume = Effect.fn("node.publishVolume")(function* (
  spec: PublishSpec,
): Effect.fn.Return<void, PublishError, Host | Locks> {
  const keys = [LockKey.volume(spec.volumeId), LockKey.targetPath(spec.targetPath)];
  yield* (yield* Locks).with(keys, publishLocked(spec));
});

const publishLocked = Effect.fnUntraced(function* (spec: PublishSpec): Effect.fn.Return<void, PublishError, Host> {
  yield* overLeftOvers("publish", spec.volumeId, leftPublished(spec))(publishOver(spec));
});

/** Publishes the volume over what is at the target path already. */
const publishOver = Effect.fnUntraced(function* (spec: PublishSpec): Effect.fn.Return<void, PublishError, Host> {
  const { once, targetPath } = spec;
  const host = yield* Host;
  const now = yield* stage("look at node", lookAtStagedVolume(spec));
  const staged = yield* stagedAs(spec, now);
  yield* stage("check ServiceAccount", proveAllowed(spec, now));
  yield* proveFolderWanted(spec, now);
  const { device, kind, point } = staged;
  const readOnly = spec.readOnly || staged.readOnly;
  const resolved = yield* host.resolvePath(targetPath);
  const existing = resolved === undefined ? undefined : mountsAt(now.mountTable, resolved).at(-1);
  const root = spec.encryptedFiles ? FOLDER_ROOT : undefined;
  const uses = otherUses(now.mountTable, device, [point]);
  if (existing !== undefined) {
    yield* provePublished(device, existing, readOnly, root);
    yield* completePublished({ ...spec, readOnly }, staged, existing, root);
    // ceph-csi publishes a raw device read-only and leaves the device itself writable, for other pods as well.
    const others = uses.filter((use) => use.point !== existing.point);
    if (kind === "block" && readOnly) yield* stage("guard device", guardForReader(device, others));
    return;
  }
  const publishedAt = uses.map((use) => use.point);
  if (once && publishedAt.length > 0) return yield* publishedElsewhere(spec, publishedAt);
  if (kind === "block") yield* stage("guard device", guardDevice(device, readOnly, uses));
  const source = spec.encryptedFiles ? yield* unlockedFolder(spec.volumeId, point) : point;
  yield* compensated(bindTarget({ ...spec, readOnly }, { ...staged, source, root }));
});

/** A pod that got the root of such a filesystem could remove the keys in it. */
const proveFolderWanted = (
  { encryptedFiles, volumeId }: PublishSpec,
  { imageMeta }: StagedVolume,
): Effect.Effect<void, Precondition> =>
  encryptedFiles || imageMeta.kind !== "read" || !imageMeta.meta.encryptedFiles
    ? Effect.void
    : Effect.fail(
        new Precondition({
          subject: `volume ${volumeId}`,
          problem: "has its files encrypted (encryptionType file), and the volume_context does not say so",
          remedy: "Use the PersistentVolume that CreateVolume made",
        }),
      );

/**
 * What the stage read counts: kubelet hands what was read when the volume was attached, to every pod of the node. That counts
 * where the stage read nothing, because another driver may have staged the volume.
 */
const proveAllowed = Effect.fnUntraced(function* (
  { pod, volumeId }: PublishSpec,
  { imageMeta }: StagedVolume,
): Effect.fn.Return<void, NotAllowed> {
  const list = (imageMeta.kind === "read" ? imageMeta.meta.serviceAccounts : "") || pod.allowed;
  if (list === "") return;
  const allowed = accountsIn(list);
  const restricted = `is for pods with the ServiceAccount ${allowed.map((name) => oneLine(name)).join(" or ") || "of no name"}`;
  if (pod.serviceAccount === "") {
    const text = `volume ${volumeId} ${restricted}, and kubelet does not say which one the pod has: any pod gets it. Set podInfoOnMount: true in the CSIDriver object`;
    return yield* remark([text]);
  }
  if (allowed.includes(pod.serviceAccount)) return;
  return yield* new NotAllowed({
    subject: `volume ${volumeId}`,
    problem: `${restricted}; pod ${oneLine(pod.name)} has ${oneLine(pod.serviceAccount)}`,
    remedy: `Give the pod such an account, or change the metadata ${SERVICE_ACCOUNTS} of the volume's image ("rbd image-meta set" or "remove"): it counts from the next time that a node stages the volume`,
  });
});

interface StagedHere extends ShownDevice {
  /** Where it is mounted or bound. */
  readonly point: string;
  /** The options of that mount, and whether it was asked to be read-only. */
  readonly options: readonly string[];
  readonly readOnly: boolean;
}

/** The staged device, if it is staged as the request says. */
const stagedAs = (
  { volumeId, stagingPath, access }: PublishSpec,
  { devices, mounts }: StagedVolume,
): Effect.Effect<StagedHere, Precondition> => {
  const subject = `volume ${volumeId}`;
  const entry = mounts.at(-1);
  const shown = entry && shownBy(entry, devices);
  if (entry === undefined || shown === undefined) {
    const problem = `is not staged at ${stagingPath}`;
    return Effect.fail(new Precondition({ subject, problem, remedy: "Stage it first (NodeStageVolume)" }));
  }
  const { options, point } = entry;
  const readOnly = shown.kind === "filesystem" && options.includes("ro");
  if (shown.kind === access.kind) return Effect.succeed({ ...shown, point, options, readOnly });
  const problem = `is staged as ${shown.kind}; the request asks for ${access.kind}`;
  return Effect.fail(new Precondition({ subject, problem, remedy: "Unstage it, and stage it as the request asks" }));
};

const publishedElsewhere = ({ volumeId }: PublishSpec, publishedAt: readonly string[]): Precondition =>
  new Precondition({
    subject: `volume ${volumeId}`,
    problem: `has access mode SINGLE_NODE_SINGLE_WRITER, and is already published at ${publishedAt.join(", ")}`,
    remedy: "Unpublish it there first",
    holders: publishedAt,
  });

/** The options of the bind at a target path, with those of the staged mount. */
const targetOptions = ({ access, readOnly }: PublishSpec, staged: readonly string[]): readonly string[] =>
  bindOptions({ flags: access.kind === "filesystem" ? access.mountFlags : [], readOnly }, staged);

/** Gives the mount at a target path what it lacks of the request's own options. */
const completePublished = Effect.fnUntraced(function* (
  spec: PublishSpec,
  { device, kind, options: staged, point }: StagedHere,
  existing: MountEntry,
  root: string | undefined,
): Effect.fn.Return<void, HostError | Precondition, Host> {
  if (!allowsMore(existing, targetOptions(spec, []))) return;
  const target = existing.point;
  const options = targetOptions(spec, staged);
  yield* Effect.logWarning(
    `${target} is a mount with ${existing.options.join(",")}, as a driver leaves it that is killed between the bind and its options: it gets ${options.join(",")}`,
  );
  yield* stage("remount", (yield* Host).mount({ source: point, target, options: ["remount", ...options] }));
  if (kind === "filesystem") yield* stage("verify mount", proveMounted(target, device, spec.readOnly, options, root));
});

interface ToBind extends StagedHere {
  readonly source: string;
  /** Of the filesystem, where it is not the whole of it. */
  readonly root: string | undefined;
}

const bindTarget = Effect.fnUntraced(function* (
  spec: PublishSpec,
  { device, kind, options: staged, source, root }: ToBind,
): Effect.fn.Return<void, HostError | Precondition, Compensations | Host> {
  const host = yield* Host;
  const { readOnly, targetPath } = spec;
  const make = kind === "block" ? host.makeFile(targetPath) : host.makeDirectory(targetPath);
  yield* step("make target", make, { undo: (made) => (made ? host.removePath(targetPath) : Effect.void) });
  const target = (yield* host.resolvePath(targetPath)) ?? targetPath;
  const options = targetOptions(spec, staged);
  yield* step("bind", host.mount({ source, target, options }), { undo: () => unmountAll(target) });
  if (kind === "filesystem") yield* stage("verify mount", proveMounted(target, device, readOnly, options, root));
});
