/** Volumes whose files are encrypted, on a real kernel, with krbd, ext4 and fscrypt; also as ceph-csi makes and stages them. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { VolumeUsage_Unit as Unit } from "../../lib/gen/csi_pb.ts";
import { CONFIG, CONFIG_PATH } from "../../lib/host/fscrypt.ts";
import { GIB, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { checksum, failureOf, left, LIMIT, mapped, rbd, type TestVolume, worldOfFile, writeData } from "./kubelet.ts";
import { mountTable, tool, toolWith } from "./loop.ts";
import { processesWith } from "./processes.ts";

const world = worldOfFile("files", (dir) => {
  // A hash of a passphrase that takes no time: what is tested is not how hard it is to guess.
  writeFileSync(CONFIG_PATH, CONFIG.replace('"time": "3"', '"time": "1"').replace('"65536"', '"1024"'));
  const kmsConfig = join(dir, "kms.json");
  writeFileSync(kmsConfig, JSON.stringify({ passphrases: { encryptionKMSType: "metadata" } }));
  return [`--kms-config=${kmsConfig}`];
});
const PASSPHRASE = "a passphrase of our own, of which a raw key has the first 32 bytes";
const withKey = () => ({ ...secrets(), encryptionPassphrase: PASSPHRASE });
const LONG = 800_000;
const FOLDER = "ceph-csi-encrypted";

type More = Parameters<ReturnType<typeof world>["makeVolume"]>[2];
const makeVolume = async (kmsId = "", more: More = {}): Promise<TestVolume> => {
  const parameters = { encrypted: "true", encryptionType: "file", ...(kmsId !== "" && { encryptionKMSID: kmsId }) };
  const volume = await world().makeVolume("ext4", parameters, { secrets: withKey(), ...more });
  return volume.as({ secrets: withKey() });
};

const bytesOf = async (volume: TestVolume) =>
  (await volume.stats()).usage.find(({ unit }) => unit === Unit.BYTES)?.total ?? 0n;

/** Maps and mounts it without the driver; -> the mount point, and how that ends. */
const byHand = (volume: TestVolume) => {
  const device = rbd("map", "-o", "noudev", volume.spec);
  const point = `${volume.pods}/by-hand`;
  mkdirSync(point, { recursive: true });
  return {
    device,
    point,
    mount: () => tool("mount", device, point),
    unlock: (kmsId = "") => {
      const folder = `${point}/${FOLDER}`;
      if (kmsId !== "") return toolWith(PASSPHRASE, "fscrypt", "unlock", folder, "--quiet");
      return tool("fscrypt", "unlock", folder, `--key=${rawKeyFile()}`, "--quiet");
    },
    end: () => {
      tool("umount", point);
      rbd("unmap", "-o", "noudev", device);
    },
  };
};

/** As ceph-csi gives it: the first 32 characters. fscrypt reads it from a file only. */
const rawKeyFile = (): string => {
  const path = join(world().dir, "raw-key");
  writeFileSync(path, PASSPHRASE.slice(0, 32), { mode: 0o600 });
  return path;
};

