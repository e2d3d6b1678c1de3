/**
 * Snapshots and clones on disk: what our driver writes is what ceph-csi would have, and what that one laid down is ours
 * to restore, clone, finish and delete. The other driver's part is played by `rbd` and `rados`.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Code } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";
import { type Bytes, bytesOf } from "./bytes.ts";
import {
  cloneRequest,
  dropSnapshot,
  dropVolume,
  infoOf,
  makeVolume,
  poolAt,
  readySnapshot,
  restoreRequest,
  settledRemains,
  SIZE,
} from "./copies.ts";
import { type Driver, startDriver, testFolder, writeConfig } from "./driver.ts";
import { makePool, omapOf, tool } from "./inventory.ts";
import { CLUSTER, createRequest, failureOf } from "./requests.ts";

const dir = testFolder("copycompat");
const LIMIT = 120_000;
let driver: Driver;
let pool: Awaited<ReturnType<typeof makePool>>;
let bytes: Bytes;

beforeAll(async () => {
  pool = await makePool("copycompat");
  writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
  bytes = bytesOf(rig());
  driver = await startDriver({ dir });
}, 60_000);

afterAll(async () => {
  await driver?.end();
  bytes?.close();
  await pool?.remove();
}, 60_000);

const handleOf = (uuid: string) => `0001-000c-${CLUSTER}-${pool.id.toString(16).padStart(16, "0")}-${uuid}`;
const uuidOf = (handle: string) => handle.slice(-36);
const write = (image: string, value: number) => bytes.write(poolAt(pool.name), image, 0, 8192, value);
const valueOf = (image: string) => bytes.read(poolAt(pool.name), image, 4096, 1)[0];
const spec = (image: string, snapshot?: string) =>
  `${pool.name}/${image}${snapshot === undefined ? "" : `@${snapshot}`}`;

interface Listed {
  readonly name: string;
  readonly namespace: { readonly type: string; readonly "original name"?: string; readonly original_name?: string };
}

/** Kind and name of each snapshot; of one in the trash, the name it had. */
const snapshotsOf = async (image: string) =>
  (JSON.parse(await tool("rbd", "snap", "ls", "--all", "--format=json", spec(image))) as Listed[]).map(
    ({ name, namespace }) =>
      namespace.type === "trash"
        ? `trash ${namespace["original name"] ?? namespace.original_name}`
        : `${namespace.type} ${name}`,
  );
const childrenOf = async (image: string) =>
  (JSON.parse(await tool("rbd", "children", "--all", "--format=json", spec(image))) as { image: string }[])
    .map(({ image: child }) => child)
    .toSorted();
const layoutOf = async (image: string) => {
  const { features, parent } = await infoOf(pool.name, image);
  return { features: features.toSorted(), parent: parent?.image };
};
const HOLDER_FEATURES = ["deep-flatten", "layering", "operations"];

const setKeys = async (object: string, keys: Readonly<Record<string, string>>) => {
  for (const [key, value] of Object.entries(keys)) {
    await tool("rados", "--pool", pool.name, "setomapval", object, key, value);
  }
};

const volume = (name: string) => makeVolume(driver.controller, createRequest(name, { pool: pool.name }, SIZE));

/** The steps of ceph-csi for one clone through a snapshot that goes again. */
const cloneByHand = async (source: string, snapshot: string, target: string): Promise<void> => {
  await tool("rbd", "snap", "create", "--no-progress", spec(source, snapshot));
  await tool(
    "rbd",
    "clone",
    "--rbd-default-clone-format=2",
    "--image-feature=layering",
    "--image-feature=deep-flatten",
    spec(source, snapshot),
    spec(target),
  );
  await tool("rbd", "snap", "rm", "--no-progress", spec(source, snapshot));
};

