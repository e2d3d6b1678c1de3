/** Keyed reads of objects, what values and keys survive, and the removal of objects. */
import { expect, test } from "bun:test";
import { eventually, LIMIT, type Session } from "./harness.ts";

export const omapContract = (at: () => Session): void => {
  test(
    "An absent object is undefined, whether the read names keys or not",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      expect(await run((ceph) => ceph.omapGet(pool, object, ["k"]))).toBeUndefined();
      expect(await run((ceph) => ceph.omapGet(pool, object, []))).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A read answers only the requested keys that exist",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive", set: { a: "1", b: "2", c: "3" } }));
      const read = await run((ceph) => ceph.omapGet(pool, object, ["a", "c", "z"]));
      expect(Object.fromEntries(read ?? [])).toEqual({ a: "1", c: "3" });
      expect((await run((ceph) => ceph.omapGet(pool, object, [])))?.size).toBe(0);
      expect((await run((ceph) => ceph.omapGet(pool, object, ["z"])))?.size).toBe(0);
    },
    LIMIT,
  );

  test(
    "An object without keys exists",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive" }));
      expect((await run((ceph) => ceph.omapGet(pool, object, ["k"])))?.size).toBe(0);
    },
    LIMIT,
  );

  test(
    "A read follows a value to the object that the value's end names",
    async () => {
      const { run, pool, fresh } = at();
      const [object, other] = [fresh("object"), fresh("object-that-is-led-to")];
      const tail = 8;
      const prefix = other.slice(0, -tail);
      const end = other.slice(-tail);
      const follow = (key: string, keys: readonly string[] = ["a", "z"]) =>
        run((ceph) => ceph.omapFollow(pool, object, key, { prefix, tail, keys }));
      expect(await follow("whole")).toBeUndefined();
      const set = { whole: end, "with more": `more/${end}`, short: "x", nul: "x\0y", empty: "" };
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive", set }));
      expect(await follow("absent")).toBeUndefined();
      expect(await follow("whole")).toEqual({ object, value: end, found: undefined });
      await run((ceph) => ceph.omapWrite(pool, other, { object: "exclusive", set: { a: "1", b: "2" } }));
      expect(await follow("whole")).toEqual({ object, value: end, found: new Map([["a", "1"]]) });
      expect(await follow("with more")).toEqual({ object, value: `more/${end}`, found: new Map([["a", "1"]]) });
      expect(await follow("whole", [])).toEqual({ object, value: end, found: new Map() });
      for (const key of ["short", "nul", "empty"] as const) {
        expect(await follow(key)).toEqual({ object, value: set[key], found: undefined });
      }
    },
    LIMIT,
  );

  test(
    "A key of an omap that is split is found in whichever object it is, and the first object goes before its parts",
    async () => {
      const { run, pool, fresh } = at();
      const [object, other] = [fresh("object"), fresh("object-that-is-led-to")];
      const parts = ["1", "2", "3"].map((part) => `${object}.${part}`);
      const [, second = ""] = parts;
      const to = { prefix: other.slice(0, -8), tail: 8, keys: ["a"] };
      const follow = (key: string) => run((ceph) => ceph.omapFollow(pool, object, key, to, parts));
      const write = (name: string, set: Readonly<Record<string, string>>) =>
        run((ceph) => ceph.omapWrite(pool, name, { object: "exclusive", set }));
      const end = other.slice(-8);
      await write(other, { a: "1" });
      await write(second, { k: end, both: "in the part" });
      const found = new Map([["a", "1"]]);
      expect(await follow("k")).toEqual({ object: second, value: end, found });
      expect(await follow("absent")).toBeUndefined();
      await write(object, { both: end });
      expect(await follow("both")).toEqual({ object, value: end, found });
    },
    LIMIT,
  );

  test(
    "Values and keys are read as they were written",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object/with spaces ü");
      const entries: Record<string, string> = {
        "csi.volume.pvc-1": "0001-0009-rook-ceph",
        "a/b c": "slash and space",
        "ключ-鍵-🔑": "значение 値 🗝️",
        empty: "",
        lines: "one\ntwo\ttabs \"quotes\" 'and' \\",
        json: '{"a":[1,2]}',
        long: "0123456789abcdef".repeat(4096),
        "long ü": "ü".repeat(32_768),
        [`k${"x".repeat(250)}`]: "long key",
      };
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive", set: entries }));
      const read = await run((ceph) => ceph.omapGet(pool, object, Object.keys(entries)));
      expect(Object.fromEntries(read ?? [])).toEqual(entries);
    },
    LIMIT,
  );

  test(
    "One read answers many keys",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      const entries = Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`key-${i}`, `value-${i}`]));
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure", set: entries }));
      const read = await run((ceph) => ceph.omapGet(pool, object, [...Object.keys(entries), "absent"]));
      expect(Object.fromEntries(read ?? [])).toEqual(entries);
    },
    LIMIT,
  );

  test(
    "Removal of an object removes its keys, and a second removal succeeds",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure", set: { k: "v" } }));
      await run((ceph) => ceph.objectRemove(pool, object));
      expect(await run((ceph) => ceph.omapGet(pool, object, ["k"]))).toBeUndefined();
      await run((ceph) => ceph.objectRemove(pool, object));
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive" }));
      expect((await run((ceph) => ceph.omapGet(pool, object, ["k"])))?.size).toBe(0);
    },
    LIMIT,
  );

  test(
    "The lock of an object is renewed by who has it, keeps others out, and ends in time or with the object",
    async () => {
      const { run, fails, pool, inNamespace, fresh } = at();
      const object = fresh("object");
      const ours = { name: "lock", cookie: "ours", seconds: 60 };
      const others = { ...ours, cookie: "others" };
      await run((ceph) => ceph.objectLock(pool, object, ours));
      await run((ceph) => ceph.objectLock(pool, object, ours));
      expect((await fails((ceph) => ceph.objectLock(pool, object, others)))._tag).toBe("Busy");
      await run((ceph) => ceph.objectLock(inNamespace, object, others));
      expect((await run((ceph) => ceph.omapGet(pool, object, [])))?.size).toBe(0);
      await run((ceph) => ceph.objectRemove(pool, object));
      expect(await run((ceph) => ceph.omapGet(pool, object, []))).toBeUndefined();
      await run((ceph) => ceph.objectLock(pool, object, { ...others, seconds: 1 }));
      const locked = () =>
        run((ceph) => ceph.objectLock(pool, object, ours)).then(
          () => true,
          () => false,
        );
      expect(await eventually(locked)).toBe(true);
    },
    LIMIT,
  );

  test(
    "The namespaces of a pool do not see each other's objects",
    async () => {
      const { run, pool, inNamespace, fresh } = at();
      const object = fresh("object");
      await run((ceph) => ceph.omapWrite(pool, object, { object: "exclusive", set: { k: "default" } }));
      expect(await run((ceph) => ceph.omapGet(inNamespace, object, ["k"]))).toBeUndefined();
      await run((ceph) => ceph.omapWrite(inNamespace, object, { object: "exclusive", set: { k: "other" } }));
      await run((ceph) => ceph.objectRemove(pool, object));
      expect((await run((ceph) => ceph.omapGet(inNamespace, object, ["k"])))?.get("k")).toBe("other");
    },
    LIMIT,
  );
};
