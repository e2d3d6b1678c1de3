/**
 * rbd-nbd on a real kernel: volumes from stage to unstage, and the death of its process.
 *
 * Not here: ceph-csi's volumes (./node.test.ts).
 */
import { describe, expect, test } from "bun:test";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { deviceNumber } from "../../lib/host/block.ts";
import { rig } from "../rig/cluster.ts";
import { GIB, secrets } from "../ceph/requests.ts";
import { imageMetaOf } from "./ceph-csi.ts";
import {
  checksum,
  failureOf,
  type Kind,
  left,
  mapped,
  MINUTES,
  nbdDevices,
  nbdLogOf,
  nbdProcessesOf,
  rbd,
  type TestVolume,
  worldOfFile,
  writeData,
} from "./kubelet.ts";
import { isMounted, tool } from "./loop.ts";

const world = worldOfFile("nbd");
const NBD = { mounter: "rbd-nbd" } as const;

const deviceOf = ({ volumeId }: TestVolume): string => nbdDevices().get(volumeId) ?? "none";
const stashOf = (volume: TestVolume) => imageMetaOf(volume, NBD, deviceOf(volume));
const stashed = ({ staging }: TestVolume) => readFileSync(`${staging}/image-meta.json`, "utf8");

const killProcess = (volume: TestVolume): void => {
  const [pid] = nbdProcessesOf(volume);
  if (pid === undefined) throw new Error("there is no rbd-nbd process");
  process.kill(pid, "SIGKILL");
};

/** Where a pod has its data, and how it opens it. */
const dataOf = ({ kind, target }: TestVolume) => (kind === "block" ? target : `${target}/data`);
const flagOf = ({ kind }: TestVolume) => (kind === "block" ? "r+" : "w");

