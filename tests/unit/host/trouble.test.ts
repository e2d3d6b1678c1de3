/** What lines of the kernel's log say about a device; the lines are those of a real kernel. */
import { expect, test } from "bun:test";
import { noticed } from "../../../lib/host/trouble.ts";

const lines = (...texts: readonly (string | readonly [at: number, text: string])[]) =>
  texts.map((each) => (typeof each === "string" ? { at: 1000, text: each } : { at: each[0], text: each[1] }));
const NONE = { blocklisted: false, imageGone: false, ioErrors: 0 };
const MAPPED = "rbd: rbd1: capacity 1073741824 features 0x1";

test("Lines of other devices, and of an earlier mapping of the same name, say nothing", () => {
  const log = lines(
    "rbd: rbd1: failed to reregister watch: -108",
    "rbd: rbd1: write at objno 0 0~4096 result -108",
    MAPPED,
    "rbd: rbd10: failed to reregister watch: -2",
    "I/O error, dev rbd10, sector 0 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
    "Buffer I/O error on dev rbd11, logical block 0, lost async page write",
    "Buffer I/O error on device dm-10, logical block 0",
    "rbd: rbd1: encountered watch error: -107",
  );
  expect(noticed(log, 1001, "rbd1", "dm-1")).toEqual(NONE);
  expect(noticed([], 1001, "rbd1", "")).toEqual(NONE);
});

test("A watch that is lost for good is told apart by its errno, and one that the kernel tries again by its time", () => {
  const lost = (errno: number, after: number) =>
    noticed(lines(MAPPED, `rbd: rbd1: failed to reregister watch: -${errno}`), 1000 + after, "rbd1", "");
  for (const after of [1, 1_000_000]) {
    expect(lost(108, after)).toEqual({ ...NONE, blocklisted: true, unwatched: 108 });
    expect(lost(2, after)).toEqual({ ...NONE, imageGone: true, unwatched: 2 });
  }
  for (const errno of [5, 107, 110]) {
    expect(lost(errno, 1)).toEqual({ ...NONE, unwatched: errno });
    // the kernel says nothing when it succeeds
    expect(lost(errno, 121)).toEqual(NONE);
  }
});

test("I/O errors of the device and of the layer over it count for ten minutes", () => {
  const log = lines(
    [1000, MAPPED],
    [1010, "rbd: rbd1: write at objno 7 0~4096 result -28"],
    [1020, "I/O error, dev rbd1, sector 0 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2"],
    [1030, "blk_update_request: I/O error, dev rbd1, sector 8"],
    [1040, "Buffer I/O error on dev dm-1, logical block 3, lost async page write"],
  );
  expect(noticed(log, 1050, "rbd1", "dm-1")).toEqual({ ...NONE, ioErrors: 4, lastError: log.at(-1)!.text });
  expect(noticed(log, 1625, "rbd1", "dm-1")).toMatchObject({ ioErrors: 2 });
  expect(noticed(log, 5000, "rbd1", "dm-1")).toEqual(NONE);
});

test("I/O errors of an earlier volume on the same device of rbd-nbd, and on the same layer, are not this one's", () => {
  const early = lines(
    [1000, "nbd0: detected capacity change from 0 to 2097152"],
    [1010, "I/O error, dev nbd0, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2"],
    [1020, "Buffer I/O error on dev dm-1, logical block 3, lost async page write"],
  );
  const later = lines(
    [1100, "nbd0: detected capacity change from 0 to 4194304"],
    [1105, "nbd10: detected capacity change from 0 to 4194304"],
    [1110, "nbd0: detected capacity change from 4194304 to 8388608"],
  );
  const error = lines([1120, "Buffer I/O error on dev dm-1, logical block 8, lost async page write"]);
  expect(noticed(early, 1050, "nbd0", "dm-1")).toMatchObject({ ioErrors: 2 });
  expect(noticed([...early, ...later], 1150, "nbd0", "dm-1")).toEqual(NONE);
  expect(noticed([...early, ...later, ...error], 1150, "nbd0", "dm-1")).toMatchObject({ ioErrors: 1 });
  // a kernel that does not say when it was mapped
  expect(noticed(early.slice(1), 1050, "nbd0", "dm-1")).toEqual(NONE);
});
