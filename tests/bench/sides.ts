/**
 * The two sides of the comparison: the driver over gRPC, and the floor, which is the least that any driver has to ask
 * of Ceph for the same effect, asked straight from a cell pool of the same size.
 *
 * The floor makes its calls one after the other, and its images by librbd, as ceph-csi does; the driver can be below it.
 * The floor has no gRPC, no pipeline, no locks, no checks and no way back: it is what those cost nothing against.
 */
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import { makeCephLive } from "../../lib/ceph/live/live.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import { Controller } from "../../lib/gen/csi_pb.ts";
import type { Driver } from "../ceph/driver.ts";
import { createRequest, deleteRequest, expandRequest, GIB, MIB } from "../ceph/requests.ts";
import { caller } from "./caller.ts";

export const OPERATIONS = ["create", "repeat", "expand", "delete"] as const;
export type Operation = (typeof OPERATIONS)[number];

/** Each takes the name of a volume; `expand` is to 2 GiB, and the rest is as `create` left it. */
export type Side = Readonly<Record<Operation, (name: string) => Promise<void>>> & {
  /** The process that does the work. */
  readonly pid: number;
};

/** Its connection ends with the driver. */
export const driverSide = ({ pid, socket }: Driver, pool: string): Side => {
  const { call } = caller(socket);
  const { createVolume, controllerExpandVolume, deleteVolume } = Controller.method;
  const ids = new Map<string, string>();
  const idOf = (name: string) => ids.get(name) ?? "";
  const create = async (name: string) => {
    const { volume } = await call(createVolume, createRequest(name, { pool }));
    ids.set(name, volume?.volumeId ?? "");
  };
  return {
    pid,
    create,
    repeat: create,
    expand: async (name) => {
      await call(controllerExpandVolume, expandRequest(idOf(name), 2n * GIB));
    },
    delete: async (name) => {
      await call(deleteVolume, deleteRequest(idOf(name)));
      ids.delete(name);
    },
  };
};

/** The image that the driver makes, by rbd_create4: a layout that names its striping is left to librbd. */
export const BY_LIBRBD = { sizeBytes: GIB, stripeUnit: 4n * MIB, stripeCount: 1n };

export const floorSide = (ceph: CephCalls, pool: PoolRef): Side => {
  const uuids = new Map<string, string>();
  const directory = "csi.volumes.floor";
  const key = (name: string) => `csi.volume.${name}`;
  const uuidOf = (name: string) => uuids.get(name) ?? "";
  const object = (name: string) => `csi.volume.${uuidOf(name)}`;
  const image = (name: string) => `csi-vol-${uuidOf(name)}`;
  const attributes = ["csi.volname", "csi.imagename", "csi.imageid"];
  const run =
    (recipe: (name: string) => Effect.Effect<unknown, unknown>) =>
    async (name: string): Promise<void> => {
      await Effect.runPromise(recipe(name));
    };
  return {
    pid: process.pid,
    create: run((name) =>
      Effect.gen(function* () {
        uuids.set(name, crypto.randomUUID());
        yield* ceph.omapGet(pool, directory, [key(name)]);
        yield* ceph.omapWrite(pool, directory, {
          object: "ensure",
          compare: { [key(name)]: "" },
          set: { [key(name)]: uuidOf(name) },
        });
        yield* ceph.omapWrite(pool, object(name), {
          object: "ensure",
          set: { "csi.volname": name, "csi.imagename": image(name) },
        });
        yield* ceph.imageCreate(pool, image(name), BY_LIBRBD);
        const id = yield* ceph.imageId(pool, image(name));
        yield* ceph.omapWrite(pool, object(name), { object: "require", set: { "csi.imageid": id ?? "" } });
      }),
    ),
    repeat: run((name) =>
      Effect.gen(function* () {
        yield* ceph.omapGet(pool, directory, [key(name)]);
        yield* ceph.omapGet(pool, object(name), attributes);
        yield* ceph.imageStatus(pool, image(name));
      }),
    ),
    expand: run((name) =>
      Effect.gen(function* () {
        yield* ceph.omapGet(pool, object(name), attributes);
        yield* ceph.imageGrow(pool, image(name), 2n * GIB);
      }),
    ),
    delete: run((name) =>
      Effect.gen(function* () {
        yield* ceph.omapGet(pool, object(name), attributes);
        const { id } = yield* ceph.imageStatus(pool, image(name));
        yield* ceph.trashMove(pool, image(name));
        // behind the answer, as the driver does
        yield* Effect.sync(() => void Effect.runFork(ceph.trashRemove(pool, id)));
        yield* ceph.omapWrite(pool, directory, {
          object: "require",
          compare: { [key(name)]: uuidOf(name) },
          remove: [key(name)],
        });
        yield* ceph.objectRemove(pool, object(name));
        uuids.delete(name);
      }),
    ),
  };
};

/** A cell pool of this process, as the driver has one of its own. */
export const floorCeph = (cells: number, cephConf: string): Effect.Effect<CephCalls, unknown, Scope.Scope> =>
  Effect.map(makeCephLive({ cells, cephConf }), ({ service }) => service);

/** Waits until the trash is empty, so that what goes on behind the answers for one side does not slow down the other. */
export const drained = async (ceph: CephCalls, pool: PoolRef, limitMs = 120_000): Promise<void> => {
  const deadline = Date.now() + limitMs;
  while ((await Effect.runPromise(ceph.trashList(pool))).length > 0) {
    if (Date.now() > deadline) throw new Error("the trash does not become empty");
    await Bun.sleep(100);
  }
};
