/**
 * What tests of the RPCs that only look ask for, and volumes for them to find.
 *
 * Not here: drivers (./one-world.ts).
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { ClusterSecret } from "../../lib/config/cluster-secrets.ts";
import { cephMemoryService, MEMORY_KEY, type MemoryCluster } from "./ceph-memory/memory.ts";
import { readySnapshot, snapshotOf } from "./copies-world.ts";
import type { Driver, DriverWorld } from "./one-world.ts";

export const ADMIN: ClusterSecret = {
  credentials: { user: "admin", key: Redacted.make(MEMORY_KEY) },
  pools: undefined,
};

/** The administrator has given credentials for `east`. */
export const LISTING: DriverWorld = { secrets: { east: ADMIN } };

/** The IDs of all volumes in pages of `size`, one after the other; `between` runs after each with its IDs. */
export const allVolumes = async (
  driver: Driver,
  size: number,
  between: (ids: readonly string[]) => Promise<void> = async () => {},
): Promise<string[][]> => {
  const pages: string[][] = [];
  for (let startingToken = ""; ; ) {
    const { entries, nextToken } = await driver.listVolumes({ maxEntries: size, startingToken });
    const ids = entries.map(({ volume }) => volume.volumeId);
    pages.push(ids);
    if (nextToken === "") return pages;
    await between(ids);
    startingToken = nextToken;
  }
};

/** The RPCs that the controller offers. */
export const offered = async (driver: Driver): Promise<readonly number[]> =>
  (await driver.capabilities()).capabilities.map(({ type }) => type.value.type);

/** A snapshot that is ready -> its ID. */
export const aSnapshot = async (driver: Driver, name: string, sourceVolumeId: string): Promise<string> =>
  (await readySnapshot(driver, snapshotOf(sourceVolumeId, { name, parameters: {} }))).snapshotId;

/** Moves an image of pool `rbd` to the trash, as a user can; -> its ID. */
export const trashImage = (cluster: MemoryCluster, imageName: string): string => {
  const { id } = cluster.image("rbd", imageName);
  const space = cluster.namespace("rbd", "");
  const image = space?.images.get(imageName);
  if (image === undefined) throw new Error(`no image ${imageName}`);
  space?.images.delete(imageName);
  space?.trash.set(id, { name: imageName, source: "user", moving: false, image });
  return id;
};

/** Puts volumes as a driver leaves them, without going through one: `pvc-000000` and on. -> their UUIDs. */
export const seedVolumes = (
  cluster: MemoryCluster,
  count: number,
  { pool = "rbd", prefix = "csi-vol-", from = 0 }: { pool?: string; prefix?: string; from?: number } = {},
): Promise<readonly string[]> => {
  const service = cephMemoryService(cluster);
  const ref = { access: { monitors: ["-"], user: "admin", key: Redacted.make(MEMORY_KEY) }, pool, namespace: "" };
  const space = cluster.namespace(pool, "");
  const directory = space?.objects.get("csi.volumes.default") ?? new Map<string, string>();
  space?.objects.set("csi.volumes.default", directory);
  const one = (i: number) =>
    Effect.gen(function* () {
      const uuid = `00000000-0000-4000-8000-${(from + i).toString(16).padStart(12, "0")}`;
      const requestName = `pvc-${String(from + i).padStart(6, "0")}`;
      const image = prefix + uuid;
      yield* service.imageCreate(ref, image, { sizeBytes: BigInt(i + 1) << 20n });
      directory.set(`csi.volume.${requestName}`, uuid);
      space?.objects.set(
        `csi.volume.${uuid}`,
        new Map([
          ["csi.volname", requestName],
          ["csi.imagename", image],
          ["csi.imageid", cluster.image(pool, image).id],
        ]),
      );
      return uuid;
    });
  return Effect.runPromise(
    Effect.forEach(
      Array.from({ length: count }, (_, i) => i),
      one,
    ),
  );
};
