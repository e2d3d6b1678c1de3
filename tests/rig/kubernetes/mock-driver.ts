/**
 * The CSI driver that Kubernetes' end-to-end suite has for its own tests, as a program (./mock-driver), built from Kubernetes'
 * Go module into the cache: another driver beside which the registrar and the attacher run.
 *
 * csi-driver-host-path would be nearer to a driver that people use, but is no Go module.
 *
 * Invariant: the program is complete or absent: it is built beside its final name and renamed when done.
 *
 * By hand: bun tests/rig/kubernetes/mock-driver.ts
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder } from "../roots.ts";
import { makeImage } from "./image.ts";
import { builtProgram, kubernetesVersion } from "./program.ts";

/** The driver's name, which is that of its node, too. */
export const MOCK_DRIVER = "mock.csi.k8s.io";
export const MOCK_DRIVER_IMAGE = "docker.io/rig/mock-driver:1";

const SOURCE = join(import.meta.dir, "mock-driver");

/** Another text is another program. */
const programPath = (): string => {
  const text = createHash("sha256")
    .update(readFileSync(join(SOURCE, "main.go")))
    .digest("hex")
    .slice(0, 12);
  return join(cacheFolder("bin"), `mock-driver-v${kubernetesVersion}-${text}`);
};

/** Path of the program, built on first use. */
const mockDriverProgram = (say: (line: string) => void): Promise<string> =>
  builtProgram({
    program: programPath(),
    source: SOURCE,
    // its image has no C library
    build: (go, place, out) =>
      go({ ...place, env: { CGO_ENABLED: "0" } }, ["build", "-mod=mod", "-o", out, "-ldflags", "-s -w", "."], 20),
    announce: () => say("building Kubernetes' mock CSI driver"),
  });

/** Writes the archive of its image. */
export const makeMockDriverImage = async (archive: string, say: (line: string) => void): Promise<void> => {
  const files = { "mock-driver": await mockDriverProgram(say) };
  await makeImage(archive, [MOCK_DRIVER_IMAGE], { files, entrypoint: ["/mock-driver"] });
};

if (import.meta.main) console.log(await mockDriverProgram(console.error));
