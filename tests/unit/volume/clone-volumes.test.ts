/** CreateVolume from a snapshot and from a volume, over a cluster in memory: layout, data, sizes, and what is refused. */
import { describe, expect, test } from "bun:test";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  EMPTY_DIRECTORIES,
  holderOf,
  imageOf,
  metaOf,
  MIB_4,
  parentOf,
  PARAMETERS,
  read,
  readySnapshot,
  restoreOf,
  settled,
  snapshotDeletion,
  snapshotOf,
  snapshotsOf,
  THROUGH,
} from "../../support/copies-world.ts";
import {
  aCluster,
  codeOf,
  type CreateInit,
  creation,
  deletion,
  EAST,
  failureOf,
  GIB,
  mounted,
  poolDump,
  uuidOf,
} from "../../support/world.ts";

const K8S = "csi.storage.k8s.io/";
const VOLUME_NAMES = { [`${K8S}pvc/name`]: "data", [`${K8S}pvc/namespace`]: "shop", [`${K8S}pv/name`]: "pvc-1" };
const COPY_NAMES = { [`${K8S}pvc/name`]: "copy", [`${K8S}pvc/namespace`]: "lab", [`${K8S}pv/name`]: "pvc-copy" };
const SNAPSHOT_NAMES = { [`${K8S}volumesnapshot/name`]: "nightly" };

/** A volume, a snapshot of it, and what both hold. */
const prepared = async (driver: Driver, cluster: ReturnType<typeof aCluster>, more: CreateInit = {}) => {
  const volumeId = await aVolume(driver, cluster, more);
  const { snapshotId } = await readySnapshot(driver, snapshotOf(volumeId, { parameters: SNAPSHOT_NAMES }));
  return { volumeId, snapshotId, data: read(cluster, imageOf(volumeId)) };
};
type Prepared = Awaited<ReturnType<typeof prepared>>;

const copies = [
  ["a snapshot", ({ snapshotId }: Prepared, more?: CreateInit) => restoreOf(snapshotId, more)],
  ["a volume", ({ volumeId }: Prepared, more?: CreateInit) => cloneOf(volumeId, more)],
] as const;

