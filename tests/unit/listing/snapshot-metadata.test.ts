/**
 * SnapshotMetadata over a Ceph in memory: whoever copies the ranges that a stream tells has the snapshot, whatever was
 * written and discarded, and whichever way the ranges are found.
 */
import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster, type MemoryImage } from "../../support/ceph-memory/memory.ts";
import { BlockMetadataType } from "../../../lib/gen/csi_pb.ts";
import { wrappingStore } from "../../support/key-stores.ts";
import { aDriver } from "../../support/one-world.ts";
import { aCluster, codeOf, creation, deletion, GIB, PARAMETERS, SECRETS, uuidOf } from "../../support/world.ts";
import { aSnapshot, LISTING } from "../../support/listing-world.ts";
import { snapshotDeletion } from "../../support/copies-world.ts";

const LIMIT = 30_000;
const BLOCK = 4096n;
const BLOCKS = 64;

interface Range {
  readonly byteOffset: bigint;
  readonly sizeBytes: bigint;
}
const rangesIn = (
  messages: readonly { readonly blockMetadata: readonly Range[]; readonly volumeCapacityBytes: bigint }[],
): readonly Range[] => messages.flatMap(({ blockMetadata }) => blockMetadata);

/** Which write made each of the first blocks; "" for none. */
const contentOf = ({ snapshots }: MemoryImage): readonly string[] => {
  const held = snapshots[0]?.holds() ?? [];
  return Array.from({ length: BLOCKS }, (_, i) => {
    const at = BigInt(i) * BLOCK;
    return held.find(({ offset, end }) => offset <= at && at < end)?.stamp ?? "";
  });
};
const touched = (ranges: readonly Range[]): ReadonlySet<number> =>
  new Set(
    ranges.flatMap(({ byteOffset, sizeBytes }) =>
      Array.from({ length: Number(sizeBytes / BLOCK) }, (_, i) => Number(byteOffset / BLOCK) + i),
    ),
  );
const copied = (base: readonly string[], target: readonly string[], ranges: readonly Range[]): readonly string[] => {
  const from = touched(ranges);
  return base.map((stamp, i) => (from.has(i) ? (target[i] ?? "") : stamp));
};
const areInOrder = (ranges: readonly Range[]): boolean =>
  ranges.every(({ byteOffset, sizeBytes }, i) => {
    const before = ranges[i - 1];
    return sizeBytes > 0n && (before === undefined || before.byteOffset + before.sizeBytes <= byteOffset);
  });

const write = (image: MemoryImage, block: number, blocks = 1) =>
  image.write(BigInt(block) * BLOCK, BigInt(blocks) * BLOCK);
/** Every second block, by one write each; a write at a time takes a memory image long. */
const sprinkle = (image: MemoryImage, count: number, stamp: string): void => {
  image.content = Array.from({ length: count }, (_, i) => {
    const offset = 2n * BigInt(i) * BLOCK;
    return { offset, end: offset + BLOCK, stamp: `${stamp}.${i}` };
  });
};
const holder = (cluster: MemoryCluster, id: string) => cluster.image("rbd", `csi-snap-${uuidOf(id)}`);

