/** What this program is: the driver's version, from the one place that states it, and what it is made of and runs on. */
import manifest from "../../package.json" with { type: "json" };
import { clientLibrary } from "../ceph/cell/client-library.ts";

export const VERSION: string = manifest.version;

/** Set by the build (tests/rig/build.ts). Absent in a checkout, empty where the build knew none. */
declare const BUILD_COMMIT: string | undefined;

const commit = (): string => (typeof BUILD_COMMIT === "undefined" ? "a checkout" : BUILD_COMMIT || "unknown");

/** The text of `--version`. It is given, and says so, also where Ceph's libraries are missing. */
export const versionText = (): string =>
  [
    `csi-rbd ${VERSION}`,
    `commit       ${commit()}`,
    `Bun          ${Bun.version}`,
    `Ceph client  ${clientLibrary()}`,
  ].join("\n");
