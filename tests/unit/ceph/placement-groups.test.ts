/** Which placement group an object is in, as Ceph has it, and one name for each of them. */
import { describe, expect, test } from "bun:test";
import { groupOf, nameForEach, rjenkins } from "../../../lib/ceph/cell/placement-groups.ts";

/** The first two are what `ceph osd map` shows. */
test.each([
  ["foo", 0x7fc1_f406],
  ["test-object-1", 0x74dc_35e2],
])("The hash of %s is that of Ceph", (name, hash) => {
  expect(rjenkins(name)).toBe(hash);
});

test.each([
  [8, 6],
  [12, 6],
  [6, 2],
  [1, 0],
])("Of %d groups, foo is in number %d", (groups, group) => {
  expect(groupOf("", "foo", groups)).toBe(group);
});

describe("one name for each group", () => {
  for (const namespace of ["", "tenant"]) {
    test.each([1, 2, 3, 12, 32, 100, 1024])(`of %d, in the namespace "${namespace}"`, (groups) => {
      const names = nameForEach(namespace, groups);
      const found = names.map((name) => groupOf(namespace, name, groups));
      expect(found.toSorted((a, b) => a - b)).toEqual(Array.from({ length: groups }, (_, i) => i));
    });
  }
});
