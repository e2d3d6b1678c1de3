/**
 * Block devices for tests that need a kernel but no cluster: sparse files behind loop devices.
 *
 * 1. At the end its own mounts and loop devices go, and nothing else.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mountsAt, parseMountInfo } from "../../lib/host/mountinfo.ts";
import { readFileSync } from "node:fs";

export const tool = (...argv: string[]): string => {
  const done = Bun.spawnSync(argv, { env: { ...process.env, LC_ALL: "C" }, stdin: "ignore" });
  if (done.exitCode !== 0) throw new Error(`${argv.join(" ")}: ${done.stderr.toString()}`);
  return done.stdout.toString().trim();
};

export const mountTable = () => parseMountInfo(readFileSync("/proc/self/mountinfo", "utf8"));
export const isMounted = (path: string): boolean => mountsAt(mountTable(), path).length > 0;

const MIB = 1 << 20;

export const loopDevices = () => {
  const dir = mkdtempSync(join(tmpdir(), "csi-rbd-loop-"));
  const attached: string[] = [];
  let count = 0;
  return {
    dir,
    /** A device of so many MiB that reads as zeros. */
    make: (mebibytes: number): { readonly device: string; readonly file: string } => {
      const file = join(dir, `disk-${count++}`);
      writeFileSync(file, "");
      truncateSync(file, mebibytes * MIB);
      const device = tool("losetup", "--find", "--show", file);
      attached.push(device);
      return { device, file };
    },
    /** The file and its device get so many MiB. */
    grow: ({ device, file }: { readonly device: string; readonly file: string }, mebibytes: number): void => {
      truncateSync(file, mebibytes * MIB);
      tool("losetup", "--set-capacity", device);
    },
    end: (): void => {
      const ours = mountTable().filter(({ point, source }) => point.startsWith(`${dir}/`) || attached.includes(source));
      for (const { point } of ours.toReversed()) Bun.spawnSync(["umount", "-c", point]);
      for (const device of attached) Bun.spawnSync(["losetup", "--detach", device]);
      rmSync(dir, { recursive: true, force: true });
    },
  };
};
