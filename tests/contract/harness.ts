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
import type { Ceph, CephCalls } from "../../lib/ceph/ceph.ts";
import type { CephError } from "../../lib/ceph/errors.ts";
import type { ClusterAccess, PoolRef } from "../../lib/ceph/rados.ts";
import type { CloneCutShort, CutShort } from "../support/ceph-memory/cluster.ts";
import { wholeCeph } from "../support/whole-ceph.ts";

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
  /** An erasure-coded one, in which nothing can be written: no OSD has its parts. */
  readonly addCodedPool: (name: string) => Promise<void>;
  readonly allowOverwrites: (pool: string) => Promise<void>;
  /** Whether an image in a group can be moved to the trash. */
  readonly trashesMembers: boolean;
  /** Whether `diff` can begin at a snapshot that has no name. */
  readonly diffsFromIds: boolean;
  /** Bytes that may be stored in the pool; 0 is no quota. */
  readonly setQuota: (pool: string, bytes: bigint) => Promise<void>;
  /** Writes new bytes, as a client would: a few at the start of the image when it is not said where. */
  readonly write: (pool: PoolRef, image: string, where?: Stretch) => Promise<void>;
  /** Writes zeros over the first object of the image, as a client would that does not discard. */
  readonly writeZeros: (pool: PoolRef, image: string) => Promise<void>;
  /** Discards whole objects, as a client would. */
  readonly discard: (pool: PoolRef, image: string, where: Stretch) => Promise<void>;
  /** Equal for equal bytes: those of the image, or of a snapshot of it. */
  readonly content: (pool: PoolRef, image: string, snapshot?: string) => Promise<string>;
  /** Locks the image as another client, which ends then. */
  readonly lock: (pool: PoolRef, image: string, id: string) => Promise<void>;
  /** Opens the image as another client; -> closes it. */
  readonly watch: (pool: PoolRef, image: string) => Promise<() => Promise<void>>;
  /** Counts, as another client, how often those who have the image open are told that it has changed. */
  readonly listen: (
    pool: PoolRef,
    image: string,
  ) => Promise<{ readonly heard: () => number; readonly close: () => Promise<void> }>;
  /** Leaves of a whole image what a client leaves that dies while it makes it or moves it to the trash. */
  readonly cutShort: (what: CutShort, pool: PoolRef, image: string) => Promise<void>;
  /** Makes of a snapshot, in the same pool, what a client leaves that dies while it makes a clone. */
  readonly cutCloneShort: (
    what: CloneCutShort,
    pool: PoolRef,
    source: { readonly image: string; readonly snapshot: string },
    image: string,
  ) => Promise<void>;
  /** Leaves of a group's whole snapshot what a client leaves that dies while it makes it. */
  readonly cutGroupSnapshotShort: (pool: PoolRef, group: string, snapshot: string) => Promise<void>;
  /** Groups as another client sees and changes them. */
  readonly groups: GroupHands;
  /** The image's metadata as another client reads it. */
  readonly metadata: (pool: PoolRef, image: string) => Promise<Readonly<Record<string, string>>>;
  /** Takes an image out of the trash, by its id, as a person does. */
  readonly restore: (pool: PoolRef, id: string) => Promise<void>;
  readonly hasObjectMap: (pool: PoolRef, image: string) => Promise<boolean>;
  readonly stopManager: () => Promise<void>;
  readonly startManager: () => Promise<void>;
  readonly remove: () => Promise<void>;
}

/** Reads and changes of groups that tests need and the driver does not make. */
export interface GroupHands {
  /** As `pool/namespace/image`, in order; `undefined`: no such group. */
  readonly members: (pool: PoolRef, group: string) => Promise<readonly string[] | undefined>;
  readonly drop: (
    pool: PoolRef,
    group: string,
    member: { readonly pool: PoolRef; readonly image: string },
  ) => Promise<void>;
  /** Names of the complete ones, in order. */
  readonly snapshots: (pool: PoolRef, group: string) => Promise<readonly string[]>;
  readonly removeSnapshot: (pool: PoolRef, group: string, snapshot: string) => Promise<void>;
}

/** In bytes. */
export interface Stretch {
  readonly offset: bigint;
  readonly length: bigint;
}

type Act<A> = (ceph: CephCalls) => Effect.Effect<A, CephError>;

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
  /** An image of 16 MiB with data, a snapshot `s` of it, and other data since -> its name. */
  readonly aSource: (pool?: PoolRef) => Promise<string>;
}

/** Tries until it holds, for what Ceph does in its own time. -> whether it came to hold within half a minute. */
export const eventually = async (holds: () => Promise<boolean>): Promise<boolean> => {
  for (let i = 0; i < 300; i++) {
    if (await holds()) return true;
    await Bun.sleep(100);
  }
  return false;
};

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
    const run = <A>(act: Act<A>) => runtime.runPromise(Effect.flatMap(wholeCeph, act));
    const anImage = async (at = pool): Promise<string> => {
      const image = fresh("image");
      await run((ceph) => ceph.imageCreate(at, image, { sizeBytes: 16n * MIB }));
      return image;
    };
    current = {
      world,
      pool,
      inNamespace: { ...pool, namespace: world.namespace },
      nowhere: { ...pool, pool: `${world.pool}-nowhere` },
      run,
      fails: (act) => run((ceph) => Effect.orDie(Effect.flip(act(ceph)))),
      fresh,
      anImage,
      aSource: async (at = pool) => {
        const image = await anImage(at);
        await world.write(at, image);
        await run((ceph) => ceph.snapshotCreate(at, image, "s"));
        await world.write(at, image);
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
