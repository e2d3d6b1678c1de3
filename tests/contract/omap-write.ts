/** Writes: what they demand of the object and its keys, and that a write that fails wrote nothing. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { CephError } from "../../lib/ceph/errors.ts";
import { LIMIT, type Session } from "./harness.ts";

/** Eight writers at once -> how each ended. */
const attempt = (write: (i: number) => Effect.Effect<void, CephError>) =>
  Effect.forEach(
    Array.from({ length: 8 }, (_, i) => i),
    (i) =>
      write(i).pipe(
        Effect.as("won"),
        Effect.catch((error) => Effect.succeed(error._tag)),
      ),
    { concurrency: "unbounded" },
  );

export const omapWriteContract = (at: () => Session): void => {
  /** All keys that these tests use. */
  const read = async (object: string): Promise<Record<string, string> | undefined> => {
    const { run, pool } = at();
    const found = await run((ceph) => ceph.omapGet(pool, object, ["a", "b", "c", "n"]));
    return found && Object.fromEntries(found);
  };

  test(
    "An exclusive write makes an object once",
    async () => {
      const { run, fails, pool, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive", set: { a: "1" } }));
      const error = await fails((ceph) =>
        ceph.omapWrite(pool, object, { object: "exclusive", set: { a: "2", b: "2" } }),
      );
      expect(error._tag).toBe("Exists");
      expect(await read(object)).toEqual({ a: "1" });
    },
    LIMIT,
  );

  test(
    "A write with ensure makes an object or keeps it",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure", set: { a: "1" } }));
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure", set: { b: "2" } }));
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure" }));
      expect(await read(object)).toEqual({ a: "1", b: "2" });
    },
    LIMIT,
  );

  test(
    "A write with require never makes an object",
    async () => {
      const { run, fails, pool, fresh } = at();
      const object = fresh("object");
      const absent = [
        await fails((ceph) => ceph.omapWrite(pool, object, { object: "require", set: { a: "1" } })),
        await fails((ceph) => ceph.omapWrite(pool, object, { object: "require", remove: ["a"] })),
        await fails((ceph) =>
          ceph.omapWrite(pool, object, { object: "require", compare: { a: "1" }, set: { a: "2" } }),
        ),
        await fails((ceph) => ceph.omapWrite(pool, object, { object: "require", compare: { a: "" }, set: { a: "2" } })),
        await fails((ceph) => ceph.omapWrite(pool, object, { object: "require" })),
      ];
      expect(absent.map((error) => error._tag)).toEqual(absent.map(() => "ObjectNotFound"));
      expect(await read(object)).toBeUndefined();
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive" }));
      await run((ceph) => ceph.omapWrite(pool, object, { object: "require", set: { a: "1" } }));
      expect(await read(object)).toEqual({ a: "1" });
    },
    LIMIT,
  );

  test(
    "A write sets, overwrites and removes keys, and removal of an absent key succeeds",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure", set: { a: "1", b: "1" } }));
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure", set: { a: "2" }, remove: ["b", "c"] }));
      expect(await read(object)).toEqual({ a: "2" });
    },
    LIMIT,
  );

  test(
    "A key that one write both sets and removes is gone",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure", set: { a: "1", b: "1" }, remove: ["a"] }));
      expect(await read(object)).toEqual({ b: "1" });
    },
    LIMIT,
  );

  test(
    "A comparison that holds lets the whole write through",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive", set: { a: "1", b: "2" } }));
      await run((ceph) =>
        ceph.omapWrite(pool, object, {
          object: "require",
          compare: { a: "1", b: "2" },
          set: { a: "10", c: "3" },
          remove: ["b"],
        }),
      );
      expect(await read(object)).toEqual({ a: "10", c: "3" });
    },
    LIMIT,
  );

  test(
    "A comparison that does not hold is Raced, and nothing is written",
    async () => {
      const { run, fails, pool, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive", set: { a: "1", b: "2" } }));
      const write = (compare: Record<string, string>) =>
        fails((ceph) =>
          ceph.omapWrite(pool, object, { object: "ensure", compare, set: { a: "9", c: "9" }, remove: ["b"] }),
        );
      const raced = [
        await write({ a: "2" }),
        await write({ a: "1", b: "1" }),
        await write({ a: "" }),
        await write({ a: "10" }),
        await write({ a: "1", c: "3" }),
      ];
      expect(raced.map((error) => error._tag)).toEqual(raced.map(() => "Raced"));
      expect(await read(object)).toEqual({ a: "1", b: "2" });
    },
    LIMIT,
  );

  test(
    "An absent key and an empty value compare equal to the empty value",
    async () => {
      const { run, fails, pool, fresh } = at();
      const object = fresh("object");
      // on an object that this very write makes
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure", compare: { a: "" }, set: { a: "" } }));
      expect(await read(object)).toEqual({ a: "" });
      await run((ceph) =>
        ceph.omapWrite(pool, object, { object: "require", compare: { a: "", n: "" }, set: { a: "1" } }),
      );
      expect(await read(object)).toEqual({ a: "1" });
      const absent = await fails((ceph) =>
        ceph.omapWrite(pool, object, { object: "require", compare: { n: "x" }, set: { a: "2" } }),
      );
      expect(absent._tag).toBe("Raced");
      const unmade = fresh("object");
      const made = await fails((ceph) =>
        ceph.omapWrite(pool, unmade, { object: "ensure", compare: { a: "x" }, set: { a: "2" } }),
      );
      expect(made._tag).toBe("Raced");
      expect(await read(unmade)).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "Of writers side by side exactly one succeeds",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      const made = await run((ceph) =>
        attempt((i) => ceph.omapWrite(pool, object, { object: "exclusive", set: { n: `${i}` } })),
      );
      expect(made.toSorted()).toEqual([...Array<string>(7).fill("Exists"), "won"]);
      const winner = `${made.indexOf("won")}`;
      expect(await read(object)).toEqual({ n: winner });
      const swapped = await run((ceph) =>
        attempt((i) =>
          ceph.omapWrite(pool, object, { object: "require", compare: { n: winner }, set: { n: `swapped-${i}` } }),
        ),
      );
      expect(swapped.toSorted()).toEqual([...Array<string>(7).fill("Raced"), "won"]);
      expect(await read(object)).toEqual({ n: `swapped-${swapped.indexOf("won")}` });
    },
    LIMIT,
  );
};