test(
  "A snapshot that the driver makes has ceph-csi's images, snapshots and keys, and so has a restore of it",
  async () => {
    const source = await volume("pvc-source");
    const id = await readySnapshot(driver.controller, "snap-ours", source.id);
    const uuid = uuidOf(id);
    const holder = `csi-snap-${uuid}`;
    expect(id).toBe(handleOf(uuid));
    expect(await layoutOf(holder)).toEqual({ features: HOLDER_FEATURES, parent: source.image });
    expect(await snapshotsOf(source.image)).toEqual([`trash ${holder}`]);
    expect(await snapshotsOf(holder)).toEqual([`user ${holder}`]);
    expect(await omapOf(pool.name, "csi.snaps.default")).toEqual(new Map([["csi.snap.snap-ours", uuid]]));
    expect(await omapOf(pool.name, `csi.snap.${uuid}`)).toEqual(
      new Map([
        ["csi.imageid", (await infoOf(pool.name, holder)).id],
        ["csi.imagename", holder],
        ["csi.snapname", "snap-ours"],
        ["csi.source", source.image],
      ]),
    );
    const restored = await makeVolume(driver.controller, restoreRequest("pvc-restored", pool.name, id));
    expect((await layoutOf(restored.image)).parent).toBe(holder);
    expect((await infoOf(pool.name, restored.image)).parent).toMatchObject({ image: holder, snapshot: holder });
    expect(await childrenOf(holder)).toEqual([restored.image]);
    await dropVolume(driver.controller, restored);
    await dropSnapshot(driver.controller, id);
    await dropVolume(driver.controller, source);
  },
  LIMIT,
);

const VOLUME_KEYS = ["csi.imageid", "csi.imagename", "csi.volname"];
const keysOf = async ({ id }: { readonly id: string }) => [
  ...((await omapOf(pool.name, `csi.volume.${uuidOf(id)}`)) ?? new Map<string, string>()).keys(),
];

test(
  "A clone of a volume that the driver makes is a clone of its image, by a snapshot of ceph-csi's name that is removed",
  async () => {
    const source = await volume("pvc-source");
    const clone = await makeVolume(driver.controller, cloneRequest("pvc-clone", pool.name, source.id));
    expect((await infoOf(pool.name, clone.image)).features.toSorted()).toEqual(HOLDER_FEATURES);
    expect((await layoutOf(clone.image)).parent).toBe(source.image);
    expect(await snapshotsOf(source.image)).toEqual([`trash ${clone.image}-temp`]);
    expect(await childrenOf(source.image)).toEqual([clone.image]);
    expect(await keysOf(clone)).toEqual(VOLUME_KEYS);
    await dropVolume(driver.controller, clone);
    await dropVolume(driver.controller, source);
  },
  LIMIT,
);

test(
  "A clone of a clone goes through an image of ceph-csi's name and layout, which stays as long as the clone",
  async () => {
    const first = await volume("pvc-first");
    const source = await makeVolume(driver.controller, cloneRequest("pvc-source", pool.name, first.id));
    const clone = await makeVolume(driver.controller, cloneRequest("pvc-clone", pool.name, source.id));
    const temp = `${clone.image}-temp`;
    expect(await layoutOf(temp)).toEqual({ features: HOLDER_FEATURES, parent: source.image });
    expect((await layoutOf(clone.image)).parent).toBe(temp);
    expect(await snapshotsOf(source.image)).toEqual([`trash ${temp}`]);
    expect(await snapshotsOf(temp)).toEqual([`trash ${clone.image}`]);
    expect(await childrenOf(temp)).toEqual([clone.image]);
    expect(await keysOf(clone)).toEqual(VOLUME_KEYS);
    await dropVolume(driver.controller, clone);
    await dropVolume(driver.controller, source);
    await dropVolume(driver.controller, first);
  },
  LIMIT,
);

/** A snapshot as ceph-csi leaves it; `ready`: with the snapshot on the holder and its image ID, else before both. */
const snapshotByHand = async (name: string, source: string, ready: boolean) => {
  const uuid = crypto.randomUUID();
  const holder = `csi-snap-${uuid}`;
  await tool("rados", "--pool", pool.name, "create", `csi.snap.${uuid}`);
  await setKeys("csi.snaps.default", { [`csi.snap.${name}`]: uuid });
  await setKeys(`csi.snap.${uuid}`, { "csi.snapname": name, "csi.imagename": holder, "csi.source": source });
  await cloneByHand(source, holder, holder);
  if (ready) {
    await tool("rbd", "snap", "create", "--no-progress", spec(holder, holder));
    await setKeys(`csi.snap.${uuid}`, { "csi.imageid": (await infoOf(pool.name, holder)).id });
  }
  return { uuid, holder };
};

