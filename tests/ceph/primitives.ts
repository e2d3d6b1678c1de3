/**
 * A world on the rig's cluster for tests of `cephLayerLive` that need more than the contract suite can ask of any cluster:
 * the bytes of images, erasure-coded pools, times.
 */
import * as Duration from "effect/Duration";
import { afterAll, beforeAll, describe, test } from "bun:test";
import { cephLayerLive } from "../../lib/ceph/live/live.ts";
import { session, type Session } from "../contract/harness.ts";
import { liveWorld } from "../contract/live-world.ts";
import { hasRig, rig, type Rig } from "../rig/cluster.ts";
import { type Bytes, bytesOf } from "./bytes.ts";

export interface Primitives {
  readonly session: () => Session;
  readonly bytes: () => Bytes;
  readonly rig: Rig;
}

export const primitives = (name: string, suite: (at: Primitives) => void): void => {
  if (!hasRig()) {
    test.skip(`${name}: no cluster for this run`, () => {});
    return;
  }
  describe(name, () => {
    const facts = rig();
    const options = {
      cephConf: `${facts.dir}/absent.conf`,
      connectTimeout: Duration.millis(5_000),
      monTimeout: Duration.millis(6_000),
    };
    const at = session(() => liveWorld(facts, cephLayerLive(options)));
    let bytes: Bytes | undefined;
    beforeAll(() => {
      bytes = bytesOf(facts);
    });
    afterAll(() => bytes?.close());
    suite({
      session: at,
      bytes: () => {
        if (bytes === undefined) throw new Error("no client that writes: the tests have not begun");
        return bytes;
      },
      rig: facts,
    });
  });
};
