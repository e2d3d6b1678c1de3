/**
 * The container image, built for each Ceph release as `npm run image` builds it: its files unpacked and entered, the driver
 * started from them, and a real cluster served.
 *
 * Not here: a kubelet that starts a container of it, which is the cluster suite's.
 */
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type BuiltImage, buildImage, ENTRYPOINT } from "../../container/build.ts";
import { imageReleases, readStatus } from "../../container/debian.ts";
import { type Inputs, readInputs } from "../../container/inputs.ts";
import { sha256 } from "../../container/oci.ts";
import { FILESYSTEMS } from "../../lib/csi/filesystems.ts";
import { startDriver, testFolder, writeConfig } from "../ceph/driver.ts";
import { CLUSTER, createRequest, deleteRequest } from "../ceph/requests.ts";
import { buildExecutable } from "../rig/build.ts";
import { hasRig, rig } from "../rig/cluster.ts";
import { must } from "../rig/place.ts";
import { checkout } from "../rig/suite.ts";
import { enter, type Inside, unpack, type Unpacked } from "./inside.ts";

/** A build takes a quarter of a minute; on a loaded machine, with packages to fetch, many times as long. */
const BUILD_LIMIT = 600_000;
const LIMIT = 120_000;
const CONTROLLER_USER = 1000;

const namesIn = (root: string): ReadonlyArray<string> =>
  readdirSync(root, { recursive: true, encoding: "utf8" }).filter(
    (name) => !/^(bin|sbin|lib|lib64|dev|proc|sys|tmp)\//.test(name),
  );
const isElf = (path: string): boolean =>
  lstatSync(path).isFile() && readFileSync(path).toString("latin1", 1, 4) === "ELF";