/** A volume with a snapshot before and one after a second write. */
const stage = async (cluster: MemoryCluster = aCluster()) => {
  const { service, calls, forget } = recorded(cephMemoryService(cluster));
  const lister = aDriver(cluster, { ...LISTING, ceph: service });
  const { volume } = await lister.createVolume(creation());
  const image = cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`);
  write(image, 0, 4);
  write(image, 10);
  const one = await aSnapshot(lister, "one", volume.volumeId);
  write(image, 2);
  write(image, 20, 2);
  image.discard(10n * BLOCK, BLOCK);
  const two = await aSnapshot(lister, "two", volume.volumeId);
  write(image, 30);
  forget();
  const close = () => lister[Symbol.asyncDispose]();
  return { cluster, lister, volumeId: volume.volumeId, image, one, two, calls, [Symbol.asyncDispose]: close };
};

const blocks = (...at: readonly (readonly [number, number])[]) =>
  at.map(([block, count]) => ({ byteOffset: BigInt(block) * BLOCK, sizeBytes: BigInt(count) * BLOCK }));

describe("allocated ranges", () => {
  test("the allocated ranges are the data of the snapshot, as ranges of any length, with its capacity", async () => {
    await using world = await stage();
    expect(await world.lister.allocated({ snapshotId: world.one })).toEqual([
      {
        blockMetadataType: BlockMetadataType.VARIABLE_LENGTH,
        volumeCapacityBytes: GIB,
        blockMetadata: blocks([0, 4], [10, 1]),
      },
    ]);
    expect(rangesIn(await world.lister.allocated({ snapshotId: world.two }))).toEqual(blocks([0, 4], [20, 2]));
  });

  test("an empty snapshot has one message without a range", async () => {
    const cluster = aCluster();
    await using lister = aDriver(cluster, LISTING);
    const { volume } = await lister.createVolume(creation());
    const id = await aSnapshot(lister, "empty", volume.volumeId);
    const empty = { blockMetadataType: BlockMetadataType.VARIABLE_LENGTH, volumeCapacityBytes: GIB, blockMetadata: [] };
    expect(await lister.allocated({ snapshotId: id })).toEqual([empty]);
    expect(await lister.delta({ baseSnapshotId: id, targetSnapshotId: id })).toEqual([empty]);
  });
});

describe("ranges of encrypted volumes", () => {
  test.each([
    ["16 MiB where nothing else is written", {}, 16n << 20n],
    ["what the image says", { "rbd.csi.ceph.com/luks2HeaderSize": "4194304" }, 4n << 20n],
  ])("The ranges are those behind a header of %s, counted from its end", async (_, meta, header) => {
    const cluster = aCluster();
    const stores = { kms: wrappingStore() };
    await using lister = aDriver(cluster, { ...LISTING, stores });
    const parameters = { ...PARAMETERS, encrypted: "true", encryptionKMSID: "kms" };
    const { volume } = await lister.createVolume(creation({ parameters }));
    const image = cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`);
    for (const [key, value] of Object.entries(meta)) image.meta.set(key, value);
    image.write(0n, header + 2n * BLOCK);
    const one = await aSnapshot(lister, "one", volume.volumeId);
    image.write(0n, BLOCK);
    image.write(header + 9n * BLOCK, BLOCK);
    const two = await aSnapshot(lister, "two", volume.volumeId);
    const [first] = await lister.allocated({ snapshotId: one });
    expect(first).toMatchObject({ volumeCapacityBytes: GIB - header, blockMetadata: blocks([0, 2]) });
    expect(rangesIn(await lister.delta({ baseSnapshotId: one, targetSnapshotId: two }))).toEqual(blocks([9, 1]));
    const later = await lister.allocated({ snapshotId: two, startingOffset: BLOCK });
    expect(rangesIn(later)).toEqual(blocks([1, 1], [9, 1]));
    expect(await codeOf(lister.allocated({ snapshotId: one, startingOffset: GIB - header + 1n }))).toBe("OUT_OF_RANGE");
  });
});

