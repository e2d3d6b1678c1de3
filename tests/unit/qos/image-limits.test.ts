/** What an image keeps of limits: ceph-csi's keys, its arithmetic, and what a change leaves alone. */
import { describe, expect, test } from "bun:test";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import {
  KEPT_KEYS,
  librbdLimits,
  limitFor,
  metadataFor,
  metadataForNew,
  NO_INHERITED_LIMITS,
  POD_KEYS,
  podLimits,
} from "../../../lib/qos/image-limits.ts";
import { type Limited, MAX_LIMIT, METERS, readLimits } from "../../../lib/qos/parameters.ts";

type Strings = Readonly<Record<string, string>>;
const GIB = 1n << 30n;

const askedOf = (parameters: Strings) => Result.getOrThrow(readLimits(parameters));
const created = (parameters: Strings, gib: bigint, by: Limited = "either") =>
  metadataForNew(askedOf(parameters), gib * GIB, by);
const modified = (parameters: Strings, now: Strings, gib: bigint) =>
  metadataFor(askedOf(parameters), new Map(Object.entries(now)), gib * GIB);

/** The example of ceph-csi's documents and tests. */
const EXAMPLE = {
  baseIops: "3000",
  baseReadIops: "2000",
  baseWriteIops: "1000",
  baseBps: "314572800",
  baseReadBps: "209715200",
  baseWriteBps: "104857600",
  iopsPerGiB: "30",
  readIopsPerGiB: "20",
  writeIopsPerGiB: "10",
  bpsPerGiB: "3145728",
  readBpsPerGiB: "2097152",
  writeBpsPerGiB: "1048576",
  baseVolSizeBytes: "21474836480",
};

describe("the keys of an image", () => {
  test("librbd's limits, and what they are computed from, have ceph-csi's keys and values", () => {
    expect(created(EXAMPLE, 100n)).toEqual({
      rbd_base_qos_iops_limit: "3000",
      rbd_base_qos_read_iops_limit: "2000",
      rbd_base_qos_write_iops_limit: "1000",
      rbd_base_qos_bps_limit: "314572800",
      rbd_base_qos_read_bps_limit: "209715200",
      rbd_base_qos_write_bps_limit: "104857600",
      rbd_iops_per_gib_limit: "30",
      rbd_read_iops_per_gib_limit: "20",
      rbd_write_iops_per_gib_limit: "10",
      rbd_bps_per_gib_limit: "3145728",
      rbd_read_bps_per_gib_limit: "2097152",
      rbd_write_bps_per_gib_limit: "1048576",
      rbd_base_qos_vol_size: "21474836480",
      conf_rbd_qos_iops_limit: "5400",
      conf_rbd_qos_read_iops_limit: "3600",
      conf_rbd_qos_write_iops_limit: "1800",
      conf_rbd_qos_bps_limit: "566231040",
      conf_rbd_qos_read_bps_limit: "377487360",
      conf_rbd_qos_write_bps_limit: "188743680",
    });
  });

  test("a maximum is kept, and holds the growth back", () => {
    expect(created({ baseIops: "10", maxIops: "15", iopsPerGiB: "1", baseVolSizeBytes: "0" }, 9n)).toEqual({
      rbd_base_qos_iops_limit: "10",
      rbd_max_qos_iops_limit: "15",
      rbd_iops_per_gib_limit: "1",
      rbd_base_qos_vol_size: "0",
      conf_rbd_qos_iops_limit: "15",
    });
  });

  test("limits for pods have ceph-csi's keys and values, unless rbd-nbd maps the volume", () => {
    const parameters = { maxReadIops: "1000", maxWriteIops: "2000", maxReadBps: "104857600", maxWriteBps: "max" };
    const kept = {
      rbd_max_qos_read_iops_limit: "1000",
      rbd_max_qos_write_iops_limit: "2000",
      rbd_max_qos_read_bps_limit: "104857600",
      rbd_max_qos_write_bps_limit: undefined,
    };
    const pods = {
      ".rbd.csi.ceph.com/cgroup_qos_max_read_iops": "1000",
      ".rbd.csi.ceph.com/cgroup_qos_max_write_iops": "2000",
      ".rbd.csi.ceph.com/cgroup_qos_max_read_bps": "104857600",
      ".rbd.csi.ceph.com/cgroup_qos_max_write_bps": "max",
    };
    expect(created(parameters, 1n)).toEqual({ ...kept, ...pods });
    expect(created(parameters, 1n, "rbd-nbd")).toEqual(kept);
    expect(Object.keys(pods).toSorted()).toEqual(POD_KEYS.toSorted());
  });

  test("an image that only the kernel maps gets nothing that would limit librbd's clients", () => {
    expect(created({ ...EXAMPLE, maxIops: "1" }, 30n, "krbd")).toEqual({});
    expect(created({ ...EXAMPLE, maxReadIops: "1" }, 30n, "krbd")).toEqual({
      ".rbd.csi.ceph.com/cgroup_qos_max_read_iops": "1",
    });
  });

  test("a clone gets rid of every key that it inherits", () => {
    const all = { ...created(EXAMPLE, 30n), ...created({ ...EXAMPLE, maxIops: "1", maxBps: "1" }, 30n) };
    for (const key of Object.keys(all)) expect(NO_INHERITED_LIMITS).toHaveProperty([key], undefined);
  });
});

