/**
 * Calls that fail or never answer, at every place of a stage: what is told to the caller fits what is left on the node,
 * and no volume waits for another.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { type HostError, HostStuck } from "../../../lib/host/errors.ts";
import { conditionOf } from "../../support/csi-1.12.ts";
import { definite, interceptedHost, NOT_FINAL } from "../../support/host-faults.ts";
import type { HostService } from "../../../lib/host/host.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import {
  aNode,
  nodeOn,
  OTHER_UUID,
  publishing,
  seedVolume,
  staging,
  statistics,
  unpublishing,
  unstaging,
  volumeIdOf,
} from "../../support/node-world.ts";
import { codeOf, failureOf, PARAMETERS } from "../../support/world.ts";
import { settled, virtualTime } from "../../support/virtual-time.ts";

const unknown = new HostStuck({ op: "x", subject: "y", reason: "x on y has not returned for 100 s" });

/** The k-th call and, if `forever`, all later ones of the kind fail; those that `acts` says happen all the same. */
const failing = (host: MemoryNode, k: number, error: HostError, acts: boolean) => {
  let begun = 0;
  let failed: keyof HostService | undefined;
  const service = interceptedHost(hostMemoryService(host), ({ method }, act) => {
    begun += 1;
    if (begun !== k) return act;
    failed = method;
    return Effect.andThen(acts ? Effect.exit(act) : Effect.void, Effect.fail(error));
  });
  return { service, failed: () => failed };
};

describe("a fault at each host call of NodeStageVolume", () => {
  for (const [what, error, acts] of [
    ["fails", definite, false],
    ["fails after it has acted", definite, true],
    ["does not answer", unknown, false],
    ["does not answer, and acts", unknown, true],
  ] as const) {
    test(`NodeStageVolume whose host call ${what} leaves a clean node or says that the node may not be clean; retry and unstage succeed`, async () => {
      for (let k = 1; k < 60; k++) {
        for (const healer of ["retry", "unstage"] as const) {
          const { host } = await aNode();
          const empty = host.dump();
          const { service, failed } = failing(host, k, error, acts);
          const failure = await failureOf(nodeOn(host, { host: service }).stage(staging()));
          const where = failed();
          if (where === undefined) {
            expect(k).toBeGreaterThan(10);
            return;
          }
          const left = JSON.stringify(host.dump()) !== JSON.stringify(empty);
          // Host.map promises that nothing is mapped after it has failed for certain.
          const broken = error === definite && acts && where === "map";
          const told = failure === undefined || !left || broken || NOT_FINAL.includes(failure.code);
          expect({ k, where, told, code: failure?.code }).toMatchObject({ k, where, told: true });
          await using next = nodeOn(host);
          if (healer === "retry") await next.stage(staging());
          await next.unstage(unstaging());
          expect({ k, where, ...host.dump() }).toEqual({ k, where, ...empty });
        }
      }
      throw new Error("more calls than thought");
    }, 20_000);
  }
});

describe("a host call that never answers", () => {
  test("A host call that never answers holds up its own volume only, and a second call learns who holds the volume", async () => {
    const { host } = await aNode();
    await seedVolume(host.cluster, OTHER_UUID);
    host.addDirectory("/kubelet/other");
    const hangs = interceptedHost(hostMemoryService(host), ({ method, subject }, act) =>
      method === "mount" && subject.includes("/kubelet/staging/") ? Effect.never : act,
    );
    const time = virtualTime();
    await using driver = nodeOn(host, { host: hangs, time });
    const stuck = failureOf(driver.stage(staging(), "100 seconds"));
    await settled();
    const operations = await driver.operations();
    expect(operations.running()).toMatchObject([{ rpc: "NodeStageVolume", stage: "mount" }]);
    const other = { volumeId: volumeIdOf(OTHER_UUID), stagingTargetPath: "/kubelet/other" };
    await driver.info();
    await driver.stage(staging({ ...other, volumeContext: PARAMETERS }));
    await driver.publish(publishing(other));
    await driver.stats(statistics({ volumeId: other.volumeId }));
    await driver.unpublish(unpublishing({ volumeId: other.volumeId }));
    await driver.unstage(unstaging(other));
    // all of that has taken no time, and the other one still hangs
    expect(operations.running()).toMatchObject([{ rpc: "NodeStageVolume", stage: "mount" }]);
    const first = await time.until(stuck);
    expect([first?.code, first?.message]).toEqual(["ABORTED", expect.stringContaining('(stage "mount")')]);
    const second = await failureOf(time.until(driver.unstage(unstaging(), "100 seconds")));
    expect([second?.code, second?.message]).toEqual(["ABORTED", expect.stringContaining("NodeStageVolume")]);
  });

  test("A host call that never answers in NodeGetVolumeStats is reported as an abnormal condition of that volume", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.publish(publishing());
    const dead = { ...hostMemoryService(host), usage: () => Effect.fail(unknown) };
    await using second = nodeOn(host, { host: dead });
    expect(conditionOf(await second.stats(statistics()))).toEqual({
      abnormal: true,
      message: expect.stringContaining("has not returned"),
    });
  });
});

describe("a failure of the undo", () => {
  test("A failed undo is reported as such, and the stash stays until the device is unmapped", async () => {
    const { host } = await aNode();
    const empty = host.dump();
    const service = interceptedHost(hostMemoryService(host), ({ method }, act) =>
      method === "mount" || method === "unmap" ? Effect.fail(definite) : act,
    );
    const failure = await failureOf(nodeOn(host, { host: service }).stage(staging()));
    expect([failure?.code, failure?.message]).toEqual([
      "UNAVAILABLE",
      expect.stringContaining("is there (image-meta.json)"),
    ]);
    expect(host.dump().mapped).toHaveLength(1);
    expect(host.dump().tree).toContain("/kubelet/staging/image-meta.json file");
    await using next = nodeOn(host);
    expect(await codeOf(next.unstage(unstaging()))).toBe("OK");
    expect(host.dump()).toEqual(empty);
  });
});
