/** Encrypted volumes on a real kernel, with krbd, dm-crypt and cryptsetup; also as ceph-csi makes and stages them. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type CreateVolumeRequestSchema, VolumeUsage_Unit as Unit } from "../../lib/gen/csi_pb.ts";
import { GIB, MIB, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { imageMetaOf } from "./ceph-csi.ts";
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
import { FAST_KEY, layers, mountTable, tool, toolWith } from "./loop.ts";
import { processesWith, processOf } from "./processes.ts";

const world = worldOfFile("crypt");
const PASSPHRASE = "a passphrase of our own";
const withKey = () => ({ ...secrets(), encryptionPassphrase: PASSPHRASE });
const STATE = "rbd.csi.ceph.com/encrypted";
const HEADER = 16n * MIB;
/** An emulated processor is slow at all that cryptsetup does. */
const LIMIT = { timeoutMs: 170_000 };
const LONG = 800_000;

/** A new volume that is to be encrypted with the passphrase, by the key store `default`. */
const makeVolume = async (
  kind: Kind,
  more: Omit<MessageInitShape<typeof CreateVolumeRequestSchema>, "$typeName"> = {},
): Promise<TestVolume> => {
  const volume = await world().makeVolume(kind, { encrypted: "true" }, { secrets: withKey(), ...more });
  return volume.as({ secrets: withKey() });
};

const layerOf = (volume: TestVolume): string => `/dev/mapper/luks-rbd-${volume.volumeId}`;
const state = (volume: TestVolume): string => rbd("image-meta", "get", volume.spec, STATE);
const bytesOf = async (volume: TestVolume) =>
  (await volume.stats()).usage.find(({ unit }) => unit === Unit.BYTES)?.total ?? 0n;

/** As ceph-csi does it: map, format where asked to, open. */
const byHand = (volume: TestVolume, format: boolean): string => {
  const device = rbd("map", "-o", "noudev", volume.spec);
  if (format) {
    toolWith(PASSPHRASE, "cryptsetup", "-q", "luksFormat", "--type", "luks2", ...FAST_KEY, device, "-d", "-");
    rbd("image-meta", "set", volume.spec, STATE, "encrypted");
  }
  const name = `luks-rbd-${volume.volumeId}`;
  toolWith(PASSPHRASE, "cryptsetup", "luksOpen", device, name, "--disable-keyring", "-d", "-");
  return device;
};
const endByHand = (volume: TestVolume, device: string): void => {
  tool("cryptsetup", "luksClose", `luks-rbd-${volume.volumeId}`);
  rbd("unmap", "-o", "noudev", device);
};

