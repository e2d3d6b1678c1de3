/**
 * The part of the image that is Debian's: runs ./collect with apt sources of the release that has the wanted Ceph, and tells
 * what the result is made of.
 *
 * Not here: what is taken of Debian (./content), and how (./collect).
 *
 * 1. The mirrors are those that this machine's own apt sources name. Nothing of this machine's apt is changed.
 * 2. Indexes and packages are kept in the rig's cache; two builds at once take turns with them.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { must } from "../tests/rig/place.ts";
import { cacheFolder, codenames, debianKeyring, debianMirror, mirrorOf } from "../tests/rig/roots.ts";
import { sha256 } from "./oci.ts";

/** Ceph releases that the image is made for. */
export const imageReleases = [18, 20] as const;
export type ImageRelease = (typeof imageReleases)[number];

/** A Debian package that has a part in the image. */
export interface DebianPackage {
  readonly name: string;
  readonly version: string;
  readonly architecture: string;
  /** The source package, where its name differs. */
  readonly source: string;
  readonly maintainer: string;
  readonly sha256: string;
}

/** A signed index that packages were chosen from. */
export interface DebianIndex {
  readonly uri: string;
  readonly date: string;
  readonly sha256: string;
}

export interface DebianPart {
  readonly tree: string;
  readonly codename: string;
  /** As dpkg and Go name it: amd64, arm64. */
  readonly architecture: string;
  readonly packages: ReadonlyArray<DebianPackage>;
  readonly indexes: ReadonlyArray<DebianIndex>;
}

const here = import.meta.dir;
const LIMIT = { timeoutMs: 10 * 60_000 };

interface Suite {
  readonly mirror: string;
  readonly name: string;
}

const suitesOf = async (codename: string): Promise<ReadonlyArray<Suite>> => {
  const security = await mirrorOf("Debian-Security");
  return [
    { mirror: await debianMirror(), name: codename },
    ...(security === undefined ? [] : [{ mirror: security, name: `${codename}-security` }]),
  ];
};

/** An apt of its own, with this machine's proxies; -> its configuration file. */
const layOutApt = async (home: string, suites: ReadonlyArray<Suite>): Promise<string> => {
  for (const folder of [
    "etc/apt/apt.conf.d",
    "etc/apt/preferences.d",
    "var/lib/apt/lists/partial",
    "var/cache/apt/archives/partial",
  ]) {
    mkdirSync(join(home, folder), { recursive: true });
  }
  const sources = suites.map(({ mirror, name }) => `deb [signed-by=${debianKeyring}] ${mirror} ${name} main\n`);
  writeFileSync(join(home, "etc/apt/sources.list"), sources.join(""));
  const dump = await must({}, ["apt-config", "dump"]);
  const own = dump.split("\n").filter((line) => /^Acquire::(http|https|ftp)::/.test(line));
  const settings = [
    `Dir "${home}";`,
    'Acquire::Languages "none";',
    // testing's index may be past its date on a mirror that lags
    'Acquire::Check-Valid-Until "false";',
    'APT::Keep-Downloaded-Packages "true";',
    'APT::Sandbox::User "root";',
  ];
  const file = join(home, "apt.conf");
  writeFileSync(file, `${[...settings, ...own].join("\n")}\n`);
  return file;
};

const collect = async (work: string, home: string, configuration: string): Promise<void> => {
  const env = { APT_CONFIG: configuration, DEBS: join(home, "var/cache/apt/archives") };
  const steps = 'apt-get -qq update && "$0" "$1" && apt-get -qq autoclean';
  await must({ env }, ["flock", join(home, "lock"), "sh", "-c", steps, join(here, "collect"), work], LIMIT);
};

/** The stanzas of a dpkg status file, each as its fields of one line. */
export const readStatus = (text: string): ReadonlyArray<Readonly<Record<string, string>>> =>
  text
    .split("\n\n")
    .filter((stanza) => stanza.trim() !== "")
    .map((stanza) =>
      Object.fromEntries([...stanza.matchAll(/^([A-Za-z-]+): (.*)$/gm)].map(([, name, value]) => [name, value])),
    );

const packagesOf = (work: string): ReadonlyArray<DebianPackage> => {
  const pairs = (file: string, separator: string) =>
    readFileSync(join(work, file), "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => line.split(separator) as [string, string]);
  const hashes = new Map(pairs("sums", "  ").map(([hash, deb]) => [deb, hash]));
  const debs = new Map(pairs("packages", " "));
  const field = (fields: Readonly<Record<string, string>>, name: string): string => {
    const value = fields[name];
    if (value === undefined) throw new Error(`the package ${fields["Package"]} has no field ${name}`);
    return value;
  };
  return readStatus(readFileSync(join(work, "tree/var/lib/dpkg/status"), "utf8")).map((fields) => {
    const name = field(fields, "Package");
    const hash = hashes.get(debs.get(name) ?? "");
    if (hash === undefined) throw new Error(`no .deb is known of the package ${name}`);
    return {
      name,
      version: field(fields, "Version"),
      architecture: field(fields, "Architecture"),
      source: fields["Source"]?.split(" ")[0] ?? name,
      maintainer: field(fields, "Maintainer"),
      sha256: hash,
    };
  });
};

const indexOf = (home: string, { mirror, name }: Suite): DebianIndex => {
  const address = new URL(`dists/${name}/InRelease`, mirror);
  address.username = "";
  address.password = "";
  const uri = address.href;
  const file = join(home, "var/lib/apt/lists", uri.replace(/^\w+:\/\//, "").replaceAll("/", "_"));
  const text = readFileSync(file);
  return { uri, date: /^Date: (.*)$/m.exec(text.toString())?.[1] ?? "", sha256: sha256(text) };
};

/** Makes the tree in the folder `work` (a quarter of a minute; the first time it also fetches 75 MB). */
export const debianPart = async (release: ImageRelease, work: string): Promise<DebianPart> => {
  const codename = codenames[release];
  const home = cacheFolder("image", codename);
  const suites = await suitesOf(codename);
  await collect(work, home, await layOutApt(home, suites));
  return {
    tree: join(work, "tree"),
    codename,
    architecture: (await must({}, ["dpkg", "--print-architecture"])).trim(),
    packages: packagesOf(work),
    indexes: suites.map((suite) => indexOf(home, suite)),
  };
};
