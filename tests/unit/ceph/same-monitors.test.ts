/** Lists of monitors that lead to one cluster, and lists that do not. */
import { describe, expect, test } from "bun:test";
import { sameMonitors } from "../../../lib/ceph/same-monitors.ts";

const SAME: readonly (readonly [string, readonly string[], readonly string[]])[] = [
  ["another order", ["10.0.0.1:6789", "10.0.0.2:6789"], ["10.0.0.2:6789", "10.0.0.1:6789"]],
  ["one text", ["10.0.0.1:6789", "10.0.0.2:6789"], ["10.0.0.1:6789,10.0.0.2:6789"]],
  ["blanks", ["10.0.0.1:6789", "10.0.0.2:6789"], ["10.0.0.1:6789, 10.0.0.2:6789 "]],
  ["both protocols", ["10.0.0.1:6789"], ["[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]"]],
  ["the other protocol", ["v1:10.0.0.1:6789"], ["v2:10.0.0.1:3300"]],
  ["no port", ["10.0.0.1", "mon-b.example:3300"], ["MON-B.example", "10.0.0.1:6789"]],
  ["an unusual port with its protocol", ["v2:10.0.0.1:40000"], ["10.0.0.1:40000"]],
  ["IPv6", ["[fd00::1]:6789", "[fd00::2]"], ["[v2:[fd00::2]:3300,v1:[fd00::2]:6789]", "[v2:[fd00::1]:3300/0]"]],
];

const OTHER: readonly (readonly [string, readonly string[], readonly string[]])[] = [
  ["another address", ["10.0.0.1:6789"], ["10.0.0.2:6789"]],
  ["another unusual port", ["10.0.0.1:40000"], ["10.0.0.1:40001"]],
  ["a monitor more", ["10.0.0.1:6789"], ["10.0.0.1:6789", "10.0.0.2:6789"]],
  ["the last group of an IPv6 address", ["fd00::1:3300"], ["fd00::1:6789"]],
];

describe("monitors of one cluster", () => {
  test.each(SAME)("with %s are the same", (_what, one, other) => {
    expect([sameMonitors(one, other), sameMonitors(other, one)]).toEqual([true, true]);
  });

  test.each(OTHER)("with %s are not", (_what, one, other) => {
    expect(sameMonitors(one, other)).toBe(false);
  });
});