test("The ranges of a volume with integrity are refused, because its blocks lie among their tags in the image", async () => {
  const cluster = aCluster();
  await using lister = aDriver(cluster, { ...LISTING, stores: { kms: wrappingStore() } });
  const parameters = { ...PARAMETERS, encrypted: "true", encryptionKMSID: "kms" };
  const { volume } = await lister.createVolume(creation({ parameters }));
  cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`).meta.set("rbd.csi.ceph.com/luks2Integrity", "true");
  const [one, two] = [await aSnapshot(lister, "one", volume.volumeId), await aSnapshot(lister, "two", volume.volumeId)];
  const asked = [lister.allocated({ snapshotId: one }), lister.delta({ baseSnapshotId: one, targetSnapshotId: two })];
  expect(await Promise.all(asked.map(codeOf))).toEqual(["FAILED_PRECONDITION", "FAILED_PRECONDITION"]);
});

describe("changed ranges", () => {
  test("the changed ranges are the written and the discarded ones, and no image is opened for writing", async () => {
    await using world = await stage();
    const { lister, one, two, calls } = world;
    expect(rangesIn(await lister.delta({ baseSnapshotId: one, targetSnapshotId: two }))).toEqual(
      blocks([2, 1], [10, 1], [20, 2]),
    );
    expect([...new Set(calls().map(({ method }) => method))].toSorted()).toEqual([
      "diff",
      "imageStatus",
      "omapGet",
      "poolName",
      "snapshots",
    ]);
    // what differs, differs in both directions
    expect(rangesIn(await lister.delta({ baseSnapshotId: two, targetSnapshotId: one }))).toEqual(
      blocks([2, 1], [10, 1], [20, 2]),
    );
  });

  const rough: Readonly<Record<string, (world: Awaited<ReturnType<typeof stage>>) => unknown>> = {
    "librbd can't compare from a snapshot's id": ({ cluster }) => (cluster.diffsFromIds = false),
    "the volume is deleted": ({ lister, volumeId }) => lister.deleteVolume(deletion(volumeId)),
    "the older snapshot is flattened": ({ cluster, one }) => holder(cluster, one).flatten(),
    "the newer snapshot is flattened": ({ cluster, two }) => holder(cluster, two).flatten(),
    "both snapshots are flattened": ({ cluster, one, two }) => {
      holder(cluster, one).flatten();
      holder(cluster, two).flatten();
    },
  };
  for (const [when, make] of Object.entries(rough)) {
    test(`the changed ranges are all the data of both snapshots when ${when}`, async () => {
      await using world = await stage();
      await make(world);
      expect(rangesIn(await world.lister.delta({ baseSnapshotId: world.one, targetSnapshotId: world.two }))).toEqual(
        blocks([0, 4], [10, 1], [20, 2]),
      );
    });
  }

  test("the changed ranges continue inexactly when the volume is deleted between two pages", async () => {
    const cluster = aCluster();
    let deleted = 0;
    const inner = cephMemoryService(cluster);
    await using maker = aDriver(cluster, LISTING);
    const { volume } = await maker.createVolume(creation());
    const image = cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`);
    sprinkle(image, 5000, "first");
    const one = await aSnapshot(maker, "one", volume.volumeId);
    sprinkle(image, 5000, "second");
    const two = await aSnapshot(maker, "two", volume.volumeId);
    const calls: [bigint, string][] = [];
    await using lister = aDriver(cluster, {
      ...LISTING,
      ceph: {
        ...inner,
        diff: (source, from, offset, limit) => {
          if (offset > 0n && deleted++ === 0) cluster.namespace("rbd", "")?.images.delete(source.image);
          calls.push([offset, source.image.slice(0, 8)]);
          return inner.diff(source, from, offset, limit);
        },
      },
    });
    const ranges = rangesIn(await lister.delta({ baseSnapshotId: one, targetSnapshotId: two }));
    expect(ranges).toEqual(Array.from({ length: 5000 }, (_, i) => blocks([2 * i, 1])).flat());
    const page = 2n * 4096n * BLOCK - BLOCK;
    expect(calls).toEqual([
      [0n, "csi-vol-"],
      [page, "csi-vol-"],
      [page, "csi-snap"],
      [page, "csi-snap"],
    ]);
    expect(lister.log.join()).toContain(`offset ${page}`);
  });

  test(
    "the changed ranges copied over the older snapshot make the newer one, whatever happened to the volume",
    async () => {
      const change = fc.record({
        what: fc.constantFrom("write", "write", "discard", "flatten"),
        at: fc.nat(BLOCKS - 1),
        count: fc.integer({ min: 1, max: 12 }),
      });
      await fc.assert(
        fc.asyncProperty(
          fc.array(change, { maxLength: 12 }),
          fc.array(change, { maxLength: 12 }),
          fc.array(change, { maxLength: 12 }),
          fc.constantFrom("exact", "old client", "deleted", "flattened"),
          fc.boolean(),
          fc.integer({ min: 0, max: 5 }),
          async (origin, before, after, how, restored, maxResults) => {
            const cluster = aCluster();
            await using lister = aDriver(cluster, LISTING);
            let { volume } = await lister.createVolume(creation());
            const play = (changes: typeof origin) => {
              const image = cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`);
              for (const { what, at, count } of changes) {
                const length = Math.min(count, BLOCKS - at);
                if (what === "write") write(image, at, length);
                else if (what === "discard") image.discard(BigInt(at) * BLOCK, BigInt(length) * BLOCK);
                else image.flatten();
              }
            };
            play(origin);
            if (restored) {
              const snapshotId = await aSnapshot(lister, "origin", volume.volumeId);
              const volumeContentSource = { type: { case: "snapshot" as const, value: { snapshotId } } };
              ({ volume } = await lister.createVolume(creation({ name: "restored", volumeContentSource })));
            }
            play(before);
            const one = await aSnapshot(lister, "one", volume.volumeId);
            play(after);
            const two = await aSnapshot(lister, "two", volume.volumeId);
            if (how === "old client") cluster.diffsFromIds = false;
            if (how === "deleted") await lister.deleteVolume(deletion(volume.volumeId));
            if (how === "flattened") holder(cluster, two).flatten();
            const [base, target] = [contentOf(holder(cluster, one)), contentOf(holder(cluster, two))];
            const delta = await lister.delta({ baseSnapshotId: one, targetSnapshotId: two, maxResults });
            expect(copied(base, target, rangesIn(delta))).toEqual(target);
            const all = await lister.allocated({ snapshotId: two, maxResults });
            const nothing = Array.from({ length: BLOCKS }, () => "");
            expect(copied(nothing, target, rangesIn(all))).toEqual(target);
            for (const messages of [delta, all]) {
              expect(areInOrder(rangesIn(messages))).toBe(true);
              for (const { blockMetadata, volumeCapacityBytes } of messages) {
                expect(volumeCapacityBytes).toBe(GIB);
                if (maxResults > 0) expect(blockMetadata.length).toBeLessThanOrEqual(maxResults);
              }
            }
            if (how === "exact") {
              const differs = base.flatMap((stamp, i) => (stamp === target[i] ? [] : [i]));
              expect([...touched(rangesIn(delta))]).toEqual(expect.arrayContaining(differs));
            }
          },
        ),
        { numRuns: 150 },
      );
    },
    LIMIT,
  );
});

describe("pages of snapshot metadata", () => {
  test("pages have at most as many ranges as requested, and begin at the offset, also inside a range", async () => {
    await using world = await stage();
    const { lister, one } = world;
    const image = holder(world.cluster, one);
    expect(image.snapshots).toHaveLength(1);
    const messages = await lister.allocated({ snapshotId: one, maxResults: 1 });
    expect(messages.map(({ blockMetadata }) => blockMetadata)).toEqual([blocks([0, 4]), blocks([10, 1])]);
    const from = async (startingOffset: bigint) =>
      rangesIn(await lister.allocated({ snapshotId: one, startingOffset }));
    expect(await from(BLOCK)).toEqual(blocks([1, 3], [10, 1]));
    expect(await from(4n * BLOCK)).toEqual(blocks([10, 1]));
    expect(await from(10n * BLOCK + 1n)).toEqual([{ byteOffset: 10n * BLOCK + 1n, sizeBytes: BLOCK - 1n }]);
    expect(await from(GIB)).toEqual([]);
    expect(
      rangesIn(await lister.delta({ baseSnapshotId: one, targetSnapshotId: world.two, startingOffset: 3n * BLOCK })),
    ).toEqual(blocks([10, 1], [20, 2]));
  });

  test(
    "pages have at most 4096 ranges whatever the request asks for, and 4096 ranges cost one call to Ceph",
    async () => {
      const cluster = aCluster();
      const { service, calls, forget } = recorded(cephMemoryService(cluster));
      await using lister = aDriver(cluster, { ...LISTING, ceph: service });
      const { volume } = await lister.createVolume(creation());
      const image = cluster.image("rbd", `csi-vol-${uuidOf(volume.volumeId)}`);
      sprinkle(image, 10_000, "all");
      const id = await aSnapshot(lister, "s", volume.volumeId);
      forget();
      const messages = await lister.allocated({ snapshotId: id, maxResults: 2_000_000_000 });
      expect(messages.map(({ blockMetadata }) => blockMetadata.length)).toEqual([4096, 4096, 1808]);
      expect(calls().filter(({ method }) => method === "diff")).toHaveLength(3);
      forget();
      // a page is asked for when the one before is taken: this is all that is ever in memory
      expect(await lister.allocated({ snapshotId: id }, 1)).toHaveLength(1);
      expect(calls().filter(({ method }) => method === "diff")).toHaveLength(1);
      forget();
      const sevens = await lister.allocated({ snapshotId: id, maxResults: 7 });
      expect(sevens.every(({ blockMetadata }) => blockMetadata.length <= 7)).toBe(true);
      expect(rangesIn(sevens)).toEqual(rangesIn(messages));
      expect(calls().filter(({ method }) => method === "diff")).toHaveLength(3);
    },
    LIMIT,
  );
});

interface MetadataInit {
  readonly startingOffset?: bigint;
  readonly maxResults?: number;
  readonly secrets?: Record<string, string>;
}

describe("errors of snapshot metadata", () => {
  test("GetMetadataAllocated and GetMetadataDelta answer wrong requests with the codes of CSI", async () => {
    await using world = await stage();
    const { lister, one, two, volumeId } = world;
    const allocated = (snapshotId: string, more: MetadataInit = {}) =>
      codeOf(lister.allocated({ snapshotId, ...more }));
    const delta = (baseSnapshotId: string, targetSnapshotId: string, more: MetadataInit = {}) =>
      codeOf(lister.delta({ baseSnapshotId, targetSnapshotId, ...more }));
    const gone = one.replace(uuidOf(one), crypto.randomUUID());
    expect(await allocated("")).toBe("INVALID_ARGUMENT");
    expect(await allocated("none-exist-id")).toBe("NOT_FOUND");
    expect(await allocated(gone)).toBe("NOT_FOUND");
    expect(await allocated(volumeId)).toBe("NOT_FOUND");
    expect(await delta("", two)).toBe("INVALID_ARGUMENT");
    expect(await delta(one, "")).toBe("INVALID_ARGUMENT");
    expect(await delta(gone, two)).toBe("NOT_FOUND");
    expect(await delta(one, gone)).toBe("NOT_FOUND");
    for (const [more, expected] of [
      [{ startingOffset: -1n }, "INVALID_ARGUMENT"],
      [{ maxResults: -1 }, "INVALID_ARGUMENT"],
      [{ startingOffset: GIB + 1n }, "OUT_OF_RANGE"],
      [{ secrets: { userID: "admin" } }, "INVALID_ARGUMENT"],
      [{ secrets: { userID: "admin", userKey: "d3Jvbmc=" } }, "PERMISSION_DENIED"],
      [{ secrets: SECRETS }, "OK"],
    ] as const) {
      expect([more, await allocated(one, more)]).toEqual([more, expected]);
      expect([more, await delta(one, two, more)]).toEqual([more, expected]);
    }
  });

  test("snapshot metadata answers INVALID_ARGUMENT for snapshots of two volumes, and FAILED_PRECONDITION for one that is not ready", async () => {
    await using world = await stage();
    const { lister, one, two, cluster } = world;
    const { volume } = await lister.createVolume(creation({ name: "other" }));
    const other = await aSnapshot(lister, "of-other", volume.volumeId);
    const { volume: far } = await lister.createVolume(
      creation({ name: "far", parameters: { ...PARAMETERS, pool: "ssd" } }),
    );
    const elsewhere = await aSnapshot(lister, "of-far", far.volumeId);
    expect(await codeOf(lister.delta({ baseSnapshotId: one, targetSnapshotId: other }))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(lister.delta({ baseSnapshotId: one, targetSnapshotId: elsewhere }))).toBe("INVALID_ARGUMENT");
    cluster
      .namespace("rbd", "")
      ?.objects.get(`csi.snap.${uuidOf(two)}`)
      ?.delete("csi.imageid");
    expect(await codeOf(lister.allocated({ snapshotId: two }))).toBe("FAILED_PRECONDITION");
    expect(await codeOf(lister.delta({ baseSnapshotId: one, targetSnapshotId: two }))).toBe("FAILED_PRECONDITION");
    await lister.deleteSnapshot(snapshotDeletion(one));
    expect(await codeOf(lister.allocated({ snapshotId: one }))).toBe("NOT_FOUND");
  });
});
