/**
 * Root folders of other Debian releases, each with that release's Ceph, made once and kept in the cache.
 *
 * Not a pinned image: the mirror is the one that this machine's own apt sources name, read at run time.
 * Invariants:
 * 1. A root is complete or absent: it is made beside its final name and renamed when done.
 * 2. The cache is outside the checkout (CSI_RBD_CACHE, else ~/.cache/csi-rbd), so a fresh clone finds it.
 */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { must } from "./place.ts";

/** Major Ceph release → Debian release that carries it. */
export const codenames = { 16: "bookworm", 18: "trixie", 20: "forky" } as const;
export type CephRelease = keyof typeof codenames;

/** All that are supported. */
export const releases: ReadonlyArray<CephRelease> = [16, 18, 20];

export const parseRelease = (text: string): CephRelease => {
  const release = releases.find((known) => String(known) === text);
  if (release === undefined) throw new Error(`Ceph release ${text}: write 16, 18 or 20`);
  return release;
};

/** What the cluster, the driver's client calls and the file system tools need in a root. */
const packages = (
  "ceph-mon ceph-osd ceph-mgr ceph-common rbd-nbd librados2 librbd1 " +
  "e2fsprogs xfsprogs btrfs-progs cryptsetup-bin fscrypt util-linux mount kmod iproute2 procps hostname"
).split(" ");

/** A folder of the rig's cache, made where missing. */
export const cacheFolder = (...parts: ReadonlyArray<string>): string => {
  const folder = join(process.env["CSI_RBD_CACHE"] ?? join(homedir(), ".cache", "csi-rbd"), ...parts);
  mkdirSync(folder, { recursive: true });
  return folder;
};

/** Gives a folder that is complete its final name, unless another process has been faster: both are the same. */
export const inPlace = (complete: string, final: string): void => {
  try {
    renameSync(complete, final);
  } catch (error) {
    if (!existsSync(final)) throw error;
    rmSync(complete, { recursive: true });
  }
};

/** Codename of this machine's Debian release, empty where it is another system. */
export const hostCodename = async (): Promise<string> => {
  const release = await Bun.file("/etc/os-release").text();
  return /^ID=debian$/m.test(release) ? (/^VERSION_CODENAME=(\w+)$/m.exec(release)?.[1] ?? "") : "";
};

/** The release that this machine's own packages are of, if it is one of those. */
export const hostRelease = async (): Promise<CephRelease | undefined> => {
  const codename = await hostCodename();
  return releases.find((release) => codenames[release] === codename);
};

/** Of Debian's keys, by which an index of any of its releases is checked. */
export const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** Why this machine cannot fetch and unpack packages of other Debian releases; undefined where it can. */
export const debianLacks = (): string | undefined => {
  const missing = ["apt-get", "dpkg-deb"].filter((name) => Bun.which(name) === null);
  if (missing.length > 0) return `no ${missing.join(", no ")}`;
  return existsSync(debianKeyring) ? undefined : `no ${debianKeyring} (package debian-archive-keyring)`;
};

/** The mirror of an archive that this machine's apt sources name; undefined where they name none. */
export const mirrorOf = async (archive: "Debian" | "Debian-Security"): Promise<string | undefined> => {
  const format = ["--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages", `Label: ${archive}`];
  const named = async () => {
    const listed = await must({}, ["apt-get", "indextargets", ...format]);
    return listed
      .split("\n")
      .find((line) => line.endsWith(" main"))
      ?.split(" ")[0];
  };
  // only a fetched index tells whose it is
  return (await named()) ?? (await must({}, ["apt-get", "-q", "update"], { timeoutMs: 5 * 60_000 }).then(named));
};

/** As `mirrorOf`, of Debian itself, which must be named. */
export const debianMirror = async (): Promise<string> => {
  const uri = await mirrorOf("Debian");
  if (uri === undefined) throw new Error("apt's sources name no Debian mirror");
  return uri;
};

interface DebianFiles {
  readonly codename: string;
  /** What mmdebstrap is told besides. */
  readonly wanted: ReadonlyArray<string>;
  /** Completes them where they were made, before they get their place. */
  readonly finish?: (root: string) => Promise<unknown>;
}

/** Makes files of another Debian release in a folder, which is complete or absent. */
export const makeOfDebian = async (folder: string, { codename, wanted, finish }: DebianFiles): Promise<void> => {
  const unfinished = `${folder}.${process.pid}`;
  // testing's index may be past its date on a mirror that lags
  const apt = ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Languages "none"'];
  try {
    await must(
      {},
      ["mmdebstrap", "--quiet", "--mode=root", ...wanted, ...apt, codename, unfinished, await debianMirror()],
      { timeoutMs: 10 * 60_000 },
    );
    await finish?.(unfinished);
    inPlace(unfinished, folder);
  } catch (error) {
    rmSync(unfinished, { recursive: true, force: true });
    throw error;
  }
};

/**
 * The root folder for a Ceph release, made where it is not in the cache yet (half a minute to a minute, network);
 * undefined where this machine's own packages are of that release.
 */
export const rootFor = async (
  release: CephRelease,
  say: (line: string) => void = console.log,
): Promise<string | undefined> => {
  if (release === (await hostRelease())) return undefined;
  const codename = codenames[release];
  const root = join(cacheFolder("roots"), codename);
  if (existsSync(root)) return root;
  say(`making a Debian ${codename} root with Ceph ${release}: ${root}`);
  const wanted = [
    "--variant=minbase",
    `--include=${packages.join(",")}`,
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
  ];
  await makeOfDebian(root, { codename, wanted });
  return root;
};