for (const ready of [true, false]) {
  test(
    `A snapshot of ceph-csi's, ${ready ? "complete" : "cut off before it was ready"}, is found, restored and deleted`,
    async () => {
      const source = await volume("pvc-source");
      write(source.image, 1);
      const { uuid, holder } = await snapshotByHand("snap-theirs", source.image, ready);
      write(source.image, 2);
      const id = await readySnapshot(driver.controller, "snap-theirs", source.id);
      expect(id).toBe(handleOf(uuid));
      expect(await snapshotsOf(holder)).toEqual([`user ${holder}`]);
      expect((await omapOf(pool.name, `csi.snap.${uuid}`))?.get("csi.imageid")).toBe(
        (await infoOf(pool.name, holder)).id,
      );
      const restored = await makeVolume(driver.controller, restoreRequest("pvc-restored", pool.name, id));
      await dropVolume(driver.controller, source);
      await dropSnapshot(driver.controller, id);
      expect(valueOf(restored.image)).toBe(1);
      await dropVolume(driver.controller, restored);
    },
    LIMIT,
  );
}

/** The journal entry of a copy as either driver reserves it, before its image is complete. */
const reserveByHand = async (name: string) => {
  const uuid = crypto.randomUUID();
  const image = `csi-vol-${uuid}`;
  await tool("rados", "--pool", pool.name, "create", `csi.volume.${uuid}`);
  await setKeys("csi.volumes.default", { [`csi.volume.${name}`]: uuid });
  await setKeys(`csi.volume.${uuid}`, { "csi.volname": name, "csi.imagename": image });
  return { uuid, image, temp: `${image}-temp` };
};

for (const upTo of ["the image in between", "its snapshot", "the clone", "the end"] as const) {
  test(
    `A clone of ceph-csi's that came as far as ${upTo} is finished, cloned and deleted`,
    async () => {
      const source = await volume("pvc-source");
      write(source.image, 1);
      const { uuid, image, temp } = await reserveByHand("pvc-clone");
      await cloneByHand(source.image, temp, temp);
      if (upTo === "its snapshot") await tool("rbd", "snap", "create", "--no-progress", spec(temp, image));
      if (upTo === "the clone" || upTo === "the end") await cloneByHand(temp, image, image);
      if (upTo === "the end") {
        await setKeys(`csi.volume.${uuid}`, { "csi.imageid": (await infoOf(pool.name, image)).id });
        write(image, 2);
      }
      const found = await makeVolume(driver.controller, cloneRequest("pvc-clone", pool.name, source.id));
      expect(found).toEqual({ id: handleOf(uuid), image });
      expect((await omapOf(pool.name, `csi.volume.${uuid}`))?.get("csi.imageid")).toBe(
        (await infoOf(pool.name, image)).id,
      );
      expect((await layoutOf(image)).parent).toBe(temp);
      expect(valueOf(image)).toBe(upTo === "the end" ? 2 : 1);
      const again = await makeVolume(driver.controller, cloneRequest("pvc-again", pool.name, found.id));
      await dropVolume(driver.controller, found);
      await dropVolume(driver.controller, source);
      expect(valueOf(again.image)).toBe(upTo === "the end" ? 2 : 1);
      await dropVolume(driver.controller, again);
    },
    LIMIT,
  );
}

/** ceph-csi's DeleteVolume of an image: to the trash, and to the manager. */
const deleteByHand = async ({ id, image }: { readonly id: string; readonly image: string }, name: string) => {
  const { id: imageId } = await infoOf(pool.name, image);
  await tool("rbd", "trash", "mv", spec(image));
  await tool("ceph", "rbd", "task", "add", "trash", "remove", spec(imageId));
  await tool("rados", "--pool", pool.name, "rm", `csi.volume.${uuidOf(id)}`);
  await tool("rados", "--pool", pool.name, "rmomapkey", "csi.volumes.default", `csi.volume.${name}`);
};

for (const upTo of ["the snapshot of its source", "its image", "the removal of that snapshot"] as const) {
  test(
    `A direct clone that came as far as ${upTo} is finished with the source's data, and nothing is left on the source`,
    async () => {
      const source = await volume("pvc-source");
      write(source.image, 1);
      const { uuid, image, temp } = await reserveByHand("pvc-clone");
      if (upTo === "the removal of that snapshot") await cloneByHand(source.image, temp, image);
      else await tool("rbd", "snap", "create", "--no-progress", spec(source.image, temp));
      if (upTo === "its image") {
        await tool("rbd", "clone", "--rbd-default-clone-format=2", spec(source.image, temp), spec(image));
      }
      write(source.image, 2);
      const found = await makeVolume(driver.controller, cloneRequest("pvc-clone", pool.name, source.id));
      expect(found).toEqual({ id: handleOf(uuid), image });
      expect((await layoutOf(image)).parent).toBe(source.image);
      expect(valueOf(image)).toBe(1);
      const snapshots = (await snapshotsOf(source.image)).filter((each) => each.startsWith("user"));
      expect(snapshots).toEqual([]);
      await dropVolume(driver.controller, source);
      expect(valueOf(image)).toBe(1);
      await dropVolume(driver.controller, found);
    },
    LIMIT,
  );
}

