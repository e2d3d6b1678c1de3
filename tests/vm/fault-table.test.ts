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
import {
  checksum,
  failureOf,
  type Kind,
  left,
  mapped,
  MINUTES,
  nbdLogOf,
  nbdProcessesOf,
  rbd,
  type TestVolume,
  worldOfFile,
  writeData,
} from "./kubelet.ts";
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

/** Whether a process does the work of such a program: one that is asked for its version does not. */
const isRunning = (program: RegExp): boolean => {
  const works = (words: readonly string[]) => words.some((word) => program.test(word)) && !words.includes("-V");
  return processesWith((line) => works(line.split("\0"))).length > 0;
};

/** What can be seen of a call from outside, and whether it has come so far. */
type Step = readonly [string, (volume: TestVolume) => boolean];

const hasMeta = ({ staging }: TestVolume): boolean => existsSync(`${staging}/image-meta.json`);
const devicesOf = (volume: TestVolume) => left(volume)[0] ?? [];
const MAPPED: Step = ["the image is mapped", (volume) => devicesOf(volume).length > 0];
const FORMATS: Step = ["mkfs runs", ({ kind }) => isRunning(new RegExp(`mkfs\\.${kind}$`))];
const MOUNTED: Step = ["the target is mounted", ({ stagingTarget }) => isMounted(stagingTarget)];
const UNMOUNTED: Step = ["the target is unmounted", ({ stagingTarget }) => !isMounted(stagingTarget)];
const GONE: Step = ["the target is gone", ({ stagingTarget }) => !existsSync(stagingTarget)];
const UNMAPPED: Step = ["the image is unmapped", (volume) => devicesOf(volume).length === 0];

interface KilledCase {
  readonly kind: Kind;
  readonly mounter: "rbd" | "rbd-nbd";
  readonly stage: readonly Step[];
  readonly unstage: readonly Step[];
}

/**
 * Each step comes after the one before it. Each costs a start of the driver, which is slow here, so the other kinds leave
 * out steps at which they do the same as ext4.
 */
const KILLED: readonly KilledCase[] = [
  {
    kind: "ext4",
    mounter: "rbd",
    stage: [["image-meta.json is there", hasMeta], MAPPED, FORMATS, MOUNTED],
    unstage: [UNMOUNTED, GONE, UNMAPPED, ["image-meta.json is gone", (volume) => !hasMeta(volume)]],
  },
  { kind: "xfs", mounter: "rbd", stage: [FORMATS, MOUNTED], unstage: [UNMOUNTED] },
  { kind: "block", mounter: "rbd", stage: [MAPPED, MOUNTED], unstage: [UNMOUNTED, GONE] },
  {
    kind: "ext4",
    mounter: "rbd-nbd",
    stage: [["rbd-nbd runs", (volume) => nbdProcessesOf(volume).length > 0], MAPPED, MOUNTED],
    unstage: [UNMOUNTED, UNMAPPED, ["the log is gone", (volume) => !existsSync(nbdLogOf(volume))]],
  },
];

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
  while (isRunning(/(mkfs|fsck)\.\w+$/)) await Bun.sleep(50);
  return early;
};

/**
 * Makes a call that is cut off at the first step, then the next one at the second, and so on. A driver comes to its step
 * only over what the one before it has left. -> the steps at which one was killed.
 */
const killedInTurn = async (
  volume: TestVolume,
  call: () => Promise<unknown>,
  steps: readonly Step[],
): Promise<readonly string[]> => {
  const reached: string[] = [];
  for (const [step, hasCome] of steps) {
    // The driver before was faster than its end.
    if (hasCome(volume)) continue;
    if (await killedAt(call, () => hasCome(volume))) reached.push(step);
  }
  return reached;
};

for (const { kind, mounter, stage, unstage } of KILLED) {
  test(
    `a driver that is killed at each step of a stage and of an unstage is succeeded by one that finishes, formats once and loses no file: ${kind} of ${mounter}`,
    async () => {
      const volume = await world().makeVolume(kind, { mounter });
      const data = kind === "block" ? volume.stagingTarget : `${volume.stagingTarget}/data`;
      const staged = () => [devicesOf(volume).length, nbdProcessesOf(volume).length, checksum(data, 1)];

      const stages = await killedInTurn(volume, volume.stage, stage);
      const sum = writeData(data, 1, kind === "block" ? "r+" : "w");
      await volume.stage();
      const once = [1, mounter === "rbd" ? 0 : 1, sum];
      expect(staged()).toEqual(once);

      const unstages = await killedInTurn(volume, volume.unstage, unstage);
      await volume.unstage();
      const remains = () => [left(volume), nbdProcessesOf(volume), existsSync(nbdLogOf(volume))];
      expect(remains()).toEqual([[[], []], [], false]);
      await volume.stage();
      expect(staged()).toEqual(once);
      await volume.unstage();
      expect(remains()).toEqual([[[], []], [], false]);
      // after the last step of a stage, and in an unstage, little is left to do, and the driver may be faster
      expect([stages.slice(0, stage.length - 1), unstages.length > 0]).toEqual([
        stage.slice(0, -1).map(([step]) => step),
        true,
      ]);
    },
    4 * MINUTES,
  );
}
