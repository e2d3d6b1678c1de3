/**
 * Faults at the worst moment, on a real kernel: daemons of Ceph that hang, a key that is removed, tools that fail or are
 * killed, and a driver that is killed at each step that can be seen from outside.
 *
 * Not here: hung devices and broken filesystems (./node-faults.test.ts, ./health.test.ts), the death of rbd-nbd
 * (./nbd.test.ts) and of cryptsetup (./encryption.test.ts).
 */
import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { frozen, tool as ceph } from "../ceph/hands.ts";
import { rig } from "../rig/cluster.ts";
import { otherCluster } from "../rig/control.ts";
import { conditionOf } from "../support/csi-1.12.ts";
import { checksum, failureOf, left, mapped, MINUTES, rbd, type TestVolume, worldOfFile, writeData } from "./kubelet.ts";
import { isMounted, mountTable, tool } from "./loop.ts";
import { processesWith } from "./processes.ts";

// ------------------------------------------------------------------------------------------- tools that go wrong

const PATH = process.env["PATH"] ?? "";
let faults = "";

/** Stands before a tool of the driver: does `instead` while `faulty` has its name, and else what the tool does. */
const standIn = (bin: string, name: string, instead: string): void => {
  const real = Bun.which(name, { PATH });
  if (real === null) throw new Error(`no ${name}`);
  const text = `#!/bin/sh\nreal=${real}\nif [ -e "${faults}/${name}" ]; then\n${instead}\nfi\nexec "$real" "$@"\n`;
  writeFileSync(join(bin, name), text);
  chmodSync(join(bin, name), 0o755);
};

const world = worldOfFile("table", (dir) => {
  faults = join(dir, "faults");
  const bin = join(dir, "bin");
  for (const folder of [faults, bin]) mkdirSync(folder);
  standIn(bin, "blkid", "echo 'blkid: it cannot be read' >&2; exit 4");
  // All is written but what blkid looks for, which mkfs writes last.
  const last = 'for each; do :; done; dd if=/dev/zero of="$each" bs=1024 seek=1 count=1 conv=notrunc,fsync 2>/dev/null';
  standIn(bin, "mkfs.ext4", `[ "$1" = -V ] && exec "$real" -V; "$real" "$@" || exit 9; ${last}; kill -KILL $$`);
  // The kernel has the device, and its node in /dev comes later.
  const late =
    'path=$("$real" "$@") || exit 1; number=$(cat /sys/block/${path#/dev/}/dev); rm "$path"; (sleep 4; mknod "$path" b ${number%:*} ${number#*:}) >/dev/null 2>&1 & echo "$path"; exit 0';
  standIn(bin, "rbd", `case " $* " in *" map "*) ${late};; esac`);
  process.env["PATH"] = `${bin}:${PATH}`;
  return [];
});
afterAll(() => {
  process.env["PATH"] = PATH;
});

const withFaulty = async <A>(name: string, during: () => Promise<A>): Promise<A> => {
  writeFileSync(join(faults, name), "");
  try {
    return await during();
  } finally {
    rmSync(join(faults, name));
  }
};

