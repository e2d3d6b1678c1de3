/** csi-sanity, the conformance tests of the Kubernetes CSI project: half a minute to build. */
import { type GoProgram, goProgram, goProgramLacks } from "./go-program.ts";

const sanity: GoProgram = {
  name: "csi-sanity",
  version: "v5.6.0",
  path: "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity",
  toolchain: "go1.25.0",
};

/** Why csi-sanity cannot be had here; undefined where it can. */
export const sanityLacks = (): string | undefined => goProgramLacks(sanity);

/** Path of the csi-sanity program. */
export const sanityBinary = (say?: (line: string) => void): Promise<string> => goProgram(sanity, say);

if (import.meta.main) console.log(await sanityBinary(console.error));
