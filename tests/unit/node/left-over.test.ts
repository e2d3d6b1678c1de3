/** A call that fails over what an earlier one left: it says that its outcome is unknown while something is there. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { HostUnexplained } from "../../../lib/host/errors.ts";
import type { HostService } from "../../../lib/host/host.ts";
import { definite, interceptedHost, NOT_FINAL } from "../../support/host-faults.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import {
  aNode,
  crashing,
  IMAGE,
  nodeOn,
  publishing,
  staging,
  TARGET,
  unpublishing,
  unstaging,
} from "../../support/node-world.ts";
import { asBlock, codeOf, failureOf, PARAMETERS } from "../../support/world.ts";
import { virtualTime } from "../../support/virtual-time.ts";

/** The k-th call that changes something fails. */
const failingAt = (host: MemoryNode, k: number) => {
  let begun = 0;
  const changes: readonly (keyof HostService)[] = ["unmount", "unmap", "map", "mount", "writeText", "growFilesystem"];
  const service = interceptedHost(hostMemoryService(host), ({ method }, act) =>
    changes.includes(method) && (begun += 1) === k ? Effect.fail(definite) : act,
  );
  return { service, begun: () => begun };
};

const kinds = {
  "a filesystem": {},
  "raw block": { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) },
  "rbd-nbd": { volumeContext: { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" } },
} as const;

const isEmpty = (host: MemoryNode): boolean => {
  const { mapped, mounts } = host.dump() as {
    readonly mapped: readonly unknown[];
    readonly mounts: readonly unknown[];
  };
  return mapped.length === 0 && mounts.length === 0;
};

describe("NodeStageVolume after a driver that was killed", () => {
  for (const [what, more] of Object.entries(kinds)) {
    test(`of ${what}: what fails while something of the volume is there is not final, and an unstage removes it`, async () => {
      let failures = 0;
      for (const moment of ["before", "after"] as const) {
        for (let death = 1; death < 60; death++) {
          for (let k = 1; ; k++) {
            const { host } = await aNode();
            const killed = crashing(host, death, moment);
            {
              await using first = nodeOn(host, killed);
              await first.stage(staging(more)).catch((error: unknown) => {
                if (killed.crashedAt() === undefined) throw error;
              });
            }
            if (killed.crashedAt() === undefined) break;
            const time = virtualTime();
            const { service, begun } = failingAt(host, k);
            await using second = nodeOn(host, { host: service, time });
            const failure = await failureOf(time.until(second.stage(staging(more))));
            const isTold = failure === undefined || isEmpty(host) || NOT_FINAL.includes(failure.code);
            expect({ death, moment, k, isTold, failure }).toMatchObject({ isTold: true });
            failures += failure === undefined ? 0 : 1;
            await using last = nodeOn(host, { time });
            await time.until(last.unstage(unstaging()));
            expect([death, moment, k, isEmpty(host)]).toEqual([death, moment, k, true]);
            if (begun() < k) break;
          }
        }
      }
      expect(failures).toBeGreaterThan(20);
    }, 60_000);
  }

  test("an image that another node has got is not staged, and what is mapped here is not forgotten", async () => {
    const { host } = await aNode();
    const stuck = interceptedHost(hostMemoryService(host), ({ method }, act) =>
      method === "mount" ? Effect.fail(new HostUnexplained({ op: "mount", subject: "x", reason: "killed" })) : act,
    );
    await using first = nodeOn(host, { host: stuck });
    expect(await codeOf(first.stage(staging()))).toBe("UNAVAILABLE");
    host.cluster.image("rbd", IMAGE).watchers.add("10.0.0.9:0/1/client.7");
    const time = virtualTime();
    await using second = nodeOn(host, { time });
    const failure = await failureOf(time.until(second.stage(staging(), "20 seconds")));
    expect(failure?.code).toBe("UNAVAILABLE");
    expect(failure?.message).toContain("10.0.0.9");
    expect(failure?.message).toContain("NodeUnstageVolume removes it");
  });
});

test("NodePublishVolume that cannot complete a bind of an earlier call is not final, and an unpublish removes the bind", async () => {
  const { host } = await aNode();
  await using driver = nodeOn(host);
  await driver.stage(staging());
  await driver.publish(publishing());
  const failing = interceptedHost(hostMemoryService(host), ({ method }, act) =>
    method === "mount" ? Effect.fail(definite) : act,
  );
  await using second = nodeOn(host, { host: failing });
  const failure = await failureOf(second.publish(publishing({ readonly: true })));
  expect(failure?.code).toBe("UNAVAILABLE");
  expect(failure?.message).toContain(`the mount at ${TARGET} is left`);
  expect(failure?.message).toContain("NodeUnpublishVolume removes it");
  await driver.unpublish(unpublishing());
  await driver.unstage(unstaging());
  expect(isEmpty(host)).toBe(true);
});

test("NodePublishVolume of a volume that is not published stays final, whatever else is mounted at its target", async () => {
  const { host } = await aNode();
  await using driver = nodeOn(host);
  host.mount({
    major: 8,
    minor: 1,
    root: "/",
    point: TARGET,
    options: ["rw"],
    fsType: "ext4",
    source: "/dev/sda1",
    superOptions: ["rw"],
  });
  expect(await codeOf(driver.publish(publishing()))).toBe("FAILED_PRECONDITION");
});