describe("a tool that goes wrong", () => {
  test(
    "a blkid that fails fails the stage, formats nothing, and leaves nothing",
    async () => {
      const volume = await world().makeVolume("ext4");
      const failure = await withFaulty("blkid", () => failureOf(volume.stage()));
      expect(failure?.message).toContain("it cannot be read");
      expect([left(volume), rbd("du", "--format=json", volume.spec)]).toEqual([
        [[], []],
        expect.stringContaining('"used_size":0'),
      ]);
      await volume.stage();
      const sum = writeData(`${volume.stagingTarget}/data`, 1);
      await volume.unstage();
      expect((await withFaulty("blkid", () => failureOf(volume.stage())))?.message).toContain("it cannot be read");
      await volume.stage();
      expect(checksum(`${volume.stagingTarget}/data`, 1)).toBe(sum);
      await volume.unstage();
    },
    MINUTES,
  );

  test(
    "what a mkfs that was killed halfway has left is not formatted, nothing of it is lost, and the error says what to do",
    async () => {
      const volume = await world().makeVolume("ext4");
      const failure = await withFaulty("mkfs.ext4", () => failureOf(volume.stage()));
      expect(failure?.message).toContain("killed by a signal");
      expect(rbd("du", "--format=json", volume.spec)).not.toContain('"used_size":0');
      // all that is allocated
      const exported = () =>
        tool("sh", "-c", `rbd -c ${rig().conf} export-diff ${volume.spec} - 2>/dev/null | sha256sum`);
      const before = exported();
      for (let n = 0; n < 2; n++) {
        expect(await failureOf(volume.stage())).toMatchObject({
          code: "FAILED_PRECONDITION",
          message: expect.stringMatching(
            new RegExp(`image ${volume.spec} holds data\\. A mkfs that was cut off .*wipefs.*debugfs.*rbd export`),
          ),
        });
        expect([left(volume), exported()]).toEqual([[[], []], before]);
      }
    },
    MINUTES,
  );

  test(
    "an xfs whose mkfs was cut off is neither mounted nor formatted, and the error says what to do",
    async () => {
      const volume = await world().makeVolume("xfs");
      await volume.stage();
      const sum = writeData(`${volume.stagingTarget}/data`, 1);
      await volume.unstage();
      const setInProgress = (byte: string) => {
        const device = rbd("map", "-o", "noudev", volume.spec);
        tool("sh", "-c", `printf '\\${byte}' | dd of=${device} bs=1 seek=126 conv=notrunc,fsync 2>/dev/null`);
        rbd("unmap", "-o", "noudev", device);
      };
      setInProgress("001");
      expect(await failureOf(volume.stage())).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringContaining(`image ${volume.spec} holds an unfinished xfs. A mkfs that was cut off`),
      });
      expect(left(volume)).toEqual([[], []]);
      setInProgress("000");
      await volume.stage();
      expect(checksum(`${volume.stagingTarget}/data`, 1)).toBe(sum);
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );

  test(
    "a device node that comes late delays the stage, and leaves nothing",
    async () => {
      const volume = await world().makeVolume("ext4");
      const failure = await withFaulty("rbd", () => failureOf(volume.stage()));
      const ours = () => mapped().filter((spec) => spec === volume.spec).length;
      if (failure === undefined) expect([ours(), isMounted(volume.stagingTarget)]).toEqual([1, true]);
      else {
        expect(failure.message).toContain("/dev/rbd");
        // Nothing stays mapped unless image-meta.json is there, by which an unstage finds it.
        expect([isMounted(volume.stagingTarget), hasMeta(volume)]).toEqual([false, ours() === 1]);
        await Bun.sleep(5_000);
      }
      await volume.stage();
      expect([ours(), isMounted(volume.stagingTarget)]).toEqual([1, true]);
      const sum = writeData(`${volume.stagingTarget}/data`, 1);
      expect(checksum(`${volume.stagingTarget}/data`, 1)).toBe(sum);
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    MINUTES,
  );
});

// --------------------------------------------------------------------------------------------- daemons that hang

const answered = async (): Promise<number> => {
  const since = performance.now();
  await world().driver().identity.probe({}, { timeoutMs: 20_000 });
  return performance.now() - since;
};