describe("layout of a copy", () => {
  test("a restore is a clone of the snapshot's own image", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const all = await prepared(driver, cluster);
    const { volume } = await driver.createVolume(restoreOf(all.snapshotId));
    const image = imageOf(volume.volumeId);
    const holder = holderOf(all.snapshotId);
    expect(parentOf(cluster, image)).toBe(`${holder}@${holder}`);
    expect(snapshotsOf(cluster, holder)).toEqual([`user ${holder}`]);
    expect(Object.keys(poolDump(cluster).images).toSorted()).toEqual([image, holder, imageOf(all.volumeId)].toSorted());
  });

  test("a copy of a volume is a clone of it, takes one snapshot, and leaves none by name", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const volumeId = await aVolume(driver, cluster);
    const { volume } = await driver.createVolume(cloneOf(volumeId));
    const [source, image] = [imageOf(volumeId), imageOf(volume.volumeId)];
    expect(parentOf(cluster, image)).toBe(`${source}@${image}-temp`);
    expect(snapshotsOf(cluster, source)).toEqual([`trash ${image}-temp`]);
    expect(snapshotsOf(cluster, image)).toEqual([]);
    expect(Object.keys(poolDump(cluster).images).toSorted()).toEqual([source, image].toSorted());
  });

  test("a copy of a volume that is a clone itself goes through an image in between", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const all = await prepared(driver, cluster);
    for (const [n, request] of [restoreOf(all.snapshotId), cloneOf(all.volumeId)].entries()) {
      const name = `pvc-first-${n}`;
      const first = await driver.createVolume({ ...request, name });
      const { volume } = await driver.createVolume(cloneOf(first.volume.volumeId, { name: `pvc-second-${n}` }));
      const image = imageOf(volume.volumeId);
      expect(parentOf(cluster, image)).toBe(`${image}-temp@${image}`);
      expect(parentOf(cluster, `${image}-temp`)).toBe(`${imageOf(first.volume.volumeId)}@${image}-temp`);
      expect(read(cluster, image)).toEqual(all.data);
    }
  });

  test("a copy of a volume with many snapshots goes through an image in between, and leaves no snapshot by name", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: THROUGH });
    const volumeId = await aVolume(driver, cluster);
    const { volume } = await driver.createVolume(cloneOf(volumeId));
    const image = imageOf(volume.volumeId);
    const temp = `${image}-temp`;
    expect(parentOf(cluster, image)).toBe(`${temp}@${image}`);
    expect(parentOf(cluster, temp)).toBe(`${imageOf(volumeId)}@${temp}`);
    expect(snapshotsOf(cluster, temp)).toEqual([`trash ${image}`]);
    expect(snapshotsOf(cluster, imageOf(volumeId))).toEqual([`trash ${temp}`]);
    expect(cluster.image("rbd", temp).bornFeatures).toBe(33n);
  });

  test("the journal entry of a copy is that of an empty volume, and does not name the source", async () => {
    for (const [, request] of copies) {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const parameters = { ...PARAMETERS, ...COPY_NAMES };
      const { volume } = await driver.createVolume(request(all, { parameters }));
      const uuid = uuidOf(volume.volumeId);
      expect(poolDump(cluster).objects[`csi.volume.${uuid}`]).toEqual({
        "csi.volname": "pvc-copy",
        "csi.imagename": `csi-vol-${uuid}`,
        "csi.imageid": cluster.image("rbd", `csi-vol-${uuid}`).id,
        "csi.volume.owner": "lab",
      });
    }
  });

  test("a copy has the features that the class names, else those of its source", async () => {
    for (const [what, request] of copies) {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const plain = await driver.createVolume(request(all));
      expect([what, cluster.image("rbd", imageOf(plain.volume.volumeId)).bornFeatures]).toEqual([what, 33n]);
      const parameters = { ...PARAMETERS, imageFeatures: "layering,exclusive-lock,object-map", dataPool: "ec" };
      const asked = await driver.createVolume(request(all, { name: "pvc-asked", parameters }));
      const image = cluster.image("rbd", imageOf(asked.volume.volumeId));
      expect([what, image.dataPool, image.features & 13n]).toEqual([what, "ec", 13n]);
    }
  });

  test("a copy has no feature that neither its class nor ceph-csi gives it, whatever its source has", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const parameters = { ...PARAMETERS, imageFeatures: "layering,exclusive-lock,object-map,fast-diff" };
    const volumeId = await aVolume(driver, cluster, { parameters });
    const { volume } = await driver.createVolume(cloneOf(volumeId));
    expect(cluster.image("rbd", imageOf(volume.volumeId)).bornFeatures).toBe(33n);
  });

  test("the image in between has the source's data pool, whatever data pool the copy has", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { flags: THROUGH });
    const volumeId = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, dataPool: "ec" } });
    const { volume } = await driver.createVolume(cloneOf(volumeId));
    const image = imageOf(volume.volumeId);
    expect(cluster.image("rbd", `${image}-temp`).dataPool).toBe("ec");
    expect(cluster.image("rbd", image).dataPool).toBeUndefined();
  });

  test("a copy is in the class's pool, also where the source is in another pool", async () => {
    for (const [, request] of copies) {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const { volume } = await driver.createVolume(request(all, { parameters: { ...PARAMETERS, pool: "ssd" } }));
      expect(volume.volumeId).toContain("-0000000000000003-");
      expect(read(cluster, imageOf(volume.volumeId), "ssd")).toEqual(all.data);
      await driver.deleteVolume(deletion(volume.volumeId));
      await settled(cluster, "ssd");
      expect(poolDump(cluster, "ssd").images).toEqual({});
    }
  });

  test("the metadata of a copy names the copy, and nothing of its source", async () => {
    for (const [, request] of copies) {
      const cluster = aCluster();
      await using driver = aDriver(cluster, { flags: { clustername: "prod" } });
      const all = await prepared(driver, cluster, { parameters: { ...PARAMETERS, ...VOLUME_NAMES } });
      const parameters = { ...PARAMETERS, ...COPY_NAMES };
      const { volume } = await driver.createVolume(request(all, { parameters }));
      const image = imageOf(volume.volumeId);
      expect(metaOf(cluster, image)).toEqual({ ...COPY_NAMES, "csi.ceph.com/cluster/name": "prod" });
      const temp = poolDump(cluster).images[`${image}-temp`];
      expect(temp?.meta ?? {}).toEqual({});
      expect(metaOf(cluster, imageOf(all.volumeId))).toMatchObject(VOLUME_NAMES);
    }
  });

  test("a copy carries nothing of its source's names where it has none of its own", async () => {
    for (const [, request] of copies) {
      const cluster = aCluster();
      await using writing = aDriver(cluster, { flags: { clustername: "prod" } });
      const all = await prepared(writing, cluster, { parameters: { ...PARAMETERS, ...VOLUME_NAMES } });
      await using driver = aDriver(cluster);
      const { volume } = await driver.createVolume(request(all));
      expect(metaOf(cluster, imageOf(volume.volumeId))).toEqual({});
    }
  });
});

