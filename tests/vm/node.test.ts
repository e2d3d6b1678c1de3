/**
 * Volumes on a real kernel from stage to unstage: ext4, xfs and raw block, with the driver killed between calls, and with
 * ceph-csi before or after it.
 */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { VolumeUsage_Unit as Unit } from "../../lib/gen/csi_pb.ts";
import { GIB, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { conditionOf } from "../support/csi-1.12.ts";
import {
  expandedByCephCsi,
  imageMetaOf,
  type Layers,
  publishedByCephCsi,
  stagedByCephCsi,
  undoneByCephCsi,
} from "./ceph-csi.ts";
import {
  checksum,
  failureOf,
  left,
  mapped,
  MINUTES,
  nbdDevices,
  nbdLogOf,
  nbdProcessesOf,
  type TestVolume,
  worldOfFile,
  writeData,
} from "./kubelet.ts";
import { isMounted, layers, mountTable, tool } from "./loop.ts";

const world = worldOfFile("node");
afterEach(() => {
  // Every test must end with nothing mapped, because the next one checks all mappings.
  if (mapped().length > 0) console.log(world().driver().log().slice(-4000));
});

describe("a filesystem", () => {
  for (const kind of ["ext4", "xfs"] as const) {
    test(
      `a filesystem of ${kind} keeps its data through publish, growth, a killed driver, and another stage`,
      async () => {
        const volume = await world().makeVolume(kind);
        await volume.stage();
        expect(mapped()).toEqual([volume.spec]);
        expect(readFileSync(`${volume.staging}/image-meta.json`, "utf8")).toBe(imageMetaOf(volume));
        await volume.publish();
        const sum = writeData(`${volume.target}/data`, 4);

        await volume.publish("reader", true);
        expect(checksum(`${volume.pods}/reader/data`, 4)).toBe(sum);
        expect(() => writeFileSync(`${volume.pods}/reader/new`, "x")).toThrow("EROFS");

        const before = (await volume.stats()).usage.find(({ unit }) => unit === Unit.BYTES);
        await volume.grow(2n * GIB);
        expect((await volume.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
        const stats = await volume.stats();
        const { usage } = stats;
        const bytes = usage.find(({ unit }) => unit === Unit.BYTES);
        expect(bytes?.total).toBeGreaterThan((before?.total ?? 0n) + GIB - GIB / 16n);
        expect(usage.find(({ unit }) => unit === Unit.INODES)?.used).toBeGreaterThan(0n);
        expect(conditionOf(stats)?.abnormal).toBe(false);

        await world().restart();
        await volume.stage();
        await volume.publish();
        await volume.unpublish("reader");
        await volume.unpublish();
        expect(existsSync(volume.target)).toBe(false);
        await volume.unstage();
        expect([mapped(), readdirSync(volume.staging)]).toEqual([[], []]);

        await volume.stage();
        expect(checksum(`${volume.stagingTarget}/data`, 4)).toBe(sum);
        await volume.unstage();
        await volume.unstage();
        expect([mapped(), readdirSync(volume.staging)]).toEqual([[], []]);
      },
      MINUTES,
    );
  }

  test(
    "a filesystem that is for the pods of one ServiceAccount is published to no other, also by the next driver",
    async () => {
      const volume = await world().makeVolume("ext4");
      const publish = (account: string) =>
        volume.publish("0", false, {}, { "csi.storage.k8s.io/serviceAccount.name": account });
      tool("rbd", "-c", rig().conf, "image-meta", "set", volume.spec, ".rbd.csi.ceph.com/serviceaccount", "audit,till");
      await volume.stage();
      await world().restart();
      expect(await failureOf(publish("other"))).toMatchObject({ code: "PERMISSION_DENIED" });
      expect(isMounted(volume.target)).toBe(false);
      await publish("till");
      expect(isMounted(volume.target)).toBe(true);
      await volume.unpublish();
      await volume.unstage();
      expect([mapped(), readdirSync(volume.staging)]).toEqual([[], []]);
    },
    MINUTES,
  );
});

describe("a raw volume", () => {
  test(
    "a raw volume keeps its data, grows, and can be read-only",
    async () => {
      const volume = await world().makeVolume("block");
      await volume.stage();
      await volume.publish();
      const sum = writeData(volume.target, 4, "r+");
      const busy = await failureOf(volume.publish("reader", true));
      expect(busy).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining(volume.target) });

      await volume.grow(2n * GIB);
      expect((await volume.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
      expect((await volume.stats()).usage).toMatchObject([{ unit: Unit.BYTES, total: 2n * GIB }]);
      await volume.unpublish();

      await volume.publish("reader", true);
      expect(checksum(`${volume.pods}/reader`, 4)).toBe(sum);
      expect(() => writeData(`${volume.pods}/reader`, 1, "r+")).toThrow();
      expect(checksum(`${volume.pods}/reader`, 4)).toBe(sum);
      await volume.unpublish("reader");
      await volume.unstage();
      expect([mapped(), readdirSync(volume.staging)]).toEqual([[], []]);

      await volume.stage();
      await volume.publish();
      expect(checksum(volume.target, 4)).toBe(sum);
      writeData(volume.target, 1, "r+");
      await volume.unpublish();
      await volume.unstage();
    },
    MINUTES,
  );
});

const PASSPHRASE = "a passphrase of ceph-csi's";
const withKey = () => ({ ...secrets(), encryptionPassphrase: PASSPHRASE });

/** What the two drivers hand over. The rbd-nbd process of a volume ends with ceph-csi's pod, unless that runs it elsewhere. */
const HANDED_OVER: readonly (readonly [string, "ext4" | "block", Layers, { readonly isDead?: true }?])[] = [
  ["ext4", "ext4", {}],
  ["block", "block", {}],
  ["ext4, encrypted", "ext4", { passphrase: PASSPHRASE }],
  ["block, encrypted", "block", { passphrase: PASSPHRASE }],
  ["ext4 of rbd-nbd, whose process ended with ceph-csi", "ext4", { mounter: "rbd-nbd" }, { isDead: true }],
  ["block of rbd-nbd", "block", { mounter: "rbd-nbd" }],
];

const makeHandedOver = async (kind: "ext4" | "block", { mounter = "rbd", passphrase }: Layers): Promise<TestVolume> => {
  if (passphrase === undefined) return world().makeVolume(kind, { mounter });
  const volume = await world().makeVolume(kind, { mounter, encrypted: "true" }, { secrets: withKey() });
  return volume.as({ secrets: withKey() });
};

/** What serves a volume's pods, and must stay as it is under them. */
const serving = () => [mountTable(), mapped(), layers(), [...nbdDevices()]];
/** What an unstage must have taken away. */
const remains = (volume: TestVolume) => [
  left(volume),
  layers(),
  nbdProcessesOf(volume),
  [volume.target, nbdLogOf(volume)].filter((path) => existsSync(path)),
];
const NOTHING = [[[], []], [], [], []];

describe("a volume that goes from one driver to the other while a pod uses it", () => {
  for (const [what, kind, layersOf, { isDead = false } = {}] of HANDED_OVER) {
    test(
      `a volume that ceph-csi has staged and published is served, grown and unstaged here, and ceph-csi undoes one of ours: ${what}`,
      async () => {
        const volume = await makeHandedOver(kind, layersOf);
        stagedByCephCsi(volume, layersOf);
        publishedByCephCsi(volume);
        const file = kind === "block" ? "" : "/data";
        const sum = writeData(`${volume.target}${file}`, 4, kind === "block" ? "r+" : "w");
        const files = kind === "block" ? [] : readdirSync(volume.target);
        const [before, processes] = [serving(), nbdProcessesOf(volume)];
        // In good order, so that nobody waits for the end of its watch (./nbd.test.ts).
        if (isDead) for (const pid of processes) process.kill(pid, "SIGTERM");

        await volume.stage();
        await volume.publish();
        expect(serving()).toEqual(before);
        expect([nbdProcessesOf(volume).length, nbdProcessesOf(volume)[0] === processes[0]]).toEqual([
          processes.length,
          !isDead,
        ]);
        await volume.publish("another");
        expect(checksum(`${volume.pods}/another${file}`, 4)).toBe(sum);
        await volume.grow(2n * GIB);
        expect((await volume.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
        const stats = await volume.stats();
        const bytes = stats.usage.find(({ unit }) => unit === Unit.BYTES)?.total;
        expect(bytes).toBeGreaterThan(2n * GIB - GIB / 8n);
        expect(conditionOf(stats)?.abnormal).toBe(false);
        await volume.unpublish("another");
        await volume.unpublish();
        expect([existsSync(volume.target), left(volume)[0]?.length]).toEqual([false, 1]);
        await volume.unstage();
        expect(remains(volume)).toEqual(NOTHING);

        await volume.stage();
        await volume.publish();
        expect(checksum(`${volume.target}${file}`, 4)).toBe(sum);
        if (kind !== "block") expect(readdirSync(volume.target)).toEqual(files);
        const device = nbdDevices().get(volume.volumeId);
        expect(readFileSync(`${volume.staging}/image-meta.json`, "utf8")).toBe(imageMetaOf(volume, layersOf, device));
        expandedByCephCsi(volume);
        undoneByCephCsi(volume);
        expect(remains(volume)).toEqual(NOTHING);
      },
      MINUTES,
    );
  }

  test(
    "a raw volume that ceph-csi has published read-only is published again, and takes no writes from then on",
    async () => {
      const volume = await world().makeVolume("block");
      const device = stagedByCephCsi(volume);
      publishedByCephCsi(volume, "0", true);
      await volume.publish("0", true);
      expect(() => writeData(volume.target, 1, "r+")).toThrow();
      await volume.unpublish();
      await volume.unstage();
      expect([left(volume), existsSync(device)]).toEqual([[[], []], false]);
    },
    MINUTES,
  );
});

describe("afterwards", () => {
  test("after all tests no mount, no mapping and no key file is left, and the log contains no key", () => {
    expect(mapped()).toEqual([]);
    expect(mountTable().filter(({ point }) => point.startsWith(world().dir))).toEqual([]);
    expect(isMounted(world().dir)).toBe(false);
    expect(readdirSync("/tmp/csi/keys")).toEqual([]);
    for (const secret of [rig().key, PASSPHRASE]) expect(world().driver().log()).not.toContain(secret);
  });
});