test(
  "ceph-csi clones, flattens and deletes direct clones and their source, in any order",
  async () => {
    const source = await volume("pvc-source");
    write(source.image, 1);
    const clone = (name: string) => makeVolume(driver.controller, cloneRequest(name, pool.name, source.id));
    const [one, two] = [await clone("pvc-one"), await clone("pvc-two")];
    const { image, temp, uuid } = await reserveByHand("pvc-theirs");
    await cloneByHand(one.image, temp, temp);
    await cloneByHand(temp, image, image);
    await setKeys(`csi.volume.${uuid}`, { "csi.imageid": (await infoOf(pool.name, image)).id });
    await deleteByHand(source, "pvc-source");
    await deleteByHand(one, "pvc-one");
    expect([two.image, image].map(valueOf)).toEqual([1, 1]);
    await tool("rbd", "flatten", "--no-progress", spec(two.image));
    expect((await layoutOf(two.image)).parent).toBeUndefined();
    expect([two.image, image].map(valueOf)).toEqual([1, 1]);
    await deleteByHand(two, "pvc-two");
    await dropVolume(driver.controller, { id: handleOf(uuid), image });
  },
  LIMIT,
);

for (const taken of ["gives the name up and begins anew", "takes the image for the volume"] as const) {
  test(
    `The source of a direct clone that was cut off is deleted to its last trace after ceph-csi ${taken}`,
    async () => {
      const source = await volume("pvc-source");
      write(source.image, 1);
      const { image, temp, uuid } = await reserveByHand("pvc-clone");
      await tool("rbd", "snap", "create", "--no-progress", spec(source.image, temp));
      if (taken === "takes the image for the volume") {
        await tool("rbd", "clone", "--rbd-default-clone-format=2", spec(source.image, temp), spec(image));
        await setKeys(`csi.volume.${uuid}`, { "csi.imageid": (await infoOf(pool.name, image)).id });
      } else {
        await tool("rados", "--pool", pool.name, "rm", `csi.volume.${uuid}`);
        await tool("rados", "--pool", pool.name, "rmomapkey", "csi.volumes.default", "csi.volume.pvc-clone");
      }
      await dropVolume(driver.controller, source);
      if (taken !== "takes the image for the volume") return;
      expect(valueOf(image)).toBe(1);
      await dropVolume(driver.controller, { id: handleOf(uuid), image });
    },
    LIMIT,
  );
}

test(
  "A volume and a snapshot with snapshots that somebody took with rbd are not deleted, and lose nothing",
  async () => {
    const source = await volume("pvc-kept");
    write(source.image, 1);
    const id = await readySnapshot(driver.controller, "snap-kept", source.id);
    const holder = `csi-snap-${uuidOf(id)}`;
    const clone = await makeVolume(driver.controller, cloneRequest("pvc-kept-clone", pool.name, source.id));
    for (const [image, drop] of [
      [source.image, () => dropVolume(driver.controller, source)],
      [holder, () => dropSnapshot(driver.controller, id)],
      [clone.image, () => dropVolume(driver.controller, clone)],
    ] as const) {
      await tool("rbd", "snap", "create", "--no-progress", spec(image, "by-hand"));
      const before = await snapshotsOf(image);
      const { code, details } = await failureOf(drop());
      expect(code).toBe(Code.FAILED_PRECONDITION);
      expect(details).toStartWith(`image ${spec(image)} has a snapshot that no driver took: by-hand. `);
      expect(await snapshotsOf(image)).toEqual(before);
    }
    const images = [source.image, holder, clone.image];
    const trashed = JSON.parse(await tool("rbd", "trash", "ls", "--all", pool.name, "--format=json")) as Listed[];
    expect(trashed.filter(({ name }) => images.includes(name))).toEqual([]);
    for (const image of images) {
      await tool("rbd", "snap", "rm", "--no-progress", spec(image, "by-hand"));
    }
    await dropVolume(driver.controller, source);
    await dropSnapshot(driver.controller, id);
    await dropVolume(driver.controller, clone);
  },
  LIMIT,
);

test(
  "The snapshots and clones of this file leave nothing",
  async () => {
    expect(await settledRemains(pool.name, 2 * LIMIT)).toEqual([]);
  },
  3 * LIMIT,
);