for (const [what, request] of copies) {
  describe(`copies of ${what}`, () => {
    test(`a copy of ${what} has the data of that moment, and writes to either do not reach the other`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const { volume } = await driver.createVolume(request(all));
      const source = cluster.image("rbd", imageOf(all.volumeId));
      source.write(0n, MIB_4);
      expect(read(cluster, imageOf(volume.volumeId))).toEqual(all.data);
      const before = read(cluster, imageOf(all.volumeId));
      cluster.image("rbd", imageOf(volume.volumeId)).write(0n, MIB_4);
      expect(read(cluster, imageOf(all.volumeId))).toEqual(before);
    });

    test(`CreateVolume answers with the source, the size and the place of a copy of ${what}`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const asked = request(all);
      const { volume } = await driver.createVolume(asked);
      expect(volume).toMatchObject({
        capacityBytes: GIB,
        contentSource: asked.volumeContentSource,
        volumeContext: { ...PARAMETERS, imageName: imageOf(volume.volumeId), journalPool: "rbd" },
        accessibleTopology: [],
      });
    });

    test(`a repeated request for a copy of ${what} gets the same answer from any driver, and changes nothing`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const first = await driver.createVolume(request(all, { capacityRange: { requiredBytes: 2n * GIB } }));
      const before = cluster.dump();
      await using other = aDriver(cluster);
      for (const each of [driver, other]) {
        expect(await each.createVolume(request(all, { capacityRange: { requiredBytes: 2n * GIB } }))).toEqual(first);
      }
      expect(cluster.dump()).toEqual(before);
    });

    test(`a copy of ${what} grows to the size that the request asks for, and has exactly the source's blocks`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const capacityRange = { requiredBytes: 3n * GIB };
      const { volume } = await driver.createVolume(request(all, { capacityRange }));
      expect(volume.capacityBytes).toBe(3n * GIB);
      expect(cluster.image("rbd", imageOf(volume.volumeId)).sizeBytes).toBe(3n * GIB);
      expect(read(cluster, imageOf(volume.volumeId))).toEqual(all.data);
    });

    test(`CreateVolume refuses a copy of ${what} that is smaller than its source`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster, { capacityRange: { requiredBytes: 2n * GIB } });
      const before = cluster.dump();
      const failure = await failureOf(driver.createVolume(request(all)));
      expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringMatching(/^capacity_range /) });
      expect(cluster.dump()).toEqual(before);
    });

    test(`CreateVolume makes a read-only copy of ${what}, because a copy is not empty`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const volumeCapabilities = [mounted(Mode.MULTI_NODE_READER_ONLY)];
      const { volume } = await driver.createVolume(request(all, { volumeCapabilities }));
      expect(read(cluster, imageOf(volume.volumeId))).toEqual(all.data);
    });

    test(`a copy of ${what} survives the deletion of its source, and its own deletion leaves nothing behind`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const { volume } = await driver.createVolume(request(all));
      await driver.deleteVolume(deletion(all.volumeId));
      await driver.deleteSnapshot(snapshotDeletion(all.snapshotId));
      cluster.runManager();
      expect(read(cluster, imageOf(volume.volumeId))).toEqual(all.data);
      await driver.deleteVolume(deletion(volume.volumeId));
      await settled(cluster);
      expect(poolDump(cluster)).toEqual({ objects: EMPTY_DIRECTORIES, images: {}, bareNames: {}, trash: {} });
    });

    test(`a copy of ${what} can be cloned, snapshotted and restored in turn`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const first = await driver.createVolume(request(all));
      const second = await driver.createVolume(cloneOf(first.volume.volumeId, { name: "pvc-second" }));
      const { snapshotId } = await readySnapshot(driver, snapshotOf(second.volume.volumeId, { name: "snap-second" }));
      const third = await driver.createVolume(restoreOf(snapshotId, { name: "pvc-third" }));
      expect(read(cluster, imageOf(third.volume.volumeId))).toEqual(all.data);
    });

    test(`CreateVolume refuses a copy of ${what} that is encrypted, and never makes a plain volume of it`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const objects = cluster.namespace("rbd", "")?.objects;
      for (const kind of ["csi.volume", "csi.snap"]) {
        const id = kind === "csi.snap" ? all.snapshotId : all.volumeId;
        objects?.get(`${kind}.${uuidOf(id)}`)?.set("csi.volume.encryptKMS", "default");
      }
      const failure = await failureOf(driver.createVolume(request(all)));
      expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining("encrypted") });
    });

    test(`CreateVolume refuses a copy of ${what} in another RADOS namespace or another cluster`, async () => {
      const cluster = aCluster();
      const tenant = { ...EAST, clusterId: "tenant", radosNamespace: "tenant" };
      const west = { ...EAST, clusterId: "west", monitors: ["10.0.0.1:6789"] };
      await using driver = aDriver(cluster, { clusters: [EAST, tenant, west] });
      const all = await prepared(driver, cluster);
      for (const clusterID of ["tenant", "west"]) {
        const failure = await failureOf(
          driver.createVolume(request(all, { parameters: { ...PARAMETERS, clusterID } })),
        );
        expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining("east") });
      }
      expect(poolDump(cluster, "rbd", "tenant").images).toEqual({});
    });

    test(`CreateVolume makes a copy of ${what} under another clusterID of the same cluster`, async () => {
      const cluster = aCluster();
      const monitors = ["10.0.0.1:6789", "10.0.0.2:6789"];
      const east = { ...EAST, monitors };
      const alias = { ...EAST, clusterId: "alias", monitors: ["[v2:10.0.0.2:3300,v1:10.0.0.2:6789]", "10.0.0.1"] };
      await using driver = aDriver(cluster, { clusters: [east, alias] });
      const all = await prepared(driver, cluster);
      const { volume } = await driver.createVolume(request(all, { parameters: { ...PARAMETERS, clusterID: "alias" } }));
      expect(read(cluster, imageOf(volume.volumeId))).toEqual(all.data);
    });
  });
}

