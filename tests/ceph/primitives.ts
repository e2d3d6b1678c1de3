/**
 * A world on the rig's cluster for tests of `cephLayerLive` that need more than the contract suite can ask of any cluster:
 * the bytes of images, erasure-coded pools, times.
 */
import * as Duration from "effect/Duration";
import { afterAll, beforeAll, describe, test } from "bun:test";
import { connect, type PoolArg, shutdown, withPool } from "../../lib/ceph/cell/rados.ts";
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

/** The calls of cells themselves, in the pool of the session, over a connection of their own. */
export const cellPool = ({ session: at, rig: { monitors, key, user, conf } }: Primitives) => {
  let cluster = 0n;
  beforeAll(() => {
    const settings = [["mon_host", monitors.join(",")] as const, ["key", key] as const];
    cluster = connect({ user, confFile: conf, settings });
  });
  afterAll(() => shutdown(cluster));
  return <A>(use: (where: PoolArg, io: bigint) => A): A => {
    const { pool, namespace } = at().pool;
    const where = { cluster, pool, namespace };
    return withPool(where, (io) => use(where, io));
  };
};

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