describe("an encrypted volume", () => {
  test(
    "an encrypted filesystem keeps its data through publish, growth, a killed driver, another stage, and a larger copy",
    async () => {
      const volume = await makeVolume("ext4");
      expect(state(volume)).toBe("encryptionPrepared");
      await volume.stage(LIMIT);
      expect([state(volume), rbd("image-meta", "get", volume.spec, "rbd.csi.ceph.com/luks2HeaderSize")]).toEqual([
        "encrypted",
        String(HEADER),
      ]);
      expect(JSON.parse(readFileSync(`${volume.staging}/image-meta.json`, "utf8"))).toMatchObject({ encrypted: true });
      await volume.publish();
      expect(mountTable().find(({ point }) => point === volume.target)?.source).toBe(layerOf(volume));
      const sum = writeData(`${volume.target}/data`, 4);
      const before = await bytesOf(volume);

      await volume.grow(2n * GIB);
      expect((await volume.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
      expect(await bytesOf(volume)).toBeGreaterThan(before + GIB - GIB / 16n);

      await world().restart();
      await volume.stage(LIMIT);
      await volume.publish();
      await volume.unpublish();
      await volume.unstage();
      expect([left(volume), layers()]).toEqual([[[], []], []]);

      await volume.grow(3n * GIB);
      await volume.stage(LIMIT);
      await volume.publish();
      expect(checksum(`${volume.target}/data`, 4)).toBe(sum);
      expect(await bytesOf(volume)).toBeGreaterThan(3n * GIB - GIB / 8n);
      await volume.unpublish();
      await volume.unstage();
      await volume.unstage();
      expect([left(volume), layers()]).toEqual([[[], []], []]);

      const copy = await makeVolume("ext4", {
        capacityRange: { requiredBytes: 4n * GIB },
        volumeContentSource: { type: { case: "volume", value: { volumeId: volume.volumeId } } },
      });
      await copy.stage(LIMIT);
      await copy.publish();
      expect(checksum(`${copy.target}/data`, 4)).toBe(sum);
      expect(await bytesOf(copy)).toBeGreaterThan(4n * GIB - GIB / 8n);
      await copy.unpublish();
      await copy.unstage();

      endByHand(volume, byHand(volume, false));
      expect([left(volume), layers()]).toEqual([[[], []], []]);
    },
    LONG,
  );

  test(
    "an encrypted raw volume keeps its data, grows, and can be read-only",
    async () => {
      const volume = await makeVolume("block");
      await volume.stage(LIMIT);
      await volume.publish();
      const sum = writeData(volume.target, 4, "r+");
      await volume.grow(2n * GIB);
      expect((await volume.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
      expect((await volume.stats()).usage).toMatchObject([{ unit: Unit.BYTES, total: 2n * GIB - HEADER }]);
      await volume.unpublish();
      await volume.publish("reader", true);
      expect(checksum(`${volume.pods}/reader`, 4)).toBe(sum);
      expect(() => writeData(`${volume.pods}/reader`, 1, "r+")).toThrow();
      await volume.unpublish("reader");
      await volume.unstage();
      expect([left(volume), layers()]).toEqual([[[], []], []]);

      await volume.stage(LIMIT);
      await volume.publish();
      expect(checksum(volume.target, 4)).toBe(sum);
      await volume.unpublish();
      await volume.unstage();
    },
    LONG,
  );
});

describe("an encrypted volume of ceph-csi", () => {
  test(
    "a volume that ceph-csi has formatted opens here, and there again",
    async () => {
      const theirs = await makeVolume("ext4");
      const device = byHand(theirs, true);
      tool("mkfs.ext4", "-q", "-m0", layerOf(theirs));
      endByHand(theirs, device);
      await theirs.stage(LIMIT);
      const sum = writeData(`${theirs.stagingTarget}/data`, 1);
      await theirs.unstage();

      const again = byHand(theirs, false);
      const point = `${theirs.pods}/by-hand`;
      mkdirSync(point);
      tool("mount", layerOf(theirs), point);
      expect(checksum(`${point}/data`, 1)).toBe(sum);
      tool("umount", point);
      endByHand(theirs, again);
      expect([left(theirs), layers()]).toEqual([[[], []], []]);
    },
    LONG,
  );

  test(
    "a volume that ceph-csi has left half-staged is unstaged",
    async () => {
      const volume = await makeVolume("ext4");
      byHand(volume, true);
      writeFileSync(`${volume.staging}/image-meta.json`, imageMetaOf(volume, { passphrase: PASSPHRASE }));
      await volume.unstage();
      expect([left(volume), layers()]).toEqual([[[], []], []]);
    },
    LONG,
  );
});

describe("proof before an encrypted volume is harmed", () => {
  test(
    "a wrong passphrase opens nothing, changes nothing, leaves nothing, and is answered with what to do",
    async () => {
      const volume = await makeVolume("ext4");
      const device = byHand(volume, true);
      tool("mkfs.ext4", "-q", "-m0", layerOf(volume));
      endByHand(volume, device);
      await volume.stage(LIMIT);
      const sum = writeData(`${volume.stagingTarget}/data`, 1);
      await volume.unstage();
      const wrong = volume.as({ secrets: { ...secrets(), encryptionPassphrase: "another one" } });
      const failure = await failureOf(wrong.stage(LIMIT));
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("passphrase") });
      expect([left(volume), layers()]).toEqual([[[], []], []]);
      await volume.stage(LIMIT);
      expect(checksum(`${volume.stagingTarget}/data`, 1)).toBe(sum);
      await volume.unstage();
    },
    LONG,
  );

  test(
    "an image whose LUKS header is lost is not formatted again",
    async () => {
      const volume = await makeVolume("ext4");
      const formatted = byHand(volume, true);
      tool("mkfs.ext4", "-q", "-m0", layerOf(volume));
      endByHand(volume, formatted);
      const device = rbd("map", "-o", "noudev", volume.spec);
      tool("dd", "if=/dev/zero", `of=${device}`, "bs=1M", "count=16", "oflag=direct", "conv=notrunc");
      rbd("unmap", "-o", "noudev", device);
      const failure = await failureOf(volume.stage(LIMIT));
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("backup") });
      rbd("image-meta", "set", volume.spec, STATE, "encryptionPrepared");
      const data = await failureOf(volume.stage(LIMIT));
      expect(data).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("holds data") });
      expect([left(volume), layers()]).toEqual([[[], []], []]);
    },
    LONG,
  );

  test(
    "cryptsetup that is killed while it formats leaves a volume that the next stage formats again",
    async () => {
      for (const wait of [300, 3_000]) {
        const volume = await makeVolume("ext4");
        const cut = failureOf(volume.stage(LIMIT));
        const pid = await processOf(formats, cut);
        await Bun.sleep(wait);
        if (existsSync(`/proc/${pid}`)) process.kill(pid, "SIGKILL");
        const failure = await cut;
        // it may have been faster
        if (failure !== undefined) expect(failure.code).toBe("UNAVAILABLE");
        await volume.stage(LIMIT);
        expect(state(volume)).toBe("encrypted");
        writeData(`${volume.stagingTarget}/data`, 1);
        await volume.unstage();
        expect([left(volume), layers()]).toEqual([[[], []], []]);
      }
    },
    LONG,
  );

  test(
    "a driver that is killed while it stages an encrypted volume is succeeded by one that finishes",
    async () => {
      const volume = await makeVolume("ext4");
      for (const wait of [2_500]) {
        const cut = volume.stage(LIMIT).catch(() => undefined);
        await Bun.sleep(wait);
        await world().restart("SIGKILL");
        await cut;
        await untilGone();
        await volume.stage(LIMIT);
        expect(mapped().filter((spec) => spec === volume.spec)).toHaveLength(1);
        await volume.unstage();
        expect([left(volume), layers()]).toEqual([[[], []], []]);
      }
    },
    LONG,
  );
});

/** Of a process of cryptsetup that formats. */
const formats = (commandLine: string): boolean => commandLine.includes("\0luksFormat\0");

/** A child of a killed driver continues; kubelet's next call would find the device busy, and come again. */
const untilGone = async (): Promise<void> => {
  while (processesWith(formats).length > 0) await Bun.sleep(50);
};

describe("after all encrypted volumes", () => {
  test("after all tests nothing is mapped, open or mounted, and no passphrase is in the log or in a file of the driver", () => {
    expect([mapped(), layers()]).toEqual([[], []]);
    expect(mountTable().filter(({ point }) => point.startsWith(world().dir))).toEqual([]);
    expect(world().driver().log()).not.toContain(PASSPHRASE);
    expect(world().driver().log()).not.toContain(rig().key);
    // a driver that was killed while it mapped has left a file with its cephx key
    for (const name of readdirSync("/tmp/csi/keys")) {
      expect(readFileSync(`/tmp/csi/keys/${name}`, "utf8")).not.toContain(PASSPHRASE);
    }
  });
});