describe("taken names", () => {
  /** Each as the first, then all others: what makes a volume of another content is refused. */
  const contents: readonly (readonly [
    string,
    (all: Prepared & { other: Prepared }, more?: CreateInit) => ReturnType<typeof creation>,
  ])[] = [
    ["nothing", (_, more) => creation({ name: "pvc-copy", ...more })],
    ["the snapshot", ({ snapshotId }, more) => restoreOf(snapshotId, more)],
    ["the volume", ({ volumeId }, more) => cloneOf(volumeId, more)],
    ["another snapshot", ({ other }, more) => restoreOf(other.snapshotId, more)],
    ["another volume", ({ other }, more) => cloneOf(other.volumeId, more)],
  ];
  for (const [first, make] of contents) {
    for (const [second, ask] of contents) {
      // An empty volume has no parent, and neither has a copy that was flattened: the two can't be told apart.
      if (first === second || first === "nothing") continue;
      test(`CreateVolume does not give the name of a copy of ${first} to ${second === "nothing" ? "an empty volume" : `a copy of ${second}`}`, async () => {
        const cluster = aCluster();
        await using driver = aDriver(cluster);
        const one = await prepared(driver, cluster);
        const volumeId = await aVolume(driver, cluster, { name: "pvc-2" });
        const { snapshotId } = await readySnapshot(driver, snapshotOf(volumeId, { name: "snap-2" }));
        const all = { ...one, other: { volumeId, snapshotId, data: [] } };
        await driver.createVolume(make(all));
        const before = cluster.dump();
        expect(await codeOf(driver.createVolume(ask(all)))).toBe("ALREADY_EXISTS");
        expect(cluster.dump()).toEqual(before);
      });
    }
  }

  test("a repeated request for a copy that has grown gets the same volume, with its new size", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const { snapshotId } = await prepared(driver, cluster);
    const { volume } = await driver.createVolume(restoreOf(snapshotId));
    cluster.image("rbd", imageOf(volume.volumeId)).sizeBytes = 5n * GIB;
    const again = await driver.createVolume(restoreOf(snapshotId));
    expect(again.volume).toEqual({ ...volume, capacityBytes: 5n * GIB });
    expect(cluster.image("rbd", imageOf(volume.volumeId)).sizeBytes).toBe(5n * GIB);
  });

  test("a repeated request for a copy that was flattened gets the same volume", async () => {
    for (const [, request] of copies) {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const { volume } = await driver.createVolume(request(all));
      await byHand(cluster).flatten(imageOf(volume.volumeId));
      expect(await driver.createVolume(request(all))).toMatchObject({ volume });
    }
  });

  test("a repeated request for a copy whose source is deleted gets the same volume", async () => {
    for (const [, request] of copies) {
      const cluster = aCluster();
      await using driver = aDriver(cluster);
      const all = await prepared(driver, cluster);
      const { volume } = await driver.createVolume(request(all));
      await driver.deleteSnapshot(snapshotDeletion(all.snapshotId));
      await driver.deleteVolume(deletion(all.volumeId));
      expect(await driver.createVolume(request(all))).toMatchObject({ volume });
    }
  });
});

test("R22: images that only hold data for others keep it in the source's data pool, also when they are flattened", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster, { flags: { minsnapshotsonimage: 1 } });
  const id = await aVolume(driver, cluster, { parameters: { ...PARAMETERS, dataPool: "ec" } });
  const { snapshotId } = await readySnapshot(driver, snapshotOf(id));
  const { volume } = await driver.createVolume(cloneOf(id));
  const stored = cluster.storedBytes("rbd");
  await byHand(cluster).flatten(holderOf(snapshotId));
  await byHand(cluster).flatten(`${imageOf(volume.volumeId)}-temp`);
  expect(cluster.storedBytes("rbd")).toBe(stored);
  expect(cluster.storedBytes("ec")).toBe(3n * MIB_4);
});
