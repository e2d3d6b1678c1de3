/** The contract on a real cluster. */
import * as Duration from "effect/Duration";
import { test } from "bun:test";
import { cephLayerLive } from "../../lib/ceph/live/live.ts";
import { hasRig, rig } from "../rig/cluster.ts";
import { liveWorld } from "./live-world.ts";
import { contract } from "./suite.ts";

if (hasRig()) {
  contract("librados and librbd", async () => {
    const facts = rig();
    // no configuration file: what the access says must be enough
    return liveWorld(
      facts,
      cephLayerLive({
        cephConf: `${facts.dir}/absent.conf`,
        connectTimeout: Duration.millis(5_000),
        monTimeout: Duration.millis(6_000),
      }),
    );
  });
} else {
  test.skip("The contract does not run on librados and librbd without a cluster", () => {});
}
