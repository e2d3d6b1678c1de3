/**
 * The image's bill of materials, as SPDX 2.3 in JSON: its Debian packages, the executable, and what is in that.
 *
 * Not here: where the facts are from (./debian.ts, ./inputs.ts). Pure.
 *
 * 1. The same facts give the same text: its one time is the commit's.
 * 2. A licence is stated where its package states it as an SPDX expression, as npm's do. Debian's state theirs in a text,
 *    which the image has as /usr/share/doc/PACKAGE/copyright.
 */
import type { DebianPackage, DebianPart } from "./debian.ts";
import type { Inputs, NpmPackage } from "./inputs.ts";

export interface SbomFacts {
  /** Without registry and tag. */
  readonly name: string;
  readonly version: string;
  readonly imageDigest: string;
  readonly executableSha256: string;
  readonly debian: Pick<DebianPart, "codename" | "packages">;
  readonly inputs: Inputs;
}

interface Package {
  readonly SPDXID: string;
  readonly name: string;
  readonly versionInfo: string;
  readonly supplier?: string;
  readonly sourceInfo?: string;
  readonly primaryPackagePurpose?: string;
  readonly licenseDeclared: string;
  readonly checksums: ReadonlyArray<{ readonly algorithm: string; readonly checksumValue: string }>;
  readonly externalRefs?: ReturnType<typeof purl>;
}

const NONE = "NOASSERTION";
const identifier = (...words: ReadonlyArray<string>): string =>
  `SPDXRef-${words.join("-").replaceAll(/[^A-Za-z0-9.-]/g, "-")}`;
const purl = (locator: string) => [
  { referenceCategory: "PACKAGE-MANAGER", referenceType: "purl", referenceLocator: locator },
];
const unknown = { downloadLocation: NONE, filesAnalyzed: false, licenseConcluded: NONE, copyrightText: NONE };

export const debianPurl = ({ name, version, architecture }: DebianPackage, codename: string): string =>
  `pkg:deb/debian/${encodeURIComponent(name)}@${encodeURIComponent(version)}?arch=${architecture}&distro=${codename}`;

export const npmPurl = ({ name, version }: { readonly name: string; readonly version: string }): string =>
  `pkg:npm/${name.replace("@", "%40")}@${version}`;

const ofDebian = (part: DebianPackage, codename: string): Package => ({
  ...unknown,
  SPDXID: identifier("deb", part.name),
  name: part.name,
  versionInfo: part.version,
  supplier: `Person: ${part.maintainer}`,
  sourceInfo: `built from the Debian source package ${part.source}`,
  licenseDeclared: NONE,
  checksums: [{ algorithm: "SHA256", checksumValue: part.sha256 }],
  externalRefs: purl(debianPurl(part, codename)),
});

const ofNpm = (part: NpmPackage): Package => ({
  ...unknown,
  SPDXID: identifier("npm", part.name),
  name: part.name,
  versionInfo: part.version,
  licenseDeclared: part.license,
  checksums: [{ algorithm: "SHA512", checksumValue: part.sha512 }],
  externalRefs: purl(npmPurl(part)),
});

export const sbom = ({ name, version, imageDigest, executableSha256, debian, inputs }: SbomFacts): unknown => {
  const hex = imageDigest.slice("sha256:".length);
  const image: Package = {
    ...unknown,
    SPDXID: identifier("image"),
    name,
    versionInfo: version,
    primaryPackagePurpose: "CONTAINER",
    licenseDeclared: NONE,
    checksums: [{ algorithm: "SHA256", checksumValue: hex }],
    externalRefs: purl(`pkg:oci/${name}@sha256%3A${hex}`),
  };
  const executable: Package = {
    ...unknown,
    SPDXID: identifier("executable"),
    name: "csi-rbd",
    versionInfo: inputs.version,
    primaryPackagePurpose: "APPLICATION",
    sourceInfo: `built from commit ${inputs.commit.id}${inputs.commit.changed ? ", with changes" : ""}`,
    licenseDeclared: "Apache-2.0",
    checksums: [{ algorithm: "SHA256", checksumValue: executableSha256 }],
  };
  const bun: Package = {
    ...unknown,
    SPDXID: identifier("bun"),
    name: "bun",
    versionInfo: inputs.bun.version,
    licenseDeclared: NONE,
    checksums: [{ algorithm: "SHA256", checksumValue: inputs.bun.sha256 }],
    externalRefs: purl(npmPurl({ name: "bun", version: inputs.bun.version })),
  };
  const debs = debian.packages.map((part) => ofDebian(part, debian.codename));
  const npm = inputs.npm.map(ofNpm);
  const contains = (from: Package) => (to: Package) => ({
    spdxElementId: from.SPDXID,
    relationshipType: "CONTAINS",
    relatedSpdxElement: to.SPDXID,
  });
  return {
    spdxVersion: "SPDX-2.3",
    dataLicense: "CC0-1.0",
    SPDXID: "SPDXRef-DOCUMENT",
    name: `${name}-${version}`,
    documentNamespace: `https://spdx.org/spdxdocs/${name}-${version}-${hex}`,
    creationInfo: { created: `${inputs.commit.time.toISOString().slice(0, 19)}Z`, creators: ["Tool: csi-rbd-image"] },
    packages: [image, executable, bun, ...npm, ...debs],
    relationships: [
      { spdxElementId: "SPDXRef-DOCUMENT", relationshipType: "DESCRIBES", relatedSpdxElement: image.SPDXID },
      ...[executable, ...debs].map(contains(image)),
      ...[bun, ...npm].map(contains(executable)),
    ],
  };
};