for (const kind of ["ext4", "block"] as const satisfies readonly Kind[]) {
  describe(`a volume of rbd-nbd, ${kind}`, () => {
    test(
      `a volume of rbd-nbd, ${kind}, keeps its data and its process when the driver is killed, and leaves nothing`,
      async () => {
        const volume = await world().makeVolume(kind, NBD);
        await volume.stage();
        expect([mapped().length, stashed(volume)]).toEqual([0, stashOf(volume)]);
        await volume.publish();
        const sum = writeData(dataOf(volume), 4, flagOf(volume));
        const processes = nbdProcessesOf(volume);
        expect(processes).toHaveLength(1);
        const [pid = 0] = processes;
        expect(tool("ps", "-o", "sid=", "-p", String(pid))).not.toBe(
          tool("ps", "-o", "sid=", "-p", String(process.pid)),
        );
        expect(tool("ps", "-eo", "args")).not.toContain(secrets()["userKey"] ?? "no key");

        await world().restart("SIGKILL");
        expect(nbdProcessesOf(volume)).toEqual(processes);
        expect(checksum(dataOf(volume), 4)).toBe(sum);
        await volume.stage();
        await volume.publish();
        expect([nbdProcessesOf(volume), stashed(volume)]).toEqual([processes, stashOf(volume)]);
        expect(await failureOf(volume.unstage())).toMatchObject({ code: "FAILED_PRECONDITION" });

        await volume.grow(2n * GIB);
        expect((await volume.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
        expect(tool("blockdev", "--getsize64", deviceOf(volume))).toBe(String(2n * GIB));
        expect([checksum(dataOf(volume), 4), nbdProcessesOf(volume).length]).toEqual([sum, 1]);
        await volume.unpublish();
        await volume.unstage();
        expect([left(volume), nbdProcessesOf(volume), existsSync(nbdLogOf(volume))]).toEqual([[[], []], [], false]);
      },
      2 * MINUTES,
    );

    test(
      `a volume of rbd-nbd, ${kind}, gets a new process by the next stage or by itself, and the pod that wrote goes on`,
      async () => {
        const volume = await world().makeVolume(kind, NBD);
        await volume.stage();
        await volume.publish();
        writeData(dataOf(volume), 1, flagOf(volume));
        killProcess(volume);
        const writer = Bun.spawn(
          ["dd", "if=/dev/zero", `of=${dataOf(volume)}`, "bs=4096", "count=50", "conv=notrunc,fsync"],
          { stdout: "ignore", stderr: "ignore" },
        );
        await volume.stage();
        expect(await writer.exited).toBe(0);
        expect([nbdProcessesOf(volume).length, isMounted(volume.target)]).toEqual([1, true]);
        killProcess(volume);
        const sum = writeData(dataOf(volume), 2, flagOf(volume));
        await volume.unpublish();
        await volume.unstage();
        await volume.stage();
        await volume.publish();
        expect(checksum(dataOf(volume), 2)).toBe(sum);
        await volume.unpublish();
        await volume.unstage();
        expect(left(volume)).toEqual([[], []]);
      },
      2 * MINUTES,
    );
  });
}

/** A filesystem whose process never answers, and of which this process has the root open. */
const hungFilesystem = async (at: string) => {
  tool("modprobe", "fuse");
  mkdirSync(at, { recursive: true });
  const mount = `mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung ${at}`;
  const served = Bun.spawn(["sh", "-c", `exec 3<>/dev/fuse && ${mount} && exec sleep 600`]);
  while (!isMounted(at)) await Bun.sleep(50);
  const fd = openSync(at, O_PATH);
  return {
    end: async () => {
      closeSync(fd);
      served.kill();
      await served.exited;
      tool("umount", "--lazy", at);
    },
  };
};
/** Linux. Asks the filesystem nothing. */
const O_PATH = 0o10000000;

describe("proof before harm with rbd-nbd", () => {
  test(
    "a device of rbd-nbd that a process has open is not unmapped, and the process is named",
    async () => {
      const volume = await world().makeVolume("block", NBD);
      await volume.stage();
      const device = deviceOf(volume);
      // As a container has it: a node of its own, with a name of its own, in any folder.
      const inContainer = ["/dev/csi-rbd-in-container", "/run/csi-rbd-data/disk"];
      mkdirSync("/run/csi-rbd-data", { recursive: true });
      const { rdev } = statSync(device);
      const [major, minor] = deviceNumber(rdev).split(":");
      for (const node of inContainer) tool("mknod", node, "b", major ?? "", minor ?? "");
      const hung = await hungFilesystem("/run/csi-rbd-hung");
      try {
        for (const node of [device, ...inContainer]) {
          const user = Bun.spawn(["sleep", "600"], { stdin: Bun.file(node), stdout: "ignore" });
          try {
            const failure = await failureOf(volume.unstage());
            expect(failure).toMatchObject({
              code: "FAILED_PRECONDITION",
              message: expect.stringContaining(`process ${user.pid} (sleep)`),
            });
            expect(nbdProcessesOf(volume)).toHaveLength(1);
          } finally {
            user.kill();
            await user.exited;
          }
        }
        await volume.unstage();
      } finally {
        await hung.end();
        for (const node of inContainer) rmSync(node);
      }
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );

  test(
    "an image that another client uses is not mapped with rbd-nbd, even by a client on this node",
    async () => {
      const volume = await world().makeVolume("ext4", NBD);
      const foreign = tool("rbd-nbd", "-c", rig().conf, "--try-netlink", "--cookie=by-hand", "map", volume.spec);
      const failure = await failureOf(volume.stage({ timeoutMs: 20_000 }));
      expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("client.") });
      expect([left(volume), nbdDevices().get("by-hand")]).toEqual([[[], []], foreign]);
      tool("rbd-nbd", "unmap", foreign);
      await volume.stage();
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );

  test(
    "an option that rbd-nbd lacks leaves nothing, and the message names it",
    async () => {
      const volume = await world().makeVolume("ext4", { ...NBD, mapOptions: "nbd:frobnicate=1" });
      const failure = await failureOf(volume.stage());
      expect(failure).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringMatching(/frobnicate.*mapOptions/),
      });
      expect([left(volume), nbdProcessesOf(volume)]).toEqual([[[], []], []]);
    },
    MINUTES,
  );
});

describe("tryOtherMounters", () => {
  test(
    "with tryOtherMounters an image with a feature that the kernel lacks is mapped with rbd-nbd",
    async () => {
      const volume = await world().makeVolume("ext4", { tryOtherMounters: "true" });
      await volume.stage();
      expect(mapped()).toEqual([volume.spec]);
      await volume.unstage();
      rbd("feature", "enable", volume.spec, "journaling");
      await volume.stage();
      expect([mapped(), stashed(volume)]).toEqual([[], stashOf(volume)]);
      await volume.publish();
      const sum = writeData(`${volume.target}/data`, 1);
      expect(checksum(`${volume.target}/data`, 1)).toBe(sum);
      await volume.unpublish();
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );
});
