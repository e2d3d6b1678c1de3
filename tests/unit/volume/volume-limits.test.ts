/** The limits of I/O of a volume through its life: CreateVolume, ControllerModifyVolume, ControllerExpandVolume, copies. */
import { describe, expect, test } from "bun:test";
import { crashAt } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { readySnapshot, restoreOf, snapshotOf } from "../../support/copies-world.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aCluster,
  creation,
  deletion,
  expansion,
  failureOf,
  GIB,
  modification,
  PARAMETERS,
  seed,
  seedImage,
  uuidOf,
} from "../../support/world.ts";

type Strings = Readonly<Record<string, string>>;

const metaOf = (cluster: MemoryCluster, volumeId: string): Strings =>
  Object.fromEntries(cluster.image("rbd", `csi-vol-${uuidOf(volumeId)}`).meta);

const POD = ".rbd.csi.ceph.com/cgroup_qos_max_";

/** A volume of 1 GiB. */
const aVolume = async (parameters: Strings = {}, mutableParameters: Strings = {}) => {
  const cluster = aCluster();
  const driver = aDriver(cluster);
  const request = creation({ parameters: { ...PARAMETERS, ...parameters }, mutableParameters });
  const { volume } = await driver.createVolume(request);
  const { volumeId } = volume;
  const meta = () => metaOf(cluster, volumeId);
  return {
    cluster,
    driver,
    request,
    volume,
    volumeId,
    meta,
    [Symbol.asyncDispose]: () => driver[Symbol.asyncDispose](),
  };
};

