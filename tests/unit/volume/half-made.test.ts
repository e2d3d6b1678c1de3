/** A CreateVolume that fails over an image of an earlier one is not final, so that the provisioner does not forget the name. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { CephFailed } from "../../../lib/ceph/errors.ts";
import { crashAt, intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { NOT_FINAL } from "../../support/host-faults.ts";
import { aDriver } from "../../support/one-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { aCluster, creation, deletion, failureOf, poolDump } from "../../support/world.ts";

const definite = new CephFailed({ op: "x", subject: "y", errno: 5, reason: "Input/output error" });

test("after a driver that was killed, whatever fails: final only where no image is, and the next call makes the volume", async () => {
  let told = 0;
  for (const moment of ["before", "after"] as const) {
    for (let death = 1; ; death++) {
      let died = false;
      for (let k = 1; ; k++) {
        const cluster = aCluster();
        const { service, crashed } = crashAt(cephMemoryService(cluster), death, moment);
        {
          await using dying = aDriver(cluster, { ceph: service });
          await dying.createVolume(creation()).catch(() => {});
        }
        died = crashed();
        if (!died) break;
        let failed = false;
        const ceph = intercepted(cephMemoryService(cluster), ({ n }, act) => {
          if (n !== k) return act;
          failed = true;
          return Effect.fail(definite);
        });
        const time = virtualTime();
        await using faulty = aDriver(cluster, { ceph, time });
        const failure = await failureOf(time.until(faulty.createVolume(creation())));
        if (!failed) break;
        const images = Object.keys(poolDump(cluster).images);
        // A look that fails first of all has seen nothing.
        const sawNothing = failure?.message.includes('stage "find"') === true;
        const isTold = failure === undefined || images.length === 0 || sawNothing || NOT_FINAL.includes(failure.code);
        expect({ moment, death, k, failure, isTold }).toMatchObject({ isTold: true });
        if (failure?.message.includes("Of an earlier call there is") === true) told += 1;
        await using sound = aDriver(cluster, { time });
        const { volume } = await time.until(sound.createVolume(creation()));
        await time.until(sound.deleteVolume(deletion(volume.volumeId)));
      }
      if (!died) break;
    }
  }
  expect(told).toBeGreaterThan(1);
});
