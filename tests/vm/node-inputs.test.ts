/** What people write, on a real kernel with its real tools: odd secrets, options that no tool takes, images made by hand. */
import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import * as Effect from "effect/Effect";
import * as ManagedRuntime from "effect/ManagedRuntime";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../lib/gen/csi_pb.ts";
import { Host } from "../../lib/host/host.ts";
import { hostLayerLive } from "../../lib/host/live.ts";
import { CLUSTER, GIB, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { conditionOf } from "../support/csi-1.12.ts";
import {
  capabilityOf,
  checksum,
  failureOf,
  left,
  LIMIT,
  mapped,
  MINUTES,
  optionsAt,
  rbd,
  type TestVolume,
  worldOfFile,
  writeData,
} from "./kubelet.ts";
import { mountTable, tool } from "./loop.ts";

const world = worldOfFile("inputs");

/** The name of a new image that no driver has made. A second attempt of a test gets another one. */
const madeByHand = (prefix: string, size: string): string => {
  const image = `${prefix}-${crypto.randomUUID()}`;
  rbd("create", "--size", size, `${world().pool.name}/${image}`);
  return image;
};
const withContext = (volume: TestVolume, more: Readonly<Record<string, string>>): TestVolume =>
  volume.as({ volumeContext: { ...volume.volumeContext, ...more } });

describe("a secret", () => {
  test(
    "a userKey with a blank, a byte order mark or a no-break space around it stages as it creates, and no log has it",
    async () => {
      const odd = (before: string) => ({
        userID: `${before}${secrets()["userID"]}`,
        userKey: `${before}${secrets()["userKey"]}\n`,
      });
      const volume = await world().makeVolume("block", {}, { secrets: odd("\ufeff") });
      for (const before of [" ", "\ufeff", "\u00a0"]) {
        await volume.as({ secrets: odd(before) }).stage();
        await volume.unstage();
        expect(left(volume)).toEqual([[], []]);
      }
      expect(world().driver().log()).not.toContain(rig().key);
    },
    MINUTES,
  );

  test(
    "a userKey that is no key is refused without a word of it",
    async () => {
      const volume = await world().makeVolume("ext4");
      const wrong = `${rig().key.slice(0, 20)} ${rig().key.slice(20)}`;
      const failure = await failureOf(volume.as({ secrets: { ...secrets(), userKey: wrong } }).stage());
      expect(failure?.code).toBe("PERMISSION_DENIED");
      for (const text of [failure?.message ?? "", world().driver().log()]) {
        expect(text).not.toContain(rig().key.slice(0, 20));
        expect(text).not.toContain(rig().key.slice(20));
      }
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );
});

describe("fsType", () => {
  for (const [made, asked] of [
    ["ext3", "ext4"],
    ["ext4", "ext3"],
  ] as const) {
    test(
      `an ${made} is mounted and grown where ${asked} is asked for, and not where xfs is`,
      async () => {
        const volume = await world().makeVolume(made);
        await volume.stage();
        const sum = writeData(`${volume.stagingTarget}/data`, 1);
        await volume.unstage();
        const other = volume.as({ kind: asked });
        await other.stage();
        await other.stage();
        await other.publish();
        expect(checksum(`${other.target}/data`, 1)).toBe(sum);
        await other.grow(2n * GIB);
        expect((await other.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
        expect(world().driver().log()).toContain(`holds ${made}, and the request asks for ${asked}`);
        await other.unpublish();
        await other.unstage();
        const failure = await failureOf(volume.as({ kind: "xfs" }).stage());
        expect(failure).toMatchObject({ code: "FAILED_PRECONDITION" });
        expect(failure?.message).toContain(`PersistentVolume with fsType ${made}`);
        expect(left(volume)).toEqual([[], []]);
      },
      MINUTES,
    );
  }
});

describe("unmapOptions", () => {
  test(
    "a volume that is staged with unmapOptions that rbd unmap does not take is unmapped without them",
    async () => {
      const volume = await world().makeVolume("ext4");
      expect(await failureOf(withContext(volume, { unmapOptions: "force,mount_timeout=30" }).stage())).toMatchObject({
        code: "INVALID_ARGUMENT",
        message: expect.stringContaining("mount_timeout"),
      });
      await volume.stage();
      const path = `${volume.staging}/image-meta.json`;
      const text = readFileSync(path, "utf8");
      writeFileSync(path, text.replace('"unmapOptions":""', '"unmapOptions":"force,mount_timeout=30"'));
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );

  test(
    "options that the rbd tool of this node refuses do not keep a device mapped",
    async () => {
      const volume = await world().makeVolume("block");
      rbd("map", "-o", "noudev", volume.spec);
      const runtime = ManagedRuntime.make(hostLayerLive({ cells: 1 }));
      try {
        await runtime.runPromise(
          Effect.gen(function* () {
            const host = yield* Host;
            const device = (yield* host.mappedDevices).find(({ image }) => image === volume.image);
            if (device === undefined) throw new Error("the image is not mapped");
            yield* host.unmap(device, "newer_option,noudev");
          }),
        );
      } finally {
        await runtime.dispose();
      }
      expect(mapped()).toEqual([]);
    },
    MINUTES,
  );
});

describe("mapOptions", () => {
  test(
    "an option or a value that the rbd tool does not have is refused with the words of the tool",
    async () => {
      const volume = await world().makeVolume("block");
      for (const [mapOptions, word] of [
        ["krbd:foo=1", "unknown map option 'foo'"],
        ["ms_mode=nonsense", "invalid ms_mode value 'nonsense'"],
      ] as const) {
        expect(await failureOf(withContext(volume, { mapOptions }).stage())).toMatchObject({
          code: "FAILED_PRECONDITION",
          message: expect.stringContaining(word),
        });
        expect(left(volume)).toEqual([[], []]);
      }
    },
    MINUTES,
  );

  test(
    "exclusive and lock_on_read on an image without exclusive-lock are refused with the words of the kernel",
    async () => {
      const volume = await world().makeVolume("block", { imageFeatures: "layering" });
      for (const mapOptions of ["exclusive", "lock_on_read"]) {
        expect(await failureOf(withContext(volume, { mapOptions }).stage())).toMatchObject({
          code: "FAILED_PRECONDITION",
          message: expect.stringMatching(/lacks the feature exclusive-lock.*the kernel's log says: .*exclusive-lock/),
        });
        expect(left(volume)).toEqual([[], []]);
      }
    },
    MINUTES,
  );

  test(
    "ro makes a filesystem read-only from device to pod, and rw of a user does not undo it for readers",
    async () => {
      const volume = await world().makeVolume("ext4");
      await volume.stage();
      const sum = writeData(`${volume.stagingTarget}/data`, 1);
      await volume.unstage();
      for (const reader of [
        withContext(volume, { mapOptions: "ro" }),
        withContext(volume, { mapOptions: "rw,notrim" }).as({ mode: Mode.MULTI_NODE_READER_ONLY }),
      ]) {
        await reader.stage();
        await reader.publish();
        expect(optionsAt(reader.target)).toContain("ro");
        expect(checksum(`${reader.target}/data`, 1)).toBe(sum);
        await reader.unpublish();
        await reader.unstage();
      }
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );
});

describe("an option that the filesystem does not have", () => {
  for (const kind of ["ext4", "xfs"] as const) {
    test(
      `a mount flag that ${kind} does not have is refused with the words of the kernel`,
      async () => {
        const volume = await world().makeVolume(kind);
        const failure = await failureOf(volume.as({ mountFlags: ["noatime,nonsense"] }).stage());
        expect(failure).toMatchObject({
          code: "FAILED_PRECONDITION",
          message: expect.stringMatching(/the kernel's log says: .*nonsense/),
        });
        expect(left(volume)).toEqual([[], []]);
      },
      MINUTES,
    );
  }

  test(
    "mkfsOptions that mkfs does not take, and a device that is too small for xfs, are refused with its first words",
    async () => {
      const wrong = withContext(await world().makeVolume("ext4"), { mkfsOptions: "-E nonsense" });
      expect(await failureOf(wrong.stage())).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringMatching(/nonsense.*mkfsOptions/),
      });
      const image = madeByHand("small", "100M");
      const volumeContext = { clusterID: CLUSTER, pool: world().pool.name, staticVolume: "true" };
      const small = world().known({ kind: "xfs", volumeId: image, volumeContext, image });
      const failure = await failureOf(small.stage());
      expect(failure).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringContaining("Filesystem must be larger than 300MB"),
      });
      expect([left(wrong), left(small)]).toEqual([
        [[], []],
        [[], []],
      ]);
    },
    MINUTES,
  );

  test(
    "mkfsOptions of xfs that decide reflink themselves are not joined by the driver's",
    async () => {
      const volume = await world().makeVolume("xfs", { mkfsOptions: "-K -m reflink=1,bigtime=1" });
      await volume.stage();
      expect(tool("xfs_info", volume.stagingTarget)).toContain("reflink=1");
      await volume.unstage();
    },
    MINUTES,
  );
});

describe("a static volume", () => {
  for (const kind of ["ext4", "xfs"] as const) {
    test(
      `a blank image that was made by hand is formatted once, and keeps its data: ${kind}`,
      async () => {
        const image = madeByHand(`by-hand-${kind}`, "1G");
        const volumeContext = { clusterID: CLUSTER, pool: world().pool.name, staticVolume: "true" };
        const volume = world().known({ kind, volumeId: image, volumeContext, image });
        await volume.stage();
        await volume.publish();
        const sum = writeData(`${volume.target}/data`, 1);
        await volume.unpublish();
        await volume.unstage();
        await volume.stage();
        expect(checksum(`${volume.stagingTarget}/data`, 1)).toBe(sum);
        await volume.unstage();
        expect(left(volume)).toEqual([[], []]);
      },
      MINUTES,
    );
  }

  test(
    "a squashfs that was made by hand is mounted for readers of several nodes, and refused to a writer",
    async () => {
      const image = madeByHand("squashfs", "64M");
      const device = rbd("map", "-o", "noudev", `${world().pool.name}/${image}`);
      const folder = mkdtempSync("/tmp/squashfs-");
      const sum = writeData(`${folder}/data`, 1);
      tool("mksquashfs", folder, device, "-noappend");
      rbd("unmap", "-o", "noudev", device);
      const volumeContext = { clusterID: CLUSTER, pool: world().pool.name, staticVolume: "true" };
      const volume = world().known({ kind: "squashfs", volumeId: image, volumeContext, image });
      const readers = volume.as({ mode: Mode.MULTI_NODE_READER_ONLY });
      for (let time = 0; time < 2; time++) await readers.stage();
      await readers.publish();
      expect(checksum(`${readers.target}/data`, 1)).toBe(sum);
      expect((await readers.stats()).usage.length).toBeGreaterThan(0);
      await readers.unpublish();
      await readers.unstage();
      await volume.as({ mountFlags: ["ro"] }).stage();
      expect(checksum(`${volume.stagingTarget}/data`, 1)).toBe(sum);
      await volume.unstage();
      for (const [kind, code] of [
        ["squashfs", "INVALID_ARGUMENT"],
        ["ext4", "FAILED_PRECONDITION"],
      ] as const) {
        const failure = await failureOf(volume.as({ kind }).stage());
        expect(failure).toMatchObject({ code, message: expect.stringContaining("for readers only") });
      }
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );

  test(
    "an image that was made by hand and holds data without a filesystem is not formatted",
    async () => {
      const image = madeByHand("precious", "64M");
      const device = rbd("map", "-o", "noudev", `${world().pool.name}/${image}`);
      tool("dd", "if=/dev/urandom", `of=${device}`, "bs=4096", "seek=10000", "count=1", "oflag=direct");
      rbd("unmap", "-o", "noudev", device);
      const contents = (): string => {
        const file = `/tmp/${crypto.randomUUID()}`;
        rbd("export", "--no-progress", `${world().pool.name}/${image}`, file);
        return tool("sh", "-c", `sha256sum < ${file}`);
      };
      const before = contents();
      const volumeContext = { clusterID: CLUSTER, pool: world().pool.name, staticVolume: "true" };
      const volume = world().known({ kind: "ext4", volumeId: image, volumeContext, image });
      expect(await failureOf(volume.stage())).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringContaining("holds data"),
      });
      expect(contents()).toBe(before);
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );
});

describe("the snapshot of a mounted filesystem", () => {
  for (const kind of ["ext4", "xfs"] as const) {
    test(
      `a restore of it is mounted for many readers, although its journal cannot be replayed: ${kind}`,
      async () => {
        const source = await world().makeVolume(kind);
        await source.stage();
        const sum = writeData(`${source.stagingTarget}/data`, 1);
        // The unmount brings everything into its place. What is written after it is in the journal at first.
        await source.unstage();
        await source.stage();
        writeFileSync(`${source.stagingTarget}/later`, "x", { flush: true });
        const { snapshot } = await world()
          .driver()
          .controller.createSnapshot(
            { name: `restored-${crypto.randomUUID()}`, sourceVolumeId: source.volumeId, secrets: secrets() },
            LIMIT,
          );
        const snapshotId = snapshot?.snapshotId ?? "";
        const readers = Mode.MULTI_NODE_READER_ONLY;
        const restore = await world().makeVolume(
          kind,
          {},
          {
            volumeCapabilities: [capabilityOf(kind, readers)],
            volumeContentSource: { type: { case: "snapshot", value: { snapshotId } } },
          },
        );
        const volume = restore.as({ mode: readers });
        await volume.stage();
        await volume.stage();
        await volume.publish();
        expect(optionsAt(volume.target)).toContain("ro");
        expect(checksum(`${volume.target}/data`, 1)).toBe(sum);
        expect(conditionOf(await volume.stats())?.abnormal).toBe(false);
        expect(world().driver().log()).toContain("is mounted without its journal");
        await volume.unpublish();
        await volume.unstage();
        await source.unstage();
        expect([left(volume), left(source)]).toEqual([
          [[], []],
          [[], []],
        ]);
      },
      MINUTES,
    );
  }
});

test("after all tests no mount and no mapping is left, and the log contains no key", () => {
  expect(mapped()).toEqual([]);
  expect(mountTable().filter(({ point }) => point.startsWith(world().dir))).toEqual([]);
  expect(world().driver().log()).not.toContain(rig().key);
});
