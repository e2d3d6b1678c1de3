/** Failures on a real kernel: killed drivers, hung devices, broken filesystems, images that others use. */
import { describe, expect, test } from "bun:test";
import { closeSync, openSync, readdirSync, writeFileSync } from "node:fs";
import { frozen } from "../ceph/hands.ts";
import { GIB } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { checksum, failureOf, left, mapped, MINUTES, rbd, worldOfFile, writeData } from "./kubelet.ts";
import { mountTable, tool } from "./loop.ts";
import { conditionOf } from "../support/csi-1.12.ts";

const world = worldOfFile("fault");

/** The milliseconds that the driver takes to answer what a liveness probe and kubelet ask. */
const answered = async (): Promise<number> => {
  const since = performance.now();
  await world().driver().identity.probe({}, { timeoutMs: 5_000 });
  await world().driver().node.nodeGetInfo({}, { timeoutMs: 5_000 });
  return performance.now() - since;
};
/** How long that may take while something hangs, on a machine that is as slow as this one is now. */
const prompt = async (): Promise<number> => 5 * (await answered()) + 1_000;

/** As many calls as change something on a node at once, by default. */
const HOST_CELLS = 8;

/** The codes at a deadline past which the operation continues: the driver's, or the client's own. */
const GOES_ON = /^(ABORTED|DEADLINE_EXCEEDED)$/;

describe("a driver that is killed while it stages", () => {
  test(
    "a driver that is killed while it stages is succeeded by one that finishes, and the data is as it was",
    async () => {
      const volume = await world().makeVolume("ext4");
      await volume.stage();
      const sum = writeData(`${volume.stagingTarget}/data`, 1);
      await volume.unstage();
      for (const wait of [400, 1_500]) {
        const cut = volume.stage().catch(() => undefined);
        await Bun.sleep(wait);
        await world().restart("SIGKILL");
        await cut;
        await volume.stage();
        expect([mapped().filter((spec) => spec === volume.spec), checksum(`${volume.stagingTarget}/data`, 1)]).toEqual([
          [volume.spec],
          sum,
        ]);
        await volume.unstage();
        expect(left(volume)).toEqual([[], []]);
      }
    },
    MINUTES,
  );

  test(
    "a driver that is killed in the first stage of a volume leaves one that unstages clean",
    async () => {
      const volume = await world().makeVolume("ext4");
      const cut = volume.stage().catch(() => undefined);
      await Bun.sleep(1_200);
      await world().restart("SIGKILL");
      await cut;
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );
});

describe("proof before harm", () => {
  test(
    "an image whose beginning is blank, but that holds data, is not formatted",
    async () => {
      const volume = await world().makeVolume("ext4");
      const device = rbd("map", "-o", "noudev", volume.spec);
      const data = Buffer.alloc(4096, "precious");
      writeFileSync("/tmp/precious", data);
      tool("dd", "if=/tmp/precious", `of=${device}`, "bs=4096", "seek=100000", "oflag=direct", "conv=notrunc");
      rbd("unmap", "-o", "noudev", device);
      const failure = await failureOf(volume.stage());
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("holds data") });
      expect(left(volume)).toEqual([[], []]);
      const again = rbd("map", "-o", "noudev", volume.spec);
      const read = Bun.spawnSync(["dd", `if=${again}`, "bs=4096", "skip=100000", "count=1", "status=none"]).stdout;
      rbd("unmap", "-o", "noudev", again);
      expect(Buffer.from(read).equals(data)).toBe(true);
    },
    MINUTES,
  );

  test(
    "an image that another client uses is waited for, and its user is named",
    async () => {
      const volume = await world().makeVolume("ext4");
      // It ends when its input ends.
      const user = Bun.spawn(["rbd", "-c", rig().conf, "watch", volume.spec], {
        stdin: "pipe",
        stdout: "ignore",
        stderr: "ignore",
      });
      try {
        for (let tries = 0; !rbd("status", volume.spec).includes("watcher="); tries++) {
          if (tries > 50) throw new Error("the image has no watcher");
          await Bun.sleep(200);
        }
        const failure = await failureOf(volume.stage({ timeoutMs: 15_000 }));
        expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("client.") });
        expect(left(volume)).toEqual([[], []]);
      } finally {
        user.kill();
        await user.exited;
      }
      await volume.stage();
      await volume.unstage();
    },
    MINUTES,
  );

  test(
    "an image with a feature that the kernel lacks is refused, and the feature is named",
    async () => {
      const volume = await world().makeVolume("ext4");
      rbd("feature", "enable", volume.spec, "journaling");
      expect(await failureOf(volume.stage())).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringContaining("journaling"),
      });
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );
});

