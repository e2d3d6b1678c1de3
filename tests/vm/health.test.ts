/** What the kernel shows to be wrong with a volume: on real devices, for both generations of CSI. */
import { describe, expect, test } from "bun:test";
import { closeSync, fsyncSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { basename } from "node:path";
import { StorageHealthErrorType as StorageStatus, VolumeHealthErrorType as Status } from "../../lib/gen/csi_pb.ts";
import { frozen } from "../ceph/hands.ts";
import { MIB } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { conditionOf } from "../support/csi-1.12.ts";
import { left, LIMIT, mapped, MINUTES, type TestVolume, worldOfFile } from "./kubelet.ts";
import { mountTable, tool } from "./loop.ts";

const world = worldOfFile("health");

/** The faults, as a caller of 1.13 reads them; one of 1.12 reads the same. */
const faultsOf = async ({ volumeId, target, stats }: TestVolume) => {
  const request = { volumeId, volumePublishPath: target };
  const { volumeHealth } = await world().driver().node.nodeGetVolumeHealth(request, LIMIT);
  const statuses = volumeHealth?.healthStatuses ?? [];
  const condition = conditionOf(await stats());
  for (const { message } of statuses.filter(({ reason }) => reason !== "IoErrors")) {
    expect(condition?.message).toContain(message);
  }
  return statuses.map(({ status, reason }) => [status, reason]);
};

/** Waits for a fault that the kernel finds out by itself, by way of its pings; a write makes it talk to the OSDs. */
const foundOut = async (volume: TestVolume, reason: string) => {
  for (const deadline = Date.now() + 120_000; ; await Bun.sleep(2_000)) {
    write(volume);
    const faults = await faultsOf(volume);
    if (faults.some(([, each]) => each === reason)) return faults;
    if (Date.now() > deadline) throw new Error(`${reason} is not found: ${JSON.stringify(faults)}\n${tool("dmesg")}`);
  }
};

const write = ({ target }: TestVolume): void => {
  try {
    const file = openSync(`${target}/more`, "a");
    writeSync(file, "more");
    fsyncSync(file);
    closeSync(file);
  } catch {
    // it may fail by then
  }
};

const deviceOf = ({ stagingTarget }: TestVolume): string =>
  basename(mountTable().find(({ point }) => point === stagingTarget)?.source ?? "");
const sysfsOf = (device: string, file: string): string =>
  readFileSync(`/sys/bus/rbd/devices/${device.replace("rbd", "")}/${file}`, "utf8").trim();
/** Waits until no request of a device was completed in ten seconds. */
const quiet = async (device: string): Promise<void> => {
  const stat = () => readFileSync(`/sys/block/${device}/stat`, "utf8");
  for (let before = ""; before !== stat(); await Bun.sleep(10_000)) before = stat();
};
const ceph = (...command: string[]): string => tool("ceph", "-c", rig().conf, ...command);

const published = async (kind: "ext4" | "xfs", size = 64n * MIB): Promise<TestVolume> => {
  const capacityRange = { requiredBytes: kind === "xfs" ? 512n * MIB : size };
  const volume = await world().makeVolume(kind, {}, { capacityRange });
  await volume.stage();
  await volume.publish();
  expect(await faultsOf(volume)).toEqual([]);
  return volume;
};

const removed = async (volume: TestVolume): Promise<void> => {
  await volume.unpublish();
  await volume.unstage();
  expect(left(volume)).toEqual([[], []]);
};

describe("the health of a volume on its node", () => {
  test(
    "a full filesystem, and errors that ext4 recorded, are told, and go when they have passed",
    async () => {
      const volume = await published("ext4");
      Bun.spawnSync(["dd", "if=/dev/zero", `of=${volume.target}/much`, "bs=1M", "count=100", "status=none"]);
      expect(await faultsOf(volume)).toEqual([[Status.DEGRADED, "NoSpaceLeft"]]);
      tool("rm", `${volume.target}/much`);
      expect(await faultsOf(volume)).toEqual([]);
      writeFileSync(`/sys/fs/ext4/${deviceOf(volume)}/trigger_fs_error`, "of a test");
      expect(await faultsOf(volume)).toEqual([[Status.DEGRADED, "FilesystemErrors"]]);
      await removed(volume);
      // fsck, which a stage runs, clears them
      await volume.stage();
      await volume.publish();
      expect(await faultsOf(volume)).toEqual([]);
      await removed(volume);
    },
    MINUTES,
  );

  test(
    "a node that reaches the monitors of its volumes says so, and names those that hang",
    async () => {
      const volume = await published("ext4");
      const { node } = world().driver();
      expect((await node.nodeGetStorageHealth({}, LIMIT)).backendHealth).toEqual([]);
      // a new ext4 writes for a while by itself, and a cluster that takes writes is not unreachable
      await quiet(deviceOf(volume));
      await frozen(rig(), "mon.a", async () => {
        const since = performance.now();
        const { backendHealth } = await node.nodeGetStorageHealth({}, LIMIT);
        expect(backendHealth).toMatchObject([
          { status: StorageStatus.STORAGE_UNREACHABLE, reason: "MonitorsUnreachable" },
        ]);
        expect(backendHealth[0]?.message).toContain("its process hangs");
        // the two seconds that are promised, on a machine that is emulated
        expect(performance.now() - since).toBeLessThan(10_000);
      });
      await removed(volume);
    },
    MINUTES,
  );

  test(
    "a filesystem that was shut down is inaccessible",
    async () => {
      const volume = await published("xfs");
      tool("xfs_io", "-x", "-c", "shutdown", volume.stagingTarget);
      expect((await faultsOf(volume))[0]?.[0]).toBe(Status.INACCESSIBLE);
      await removed(volume);
    },
    MINUTES,
  );

  test(
    "a client that Ceph refuses is told",
    async () => {
      const volume = await published("ext4");
      const client = sysfsOf(deviceOf(volume), "client_addr");
      ceph("osd", "blocklist", "add", client);
      try {
        const faults = await foundOut(volume, "ClientBlocklisted");
        expect(faults).toContainEqual([Status.INACCESSIBLE, "ClientBlocklisted"]);
      } finally {
        ceph("osd", "blocklist", "rm", client);
      }
      await removed(volume);
      // a new mapping of the same device name has none of it
      await volume.stage();
      await volume.publish();
      expect(await faultsOf(volume)).toEqual([]);
      await removed(volume);
    },
    MINUTES,
  );

  test(
    "an image that is removed behind the driver's back is told",
    async () => {
      const volume = await published("ext4");
      const id = sysfsOf(deviceOf(volume), "image_id");
      tool("rados", "-c", rig().conf, "-p", world().pool.name, "rm", `rbd_header.${id}`);
      const faults = await foundOut(volume, "ImageGone");
      expect(faults).toContainEqual([Status.DATA_LOSS, "ImageGone"]);
      await volume.unpublish();
      await volume.unstage();
      expect(mapped()).not.toContain(volume.spec);
    },
    MINUTES,
  );

  test(
    "the kernel says where a device of rbd-nbd begins, so that errors of the volume before it are not told",
    async () => {
      const begins = (device: string) => tool("dmesg").split(`${device}: detected capacity change from 0 to `).length;
      const volume = await world().makeVolume("ext4", { mounter: "rbd-nbd" });
      await volume.stage();
      const device = deviceOf(volume);
      expect(device).toMatch(/^nbd/);
      const before = begins(device);
      expect(before).toBeGreaterThan(1);
      await volume.unstage();
      await volume.stage();
      expect([deviceOf(volume), begins(device)]).toEqual([device, before + 1]);
      await volume.publish();
      expect(await faultsOf(volume)).toEqual([]);
      await removed(volume);
    },
    MINUTES,
  );
});
