/**
 * Whether an omap is split: whether there are further objects with some of its keys.
 *
 * Not here: which objects those would be (lib/journal/journal.ts), and the reads (lib/ceph/cell/omaps.ts).
 *
 * 1. That there is none is believed for a minute, and that there is one for ever. The first part comes when another driver
 *    takes over, one that splits; asking each time would make every name that is looked up twelve reads and not one.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type { CephError } from "../errors.ts";
import { imageLabel } from "../label.ts";
import type { PoolRef, RadosCalls } from "../rados.ts";
import { keptWhileGood } from "./recent.ts";

const BELIEVED = Duration.minutes(1);

interface Question extends Pick<PoolRef, "access"> {
  readonly name: string;
  readonly pool: PoolRef;
  readonly parts: readonly string[];
}

type PartsToRead = (pool: PoolRef, parts: readonly string[]) => Effect.Effect<readonly string[], CephError>;

/** -> the parts that are to be read: all of them, or none. */
export const makePartsToRead = (omapGetMany: RadosCalls["omapGetMany"]): Effect.Effect<PartsToRead> => {
  const look = ({ pool, parts }: Question) =>
    Effect.map(
      omapGetMany(
        pool,
        parts.map((object) => ({ object, keys: [] })),
      ),
      (found) => found.some((values) => values !== undefined),
    );
  const lookedAt = keptWhileGood(look, (isSplit) => (isSplit ? Duration.infinity : BELIEVED));
  return Effect.map(
    lookedAt,
    (isSplit): PartsToRead =>
      (pool, parts) => {
        const [first] = parts;
        if (first === undefined) return Effect.succeed([]);
        const { access } = pool;
        return Effect.map(isSplit({ access, name: imageLabel(pool, first), pool, parts }), (split) =>
          split ? parts : [],
        );
      },
  );
};