describe("a device that does not answer", () => {
  test(
    "eight devices that do not answer hold up neither Probe nor a ninth volume, and their calls continue later",
    async () => {
      const hung = await Promise.all(Array.from({ length: HOST_CELLS }, () => world().makeVolume("ext4")));
      for (const volume of hung) {
        await volume.stage();
        await volume.publish();
        await volume.grow(2n * GIB);
      }
      const other = await world().makeVolume("ext4");
      const limit = await prompt();
      // resize2fs sleeps in the kernel until the filesystem is thawed. Nothing can end it before.
      for (const { stagingTarget } of hung) tool("fsfreeze", "-f", stagingTarget);
      try {
        const failures = await Promise.all(
          hung.map((volume) => failureOf(volume.expand(2n * GIB, { timeoutMs: 6_000 }))),
        );
        for (const failure of failures) expect(failure?.code).toMatch(GOES_ON);
        expect(await answered()).toBeLessThan(limit);
        // less than what is left of the limit of the calls that hang
        await other.stage({ timeoutMs: 60_000 });
        await other.publish();
        expect(conditionOf(await other.stats())?.abnormal).toBe(false);
        await other.unpublish();
        await other.unstage();
        expect(await answered()).toBeLessThan(limit);
      } finally {
        for (const { stagingTarget } of hung) tool("fsfreeze", "-u", stagingTarget);
      }
      for (const volume of hung) {
        expect((await volume.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
        await volume.unpublish();
        await volume.unstage();
      }
      expect([...hung, other].map(left)).toEqual([...hung, other].map(() => [[], []]));
    },
    5 * MINUTES,
  );

  test(
    "a device whose OSD hangs leaves the driver answering, and is unstaged once the OSD is back",
    async () => {
      const volume = await world().makeVolume("ext4");
      await volume.stage();
      await volume.publish();
      const limit = await prompt();
      // Written before the freeze, because a write may have to read first. The unmount writes it back.
      writeFileSync(`${volume.target}/dirty`, Buffer.alloc(1 << 20));
      await frozen(rig(), "osd.0", async () => {
        await volume.unpublish();
        const failure = await failureOf(volume.unstage({ timeoutMs: 4_000 }));
        expect(failure?.code).toMatch(GOES_ON);
        expect(await answered()).toBeLessThan(limit);
      });
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
      await volume.stage();
      expect(readdirSync(volume.stagingTarget)).toContain("dirty");
      await volume.unstage();
    },
    MINUTES,
  );
});

describe("a filesystem that was shut down", () => {
  test(
    "a filesystem that was shut down is abnormal, can be unpublished, and is staged anew",
    async () => {
      const volume = await world().makeVolume("xfs");
      await volume.stage();
      await volume.publish();
      const sum = writeData(`${volume.target}/data`, 1);
      tool("xfs_io", "-x", "-c", "shutdown", volume.stagingTarget);
      expect(conditionOf(await volume.stats())?.abnormal).toBe(true);
      const refused = await failureOf(volume.stage());
      expect(refused).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining(volume.target) });
      await volume.unpublish();
      await volume.stage();
      expect(checksum(`${volume.stagingTarget}/data`, 1)).toBe(sum);
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );
});

describe("a device that somebody holds open", () => {
  test(
    "a device that somebody holds open is not unmapped, image-meta.json stays, and the next unstage finishes",
    async () => {
      const volume = await world().makeVolume("ext4");
      await volume.stage();
      const node = mountTable().find(({ point }) => point === volume.stagingTarget)?.source ?? "";
      const fd = openSync(node, "r");
      const failure = await failureOf(volume.unstage());
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining(node) });
      expect(left(volume)).toEqual([[volume.spec], ["image-meta.json"]]);
      closeSync(fd);
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );

  test(
    "a device in use in another mount namespace is reported with the process that uses it",
    async () => {
      const volume = await world().makeVolume("ext4");
      await volume.stage();
      // It mounts the volume at a path of its own, because the staging target's mount goes with its folder in all
      // namespaces. It ends when its input ends.
      const script = `mount --make-rprivate / && mount --bind "${volume.stagingTarget}" /mnt && echo ready && read -r end`;
      const holder = Bun.spawn(["unshare", "-m", "sh", "-c", script], { stdin: "pipe", stdout: "pipe" });
      try {
        await holder.stdout.getReader().read();
        const failure = await failureOf(volume.unstage());
        expect(failure?.code).toBe("FAILED_PRECONDITION");
        expect(failure?.message).toContain(`mount /mnt as process ${holder.pid}`);
      } finally {
        holder.kill();
        await holder.exited;
      }
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );
});
