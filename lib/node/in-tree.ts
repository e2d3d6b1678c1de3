/**
 * What the in-tree plugin of Kubernetes (`kubernetes.io/rbd`) left of a volume before this driver stages it: a lock on the
 * image, and on this node a folder with the file rbd.json, which holds the key of a Ceph user in plain text.
 *
 * Not here: when a lock may go (lib/images/left-locks.ts). A device that the plugin left mapped is cleared as any other
 * left-over (./stale-state.ts), and one that is mounted still is in use.
 *
 * 1. Nothing of the plugin's is removed while anything is mounted at its folder, nor a file that names another image.
 * 2. A file that stays is no reason to fail: the volume is staged. The log never shows its text.
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { CephError } from "../ceph/errors.ts";
import type { ImageStatus, Rbd } from "../ceph/rbd.ts";
import type { Precondition } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { mountsAt } from "../host/mountinfo.ts";
import { otherWatchers } from "../images/in-use.ts";
import { clearLeftLocks, proveWritable } from "../images/left-locks.ts";
import { stage } from "../operations/pipeline.ts";
import { fieldsOf, isObject } from "../text/go-json.ts";
import { parseJson } from "../text/json.ts";
import type { StagedDevice } from "./staged-device.ts";
import type { VolumeContext, VolumeImage } from "./volume-context.ts";

/**
 * Once nothing of the image is mapped on this node; `leftOver` was, in the look `status`. A reader needs no lock, and others may use a shared image: it stays.
 * -> the look at the image that all further proof goes by.
 */
export const clearInTreeLocks = (
  { pool, imageName }: VolumeImage,
  leftOver: readonly StagedDevice[],
  { readOnly, shared }: { readonly readOnly: boolean; readonly shared: boolean },
  status: ImageStatus,
): Effect.Effect<ImageStatus, CephError | Precondition, Rbd> => {
  if (status.locks.length === 0 || readOnly) return Effect.succeed(status);
  const own = leftOver.map(({ mapped }) => mapped);
  const isShared = shared && otherWatchers(status, { mirrorDaemons: 0, own }).length > 0;
  if (isShared) return Effect.as(proveWritable(pool, imageName, status), status);
  return stage("clear left locks", clearLeftLocks(pool, imageName, status, own));
};

/** kubelet's own folder of plugins, from a staging target path below it. */
const PLUGINS = /^(\/.*)\/csi\/./;

/** A volume of the plugin is in no journal. */
type InTreeImage = Exclude<VolumeContext["fixed"], undefined>;

/** Where the plugin mounted images: its later releases, and its earlier ones. */
const foldersOf = (stagingPath: string, { pool, imageName }: InTreeImage): readonly string[] => {
  const plugins = PLUGINS.exec(stagingPath)?.[1];
  if (plugins === undefined || !plugins.endsWith("/plugins/kubernetes.io")) return [];
  return ["mounts", "rbd"].map((kind) => `${plugins}/rbd/${kind}/${pool}-image-${imageName}`);
};

export const removeInTreeFiles = (
  stagingPath: string,
  { fixed }: Pick<VolumeContext, "fixed">,
): Effect.Effect<void, never, Host> => {
  if (fixed === undefined) return Effect.void;
  const removed = Effect.forEach(foldersOf(stagingPath, fixed), (folder) =>
    Effect.catch(removeFolder(folder, fixed), ({ message }) =>
      Effect.logWarning(`${folder} is left of the in-tree plugin, and rbd.json in it may hold a key: ${message}`),
    ),
  );
  return stage("remove in-tree files", Effect.asVoid(removed));
};

const removeFolder = Effect.fnUntraced(function* (
  folder: string,
  image: InTreeImage,
): Effect.fn.Return<void, HostError, Host> {
  const host = yield* Host;
  const point = yield* host.resolvePath(folder);
  if (point === undefined || (yield* host.pathKind(point)) !== "directory") return;
  if (mountsAt(yield* host.mountTable, point).length > 0) return;
  const path = `${point}/rbd.json`;
  const text = yield* host.readText(path);
  if (text !== undefined) {
    if (!names(text, image)) {
      return yield* Effect.logWarning(
        `${path} does not name this volume's image, and may hold a key. Remove it by hand`,
      );
    }
    yield* host.removeText(path);
    yield* Effect.logInfo(`${path} was left by the in-tree plugin and is removed`);
  }
  yield* host.removePath(point);
});

/** Whether the file is of this image, as Go reads it. */
const names = (text: string, { pool, imageName }: InTreeImage): boolean => {
  const json = parseJson(text);
  if (Result.isFailure(json) || !isObject(json.success)) return false;
  const { Pool, Image } = fieldsOf(json.success, ["Pool", "Image"]);
  return Pool === pool && Image === imageName;
};