/** Text literals in the code that calls programs of the host, and beginnings of such as `mkfs.${type}`. */
const wordsOfHost = (): { readonly whole: ReadonlyArray<string>; readonly perType: ReadonlyArray<string> } => {
  const folder = join(checkout, "lib/host");
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  const text = files.map((name) => readFileSync(join(folder, name), "utf8")).join("\n");
  const found = (pattern: RegExp) => [...new Set([...text.matchAll(pattern)].map(([, word = ""]) => word))].toSorted();
  return { whole: found(/"([a-z][\w.-]*)"/g), perType: found(/`([a-z]+\.)\$\{type\}/g) };
};
/** Whether this machine's kernel has it; mount(8) loads what is a module. */
const hasBtrfs = (): boolean =>
  /\bbtrfs$/m.test(readFileSync("/proc/filesystems", "utf8")) || Bun.spawnSync(["modprobe", "-n", "btrfs"]).success;
/** Names of steps, which are names of programs, too. */
const STEPS = ["mkfs", "fsck"];

interface Built {
  readonly image: BuiltImage;
  readonly unpacked: Unpacked;
  readonly inside: Inside;
  readonly work: string;
}

describe.skipIf(!hasRig()).each([...imageReleases])("the image with Ceph %d", (release) => {
  let dir: string;
  let inputs: Inputs;
  let built: Built;

  const build = async (name: string) => {
    const folder = join(dir, name);
    mkdirSync(folder);
    const executable = join(folder, "csi-rbd");
    await buildExecutable(executable);
    const work = join(folder, "work");
    return { work, image: await buildImage({ release, executable, inputs, into: join(folder, "dist"), work }) };
  };

  beforeAll(async () => {
    dir = testFolder(`image-${release}`);
    // inside, the folders above it are the image's own
    chmodSync(dir, 0o711);
    inputs = await readInputs();
    const { work, image } = await build("first");
    const unpacked = await unpack(image.file, join(dir, "unpacked"));
    built = { image, work, unpacked, inside: await enter(unpacked.root, [dir]) };
  }, BUILD_LIMIT);
  afterAll(() => built?.inside.leave());

  test(
    `Ceph ${release}: the archive's blobs have the digests that name them, from the index down to the layers`,
    () => {
      const { unpacked, image } = built;
      const { index, manifest, config, blob } = unpacked;
      const [first] = index.manifests;
      if (first === undefined) throw new Error("no manifest");
      expect(first.digest).toBe(image.digest);
      for (const descriptor of [first, manifest.config, ...manifest.layers]) {
        expect(`sha256:${sha256(blob(descriptor))}`).toBe(descriptor.digest);
        expect(blob(descriptor).length).toBe(descriptor.size);
      }
      const tars = manifest.layers.map((layer) => `sha256:${sha256(Bun.gunzipSync(blob(layer)))}`);
      expect(config.rootfs.diff_ids).toEqual(tars);
      expect(first.annotations["io.containerd.image.name"]).toBe(image.name);
      expect(config.created).toBe(inputs.commit.time.toISOString());
      expect(config.config["Entrypoint"]).toEqual([ENTRYPOINT]);
    },
    LIMIT,
  );

  test(
    `Ceph ${release}: the driver and each tool start, with that release's libraries`,
    async () => {
      const { inside } = built;
      expect(await inside.must("csi-rbd", "--version")).toMatch(
        new RegExp(`^csi-rbd ${inputs.version}\n[^]*Ceph client  ${release}\\.\\d+\\.\\d+ \\(librados`),
      );
      expect(await inside.must("rbd", "--version")).toContain(`ceph version ${release}.`);
      for (const program of ["mkfs.ext4", "mkfs.xfs", "fsck.ext4", "xfs_io", "xfs_growfs", "mount", "umount"]) {
        expect(await inside.must(program, "-V")).toMatch(/\d+\.\d+/);
      }
      for (const program of [
        "mkfs.btrfs",
        "btrfs",
        "blkid",
        "blockdev",
        "dmsetup",
        "fstrim",
        "nsenter",
        "dmesg",
        "modprobe",
        "fscrypt",
      ]) {
        expect(await inside.must(program, "--version")).toMatch(/\d+/);
      }
    },
    LIMIT,
  );

  test(
    `Ceph ${release}: each program and library finds the libraries that it needs`,
    async () => {
      const { inside, unpacked } = built;
      const elf = namesIn(unpacked.root).filter((name) => isElf(join(unpacked.root, name)));
      const loader = elf.find((name) => /\/ld-linux-[^/]+$/.test(name));
      expect(elf.length).toBeGreaterThan(40);
      for (const name of elf.filter((each) => each !== loader)) {
        expect(await inside.must(`/${loader}`, "--list", `/${name}`)).not.toContain("not found");
      }
    },
    LIMIT,
  );

  test(`Ceph ${release}: it has no Python, no shell, nothing setuid, and nothing that others may write but /tmp`, () => {
    const { root } = built.unpacked;
    const names = namesIn(root);
    expect(names.filter((name) => /python|perl|\/(ba|da)?sh$|busybox|ssh/.test(name))).toEqual([]);
    const modes = names.map((name) => ({ name, found: lstatSync(join(root, name)) }));
    expect(modes.filter(({ found }) => (found.mode & 0o6000) !== 0)).toEqual([]);
    expect(
      modes.filter(({ found }) => !found.isSymbolicLink() && (found.mode & 0o022) !== 0).map(({ name }) => name),
    ).toEqual(["tmp"]);
    expect(modes.filter(({ found }) => found.uid !== 0 || found.gid !== 0)).toEqual([]);
  });

  test(`Ceph ${release}: the executable holds no path of the machine that built it`, () => {
    expect(readFileSync(join(built.unpacked.root, ENTRYPOINT)).includes(checkout)).toBe(false);
  });

  test(`Ceph ${release}: it has the programs that the driver calls, and no others`, () => {
    const { work, unpacked } = built;
    const listings = readdirSync(join(work, "names")).map((name) => readFileSync(join(work, "names", name), "utf8"));
    const known = new Set(
      listings.flatMap((text) => [...text.matchAll(/^\.\/usr\/s?bin\/(.+)$/gm)].map(([, name]) => name)),
    );
    const { whole, perType } = wordsOfHost();
    const called = whole.filter((word) => known.has(word) && !STEPS.includes(word));
    expect(perType).toEqual(["fsck.", "mkfs."]);
    const makes = FILESYSTEMS.map((type) => `mkfs.${type}`);
    const checks = ["ext2", "ext3", "ext4"].map((type) => `fsck.${type}`);
    const programs = new Set([...called, ...makes, ...checks]);
    // what a name of these leads to
    const targets = ["e2fsck", "kmod", "mke2fs"];
    const there = ["bin", "sbin"].flatMap((folder) => readdirSync(join(unpacked.root, "usr", folder)));
    expect(there.toSorted()).toEqual([...programs, ...targets].toSorted());
  });

  test.each(["ext4", "xfs", ...(hasBtrfs() ? ["btrfs"] : [])])(
    `Ceph ${release}: its tools make, probe, mount and grow %s`,
    async (type) => {
      const { inside } = built;
      const file = join(dir, `${type}.img`);
      const point = join(dir, `${type}.mnt`);
      mkdirSync(point);
      writeFileSync(file, "");
      await must({}, ["truncate", "--size=400M", file]);
      const device = (await must({}, ["losetup", "--find", "--show", file])).trim();
      try {
        expect((await inside.run("blkid", "-p", device)).code).toBe(2);
        await inside.must(`mkfs.${type}`, ...(type === "ext4" ? ["-b", "4096"] : []), device);
        expect(await inside.must("blkid", "-p", "-s", "TYPE", "-o", "export", device)).toContain(`TYPE=${type}`);
        await must({}, ["truncate", "--size=500M", file]);
        await must({}, ["losetup", "--set-capacity", device]);
        if (type === "ext4") {
          // not mounted: this machine's root may lack the right to grow what is
          await inside.must("fsck.ext4", "-f", "-a", device);
          await inside.must("resize2fs", device);
        }
        await inside.must("mount", "-t", type, "-o", "_netdev", device, point);
        try {
          if (type === "xfs") await inside.must("xfs_growfs", "-d", point);
          if (type === "btrfs") await inside.must("btrfs", "filesystem", "resize", "1:max", point);
          const looks = {
            ext4: ["dumpe2fs", "-h", device],
            xfs: ["xfs_io", "-c", "statfs", point],
            btrfs: ["btrfs", "filesystem", "usage", "--kbytes", point],
          };
          const [look = "", ...words] = looks[type as keyof typeof looks];
          const sizes = await inside.must(look, ...words);
          const [, blocks] = /^(?:Block count:\s+|geom\.datablocks = | +Device size:\s+)(\d+)/m.exec(sizes) ?? [];
          expect(Number(blocks)).toBe(500 * (type === "btrfs" ? 1024 : 256));
        } finally {
          await inside.must("umount", "-c", point);
        }
      } finally {
        await must({}, ["losetup", "--detach", device]);
      }
    },
    LIMIT,
  );

  test.each([CONTROLLER_USER, 0])(
    `Ceph ${release}: the driver serves from a read-only root as user %d, and makes and removes a volume`,
    async (user) => {
      const folder = join(dir, `as-${user}`);
      mkdirSync(folder);
      chownSync(folder, user, user);
      writeConfig(folder, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
      const entry = join(dir, `entry-${user}`);
      built.inside.writeEntry(entry, user);
      const before = process.env["DRIVER"];
      process.env["DRIVER"] = entry;
      const starting = startDriver({ dir: folder });
      process.env["DRIVER"] = before ?? "";
      const driver = await starting;
      try {
        expect((await driver.identity.probe({})).ready).not.toBe(false);
        expect(statSync(driver.socket).uid).toBe(user);
        expect(/^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${driver.pid}/status`, "utf8"))?.[1]).toBe(String(user));
        const request = createRequest(`image-${release}-${user}`, { pool: rig().pool });
        const { volume } = await driver.controller.createVolume(request);
        const { imageName = "" } = volume?.volumeContext ?? {};
        const list = () => must({}, ["rbd", "--conf", rig().conf, "ls", rig().pool]);
        expect((await list()).split("\n")).toContain(imageName);
        await driver.controller.deleteVolume(deleteRequest(volume?.volumeId ?? ""));
        expect((await list()).split("\n")).not.toContain(imageName);
      } finally {
        await driver.end();
      }
    },
    LIMIT,
  );

  test(`Ceph ${release}: the bill of materials names each package of the image and each npm package in the executable`, () => {
    const { image, unpacked } = built;
    const bill = JSON.parse(readFileSync(image.sbomFile, "utf8")) as {
      packages: ReadonlyArray<{ SPDXID: string; name: string; versionInfo: string }>;
      relationships: ReadonlyArray<{ spdxElementId: string; relatedSpdxElement: string }>;
    };
    const of = (kind: string) => bill.packages.filter(({ SPDXID }) => SPDXID.startsWith(`SPDXRef-${kind}`));
    const installed = readStatus(readFileSync(join(unpacked.root, "var/lib/dpkg/status"), "utf8"));
    expect(of("deb-").map(({ name, versionInfo }) => `${name} ${versionInfo}`)).toEqual(
      installed.map((fields) => `${fields["Package"]} ${fields["Version"]}`),
    );
    expect(readdirSync(join(unpacked.root, "usr/share/doc")).toSorted()).toEqual(
      of("deb-")
        .map(({ name }) => name)
        .toSorted(),
    );
    expect(of("npm-").map(({ name }) => name)).toEqual(
      expect.arrayContaining(["effect", "@grpc/grpc-js", "@bufbuild/protobuf", "zod"]),
    );
    expect(of("deb-").find(({ name }) => name === "librbd1")?.versionInfo).toStartWith(`${release}.`);
    const identifiers = bill.packages.map(({ SPDXID }) => SPDXID);
    expect(new Set(identifiers).size).toBe(identifiers.length);
    // each but the image itself is in something
    expect(bill.relationships.map((each) => each.relatedSpdxElement).toSorted()).toEqual(identifiers.toSorted());
  });

  test(`Ceph ${release}: the provenance names what was made, the commit, and each package with its hash`, () => {
    const { image, work } = built;
    const statement = JSON.parse(readFileSync(image.provenanceFile, "utf8")) as {
      subject: unknown;
      predicate: {
        buildDefinition: {
          externalParameters: unknown;
          resolvedDependencies: ReadonlyArray<{ uri?: string; name?: string; digest: Record<string, string> }>;
        };
      };
    };
    const bytes = (file: string) => sha256(readFileSync(file));
    expect(statement.subject).toEqual([
      { name: image.name, digest: { sha256: image.digest.slice("sha256:".length) } },
      { name: `csi-rbd-ceph${release}.oci.tar`, digest: { sha256: bytes(image.file) } },
      { name: `csi-rbd-ceph${release}.spdx.json`, digest: { sha256: bytes(image.sbomFile) } },
    ]);
    const { externalParameters, resolvedDependencies } = statement.predicate.buildDefinition;
    expect(externalParameters).toEqual({ cephRelease: release, commit: inputs.commit.id });
    const hashes = new Set(resolvedDependencies.map(({ digest }) => digest["sha256"]));
    const sums = readFileSync(join(work, "sums"), "utf8").split("\n");
    for (const line of readFileSync(join(work, "packages"), "utf8").trim().split("\n")) {
      const deb = line.split(" ")[1] ?? "";
      const [hash] = sums.find((sum) => sum.endsWith(`  ${deb}`))?.split(" ") ?? [];
      expect(hashes).toContain(hash);
    }
    expect(resolvedDependencies).toContainEqual({ name: "source", digest: { gitCommit: inputs.commit.id } });
  });

  if (release !== imageReleases.at(-1)) return;
  // on one release: what could differ does not depend on it
  test(
    `Ceph ${release}: a second build, from the packages unpacked anew and in another folder, makes the same three files`,
    async () => {
      const { image } = await build("second");
      const files = ({ file, sbomFile, provenanceFile }: BuiltImage) =>
        [file, sbomFile, provenanceFile].map((each) => sha256(readFileSync(each)));
      expect(image.digest).toBe(built.image.digest);
      expect(files(image)).toEqual(files(built.image));
    },
    BUILD_LIMIT,
  );
});
