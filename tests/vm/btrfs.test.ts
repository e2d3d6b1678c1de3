/** Volumes with btrfs on a real kernel: their growth, a copy beside its source, and a node that has no btrfs. */
import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { release } from "node:os";
import { VolumeUsage_Unit as Unit } from "../../lib/gen/csi_pb.ts";
import { isOlderKernel } from "../../lib/host/kernel-version.ts";
import { mountsAt } from "../../lib/host/mountinfo.ts";
import { GIB, secrets } from "../ceph/requests.ts";
import { capabilityOf, checksum, failureOf, left, LIMIT, MINUTES, worldOfFile, writeData } from "./kubelet.ts";
import { mountTable, tool } from "./loop.ts";

const world = worldOfFile("btrfs");

/** Kernels before this one mount no copy of a btrfs beside its source. */
const MOUNTS_BOTH = !isOlderKernel(release(), "6.7");
const sourceAt = (point: string) => mountsAt(mountTable(), point).map(({ source }) => source);

test(
  "a btrfs grows online, and a larger restore of it is never taken for it: it is mounted beside it, or refused until it is alone",
  async () => {
    const { makeVolume, driver } = world();
    const source = await makeVolume("btrfs");
    await source.stage();
    const sum = writeData(`${source.stagingTarget}/data`, 2);
    const { snapshot } = await driver().controller.createSnapshot(
      { name: `btrfs-${crypto.randomUUID()}`, sourceVolumeId: source.volumeId, secrets: secrets() },
      LIMIT,
    );
    const restore = await makeVolume(
      "btrfs",
      {},
      {
        capacityRange: { requiredBytes: 2n * GIB },
        volumeCapabilities: [capabilityOf("btrfs")],
        volumeContentSource: { type: { case: "snapshot", value: { snapshotId: snapshot?.snapshotId ?? "" } } },
      },
    );
    await source.publish();
    const failure = await failureOf(restore.stage());
    if (MOUNTS_BOTH) {
      expect(failure).toBeUndefined();
      expect(sourceAt(restore.stagingTarget)).not.toEqual(sourceAt(source.stagingTarget));
    } else {
      expect(failure).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringMatching(/another btrfs with the same UUID.*Run the pod on another node/),
      });
      expect(left(restore)).toEqual([[], []]);
    }

    await source.grow(2n * GIB);
    expect((await source.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
    expect((await source.stats()).usage.map(({ unit, total }) => [unit, total])).toEqual([[Unit.BYTES, 2n * GIB]]);
    const later = writeData(`${source.target}/later`, 1);
    await source.unpublish();
    await source.unstage();

    // older than what the kernel had mounted before
    await restore.stage();
    await restore.publish();
    expect(checksum(`${restore.target}/data`, 2)).toBe(sum);
    expect(readdirSync(restore.target)).toEqual(["data"]);
    expect((await restore.stats()).usage.map(({ total }) => total)).toEqual([2n * GIB]);
    await restore.unpublish();
    await restore.unstage();

    await source.stage();
    expect(checksum(`${source.stagingTarget}/later`, 1)).toBe(later);
    await source.unstage();
    expect([left(source), left(restore)]).toEqual([
      [[], []],
      [[], []],
    ]);
  },
  MINUTES,
);

test(
  "a node whose kernel has no btrfs refuses the volume before it maps it",
  async () => {
    const volume = await world().makeVolume("btrfs");
    tool("modprobe", "--remove", "btrfs");
    tool("mount", "-t", "tmpfs", "none", "/lib/modules");
    try {
      expect(await failureOf(volume.stage())).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringMatching(
          /this node has kernel \S+ without btrfs.*modprobe btrfs.*Install the kernel's module/,
        ),
      });
      expect(left(volume)).toEqual([[], []]);
    } finally {
      tool("umount", "/lib/modules");
    }
    await volume.stage();
    await volume.unstage();
  },
  MINUTES,
);
