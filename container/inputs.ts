/**
 * What the image is made of besides Debian's packages: the commit, the npm packages in the executable, and Bun.
 *
 * Not here: their form in the SBOM (./sbom.ts) and in the provenance statement (./provenance.ts).
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import manifest from "../package.json" with { type: "json" };
import { bundledPackages } from "../tests/rig/build.ts";
import { must } from "../tests/rig/place.ts";
import { checkout } from "../tests/rig/suite.ts";
import { sha256 } from "./oci.ts";

export interface Commit {
  readonly id: string;
  readonly time: Date;
  /** Files differ from it, so that nobody else can build the same. */
  readonly changed: boolean;
}

export interface NpmPackage {
  readonly name: string;
  readonly version: string;
  /** An SPDX expression. */
  readonly license: string;
  /** Of the package's archive, as hex. */
  readonly sha512: string;
}

export interface Inputs {
  readonly version: string;
  readonly commit: Commit;
  /** Those that have code in the executable. */
  readonly npm: ReadonlyArray<NpmPackage>;
  readonly bun: { readonly version: string; readonly sha256: string };
  readonly lockSha256: string;
}

interface Locked {
  readonly version: string;
  readonly license?: string;
  readonly integrity?: string;
}

const readCommit = async (): Promise<Commit> => {
  const git = async (...words: ReadonlyArray<string>) => (await must({ cwd: checkout }, ["git", ...words])).trim();
  const [id = "", seconds = ""] = (await git("show", "--no-patch", "--format=%H %ct", "HEAD")).split(" ");
  const changed = (await git("status", "--porcelain", "--untracked-files=no")) !== "";
  return { id, time: new Date(Number(seconds) * 1000), changed };
};

const npmPackage = (folder: string, { version, license, integrity = "" }: Locked): NpmPackage => {
  if (!integrity.startsWith("sha512-")) throw new Error(`package-lock.json has no SHA-512 of ${folder}`);
  return {
    name: folder.slice(folder.lastIndexOf("node_modules/") + "node_modules/".length),
    version,
    license: license ?? "NOASSERTION",
    sha512: Buffer.from(integrity.slice("sha512-".length), "base64").toString("hex"),
  };
};

export const readInputs = async (): Promise<Inputs> => {
  const lock = readFileSync(join(checkout, "package-lock.json"));
  const { packages } = JSON.parse(lock.toString()) as { packages: Record<string, Locked> };
  const npm = (await bundledPackages()).map((folder) => {
    const locked = packages[folder];
    if (locked === undefined) throw new Error(`package-lock.json has no ${folder}, which is in the executable`);
    return npmPackage(folder, locked);
  });
  return {
    version: manifest.version,
    commit: await readCommit(),
    npm,
    bun: { version: Bun.version, sha256: sha256(readFileSync(process.execPath)) },
    lockSha256: sha256(lock),
  };
};
