/**
 * The container image (`npm run image`), made without a container engine: dist/csi-rbd-ceph18.oci.tar, and beside it its bill
 * of materials (.spdx.json) and how it was made (.provenance.json).
 *
 *   npm run image            for each Ceph release
 *   npm run image -- 18      for one
 *
 * Not here: the chart, which says as whom a container runs and what it may do.
 *
 * 1. Two builds of one commit, from the same Debian packages, have one digest and the same three files.
 * 2. Debian's part is a layer of its own without the commit's time, so that a node that has it pulls the executable alone.
 * 3. A file in dist is complete: it is written beside its name, then renamed.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildExecutable } from "../tests/rig/build.ts";
import { temporaryFolder } from "../tests/rig/folder.ts";
import { debianLacks } from "../tests/rig/roots.ts";
import { checkout } from "../tests/rig/suite.ts";
import { type DebianPart, debianPart, type ImageRelease, imageReleases } from "./debian.ts";
import { type Inputs, readInputs } from "./inputs.ts";
import { type Image, makeImage, sha256 } from "./oci.ts";
import { provenance } from "./provenance.ts";
import { sbom } from "./sbom.ts";
import { entriesOf, tar } from "./tar.ts";

export const ENTRYPOINT = "/usr/local/bin/csi-rbd";
export const ENVIRONMENT = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" };
const NAME = "csi-rbd";

/** Labels that say the same of every image, as the Dockerfile has them too. */
export const LABELS = {
  "org.opencontainers.image.title": NAME,
  "org.opencontainers.image.description": "A CSI driver for Ceph RBD",
  "org.opencontainers.image.licenses": "Apache-2.0",
};

export interface BuiltImage extends Image {
  readonly release: ImageRelease;
  /** With which a container runtime knows the image once it is loaded. */
  readonly name: string;
  readonly file: string;
  readonly sbomFile: string;
  readonly provenanceFile: string;
}

const imageOf = (release: ImageRelease, debian: DebianPart, executable: Uint8Array, inputs: Inputs) => {
  const { commit, version } = inputs;
  const seconds = commit.time.getTime() / 1000;
  const tag = `${version}-ceph${release}`;
  const name = `localhost/${NAME}:${tag}`;
  const image = makeImage({
    name,
    architecture: debian.architecture,
    created: commit.time,
    entrypoint: [ENTRYPOINT],
    environment: ENVIRONMENT,
    labels: {
      ...LABELS,
      "org.opencontainers.image.version": tag,
      "org.opencontainers.image.revision": commit.changed ? `${commit.id}, changed` : commit.id,
    },
    layers: [
      { tar: tar(entriesOf(debian.tree), 0), createdBy: `container/collect of Debian ${debian.codename}` },
      {
        tar: tar([{ name: ENTRYPOINT.slice(1), mode: 0o755, content: { file: executable } }], seconds),
        createdBy: "npm run build",
      },
    ],
  });
  return { name, tag, image };
};

const put = (file: string, bytes: Uint8Array): void => {
  writeFileSync(`${file}.new`, bytes);
  renameSync(`${file}.new`, file);
};

export interface BuildOptions {
  readonly release: ImageRelease;
  /** The driver, as `npm run build` makes it. */
  readonly executable: string;
  readonly inputs: Inputs;
  /** Where the three files go. */
  readonly into: string;
  /** For what the build needs on the way; it stays. */
  readonly work: string;
}

export const buildImage = async ({ release, executable, inputs, into, work }: BuildOptions): Promise<BuiltImage> => {
  const debian = await debianPart(release, work);
  const program = readFileSync(executable);
  const { name, tag, image } = imageOf(release, debian, program, inputs);
  const base = `${NAME}-ceph${release}`;
  const [file, sbomFile, provenanceFile] = [`${base}.oci.tar`, `${base}.spdx.json`, `${base}.provenance.json`];
  const asText = (value: unknown) => Buffer.from(`${JSON.stringify(value, undefined, 2)}\n`);
  const bill = asText(
    sbom({
      name: NAME,
      version: tag,
      imageDigest: image.digest,
      executableSha256: sha256(program),
      debian,
      inputs,
    }),
  );
  const subjects = [
    { name, sha256: image.digest.slice("sha256:".length) },
    { name: file, sha256: sha256(image.archive) },
    { name: sbomFile, sha256: sha256(bill) },
  ];
  mkdirSync(into, { recursive: true });
  put(join(into, file), image.archive);
  put(join(into, sbomFile), bill);
  put(join(into, provenanceFile), asText(provenance({ subjects, release, debian, inputs })));
  return {
    ...image,
    release,
    name,
    file: join(into, file),
    sbomFile: join(into, sbomFile),
    provenanceFile: join(into, provenanceFile),
  };
};

const releasesOf = (words: ReadonlyArray<string>): ReadonlyArray<ImageRelease> => {
  if (words.length === 0) return imageReleases;
  return words.map((word) => {
    const release = imageReleases.find((known) => String(known) === word);
    if (release === undefined) throw new Error(`no image for ${word}: write ${imageReleases.join(" or ")}`);
    return release;
  });
};

const main = async (words: ReadonlyArray<string>): Promise<void> => {
  const releases = releasesOf(words);
  const lacking = debianLacks();
  if (lacking !== undefined) throw new Error(`${lacking}: use container/Dockerfile, or a Debian machine`);
  const dist = join(checkout, "dist");
  const executable = join(dist, NAME);
  await buildExecutable(executable);
  const inputs = await readInputs();
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
  for (const release of releases) {
    const started = performance.now();
    const work = temporaryFolder("csi-rbd-image-");
    try {
      const built = await buildImage({ release, executable, inputs, into: dist, work });
      const seconds = ((performance.now() - started) / 1000).toFixed(0);
      console.log(`${built.file}: ${built.name}, ${built.digest}`);
      console.log(`  ${mb(built.compressedBytes)} to pull, ${mb(built.unpackedBytes)} unpacked, made in ${seconds} s`);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  if (inputs.commit.changed) console.log("  files differ from the commit: nobody else can build this image");
};

if (import.meta.main) {
  await main(process.argv.slice(2)).catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  });
}