describe("a change", () => {
  const now = Object.fromEntries(
    Object.entries(created({ ...EXAMPLE, maxIops: "4000" }, 100n)).filter(([key]) => KEPT_KEYS.includes(key)),
  ) as Strings;

  test("a change computes librbd's limits of what is kept and what is new", () => {
    expect(Result.getOrThrow(modified({ baseIops: "100" }, now, 100n))).toMatchObject({
      rbd_base_qos_iops_limit: "100",
      conf_rbd_qos_iops_limit: "2500",
    });
    expect(Result.getOrThrow(modified({ maxIops: "max" }, now, 100n))).toMatchObject({
      rbd_max_qos_iops_limit: undefined,
      conf_rbd_qos_iops_limit: "5400",
    });
  });

  test("a change sets no kept key that is not asked for", () => {
    const { rbd_base_qos_iops_limit: base, ...others } = Result.getOrThrow(modified({ baseIops: "1" }, now, 100n));
    expect(base).toBe("1");
    expect(Object.keys(others).every((key) => key.startsWith("conf_rbd_qos_"))).toBe(true);
  });

  test("a request without limits changes nothing, whatever the image has", () => {
    expect(Result.getOrThrow(modified({}, { rbd_base_qos_iops_limit: "broken" }, 1n))).toEqual({});
  });

  test("a kept value that is no number is named, and is not taken for no limit", () => {
    const broken = { rbd_iops_per_gib_limit: "many", rbd_base_qos_iops_limit: "1" };
    const expected = { key: "rbd_iops_per_gib_limit", text: "many" };
    expect(Result.getOrThrow(Result.flip(modified({ maxIops: "1" }, broken, 1n)))).toEqual(expected);
    expect(Result.getOrThrow(Result.flip(modified({ baseVolSizeBytes: "1" }, broken, 1n)))).toEqual(expected);
    expect(Result.isSuccess(modified({ iopsPerGiB: "2" }, broken, 1n))).toBe(true);
  });
});

describe("a change of one limit", () => {
  const kept = { rbd_base_qos_iops_limit: "5", rbd_base_qos_bps_limit: "6" };

  test("a change computes anew what it names, and all for another base size", () => {
    expect(Result.getOrThrow(modified({ baseBps: "7" }, kept, 1n))).toEqual({
      rbd_base_qos_bps_limit: "7",
      conf_rbd_qos_bps_limit: "7",
    });
    expect(Result.getOrThrow(modified({ baseVolSizeBytes: "7" }, kept, 1n))).toEqual({
      rbd_base_qos_vol_size: "7",
      conf_rbd_qos_iops_limit: "5",
      conf_rbd_qos_bps_limit: "6",
    });
  });

  test("a kept value that is no number stops no change of another limit", () => {
    const broken = { ...kept, rbd_iops_per_gib_limit: "many" };
    expect(Result.getOrThrow(modified({ baseBps: "7" }, broken, 1n))).toHaveProperty("conf_rbd_qos_bps_limit", "7");
  });

  test("a kept maximum that is max, as ceph-csi writes it, is none", () => {
    const now = { ...kept, rbd_max_qos_iops_limit: "max", rbd_iops_per_gib_limit: "1", rbd_base_qos_vol_size: "0" };
    expect(Result.getOrThrow(modified({ baseIops: "8" }, now, 2n))).toHaveProperty("conf_rbd_qos_iops_limit", "10");
    const wrong = { ...kept, rbd_base_qos_iops_limit: "max" };
    expect(Result.isFailure(modified({ maxIops: "8" }, wrong, 2n))).toBe(true);
  });

  test("a base limit of 0 lifts the limit, whatever it grew by", () => {
    const now = { ...kept, rbd_iops_per_gib_limit: "100", rbd_base_qos_vol_size: "0", rbd_max_qos_iops_limit: "9" };
    expect(Result.getOrThrow(modified({ baseIops: "0" }, now, 50n))).toHaveProperty("conf_rbd_qos_iops_limit", "0");
  });
});

