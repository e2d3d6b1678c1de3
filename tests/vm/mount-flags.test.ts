/** Mount flags on a real kernel: what is asked for at stage holds in the pod. */
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { GIB } from "../ceph/requests.ts";
import { failureOf, left, MINUTES, optionsAt, worldOfFile } from "./kubelet.ts";
import { tool } from "./loop.ts";

const world = worldOfFile("flags");

describe("the mount flag ro", () => {
  for (const kind of ["ext4", "xfs"] as const) {
    test(
      `a volume with ro and noatime in one flag is refused while it is blank, and mounted read-only afterwards: ${kind}`,
      async () => {
        const volume = await world().makeVolume(kind);
        const reader = volume.as({ mountFlags: ["ro,noatime"] });
        expect(await failureOf(reader.stage())).toMatchObject({
          code: "FAILED_PRECONDITION",
          message: expect.stringContaining("blank"),
        });
        expect(left(volume)).toEqual([[], []]);

        await volume.stage();
        writeFileSync(`${volume.stagingTarget}/data`, "x", { flush: true });
        await volume.unstage();
        await volume.grow(2n * GIB);

        await reader.stage();
        await reader.stage();
        expect(optionsAt(volume.stagingTarget)).toEqual(expect.arrayContaining(["ro", "noatime"]));
        await reader.publish();
        expect(optionsAt(volume.target)).toEqual(expect.arrayContaining(["ro", "noatime"]));
        expect(() => writeFileSync(`${volume.target}/new`, "x")).toThrow("EROFS");
        expect(await failureOf(reader.expand(2n * GIB))).toMatchObject({
          code: "FAILED_PRECONDITION",
          message: expect.stringContaining("read-only"),
        });
        await reader.unpublish();
        await reader.unstage();

        await volume.stage();
        await volume.publish();
        expect((await volume.expand(2n * GIB)).capacityBytes).toBe(2n * GIB);
        await volume.unpublish();
        await volume.unstage();
        expect(left(volume)).toEqual([[], []]);
      },
      MINUTES,
    );
  }
});

test(
  "flags that forbid something hold in a writable pod, in a read-only pod, and where the caller does not repeat them",
  async () => {
    const plain = await world().makeVolume("ext4");
    const volume = plain.as({ mountFlags: ["noatime,noexec", "nosuid", "nodev"] });
    await volume.stage();
    await volume.publish();
    await volume.publish("reader", true);
    await plain.publish("bare", true);
    tool("cp", "/bin/true", `${volume.stagingTarget}/program`);
    for (const path of [volume.stagingTarget, volume.target, `${volume.pods}/reader`, `${volume.pods}/bare`]) {
      expect(optionsAt(path)).toEqual(expect.arrayContaining(["noatime", "noexec", "nosuid", "nodev"]));
      // The shell's status for a program that it must not run.
      expect(Bun.spawnSync(["sh", "-c", `"${path}/program"`]).exitCode).toBe(126);
    }
    for (const pod of ["0", "reader", "bare"]) await volume.unpublish(pod);
    await volume.unstage();
    expect(left(volume)).toEqual([[], []]);
  },
  MINUTES,
);

test(
  "a bind whose driver was killed before its options gets them, and ceph-csi's read-only bind of a raw device is guarded",
  async () => {
    const plain = await world().makeVolume("ext4");
    const volume = plain.as({ mountFlags: ["noexec"] });
    await volume.stage();
    await volume.publish();
    tool("mount", "-o", "remount,bind,exec,rw", volume.target);
    expect(optionsAt(volume.target)).not.toContain("noexec");
    await volume.publish("0", true);
    expect(optionsAt(volume.target)).toEqual(expect.arrayContaining(["ro", "noexec"]));
    expect(optionsAt(volume.stagingTarget)).toContain("rw");
    expect(() => writeFileSync(`${volume.target}/new`, "x")).toThrow("EROFS");
    await volume.unpublish();
    await volume.unstage();

    const raw = await world().makeVolume("block");
    await raw.stage();
    await raw.publish();
    await raw.publish("writer");
    tool("mount", "-o", "remount,bind,ro", raw.target);
    for (const device of ["0", "1"]) {
      await raw.publish("0", true);
      expect([optionsAt(raw.target).includes("ro"), tool("blockdev", "--getro", raw.target)]).toEqual([true, device]);
      await raw.unpublish("writer");
    }
    await raw.unpublish();
    await raw.unstage();
    expect([left(volume), left(raw)]).toEqual([
      [[], []],
      [[], []],
    ]);
  },
  MINUTES,
);
