/**
 * Container images without a container engine, as archives that `ctr images import` takes: one layer with busybox, a link
 * to it for each of its programs, and files that are given.
 *
 * Not the driver's image. A kubelet needs one such image to hold a pod's namespaces, and tests need pods that do things.
 */
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { must, run } from "../place.ts";

/** Images that the node has. */
export const PAUSE = "docker.io/rig/pause:1";
export const BUSYBOX = "docker.io/rig/busybox:1";

const pack = (folder: string, archive: string, ...names: ReadonlyArray<string>): Promise<string> =>
  must({ cwd: folder }, ["tar", "--owner=0", "--group=0", "--numeric-owner", "-cf", archive, ...names]);

const layOutRoot = async (root: string): Promise<void> => {
  // the folders that pods mount something at; others are made in the container
  for (const name of ["bin", "dev", "etc", "proc", "sys", "tmp"]) mkdirSync(join(root, name), { recursive: true });
  cpSync("/bin/busybox", join(root, "bin", "busybox"));
  const programs = (await must({}, ["/bin/busybox", "--list"])).trim().split("\n");
  for (const name of programs) if (name !== "busybox") symlinkSync("busybox", join(root, "bin", name));
};

/** The libraries that a program of this machine is linked with: path in the image → file of this machine. */
export const librariesOf = async (program: string): Promise<Readonly<Record<string, string>>> => {
  // it fails for a program that is linked with none
  const { stdout } = await run({}, ["ldd", program]);
  const paths = [...stdout.matchAll(/(?:^\t|=> )(\/\S+) \(/gm)].map(([, path = ""]) => path);
  return Object.fromEntries(paths.map((path) => [path.slice(1), realpathSync(path)]));
};

export interface ImageOptions {
  /** Path in the image, without the leading slash → file of this machine. */
  readonly files?: Readonly<Record<string, string>>;
  readonly entrypoint?: ReadonlyArray<string>;
  /** Without one, a container waits for its end. */
  readonly command?: ReadonlyArray<string>;
}

/** Writes an archive of one image under several tags. */
export const makeImage = async (
  archive: string,
  tags: ReadonlyArray<string>,
  { files = {}, entrypoint = [], command = ["sleep", "infinity"] }: ImageOptions = {},
): Promise<void> => {
  const folder = `${archive}.d`;
  rmSync(folder, { recursive: true, force: true });
  await layOutRoot(join(folder, "root"));
  for (const [name, file] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, "root", name)), { recursive: true });
    cpSync(file, join(folder, "root", name));
  }
  await pack(join(folder, "root"), join(folder, "layer.tar"), ".");
  const digest = createHash("sha256")
    .update(readFileSync(join(folder, "layer.tar")))
    .digest("hex");
  const config = {
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    os: "linux",
    config: { Entrypoint: entrypoint, Cmd: command, Env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] },
    rootfs: { type: "layers", diff_ids: [`sha256:${digest}`] },
  };
  const manifest = [{ Config: "config.json", RepoTags: tags, Layers: ["layer.tar"] }];
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest));
  await pack(folder, archive, "manifest.json", "config.json", "layer.tar");
  rmSync(folder, { recursive: true });
};
