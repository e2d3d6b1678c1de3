/** Answers of Ceph's commands (lib/ceph/cell/json.ts): one of an unknown form is an error, never an empty list. */
import { expect, test } from "bun:test";
import { Errno } from "../../../lib/cells/cell.ts";
import { listIn, objectIn } from "../../../lib/ceph/cell/json.ts";

test("The fields of an answer are read by their types, and absent fields get their defaults", () => {
  const [first] = listIn("ls", '[{"id": 1, "name": "rbd", "on": true, "uses": {"rbd": {}}}]');
  expect([first?.number("id"), first?.text("name"), first?.flag("on"), first?.flag("off")]).toEqual([
    1,
    "rbd",
    true,
    false,
  ]);
  expect([first?.text("other", ""), first?.number("other", 0)]).toEqual(["", 0]);
  expect(first?.object("uses").has("rbd")).toBe(true);
  expect(objectIn("df", '{"pools": []}').list("pools")).toEqual([]);
});

test.each([
  ["text that is not JSON", () => listIn("ls", "no such command")],
  ["an object for a list", () => listIn("ls", "{}")],
  ["a list of other things", () => listIn("ls", "[1]")],
  ["a list for an object", () => objectIn("df", "null")],
  ["a field of another type", () => objectIn("df", '{"id": "1"}').number("id", 0)],
  ["a field that is not there", () => objectIn("df", "{}").text("name")],
  ["a list that is not there", () => objectIn("df", "{}").list("pools")],
  ["an object that is not there", () => objectIn("df", "{}").object("stats")],
])("The reader reports %s as an error that shows it", (_, read) => {
  const error = (() => {
    try {
      return read();
    } catch (thrown) {
      return thrown;
    }
  })();
  expect(error).toBeInstanceOf(Errno);
  expect(error).toMatchObject({ errno: 0, message: expect.stringContaining("is expected") });
});