describe("a volume with encrypted files", () => {
  test(
    "it keeps them through publish, growth, a killed driver, another stage, a snapshot and its restore",
    async () => {
      const volume = await makeVolume();
      await volume.stage();
      expect(readdirSync(volume.stagingTarget).toSorted()).toEqual([".fscrypt", FOLDER, "lost+found"]);
      expect(JSON.parse(readFileSync(`${volume.staging}/image-meta.json`, "utf8"))).not.toMatchObject({
        encrypted: true,
      });
      await volume.publish();
      expect(mountTable().find(({ point }) => point === volume.target)?.root).toBe(`/${FOLDER}`);
      expect(readdirSync(volume.target)).toEqual([]);
      const sum = writeData(`${volume.target}/data`, 4);
      const before = await bytesOf(volume);
      await volume.grow(2n * GIB);
      expect((await volume.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
      expect(await bytesOf(volume)).toBeGreaterThan(before + GIB - GIB / 16n);

      const take = () =>
        world()
          .driver()
          .controller.createSnapshot(
            { name: "files-snap", sourceVolumeId: volume.volumeId, secrets: withKey() },
            LIMIT,
          );
      tool("sync", "-f", volume.target);
      let { snapshot } = await take();
      while (snapshot?.readyToUse === false) ({ snapshot } = await take());

      await world().restart();
      await volume.stage();
      await volume.publish();
      expect(checksum(`${volume.target}/data`, 4)).toBe(sum);
      await volume.unpublish();
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);

      const wrong = volume.as({ secrets: { ...secrets(), encryptionPassphrase: "another one" } });
      const failure = await failureOf(wrong.stage());
      expect(failure).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringContaining("does not unlock"),
      });
      expect(left(volume)).toEqual([[], []]);

      // what lies in Ceph are no names and no text
      const hand = byHand(volume);
      hand.mount();
      expect(readdirSync(`${hand.point}/${FOLDER}`)).not.toContain("data");
      expect(readdirSync(`${hand.point}/${FOLDER}`)).toHaveLength(1);
      hand.unlock();
      expect(checksum(`${hand.point}/${FOLDER}/data`, 4)).toBe(sum);
      hand.end();

      const restore = await makeVolume("", {
        capacityRange: { requiredBytes: 3n * GIB },
        volumeContentSource: { type: { case: "snapshot", value: { snapshotId: snapshot?.snapshotId ?? "" } } },
      });
      await restore.stage();
      await restore.publish();
      expect(checksum(`${restore.target}/data`, 4)).toBe(sum);
      expect(await bytesOf(restore)).toBeGreaterThan(3n * GIB - GIB / 8n);
      await restore.unpublish();
      await restore.publish("reader", true);
      expect(checksum(`${restore.pods}/reader`.concat("/data"), 4)).toBe(sum);
      expect(() => writeData(`${restore.pods}/reader/more`, 1)).toThrow();
      await restore.unpublish("reader");
      await restore.unstage();
      expect(left(restore)).toEqual([[], []]);
    },
    LONG,
  );

  test(
    "one that ceph-csi has made and staged is published, unstaged and staged here, with a raw key and with a passphrase",
    async () => {
      for (const kmsId of ["", "passphrases"]) {
        const volume = await makeVolume(kmsId);
        const hand = byHand(volume);
        tool("mkfs.ext4", "-q", "-m0", "-Oencrypt", hand.device);
        hand.mount();
        tool("fscrypt", "setup", hand.point, "--quiet");
        mkdirSync(`${hand.point}/${FOLDER}`);
        const named = ["--name=ceph-csi", "--no-recovery", "--quiet"];
        const source = kmsId === "" ? ["--source=raw_key", `--key=${rawKeyFile()}`] : ["--source=custom_passphrase"];
        toolWith(
          kmsId === "" ? undefined : PASSPHRASE,
          "fscrypt",
          "encrypt",
          `${hand.point}/${FOLDER}`,
          ...named,
          ...source,
        );
        const sum = writeData(`${hand.point}/${FOLDER}/data`, 1);
        tool("umount", hand.point);
        // as it leaves a volume that it has staged
        mkdirSync(volume.stagingTarget);
        tool("mount", "-o", "_netdev", hand.device, volume.stagingTarget);
        const meta = `{"Version":3,"pool":"${world().pool.name}","radosNamespace":"","image":"${volume.image}","accessType":false,"encrypted":false}`;
        writeFileSync(`${volume.staging}/image-meta.json`, meta);
        const locked = await failureOf(volume.publish());
        expect(locked).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("not unlocked") });
        await volume.stage();
        await volume.publish();
        expect(checksum(`${volume.target}/data`, 1)).toBe(sum);
        await volume.unpublish();
        await volume.unstage();
        await volume.stage();
        await volume.publish();
        expect(checksum(`${volume.target}/data`, 1)).toBe(sum);
        await volume.unpublish();
        await volume.unstage();
        expect(left(volume)).toEqual([[], []]);
      }
    },
    LONG,
  );

  test(
    "one that is made here with a passphrase opens with fscrypt alone, and a driver killed on the way is succeeded by one that finishes",
    async () => {
      const volume = await makeVolume("passphrases");
      for (const wait of [1_500, 4_000]) {
        const cut = volume.stage().catch(() => undefined);
        await Bun.sleep(wait);
        await world().restart("SIGKILL");
        await cut;
        await untilGone();
      }
      await volume.stage();
      await volume.publish();
      const sum = writeData(`${volume.target}/data`, 1);
      await volume.unpublish();
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
      const hand = byHand(volume);
      hand.mount();
      hand.unlock("passphrases");
      expect(checksum(`${hand.point}/${FOLDER}/data`, 1)).toBe(sum);
      hand.end();
    },
    LONG,
  );

  test("after all of them nothing is mapped or mounted, and no passphrase is in the log or in a file", () => {
    expect(mapped()).toEqual([]);
    expect(mountTable().filter(({ point }) => point.startsWith(world().dir))).toEqual([]);
    expect(world().driver().log()).not.toContain(PASSPHRASE);
    expect(world().driver().log()).not.toContain(rig().key);
    for (const name of readdirSync("/tmp/csi/keys")) {
      expect(readFileSync(`/tmp/csi/keys/${name}`, "utf8")).not.toContain(PASSPHRASE);
    }
  });
});

/** A child of a killed driver continues; kubelet's next call would find the device busy, and come again. */
const untilGone = async (): Promise<void> => {
  while (processesWith((line) => /^(fscrypt|mkfs)/.test(line)).length > 0) await Bun.sleep(50);
};
