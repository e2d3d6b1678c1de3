/**
 * Copies of a volume that grows between two attempts: a driver dies at each of its calls, the source grows, and the next
 * driver answers with the size that the copy has, or leaves nothing of it.
 */
import { describe, expect, test } from "bun:test";
import { crashAt, type Moment } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { aVolume, cloneOf, imageOf, read, settled, snapshotsOf, THROUGH } from "../../support/copies-world.ts";
import { aDriver } from "../../support/one-world.ts";
import {
  aCluster,
  deletion,
  expansion,
  failureOf,
  GIB,
  objectsOf,
  poolDump,
  poolDumpWithoutMakers,
} from "../../support/world.ts";

const size = (gib: bigint) => ({ capacityRange: { requiredBytes: gib * GIB } });

/** A volume of 1 GiB, a copy of which was cut off at the call; then the volume grows to 2 GiB. -> `undefined`: it was not cut off. */
const cutOff = async (flags: Record<string, number>, gib: bigint, k: number, moment: Moment) => {
  const cluster = aCluster();
  await using driver = aDriver(cluster, { flags });
  const volumeId = await aVolume(driver, cluster);
  const { service, crashed } = crashAt(cephMemoryService(cluster), k, moment);
  await using dying = aDriver(cluster, { ceph: service, flags });
  const request = cloneOf(volumeId, size(gib));
  await dying.createVolume(request).catch(() => {});
  if (!crashed()) return undefined;
  await driver.expandVolume(expansion(volumeId, size(2n)));
  return { cluster, volumeId, request };
};

for (const [way, flags] of [
  ["a copy", {}],
  ["a copy by way of an image in between", THROUGH],
] as const) {
  describe(`${way} whose source grew since it was cut off`, () => {
    for (const moment of ["before", "after"] as const) {
      test(`It has the size that is answered (${moment} each call)`, async () => {
        let retries = 0;
        for (let k = 1; ; k++) {
          const at = await cutOff(flags, 2n, k, moment);
          if (at === undefined) break;
          await using driver = aDriver(at.cluster, { flags });
          const { volume } = await driver.createVolume(at.request);
          const image = at.cluster.image("rbd", imageOf(volume.volumeId));
          expect([k, volume.capacityBytes, image.sizeBytes]).toEqual([k, 2n * GIB, 2n * GIB]);
          expect(read(at.cluster, imageOf(volume.volumeId))).toEqual(read(at.cluster, imageOf(at.volumeId)));
          retries += 1;
        }
        expect(retries).toBeGreaterThan(10);
      });

      test(`Nothing is left of it if it would be smaller than its source (${moment} each call)`, async () => {
        let refused = 0;
        for (let k = 1; ; k++) {
          const at = await cutOff(flags, 1n, k, moment);
          if (at === undefined) break;
          const { cluster, volumeId } = at;
          await using driver = aDriver(cluster, { flags });
          const failure = await failureOf(driver.createVolume(at.request));
          // The death came behind what makes it complete.
          if (failure === undefined) continue;
          expect(failure).toMatchObject({
            code: "INVALID_ARGUMENT",
            message: expect.stringContaining("Ask for at least"),
          });
          expect([k, snapshotsOf(cluster, imageOf(volumeId)).filter((name) => name.startsWith("user"))]).toEqual([
            k,
            [],
          ]);
          expect([k, Object.keys(poolDump(cluster).images)]).toEqual([k, [imageOf(volumeId)]]);
          expect([...(objectsOf(cluster).get("csi.volumes.default")?.keys() ?? [])]).toEqual(["csi.volume.pvc-1"]);
          const { volume } = await driver.createVolume(cloneOf(volumeId, size(2n)));
          await driver.deleteVolume(deletion(volume.volumeId));
          refused += 1;
        }
        expect(refused).toBeGreaterThan(10);
      });
    }
  });
}

test("What was begun of another source stays when the source of the request is too large", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster);
  const volumeId = await aVolume(driver, cluster);
  const other = await aVolume(driver, cluster, { name: "pvc-2", ...size(2n) });
  for (let k = 1; ; k++) {
    const { service, crashed } = crashAt(cephMemoryService(cluster), k, "after");
    await using dying = aDriver(cluster, { ceph: service });
    await dying.createVolume(cloneOf(volumeId)).catch(() => {});
    if (!crashed()) throw new Error("no clone was made without an ID in the journal");
    const [copy] = Object.keys(poolDump(cluster).images).filter(
      (name) => name !== imageOf(volumeId) && name !== imageOf(other),
    );
    if (copy === undefined) continue;
    const before = poolDumpWithoutMakers(cluster);
    const failure = await failureOf(driver.createVolume(cloneOf(other)));
    expect(failure).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining(`image rbd/${copy}`) });
    expect(poolDumpWithoutMakers(cluster)).toEqual(before);
    break;
  }
  const { volume } = await driver.createVolume(cloneOf(volumeId));
  expect(read(cluster, imageOf(volume.volumeId))).toEqual(read(cluster, imageOf(volumeId)));
  await settled(cluster);
});