describe("CreateVolume", () => {
  test("CreateVolume keeps the limits of both classes on the image, and those of the VolumeAttributesClass win", async () => {
    await using at = await aVolume({ maxReadIops: "100", maxWriteIops: "200" }, { maxReadIops: "300" });
    expect(at.meta()).toEqual({
      [`${POD}read_iops`]: "300",
      [`${POD}write_iops`]: "200",
    });
    expect(at.volume.volumeContext).toMatchObject({ maxReadIops: "100", maxWriteIops: "200" });
    expect(at.driver.log.filter((line) => line.startsWith("parameter"))).toEqual([]);
  });

  test("CreateVolume for rbd-nbd sets librbd's limits for the size that the volume gets", async () => {
    const parameters = { mounter: "rbd-nbd", baseIops: "10", iopsPerGiB: "3", baseVolSizeBytes: "0", maxReadIops: "1" };
    await using at = await aVolume(parameters);
    expect(at.meta()).toEqual({
      rbd_base_qos_iops_limit: "10",
      rbd_iops_per_gib_limit: "3",
      rbd_base_qos_vol_size: "0",
      rbd_max_qos_read_iops_limit: "1",
      conf_rbd_qos_iops_limit: "13",
    });
  });

  test("a repeated CreateVolume does not take back what was modified since", async () => {
    await using at = await aVolume({ maxReadIops: "100" });
    await at.driver.modifyVolume(modification(at.volumeId, { maxReadIops: "5" }));
    const before = at.meta();
    await at.driver.createVolume(at.request);
    expect(at.meta()).toEqual(before);
  });

  test("a class whose limits are wrong and have no effect makes volumes, as before", async () => {
    await using at = await aVolume({ baseIops: "fast", maxReadIops: "100" });
    expect(at.meta()).toEqual({ [`${POD}read_iops`]: "100" });
    expect(at.driver.log.join("\n")).toContain('parameter baseIops: "fast" is no limit');
    const wrong = creation({ name: "pvc-2", parameters: { ...PARAMETERS, maxReadIops: "fast" } });
    expect(await failureOf(at.driver.createVolume(wrong))).toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  test("a volume that was half made for another class has the limits of the class that completes it", async () => {
    const cluster = aCluster();
    const asked = (limits: Strings) => creation({ parameters: { ...PARAMETERS, ...limits } });
    const dying = crashAt(cephMemoryService(cluster), 6, "after");
    {
      await using driver = aDriver(cluster, { ceph: dying.service });
      await failureOf(driver.createVolume(asked({ mounter: "rbd-nbd", baseIops: "9", maxBps: "1" }))).catch(() => {});
    }
    await using driver = aDriver(cluster);
    const { volume } = await driver.createVolume(asked({ maxReadIops: "5" }));
    expect(dying.crashed()).toBe(true);
    expect(metaOf(cluster, volume.volumeId)).toEqual({ [`${POD}read_iops`]: "5" });
  });

  test("a restore has the limits of its own class, and none of its source", async () => {
    await using at = await aVolume({ mounter: "rbd-nbd", baseIops: "10", maxIops: "20" });
    const { snapshotId } = await readySnapshot(at.driver, snapshotOf(at.volumeId));
    const plain = await at.driver.createVolume(restoreOf(snapshotId));
    expect(Object.keys(metaOf(at.cluster, plain.volume.volumeId)).filter((key) => key.includes("qos"))).toEqual([]);
    const limited = restoreOf(snapshotId, {
      name: "pvc-3",
      parameters: { ...PARAMETERS, mounter: "rbd-nbd", baseIops: "7" },
    });
    const { volume } = await at.driver.createVolume(limited);
    const limits = Object.entries(metaOf(at.cluster, volume.volumeId)).filter(([key]) => key.includes("qos"));
    expect(Object.fromEntries(limits)).toEqual({ rbd_base_qos_iops_limit: "7", conf_rbd_qos_iops_limit: "7" });
  });
});

describe("ControllerModifyVolume", () => {
  test("ControllerModifyVolume sets what the request names, and leaves the rest", async () => {
    await using at = await aVolume({ maxReadIops: "100", maxWriteBps: "9" });
    at.cluster.image("rbd", `csi-vol-${uuidOf(at.volumeId)}`).meta.set("owner", "somebody");
    const request = modification(at.volumeId, { maxReadIops: "max", maxWriteIops: "50", baseBps: "7" });
    expect(await at.driver.modifyVolume(request)).toEqual({});
    const after = {
      owner: "somebody",
      rbd_max_qos_write_iops_limit: "50",
      rbd_base_qos_bps_limit: "7",
      conf_rbd_qos_bps_limit: "7",
      [`${POD}read_iops`]: "max",
      [`${POD}write_iops`]: "50",
      [`${POD}write_bps`]: "9",
    };
    expect(at.meta()).toEqual(after);
    await at.driver.modifyVolume(request);
    expect(at.meta()).toEqual(after);
  });

  test("ControllerModifyVolume without limits changes nothing, and takes the names that a sidecar adds", async () => {
    await using at = await aVolume({ maxReadIops: "100" });
    const before = at.cluster.dump();
    await at.driver.modifyVolume(modification(at.volumeId, {}));
    await at.driver.modifyVolume(modification(at.volumeId, { "csi.storage.k8s.io/pvc/name": "data", maxReadIops: "" }));
    expect(at.cluster.dump()).toEqual(before);
  });

  test("ControllerModifyVolume changes a volume that ceph-csi made and limited, also while it is in use", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const uuid = "11111111-2222-4333-8444-555555555555";
    const id = await seedImage(cluster, `csi-vol-${uuid}`);
    seed(cluster, { [`csi.volume.${uuid}`]: { "csi.volname": "pvc-1", "csi.imageid": id } });
    const { meta } = cluster.image("rbd", `csi-vol-${uuid}`);
    const theirs = {
      rbd_base_qos_iops_limit: "1800",
      rbd_max_qos_iops_limit: "10000",
      rbd_iops_per_gib_limit: "12",
      rbd_base_qos_vol_size: "536870912",
      conf_rbd_qos_iops_limit: "1800",
    };
    for (const [key, value] of Object.entries(theirs)) meta.set(key, value);
    cluster.watch("rbd", `csi-vol-${uuid}`);
    const volumeId = `0001-0004-east-0000000000000002-${uuid}`;
    await driver.modifyVolume(modification(volumeId, { baseIops: "2000" }));
    expect(Object.fromEntries(meta)).toEqual({
      ...theirs,
      rbd_base_qos_iops_limit: "2000",
      conf_rbd_qos_iops_limit: "2000",
    });
    await driver.expandVolume(expansion(volumeId, { capacityRange: { requiredBytes: 101n * GIB } }));
    expect(meta.get("conf_rbd_qos_iops_limit")).toBe("3200");
  });

  test("ControllerModifyVolume answers NOT_FOUND for a volume that was deleted, and for one that never was", async () => {
    await using at = await aVolume();
    await at.driver.deleteVolume(deletion(at.volumeId));
    for (const id of [at.volumeId, "non-existing-volume-id"]) {
      for (const parameters of [{ maxReadIops: "1" }, {}]) {
        const failure = await failureOf(at.driver.modifyVolume(modification(id, parameters)));
        expect(failure).toMatchObject({ code: "NOT_FOUND", message: expect.stringContaining(id) });
      }
    }
  });

  test("ControllerModifyVolume does not answer NOT_FOUND when it cannot tell whether the volume exists", async () => {
    await using at = await aVolume();
    at.cluster.reachable = false;
    const failure = await failureOf(at.driver.modifyVolume(modification(at.volumeId, { maxReadIops: "1" })));
    expect(failure).toMatchObject({ code: "UNAVAILABLE" });
  });

  test("a kept limit that cannot be read is named, and growth goes on without it", async () => {
    await using at = await aVolume({ mounter: "rbd-nbd", baseIops: "10" });
    const { meta } = at.cluster.image("rbd", `csi-vol-${uuidOf(at.volumeId)}`);
    meta.set("rbd_base_qos_iops_limit", "many");
    const failure = await failureOf(at.driver.modifyVolume(modification(at.volumeId, { maxIops: "1" })));
    expect(failure).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining('has "many" as its metadata rbd_base_qos_iops_limit, which is no number'),
    });
    expect((await at.driver.expandVolume(expansion(at.volumeId))).capacityBytes).toBe(2n * GIB);
    expect(at.driver.log.join("\n")).toContain("the limits of I/O do not grow with the volume");
    await at.driver.modifyVolume(modification(at.volumeId, { baseIops: "11" }));
    expect(meta.get("conf_rbd_qos_iops_limit")).toBe("11");
  });
});
