/** Options of rbd map and rbd unmap: which the rbd tool takes, and how the driver's join a user's. */
import { expect, test } from "bun:test";
import {
  joinMapOptions,
  lockingOption,
  mapsReadOnly,
  refusalOfMapOptions,
  refusalOfUnmapOptions,
  sortUnmapOptions,
} from "../../../lib/config/krbd-options.ts";

test.each([
  "",
  "lock_on_read,queue_depth=1024",
  "ms_mode=prefer-crc,rxbounce,read_from_replica=localize,crush_location=zone:z1|rack:r1",
  "exclusive,notrim,ro,alloc_size=65536,osd_request_timeout=30,noudev,,",
])("The map options %j are taken", (options) => {
  expect(refusalOfMapOptions(options)).toBeUndefined();
});

test.each([
  ["foo=1", 'has "foo"'],
  ["queue_dept=9", "write queue_depth"],
  ["force", 'has "force"'],
  ["constructor", 'has "constructor"'],
  ["queue_depth", "queue_depth without a value"],
  ["queue_depth=many", "decimal number"],
  ["mount_timeout=-1", "decimal number"],
  ["ms_mode=", "ms_mode without a value"],
])("The map options %j are refused with %j", (options, reason) => {
  expect(refusalOfMapOptions(options)).toContain(reason);
});

test.each<[options: string, usable: string, others: string[], refusal: string | undefined]>([
  ["", "", [], undefined],
  ["force", "force", [], undefined],
  ["force,noudev,udev", "force,noudev,udev", [], undefined],
  ["force,mount_timeout=30", "force", ["mount_timeout=30"], 'has "mount_timeout", which "rbd unmap" does not take'],
  ["nonsense, forced", "", ["nonsense", "forced"], 'has "nonsense"'],
])("Of the unmap options %j, %j are usable and %j are not", (options, usable, others, refusal) => {
  expect(sortUnmapOptions(options)).toEqual({ usable, others });
  if (refusal === undefined) expect(refusalOfUnmapOptions(options)).toBeUndefined();
  else expect(refusalOfUnmapOptions(options)).toContain(refusal);
});

test.each<[given: string, added: string, joined: string]>([
  ["", "", ""],
  ["", "read_from_replica=localize,crush_location=a:b", "read_from_replica=localize,crush_location=a:b"],
  ["queue_depth=9", "read_from_replica=localize", "queue_depth=9,read_from_replica=localize"],
  [
    "read_from_replica=balance",
    "read_from_replica=localize,crush_location=a:b",
    "read_from_replica=balance,crush_location=a:b",
  ],
  [
    "crush_location=c:d",
    "read_from_replica=localize,crush_location=a:b",
    "crush_location=c:d,read_from_replica=localize",
  ],
  ["ro,notrim,rw", "", "notrim"],
])("The map options %j of a user and %j of the driver join to %j", (given, added, joined) => {
  expect(joinMapOptions(given, added)).toBe(joined);
});

test("The last of ro and rw says whether the device is read-only, and two options need an exclusive lock", () => {
  expect([mapsReadOnly("ro"), mapsReadOnly("rw,ro"), mapsReadOnly("ro,rw"), mapsReadOnly("notrim")]).toEqual([
    true,
    true,
    false,
    false,
  ]);
  expect([lockingOption("notrim,exclusive"), lockingOption("lock_on_read"), lockingOption("")]).toEqual([
    "exclusive",
    "lock_on_read",
    undefined,
  ]);
});
