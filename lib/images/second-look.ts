/**
 * Looks a second time at images that this process has put into the trash or has had removed from there: whether a header
 * is back that has nothing in it (lib/ceph/cell/bare-headers.ts). The manager, a person or another driver may have removed
 * the last clone of an image while the image itself was removed here. Such a one may wait for the lock of an image that is
 * gone, for seconds, and take it then.
 *
 * Not here: the removal (./purge.ts).
 *
 * 1. One call for at most `AT_ONCE` images, and none where nothing was removed. No request waits for it or fails with it.
 * 2. It ends when two looks in succession have found no image: the first may come just before the header is back.
 * 3. It is bounded: of very many images the oldest are forgotten, and so is one that is still there after `LONGEST_MS`.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import type { CephError } from "../ceph/errors.ts";
import { poolLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { unattended } from "../operations/unattended.ts";
import type { TrashedImage } from "./quick-purge.ts";

const PAUSE = "1 minute";
/** A removal that began so long ago has ended, unless the image waits for its clones. */
const SETTLED_MS = 60_000;
const LONGEST_MS = 1_800_000;
const AT_ONCE = 256;
const MOST = 4096;

interface Seen {
  /** Milliseconds since the epoch. */
  readonly since: number;
  /** The last look found no image. */
  gone: boolean;
}

interface Removed {
  pool: PoolRef;
  /** By id; the oldest first. */
  readonly ids: Map<string, Seen>;
}

/** `stillThere` removes the headers that have nothing in them, and gives the ids of the images that exist. */
export const makeSecondLook = (
  stillThere: (pool: PoolRef, ids: readonly string[]) => Effect.Effect<readonly string[], CephError>,
): Effect.Effect<(images: readonly Pick<TrashedImage, "pool" | "id">[]) => Effect.Effect<void>, never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope) => {
    const pools = new Map<string, Removed>();

    const look = Effect.fnUntraced(function* ({ pool, ids }: Removed) {
      const now = yield* Clock.currentTimeMillis;
      const settled = [...ids].filter(([, { since }]) => now - since >= SETTLED_MS);
      for (const [id, { since }] of settled) if (now - since >= LONGEST_MS) ids.delete(id);
      for (let at = 0; at < settled.length; at += AT_ONCE) {
        const some = settled.slice(at, at + AT_ONCE);
        const there = new Set(
          yield* stillThere(
            pool,
            some.map(([id]) => id),
          ),
        );
        for (const [id, seen] of some) {
          if (seen.gone && !there.has(id)) ids.delete(id);
          seen.gone = !there.has(id);
        }
      }
    });

    const looks = Effect.fnUntraced(function* (key: string, removed: Removed) {
      while (removed.ids.size > 0) {
        yield* Effect.sleep(PAUSE);
        yield* unattended(look(removed), (reason) =>
          Effect.logInfo(`could not look again at the images that were removed: ${reason}`),
        );
      }
      pools.delete(key);
    });

    return (images) =>
      Effect.gen(function* () {
        const now = yield* Clock.currentTimeMillis;
        for (const { pool, id } of images) {
          const key = `${pool.access.monitors.join(",")} ${poolLabel(pool)}`;
          const removed = pools.get(key) ?? { pool, ids: new Map<string, Seen>() };
          // the latest credentials are the ones that work
          removed.pool = pool;
          removed.ids.set(id, { since: now, gone: false });
          const [oldest] = removed.ids.keys();
          if (removed.ids.size > MOST && oldest !== undefined) removed.ids.delete(oldest);
          if (pools.has(key)) continue;
          pools.set(key, removed);
          yield* Effect.forkIn(looks(key, removed), scope);
        }
      });
  });