describe("a daemon of Ceph that hangs", () => {
  for (const daemon of ["osd.0", "mon.a"] as const) {
    test(
      `a stage while ${daemon} hangs answers at its deadline, holds up no Probe, and is finished by the next one`,
      async () => {
        const [volume, used] = [await world().makeVolume("ext4"), await world().makeVolume("ext4")];
        await used.stage();
        await used.publish();
        const limit = 5 * (await answered()) + 1_000;
        await frozen(rig(), daemon, async () => {
          const failure = await failureOf(volume.stage({ timeoutMs: 6_000 }));
          expect(failure?.code).toMatch(/^(ABORTED|DEADLINE_EXCEEDED|UNAVAILABLE)$/);
          expect(await answered()).toBeLessThan(limit);
          // what a filesystem says of itself is in memory; kubelet asks for it every minute
          const since = performance.now();
          const stats = await used.stats();
          expect([stats.usage.length > 0, conditionOf(stats)?.message]).toEqual([true, expect.any(String)]);
          expect(performance.now() - since).toBeLessThan(10_000);
          expect(await answered()).toBeLessThan(limit);
        });
        await volume.stage();
        await used.unpublish();
        for (const each of [volume, used]) await each.unstage();
        expect([left(volume), left(used)]).toEqual([
          [[], []],
          [[], []],
        ]);
      },
      2 * MINUTES,
    );
  }

  test(
    "a user whose key is removed while its volume is mapped keeps its data, unstages, and is refused with its name",
    async () => {
      const user = `table-${process.pid}`;
      const caps = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];
      const { key } = await ceph.userOf(rig(), user, caps);
      const volume = (await world().makeVolume("ext4")).as({ secrets: { userID: user, userKey: key } });
      await volume.stage();
      await volume.publish();
      await ceph.ceph(rig(), "auth", "rm", `client.${user}`);
      const sum = writeData(`${volume.target}/data`, 1);
      await volume.unpublish();
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
      await world().restart("SIGTERM");
      expect(await failureOf(volume.stage())).toMatchObject({
        code: "PERMISSION_DENIED",
        message: expect.stringContaining(user),
      });
      expect([left(volume), world().driver().log().includes(key)]).toEqual([[[], []], false]);
      const { key: newKey } = await ceph.userOf(rig(), user, caps);
      const again = volume.as({ secrets: { userID: user, userKey: newKey } });
      await again.stage();
      expect(checksum(`${again.stagingTarget}/data`, 1)).toBe(sum);
      await again.unstage();
      await ceph.ceph(rig(), "auth", "rm", `client.${user}`);
    },
    MINUTES,
  );
});

// --------------------------------------------------------------------------------------------------- publishing

test(
  "A volume that is published twice, and bound once more by somebody else, loses no file by one unpublish",
  async () => {
    const volume = await world().makeVolume("ext4");
    await volume.stage();
    await volume.publish();
    await volume.publish();
    const sum = writeData(`${volume.target}/data`, 1);
    tool("mount", "--bind", volume.stagingTarget, volume.target);
    expect(mountTable().filter(({ point }) => point === volume.target)).toHaveLength(2);
    await volume.unpublish();
    expect([isMounted(volume.target), existsSync(volume.target)]).toEqual([false, false]);
    expect(checksum(`${volume.stagingTarget}/data`, 1)).toBe(sum);
    await volume.unpublish();
    await volume.unstage();
    expect(left(volume)).toEqual([[], []]);
  },
  MINUTES,
);

test(
  "An image of the same name that is mapped from another cluster is neither taken for the volume's nor touched",
  async () => {
    const volume = await world().makeVolume("ext4");
    const { monitors, key } = await otherCluster(world().pool.name);
    const keyFile = join(world().dir, "other-key");
    writeFileSync(keyFile, key, { mode: 0o600 });
    const other = (...command: string[]) =>
      tool("rbd", "-m", monitors.join(","), "--id", "admin", "--keyfile", keyFile, ...command);
    other("create", volume.spec, "--size=128M", "--image-feature=layering");
    const device = other("map", "-o", "noudev", volume.spec);
    tool("mkfs.ext4", "-q", device);
    const at = join(world().dir, "other");
    mkdirSync(at);
    tool("mount", device, at);
    const theirs = writeData(`${at}/data`, 1);

    for (const isMountedToo of [true, false]) {
      if (!isMountedToo) tool("umount", at);
      await volume.stage();
      await volume.publish();
      expect(mapped().filter((spec) => spec === volume.spec)).toHaveLength(2);
      const ours = writeData(`${volume.target}/data`, 1);
      await volume.unpublish();
      await volume.unstage();
      expect(left(volume)).toEqual([[volume.spec], []]);
      if (!isMountedToo) tool("mount", device, at);
      expect([checksum(`${at}/data`, 1), ours === theirs]).toEqual([theirs, false]);
    }
    tool("umount", at);
    tool("rbd", "unmap", "-o", "noudev", device);
    expect(left(volume)).toEqual([[], []]);
  },
  MINUTES,
);