describe("limitFor", () => {
  const size = fc.bigInt({ min: 1n << 20n, max: 1n << 60n });
  const limit = fc.bigInt({ min: 0n, max: MAX_LIMIT });

  test("limitFor is the base limit without growth, up to the base size, and never shrinks with the size", () => {
    fc.assert(
      fc.property(size, size, limit, limit, limit, limit, (small, more, base, perGib, max, baseSize) => {
        expect(limitFor(small, { base, max })).toBe(base);
        expect(limitFor(small, { base, perGib, max, baseSize: small })).toBe(base);
        expect(limitFor(small, { base: 0n, perGib, max, baseSize })).toBe(0n);
        const grows = (bytes: bigint) => limitFor(bytes, { base, perGib, baseSize });
        expect(grows(small + more) >= grows(small)).toBe(true);
        expect(grows(small) >= base).toBe(true);
        expect(grows(small) <= MAX_LIMIT).toBe(true);
      }),
    );
  });

  test("limitFor counts whole GiB above the base size, and a maximum caps them", () => {
    const parts = { base: 100n, perGib: 10n, baseSize: 20n * GIB };
    expect(limitFor(21n * GIB - 1n, parts)).toBe(100n);
    expect(limitFor(21n * GIB, parts)).toBe(110n);
    expect(limitFor(200n * GIB, { ...parts, max: 150n })).toBe(150n);
    expect(limitFor(200n * GIB, { ...parts, max: 0n })).toBe(1900n);
  });
});

test("whatever classes ask for, a second change to the same sets the same", () => {
  const keys = METERS.flatMap((meter) => [`base${meter}`, `max${meter}`]);
  const parameters = fc.dictionary(
    fc.constantFrom(...keys, "iopsPerGiB", "readBpsPerGiB", "baseVolSizeBytes"),
    fc.bigInt({ min: 0n, max: MAX_LIMIT }).map(String),
  );
  fc.assert(
    fc.property(parameters, parameters, (first, second) => {
      const set = (now: ReadonlyMap<string, string>, wanted: Strings): ReadonlyMap<string, string> => {
        const next = new Map(now);
        for (const [key, text] of Object.entries(Result.getOrThrow(metadataFor(askedOf(wanted), now, 30n * GIB)))) {
          if (text === undefined) next.delete(key);
          else next.set(key, text);
        }
        return next;
      };
      const once = set(set(new Map(), first), second);
      expect(set(once, second)).toEqual(once);
      expect(Result.getOrThrow(librbdLimits(once, 30n * GIB))).toEqual(
        Object.fromEntries([...once].filter(([key]) => key.startsWith("conf_"))),
      );
    }),
  );
});

describe("podLimits", () => {
  const read = (metadata: Strings) => podLimits(new Map(Object.entries(metadata)));

  test("podLimits reads numbers, and tells no limit from nothing said", () => {
    expect(Result.getOrThrow(read({ conf_rbd_qos_iops_limit: "1" }))).toBeUndefined();
    expect(Result.getOrThrow(read({ ".rbd.csi.ceph.com/cgroup_qos_max_read_iops": "" }))).toBeUndefined();
    expect(Result.getOrThrow(read({ ".rbd.csi.ceph.com/cgroup_qos_max_read_iops": "max" }))).toEqual({});
    expect(
      Result.getOrThrow(
        read({
          ".rbd.csi.ceph.com/cgroup_qos_max_read_iops": "5",
          ".rbd.csi.ceph.com/cgroup_qos_max_write_bps": "0",
          ".rbd.csi.ceph.com/cgroup_qos_max_write_iops": "6",
        }),
      ),
    ).toEqual({ ReadIops: 5n, WriteIops: 6n });
  });

  test("podLimits names a value that is no number", () => {
    const key = ".rbd.csi.ceph.com/cgroup_qos_max_read_bps";
    expect(Result.getOrThrow(Result.flip(read({ [key]: "-1" })))).toEqual({ key, text: "-1" });
  });
});
