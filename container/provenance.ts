/**
 * How an image was made, as an in-toto statement with SLSA's provenance (v1): which commit, which build, and each thing that
 * went into it with its hash.
 *
 * Not a signature: whoever publishes the image signs this (`cosign attest-blob`), and so vouches for it. Pure.
 *
 * 1. It has no time and no name of a machine, so that a second build of the same gives the same text. Where two builds
 *    differ, so do their statements, in the lines that say why.
 */
import type { DebianPart } from "./debian.ts";
import type { Inputs } from "./inputs.ts";
import { debianPurl, npmPurl } from "./sbom.ts";

export interface Subject {
  readonly name: string;
  readonly sha256: string;
}

export interface ProvenanceFacts {
  /** What was made. */
  readonly subjects: ReadonlyArray<Subject>;
  readonly release: number;
  readonly debian: Pick<DebianPart, "codename" | "architecture" | "packages" | "indexes">;
  readonly inputs: Inputs;
}

const materials = ({ debian, inputs }: ProvenanceFacts): ReadonlyArray<unknown> => [
  { name: "source", digest: { gitCommit: inputs.commit.id } },
  { name: "package-lock.json", digest: { sha256: inputs.lockSha256 } },
  { uri: npmPurl({ name: "bun", version: inputs.bun.version }), digest: { sha256: inputs.bun.sha256 } },
  ...inputs.npm.map((part) => ({ uri: npmPurl(part), digest: { sha512: part.sha512 } })),
  ...debian.indexes.map(({ uri, date, sha256 }) => ({ uri, digest: { sha256 }, annotations: { date } })),
  ...debian.packages.map((part) => ({ uri: debianPurl(part, debian.codename), digest: { sha256: part.sha256 } })),
];

export const provenance = (facts: ProvenanceFacts): unknown => ({
  _type: "https://in-toto.io/Statement/v1",
  subject: facts.subjects.map(({ name, sha256 }) => ({ name, digest: { sha256 } })),
  predicateType: "https://slsa.dev/provenance/v1",
  predicate: {
    buildDefinition: {
      buildType: "urn:csi-rbd:npm-run-image:1",
      externalParameters: { cephRelease: facts.release, commit: facts.inputs.commit.id },
      internalParameters: {
        sourceDateEpoch: facts.inputs.commit.time.getTime() / 1000,
        // a build of files that no commit has cannot be repeated
        sourceChanged: facts.inputs.commit.changed,
        architecture: facts.debian.architecture,
      },
      resolvedDependencies: materials(facts),
    },
    runDetails: {
      builder: { id: "urn:csi-rbd:builder:npm-run-image", version: { "csi-rbd": facts.inputs.version } },
    },
  },
});
