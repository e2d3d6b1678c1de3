/**
 * Whether an omap is split: whether there are further objects with some of its keys.
 *
 * Not here: which objects those would be (lib/journal/journal.ts), and the reads (lib/ceph/cell/omaps.ts).
 *
 * 1. That there is none is believed for a minute, and that there is one for ever. The first part comes when another driver
 *    takes over, one that splits; asking each time would make every name that is looked up twelve reads and not one.
 */
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type { CephError } from "../errors.ts";
import { imageLabel } from "../label.ts";
import type { PoolRef, RadosCalls } from "../rados.ts";

const BELIEVED = Duration.toMillis(Duration.minutes(1));
/** Far more than a driver has journals. */
const MOST = 1_000;

/** -> the parts that are to be read: all of them, or none. */
export const makePartsToRead = (omapGetMany: RadosCalls["omapGetMany"]) => {
  /** When it is to be asked again; `Infinity`: never, there are some. */
  const askAgain = new Map<string, number>();
  return Effect.fnUntraced(function* (
    pool: PoolRef,
    parts: readonly string[],
  ): Effect.fn.Return<readonly string[], CephError> {
    const [first] = parts;
    if (first === undefined) return [];
    const { monitors, user } = pool.access;
    const which = `${user} ${monitors.join(",")} ${imageLabel(pool, first)}`;
    const now = yield* Clock.currentTimeMillis;
    const known = askAgain.get(which) ?? 0;
    if (now < known) return known === Number.POSITIVE_INFINITY ? parts : [];
    const found = yield* omapGetMany(
      pool,
      parts.map((object) => ({ object, keys: [] })),
    );
    const split = found.some((values) => values !== undefined);
    if (askAgain.size >= MOST) askAgain.clear();
    askAgain.set(which, split ? Number.POSITIVE_INFINITY : now + BELIEVED);
    return split ? parts : [];
  });
};
