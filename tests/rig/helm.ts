/** Helm, which makes Kubernetes objects of a chart: four minutes to build. */
import { type GoProgram, goProgram, goProgramLacks } from "./go-program.ts";

const helm: GoProgram = {
  name: "helm",
  version: "v4.3.2",
  path: "helm.sh/helm/v4/cmd/helm",
  toolchain: "go1.26.0",
};

/** Why Helm cannot be had here; undefined where it can. */
export const helmLacks = (): string | undefined => goProgramLacks(helm);

/** Path of the Helm program. */
export const helmBinary = (say?: (line: string) => void): Promise<string> => goProgram(helm, say);

if (import.meta.main) console.log(await helmBinary(console.error));