// --------------------------------------------------------------------------------- a driver that dies at each step

/** Whether it does its work: one that is asked for its version does not. */
const isRunning = (program: string): boolean => {
  const works = (words: readonly string[]) => words.some((word) => word.endsWith(program)) && !words.includes("-V");
  return processesWith((line) => works(line.split("\0"))).length > 0;
};

const hasMeta = ({ staging }: TestVolume): boolean => existsSync(`${staging}/image-meta.json`);
const isMapped = ({ spec }: TestVolume): boolean => mapped().includes(spec);

/** Kills the driver as soon as a call has come so far, or has ended, and starts the next one; -> whether it came so far. */
const killedAt = async (call: () => Promise<unknown>, reached: () => boolean): Promise<boolean> => {
  const state = { ended: false };
  const cut = call().catch(() => undefined);
  void cut.then(() => void (state.ended = true));
  while (!state.ended && !reached()) await Bun.sleep(1);
  const early = !state.ended;
  await world().restart("SIGKILL");
  await cut;
  // kubelet's next call would find the device busy, and come again
  while (isRunning("mkfs.ext4") || isRunning("fsck.ext4")) await Bun.sleep(50);
  return early;
};

describe("a driver that is killed at each step", () => {
  test(
    "of a stage is succeeded by one that finishes, whatever it had come to, and formats once",
    async () => {
      const steps: readonly (readonly [string, (volume: TestVolume) => boolean])[] = [
        ["image-meta.json is there", hasMeta],
        ["the image is mapped", isMapped],
        ["mkfs runs", () => isRunning("mkfs.ext4")],
        ["the filesystem is mounted", ({ stagingTarget }) => isMounted(stagingTarget)],
      ];
      const reached: string[] = [];
      for (const [step, come] of steps) {
        const volume = await world().makeVolume("ext4");
        if (await killedAt(volume.stage, () => come(volume))) reached.push(step);
        await volume.stage();
        expect([step, mapped().filter((spec) => spec === volume.spec).length]).toEqual([step, 1]);
        await volume.publish();
        const sum = writeData(`${volume.target}/data`, 1);
        await volume.unpublish();
        await volume.unstage();
        await volume.stage();
        expect([step, checksum(`${volume.stagingTarget}/data`, 1)]).toEqual([step, sum]);
        await volume.unstage();
        expect([step, left(volume)]).toEqual([step, [[], []]]);
      }
      // after the last step a stage has little left to do, and may be faster
      expect(reached).toEqual(expect.arrayContaining(steps.slice(0, 3).map(([step]) => step)));
    },
    4 * MINUTES,
  );

  test(
    "of an unstage is succeeded by one that finishes, and no file is lost",
    async () => {
      const volume = await world().makeVolume("ext4");
      await volume.stage();
      const sum = writeData(`${volume.stagingTarget}/data`, 1);
      const steps: readonly (readonly [string, () => boolean])[] = [
        ["begun", () => true],
        ["the filesystem is unmounted", () => !isMounted(volume.stagingTarget)],
        ["the target is gone", () => !existsSync(volume.stagingTarget)],
        ["the image is unmapped", () => !isMapped(volume)],
        ["image-meta.json is gone", () => !hasMeta(volume)],
      ];
      for (const [step, come] of steps) {
        await killedAt(volume.unstage, come);
        await volume.unstage();
        expect([step, left(volume)]).toEqual([step, [[], []]]);
        await volume.stage();
        expect([step, checksum(`${volume.stagingTarget}/data`, 1)]).toEqual([step, sum]);
      }
      await volume.unstage();
      expect(left(volume)).toEqual([[], []]);
    },
    4 * MINUTES,
  );
});
