/**
 * Whether an image is in use: the one definition, for mapping an image and for removing it. A removal waits for as long
 * as `inUsePatience` says (lib/config/settings.ts), mapping until the deadline of the call (lib/node/mappable.ts).
 *
 * Not here: who the watchers are (lib/ceph reads them from librbd).
 *
 * 1. Whoever has an image open uses it, except for the caller itself and, of a primary image, the mirror daemons. Which
 *    watcher is a daemon is not known, but that one is none which has the lock of those who write.
 */
import * as Effect from "effect/Effect";
import { Busy, type CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import { Manager } from "../ceph/manager.ts";
import type { PoolRef } from "../ceph/rados.ts";
import type { ImageStatus, Rbd } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { Precondition } from "../csi/errors.ts";
import { untilDeadline } from "../operations/until-deadline.ts";
import { statusIfThere } from "./races.ts";

export interface InUseOptions {
  /** How many mirror daemons of the cluster may have a primary image open. */
  readonly mirrorDaemons: number;
  /** The clients that are the caller's own. */
  readonly own?: readonly OwnClient[];
}

/** A client that may watch an image: by its ID, as `client.4123`, or where that is not known ("") by its addresses. */
export interface OwnClient {
  readonly watcherId: string;
  readonly addresses: readonly string[];
}

/** The address in `10.0.0.1:0/3412/client.4123`, or in `v1:[fd00::1]:0/3412/client.4123`. */
const addressIn = (watcher: string): string => {
  const [, six, four] = /^(?:[a-z]\w*:)?(?:\[(.+?)\]|([^:/]+)):\d+\//.exec(watcher) ?? [];
  return six ?? four ?? "";
};

/** The watchers that may be that client: several, if it is known by its addresses only. */
export const watchersOf = (watchers: readonly string[], { watcherId, addresses }: OwnClient): readonly string[] =>
  watchers.filter((watcher) =>
    watcherId === "" ? addresses.includes(addressIn(watcher)) : watcher.split("/").includes(watcherId),
  );

/** The watcher that is that client; one that is known by its addresses only has one of those from there. */
export const watcherOf = (watchers: readonly string[], client: OwnClient): string | undefined =>
  watchersOf(watchers, client)[0];

/** Who else has an image open, by the address and client ID that Ceph shows. */
export const otherWatchers = (
  { watchers, mirror, writer }: Pick<ImageStatus, "watchers" | "mirror" | "writer">,
  { mirrorDaemons, own = [] }: InUseOptions,
): readonly string[] => {
  // Those that are known for sure come first, so that the others take none of theirs.
  const sure = own.toSorted((a, b) => Number(a.watcherId === "") - Number(b.watcherId === ""));
  const others = sure.reduce((rest: readonly string[], client) => {
    const its = watcherOf(rest, client);
    return rest.filter((watcher) => watcher !== its);
  }, watchers);
  const writes = writer !== undefined && watchersOf(others, { watcherId: writer, addresses: [] }).length > 0;
  return others.length <= (mirror === "primary" && !writes ? mirrorDaemons : 0) ? [] : others;
};

/** Fails if the image is the copy of a mirrored image: only its primary may be written or removed. */
export const provePrimary = (
  pool: PoolRef,
  imageName: string,
  { mirror, mirrorReplays }: Pick<ImageStatus, "mirror" | "mirrorReplays">,
): Effect.Effect<void, Precondition> =>
  mirror === "non-primary"
    ? Effect.fail(
        new Precondition({
          subject: `image ${imageLabel(pool, imageName)}`,
          problem: "is a mirror of another cluster's image",
          remedy:
            "Use the volume in the other cluster. Promote this image only if that one is demoted, or its cluster is lost",
          replica: { imageName, replayed: mirrorReplays === true },
        }),
      )
    : Effect.void;

/** Fails if the image is not the primary, or if somebody else has it open. */
export const proveUnused = (
  pool: PoolRef,
  imageName: string,
  image: ImageStatus,
  options: InUseOptions,
): Effect.Effect<void, Busy | Precondition> => {
  const watchers = otherWatchers(image, options);
  const subject = `image ${imageLabel(pool, imageName)}`;
  return Effect.andThen(
    provePrimary(pool, imageName, image),
    watchers.length === 0 ? Effect.void : Effect.fail(new Busy({ op: "open", subject, watchers })),
  );
};

/**
 * The image as soon as nobody uses it; `undefined`: it does not exist. Whoever purges a child of it, such as the
 * manager, has it open for a moment. So a removal waits a little before it sends its caller away.
 */
export const provenUnused = Effect.fn("images.provenUnused")(function* (
  pool: PoolRef,
  imageName: string,
  mirrorDaemons: number,
): Effect.fn.Return<ImageStatus | undefined, CephError | Precondition, Manager | Rbd | DriverSettings> {
  const { inUsePatience } = yield* DriverSettings;
  const look = Effect.tap(statusIfThere(pool, imageName), (image) =>
    image === undefined ? Effect.void : proveUnused(pool, imageName, image, { mirrorDaemons }),
  );
  return yield* untilDeadline(look, {
    while: ({ _tag }) => _tag === "Busy",
    first: "250 millis",
    patience: inUsePatience,
  }).pipe(Effect.catchTag("Busy", (busy) => orFlattened(pool, imageName, busy)));
});

/** Nobody may be told to fence the manager. */
const orFlattened = Effect.fnUntraced(function* (
  pool: PoolRef,
  imageName: string,
  busy: Busy,
): Effect.fn.Return<never, Busy, Manager> {
  const tasks = yield* Effect.orElseSucceed((yield* Manager).managerTasks(pool.access), () => []);
  const task = tasks.find(
    ({ action, image, namespace, pool: of }) =>
      action === "flatten" && image === imageName && of === pool.pool && namespace === pool.namespace,
  );
  const { op, subject, watchers = [] } = busy;
  return yield* task === undefined ? busy : new Busy({ op, subject, watchers, flattened: task.progress ?? 0 });
});
