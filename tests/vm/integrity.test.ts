/** Volumes with integrity on a real kernel, with krbd, dm-crypt and dm-integrity: small ones, because each is wiped. */
import { describe, expect, test } from "bun:test";
import { closeSync, existsSync, fsyncSync, openSync, readdirSync, readFileSync, readSync, writeSync } from "node:fs";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../lib/gen/csi_pb.ts";
import { MIB, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import {
  checksum,
  failureOf,
  type Kind,
  left,
  mapped,
  rbd,
  type TestVolume,
  worldOfFile,
  writeData,
} from "./kubelet.ts";
import { layers, mountTable, tool, toolWith } from "./loop.ts";
import { processOf } from "./processes.ts";

const world = worldOfFile("integrity");
const PASSPHRASE = "a passphrase of our own";
const STATE = "rbd.csi.ceph.com/encrypted";
const WIPING = ".rbd.csi.ceph.com/wiping";
/** An emulated processor is slow at all that cryptsetup does, and a first stage calls it many times. */
const LIMIT = { timeoutMs: 500_000 };
const LONG = 1_200_000;
const PARAMETERS = { encrypted: "true", encryptionCipher: "aes-xts-plain64", integrityMode: "hmac-sha256" };

const given = () => ({ ...secrets(), encryptionPassphrase: PASSPHRASE });
const makeVolume = async (kind: Kind, mebibytes: bigint, source?: string): Promise<TestVolume> => {
  const made = await world().makeVolume(kind, PARAMETERS, {
    secrets: given(),
    capacityRange: { requiredBytes: mebibytes * MIB },
    ...(source !== undefined && { volumeContentSource: { type: { case: "volume", value: { volumeId: source } } } }),
  });
  return made.as({ secrets: given() });
};
const metadata = (volume: TestVolume): Readonly<Record<string, string>> =>
  JSON.parse(rbd("image-meta", "list", "--format", "json", volume.spec));

/** The process that wipes the layer of a volume, for a stage that does not end before it is found. */
const wiper = ({ volumeId }: TestVolume, staging: Promise<unknown>): Promise<number> =>
  processOf((line) => line.startsWith("xfs_io\0-d\0") && line.includes(volumeId), staging);

/** A process that has ended, and for which nobody has asked yet, has no command line. */
const runs = (pid: number): boolean =>
  existsSync(`/proc/${pid}`) && readFileSync(`/proc/${pid}/cmdline`, "utf8") !== "";

/** Turns the bits of a sector of the image, and back when it is called again. */
const turnBits = (device: string, at: number): void => {
  const fd = openSync(device, "r+");
  try {
    const sector = Buffer.alloc(4096);
    readSync(fd, sector, 0, sector.length, at);
    const turned = sector.map((byte) => byte ^ 0xff);
    writeSync(fd, turned, 0, turned.length, at);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
};

describe("a volume with integrity", () => {
  test(
    "a filesystem with integrity keeps its data, opens by cryptsetup alone, does not grow, tells changed bytes, and its copy wants a writer first",
    async () => {
      const volume = await makeVolume("ext4", 48n);
      await volume.stage(LIMIT);
      expect(metadata(volume)).toMatchObject({
        [STATE]: "encrypted",
        "rbd.csi.ceph.com/luks2HeaderSize": String(16n * MIB),
        "rbd.csi.ceph.com/luks2Integrity": "true",
      });
      expect(metadata(volume)).not.toHaveProperty([WIPING]);
      const sum = writeData(`${volume.stagingTarget}/data`, 4);
      await volume.stage(LIMIT);
      expect(await failureOf(volume.grow(192n * MIB))).toMatchObject({ code: "OUT_OF_RANGE" });
      await volume.unstage();
      expect([left(volume), layers()]).toEqual([[[], []], []]);
      await volume.stage(LIMIT);
      expect(checksum(`${volume.stagingTarget}/data`, 4)).toBe(sum);
      await volume.unstage();

      // As ceph-csi opens it.
      const device = rbd("map", "-o", "noudev", volume.spec);
      const name = `luks-rbd-${volume.volumeId}`;
      const readAll = (): void => {
        toolWith(PASSPHRASE, "cryptsetup", "luksOpen", device, name, "--disable-keyring", "-d", "-");
        try {
          tool("dd", `if=/dev/mapper/${name}`, "of=/dev/null", "bs=1M", "iflag=direct");
        } finally {
          tool("cryptsetup", "luksClose", name);
        }
      };
      readAll();
      const place = 32 << 20;
      turnBits(device, place);
      tool("blockdev", "--flushbufs", device);
      expect(readAll).toThrow(/error reading/);
      turnBits(device, place);
      tool("blockdev", "--flushbufs", device);
      readAll();
      rbd("unmap", "-o", "noudev", device);

      // What a copy of a volume in use has in its journal, nobody has replayed; the kernel does so for a writer alone.
      await volume.stage(LIMIT);
      const later = writeData(`${volume.stagingTarget}/later`, 4);
      const copy = await makeVolume("ext4", 48n, volume.volumeId);
      await volume.unstage();
      const readers = copy.as({ mode: Mode.MULTI_NODE_READER_ONLY });
      expect(await failureOf(readers.stage(LIMIT))).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringContaining("Stage it once for a writer"),
      });
      expect([left(copy), layers()]).toEqual([[[], []], []]);
      for (const each of [copy, readers]) {
        await each.stage(LIMIT);
        expect(checksum(`${copy.stagingTarget}/later`, 4)).toBe(later);
        await each.unstage();
      }
      expect([left(copy), layers()]).toEqual([[[], []], []]);
    },
    LONG,
  );

  test(
    "the wipe of a raw volume goes on when its tool is killed, begins anew when its driver is, and the volume keeps its data",
    async () => {
      const volume = await makeVolume("block", 48n);
      const dying = volume.stage(LIMIT).catch(() => undefined);
      process.kill(await wiper(volume, dying), "SIGKILL");
      const pid = await wiper(volume, dying);
      expect(layers()).toHaveLength(2);
      await world().restart("SIGKILL");
      await dying;
      while (runs(pid)) await Bun.sleep(20);
      expect(metadata(volume)).toMatchObject({ [STATE]: "encryptionPrepared", [WIPING]: expect.any(String) });
      await volume.unstage();
      expect([left(volume), layers()]).toEqual([[[], []], []]);

      // The record as another node has left it, by a client that Ceph refuses in the end.
      const own = JSON.parse(metadata(volume)[WIPING] ?? "");
      expect(own).toMatchObject({ bootId: readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim() });
      expect(own.client).toMatch(/^[\d.]+:\d+\/\d+$/);
      const client = "10.99.99.99:0/4711";
      const theirs = JSON.stringify({ ...own, nodeId: "another-node", client });
      rbd("image-meta", "set", volume.spec, WIPING, theirs);
      const refused = await failureOf(volume.stage(LIMIT));
      expect(refused).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("another-node") });
      expect([metadata(volume)[WIPING], left(volume), layers()]).toEqual([theirs, [[], []], []]);
      tool("ceph", "-c", rig().conf, "osd", "blocklist", "add", client);

      await volume.stage(LIMIT);
      tool("ceph", "-c", rig().conf, "osd", "blocklist", "rm", client);
      expect(metadata(volume)).toMatchObject({ [STATE]: "encrypted" });
      expect(metadata(volume)).not.toHaveProperty([WIPING]);
      await volume.publish();
      const sum = writeData(volume.target, 4, "r+");
      await volume.unpublish();
      await volume.unstage();
      await volume.stage(LIMIT);
      expect(checksum(volume.stagingTarget, 4)).toBe(sum);
      await volume.unstage();
    },
    LONG,
  );

  test("after all tests nothing of a volume with integrity is mapped, open or mounted, nor is a header in a file", () => {
    expect([mapped(), layers(), readdirSync("/sys/block").filter((name) => name.startsWith("dm-"))]).toEqual([
      [],
      [],
      [],
    ]);
    expect(mountTable().filter(({ point }) => point.startsWith(world().dir))).toEqual([]);
    expect(readdirSync("/tmp/csi/keys").filter((name) => name.startsWith("luks-header-"))).toEqual([]);
    expect(world().driver().log()).not.toContain(PASSPHRASE);
  });
});
