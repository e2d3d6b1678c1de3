/** A call that fails over what an earlier one left: it says that its outcome is unknown while something is there. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { HostFailed, HostUnexplained } from "../../../lib/host/errors.ts";
import type { HostService } from "../../../lib/host/host.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import {
  aNode,
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

/** After these kubelet comes back, or takes away what is there; after any other it takes the call for not made. */
const NOT_FINAL = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"];
const definite = new HostFailed({ op: "x", subject: "y", errno: 5, reason: "Input/output error" });

/** The k-th call to the host never ends, as where the driver is killed in it. */
const dyingAt = (host: MemoryNode, k: number, acts: boolean) => {
  let begun = 0;
  const died = Promise.withResolvers<void>();
  const service = interceptedHost(hostMemoryService(host), (_, act) => {
    begun += 1;
    if (begun < k) return act;
    const dead = Effect.andThen(Effect.sync(died.resolve), Effect.never);
    return begun === k && acts ? Effect.andThen(Effect.exit(act), dead) : dead;
  });
  return { service, died: died.promise };
};

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
      for (const acts of [false, true]) {
        for (let death = 1; death < 60; death++) {
          for (let k = 1; ; k++) {
            const { host } = await aNode();
            const killed = dyingAt(host, death, acts);
            const first = nodeOn(host, { host: killed.service });
            const whole = await Promise.race([
              first.stage(staging(more)).then(() => true),
              killed.died.then(() => false),
            ]);
            if (whole) break;
            const time = virtualTime();
            const { service, begun } = failingAt(host, k);
            await using second = nodeOn(host, { host: service, time });
            const failure = await failureOf(time.until(second.stage(staging(more))));
            const isTold = failure === undefined || isEmpty(host) || NOT_FINAL.includes(failure.code);
            expect({ death, acts, k, isTold, failure }).toMatchObject({ isTold: true });
            failures += failure === undefined ? 0 : 1;
            await using last = nodeOn(host, { time });
            await time.until(last.unstage(unstaging()));
            expect([death, acts, k, isEmpty(host)]).toEqual([death, acts, k, true]);
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
