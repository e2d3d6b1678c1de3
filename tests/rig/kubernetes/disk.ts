/**
 * The disk of a node, with containerd's store on it in the folder containerd. A containerd of this machine puts images into the
 * store: the one of the node, which is emulated, would take two minutes for the driver's.
 *
 * Not here: how an image is made.
 *
 * 1. The file is complete or absent. The containerd ends with the call, or with this process.
 */
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { must } from "../place.ts";
import { unpacked } from "../unpacked.ts";
import { endProcess, startProcess, whenReady } from "./processes.ts";

/** Sparse: it takes what is in it. */
const SIZE = "8G";
const LIMIT = { timeoutMs: 10 * 60_000 };

const config = (folder: string): string => `version = 2
root = "${folder}/disk/containerd"
state = "${folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "${folder}/containerd.sock"
`;

const fill = async (folder: string, archives: ReadonlyArray<string>): Promise<void> => {
  const programs = join(await unpacked("containerd"), "usr/bin");
  const ctr = (...words: ReadonlyArray<string>) =>
    must({}, [join(programs, "ctr"), "-a", join(folder, "containerd.sock"), "-n", "k8s.io", ...words], LIMIT);
  writeFileSync(join(folder, "config.toml"), config(folder));
  startProcess(folder, "containerd", [join(programs, "containerd"), "--config", join(folder, "config.toml")]);
  try {
    const answers = () =>
      ctr("version").then(
        () => true,
        () => false,
      );
    await whenReady(folder, "containerd", answers, 120_000);
    for (const archive of archives) await ctr("images", "import", archive);
  } finally {
    await endProcess(folder, "containerd", "SIGTERM");
  }
};

/** Makes the file of a disk, whose containerd has the images of these archives. */
export const makeDisk = async (file: string, archives: ReadonlyArray<string>): Promise<void> => {
  const folder = `${file}.d`;
  mkdirSync(join(folder, "disk", "containerd"), { recursive: true });
  await fill(folder, archives);
  await must({}, ["truncate", `--size=${SIZE}`, `${file}.new`]);
  await must({}, ["mke2fs", "-q", "-F", "-t", "ext4", "-d", join(folder, "disk"), `${file}.new`], LIMIT);
  renameSync(`${file}.new`, file);
  rmSync(folder, { recursive: true });
};
