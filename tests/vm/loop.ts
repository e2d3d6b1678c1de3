/**
 * Block devices for tests that need a kernel but no cluster: sparse files behind loop devices.
 *
 * 1. At the end its own mounts layers and loop devices go, and nothing else.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mountsAt, parseMountInfo } from "../../lib/host/mountinfo.ts";

export const tool = (...argv: string[]): string => toolWith(undefined, ...argv);

/** As `tool`, with a text as its standard input. */
export const toolWith = (input: string | undefined, ...argv: string[]): string => {
  const env = { ...process.env, LC_ALL: "C", DM_DISABLE_UDEV: "1" };
  const done = Bun.spawnSync(argv, { env, stdin: input === undefined ? "ignore" : Buffer.from(input) });
  if (done.exitCode !== 0) throw new Error(`${argv.join(" ")}: ${done.stderr.toString()}`);
  return done.stdout.toString().trim();
};

export const mountTable = () => parseMountInfo(readFileSync("/proc/self/mountinfo", "utf8"));
export const isMounted = (path: string): boolean => mountsAt(mountTable(), path).length > 0;

/** The LUKS layers over volumes, by name; one with integrity has another device under it, of dm-integrity. */
export const layers = (): string[] => readdirSync("/dev/mapper").filter((name) => name.startsWith("luks-rbd-"));

/** Has the driver's own key slots made meanwhile, and not those of ./programs/cryptsetup. */
export const withUsualKeys = async <A>(act: () => Promise<A>): Promise<A> => {
  writeFileSync(USUAL_KEYS, "");
  return act().finally(() => rmSync(USUAL_KEYS));
};
const USUAL_KEYS = "/run/usual-keys";

/** Arguments of luksFormat for a key that is derived in no time: what is tested is not how hard it is to guess. */
export const FAST_KEY = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

const MIB = 1 << 20;

/** The device-mapper devices over these, by name. */
const layersOver = (devices: readonly string[]): string[] =>
  devices.flatMap((device) => {
    const holders = `/sys/block/${device.slice("/dev/".length)}/holders`;
    const names = existsSync(holders) ? readdirSync(holders) : [];
    return names.map((name) => readFileSync(`/sys/block/${name}/dm/name`, "utf8").trim());
  });

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
      for (const name of layersOver(attached)) Bun.spawnSync(["cryptsetup", "close", name]);
      for (const device of attached) Bun.spawnSync(["losetup", "--detach", device]);
      rmSync(dir, { recursive: true, force: true });
    },
  };
};
