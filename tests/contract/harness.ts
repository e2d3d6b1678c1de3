/**
 * What the contract suite needs of a cluster besides the service under test: a world with users, pools and people who
 * use images, each made anew for a run. Memory and live worlds are in ./memory.test.ts and ./live.test.ts.
 *
 * 1. A world's pools are its own: tests see nothing that others left, and leave nothing to others.
 */
import { afterAll, beforeAll } from "bun:test";
import * as Effect from "effect/Effect";
import type * as Layer from "effect/Layer";
import * as ManagedRuntime from "effect/ManagedRuntime";
import { Ceph, type CephService, type ClusterAccess, type PoolRef } from "../../lib/ceph/ceph.ts";
import type { CephError } from "../../lib/ceph/errors.ts";
import type { CutShort } from "../../lib/ceph/memory-cluster.ts";

/** Milliseconds for one test of a few calls. */
export const LIMIT = 20_000;
/** For a test that waits for Ceph's own time-outs or for the manager. */
export const LONG_LIMIT = 120_000;

export interface World {
  readonly layer: Layer.Layer<Ceph, unknown>;
  readonly access: ClusterAccess;
  readonly pool: string;
  /** A second pool, for data. */
  readonly dataPool: string;
  /** A namespace of `pool`. */
  readonly namespace: string;
  /** A user without mgr caps, whose osd caps name `pool` only. */
  readonly limited: ClusterAccess;
  readonly addPool: (name: string) => Promise<bigint>;
  /** Writes some bytes at the start of the image, as a client would. */
  readonly write: (pool: PoolRef, image: string) => Promise<void>;
  /** Opens the image as another client; -> closes it. */
  readonly watch: (pool: PoolRef, image: string) => Promise<() => Promise<void>>;
  /** Leaves of a whole image what a client leaves that dies while it makes it or moves it to the trash. */
  readonly cutShort: (what: CutShort, pool: PoolRef, image: string) => Promise<void>;
  readonly hasObjectMap: (pool: PoolRef, image: string) => Promise<boolean>;
  readonly stopManager: () => Promise<void>;
  readonly startManager: () => Promise<void>;
  readonly remove: () => Promise<void>;
}

type Act<A> = (ceph: CephService) => Effect.Effect<A, CephError>;

export interface Session {
  readonly world: World;
  /** The world's pool, default namespace. */
  readonly pool: PoolRef;
  readonly inNamespace: PoolRef;
  /** A pool that does not exist. */
  readonly nowhere: PoolRef;
  readonly run: <A>(act: Act<A>) => Promise<A>;
  /** The error that it fails with; a success is an error of the test. */
  readonly fails: <A>(act: Act<A>) => Promise<CephError>;
  /** A name that nothing has. */
  readonly fresh: (what: string) => string;
  /** An image of 16 MiB -> its name. */
  readonly anImage: (pool?: PoolRef) => Promise<string>;
}

export const MIB = 1_048_576n;
export const GIB = 1_073_741_824n;

let names = 0;
const fresh = (what: string): string => `${what}-${++names}`;

/** A world and a runtime for the tests of this describe block; the value is there once the tests run. */
export const session = (make: () => Promise<World>): (() => Session) => {
  let current: Session | undefined;
  let end: (() => Promise<void>) | undefined;

  beforeAll(async () => {
    const world = await make();
    const runtime = ManagedRuntime.make(world.layer);
    end = async () => {
      await runtime.dispose();
      await world.remove();
    };
    const pool: PoolRef = { access: world.access, pool: world.pool, namespace: "" };
    const run = <A>(act: Act<A>) => runtime.runPromise(Effect.flatMap(Ceph, act));
    current = {
      world,
      pool,
      inNamespace: { ...pool, namespace: world.namespace },
      nowhere: { ...pool, pool: `${world.pool}-nowhere` },
      run,
      fails: (act) => run((ceph) => Effect.orDie(Effect.flip(act(ceph)))),
      fresh,
      anImage: async (at = pool) => {
        const image = fresh("image");
        await run((ceph) => ceph.imageCreate(at, image, { sizeBytes: 16n * MIB }));
        return image;
      },
    };
  }, LONG_LIMIT);
  afterAll(() => end?.(), LONG_LIMIT);

  return () => {
    if (current === undefined) throw new Error("the world of this suite was not made");
    return current;
  };
};
