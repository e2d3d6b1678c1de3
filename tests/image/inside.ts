/**
 * An image's files as a container sees them: unpacked from the archive as a runtime does it, and entered with a read-only root.
 *
 * Not a container: processes, network and devices are this machine's.
 * Invariants:
 * 1. The mounts live in a namespace that one process holds, and end with it; it ends with the process that started it.
 * 2. A folder that is bound has the same path inside and outside.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Finished, must, run } from "../rig/place.ts";

export interface Descriptor {
  readonly digest: string;
  readonly size: number;
}
export interface Unpacked {
  readonly root: string;
  readonly index: {
    readonly manifests: ReadonlyArray<Descriptor & { readonly annotations: Record<string, string> }>;
  };
  readonly manifest: { readonly config: Descriptor; readonly layers: ReadonlyArray<Descriptor> };
  readonly config: {
    readonly created: string;
    readonly config: Record<string, unknown>;
    readonly rootfs: { readonly diff_ids: ReadonlyArray<string> };
  };
  readonly blob: (descriptor: Descriptor) => Uint8Array<ArrayBuffer>;
}

/** Unpacks an archive in the OCI's layout, layer on layer. */
export const unpack = async (archive: string, into: string): Promise<Unpacked> => {
  const [layout, root] = [join(into, "layout"), join(into, "root")];
  for (const folder of [layout, root]) mkdirSync(folder, { recursive: true });
  await must({}, ["tar", "--extract", `--file=${archive}`, `--directory=${layout}`]);
  const pathOf = ({ digest }: Descriptor) => join(layout, "blobs", digest.replace(":", "/"));
  const read = (file: string): unknown => JSON.parse(readFileSync(file, "utf8"));
  const index = read(join(layout, "index.json")) as Unpacked["index"];
  const [first] = index.manifests;
  if (first === undefined) throw new Error(`${archive} names no manifest`);
  const manifest = read(pathOf(first)) as Unpacked["manifest"];
  for (const layer of manifest.layers) {
    await must({}, ["tar", "--extract", "--gzip", "--same-owner", `--file=${pathOf(layer)}`, `--directory=${root}`]);
  }
  return {
    root,
    index,
    manifest,
    config: read(pathOf(manifest.config)) as Unpacked["config"],
    blob: (descriptor) => new Uint8Array(readFileSync(pathOf(descriptor))),
  };
};

export interface Inside {
  readonly run: (program: string, ...words: ReadonlyArray<string>) => Promise<Finished>;
  /** Its output, on both channels; rejects unless it exits with 0. */
  readonly must: (program: string, ...words: ReadonlyArray<string>) => Promise<string>;
  /** Writes a program of this machine that runs the image's entry point, as that user and group. */
  readonly writeEntry: (file: string, user: number) => void;
  readonly leave: () => Promise<void>;
}

// $1 root, then the folders to bind; it lives as long as its input
const hold = `set -e
root=$1; shift
for folder; do mkdir -p "$root$folder"; done
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
for d in dev proc sys; do mount --rbind "/$d" "$root/$d"; done
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for folder; do mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"; done
echo ready
exec cat`;

export const enter = async (root: string, folders: ReadonlyArray<string>): Promise<Inside> => {
  const holder = Bun.spawn(["unshare", "--mount", "--", "sh", "-c", hold, "sh", root, ...folders], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const { value } = await holder.stdout.getReader().read();
  if (value === undefined) throw new Error(`cannot enter ${root}; the reason is above`);
  const asUser = (user: number) => ["chroot", `--userspec=${user}:${user}`, "--groups=", root];
  const argv = (user: number, words: ReadonlyArray<string>) => [
    "nsenter",
    `--target=${holder.pid}`,
    "--mount",
    "--",
    ...asUser(user),
    ...words,
  ];
  const runIn: Inside["run"] = (...words) => run({ env: { LD_LIBRARY_PATH: "" } }, argv(0, words));
  return {
    run: runIn,
    must: async (...words) => {
      const { code, stdout, stderr } = await runIn(...words);
      if (code !== 0) throw new Error(`${words.join(" ")}: exit status ${code}\n${stdout}${stderr}`);
      return stdout + stderr;
    },
    writeEntry: (file, user) => {
      const words = argv(user, ["/usr/local/bin/csi-rbd"]).map((word) => `'${word}'`);
      writeFileSync(file, `#!/bin/sh\nexec ${words.join(" ")} "$@"\n`, { mode: 0o755 });
    },
    leave: async () => {
      await holder.stdin.end();
      await holder.exited;
    },
  };
};
