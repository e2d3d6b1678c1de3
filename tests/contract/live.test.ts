/** The contract on a real cluster; with the worker threads of a build where CSI_RBD_CELLS names their folder. */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import * as Duration from "effect/Duration";
import { test } from "bun:test";
import { cephLayerLive } from "../../lib/ceph/live/live.ts";
import { hasRig, rig } from "../rig/cluster.ts";
import { liveWorld } from "./live-world.ts";
import { contract } from "./suite.ts";

const built = process.env["CSI_RBD_CELLS"] ?? "";
const cells = built === "" ? {} : { cellUrl: (path: string) => pathToFileURL(join(built, path)).href };

if (hasRig()) {
  contract("librados and librbd", async () => {
    const facts = rig();
    // no configuration file: what the access says must be enough
    return liveWorld(
      facts,
      cephLayerLive({
        ...cells,
        cephConf: `${facts.dir}/absent.conf`,
        connectTimeout: Duration.millis(5_000),
        monTimeout: Duration.millis(6_000),
      }),
    );
  });
} else {
  test.skip("The contract does not run on librados and librbd without a cluster", () => {});
}
