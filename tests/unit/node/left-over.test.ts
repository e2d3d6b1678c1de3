/** A call that fails over what an earlier one left: it says that its outcome is unknown while something is there. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { CephFailed } from "../../../lib/ceph/errors.ts";
import { HostUnexplained } from "../../../lib/host/errors.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { definite, interceptedHost, NOT_FINAL } from "../../support/host-faults.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import {
  aNode,
  anEncryptedNode,
  crashing,
  ENCRYPTED,
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

/** The k-th call to Ceph or the host fails, and certainly did nothing. */
const failingAt = (host: MemoryNode, k: number) => {
  let begun = 0;
  let failed: string | undefined;
  const around = <A, E>(name: string, act: Effect.Effect<A, E>, failure: E): Effect.Effect<A, E> => {
    begun += 1;
    if (begun !== k) return act;
    failed = name;
    return Effect.fail(failure);
  };
  return {
    host: interceptedHost(hostMemoryService(host), ({ method }, act) => around(`Host.${method}`, act, definite)),
    ceph: intercepted(cephMemoryService(host.cluster), ({ method }, act) =>
      around(`Ceph.${method}`, act, cephDefinite),
    ),
    /** Which call failed; `undefined`: there were fewer than k. */
    failed: () => failed,
  };
};

const cephDefinite = new CephFailed({ op: "x", subject: "y", errno: 5, reason: "Input/output error" });

const kinds: Readonly<Record<string, { make: typeof aNode; asked: Parameters<typeof staging>[0] }>> = {
  "a filesystem": { make: aNode, asked: {} },
  "raw block": { make: aNode, asked: { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) } },
  "rbd-nbd": { make: aNode, asked: { volumeContext: { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" } } },
  "an encrypted device": { make: anEncryptedNode, asked: ENCRYPTED },
};

describe("NodeStageVolume after a driver that was killed", () => {
  for (const [what, { make, asked }] of Object.entries(kinds)) {
    test(`of ${what}: what fails while something of the volume is there is not final, and an unstage removes it`, async () => {
      const told = new Set<string>();
      for (const moment of ["before", "after"] as const) {
        for (let death = 1; death < 90; death++) {
          let died: string | undefined;
          for (let k = 1; ; k++) {
            const { host } = await make();
            const untouched = host.dump();
            const killed = crashing(host, death, moment);
            {
              await using first = nodeOn(host, killed);
              await first.stage(staging(asked)).catch((error: unknown) => {
                if (killed.crashedAt() === undefined) throw error;
              });
            }
            died = killed.crashedAt();
            if (died === undefined) break;
            const time = virtualTime();
            const faulty = failingAt(host, k);
            await using second = nodeOn(host, { ...faulty, time });
            const failure = await failureOf(time.until(second.stage(staging(asked))));
            const failed = faulty.failed();
            if (failed === undefined) break;
            const isGone = Bun.deepEquals(host.dump(), untouched);
            const isTold = failure === undefined || isGone || NOT_FINAL.includes(failure.code);
            if (failure !== undefined && !isGone) told.add(failed);
            expect({ died, moment, failed, isTold, failure }).toMatchObject({ isTold: true });
            await using last = nodeOn(host, { time });
            await time.until(last.unstage(unstaging()));
            expect([died, moment, failed, host.dump().mapped, host.dump().mounts]).toEqual([
              died,
              moment,
              failed,
              [],
              [],
            ]);
          }
          if (died === undefined) break;
        }
      }
      expect([...told]).toEqual(expect.arrayContaining(["Host.mountTable", "Host.unmap", "Ceph.imageStatus"]));
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

/** A node on which a stage left the image mapped. */
const halfStaged = async () => {
  const world = await aNode();
  const host = interceptedHost(hostMemoryService(world.host), ({ method }, act) =>
    method === "mount" || method === "unmap" ? Effect.fail(definite) : act,
  );
  await using driver = nodeOn(world.host, { host });
  expect(await codeOf(driver.stage(staging()))).toBe("UNAVAILABLE");
  return world;
};

describe("NodeStageVolume that is refused", () => {
  test("for its secrets over a half-staged volume: not final, and it names the secret", async () => {
    const { host } = await halfStaged();
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(staging({ secrets: {} })));
    expect(failure?.code).toBe("UNAVAILABLE");
    expect(failure?.message).toContain("userID");
    expect(failure?.message).toContain("/dev/rbd0");
    expect(failure?.message).toContain("NodeUnstageVolume removes it");
  });

  test("for its secrets over a volume that pods use: not final", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    expect(await codeOf(driver.stage(staging({ secrets: {} })))).toBe("UNAVAILABLE");
  });

  test("where nothing of the volume is: final", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    expect(await codeOf(driver.stage(staging({ secrets: {} })))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(driver.stage(staging({ stagingTargetPath: "" })))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(driver.stage(staging({ stagingTargetPath: "/kubelet/nowhere" })))).toBe("INVALID_ARGUMENT");
  });

  test("because its staging path is gone, with its image mapped: not final", async () => {
    const { host } = await halfStaged();
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(staging({ stagingTargetPath: "/kubelet/nowhere" })));
    expect(failure?.code).toBe("UNAVAILABLE");
    expect(failure?.message).toContain("does not exist on this node");
    expect(failure?.message).toContain("/dev/rbd0");
  });
});

describe("NodePublishVolume after a driver that was killed", () => {
  const access = {
    "a filesystem": {},
    "raw block": { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) },
  };
  for (const [what, asked] of Object.entries(access)) {
    for (const readonly of [false, true]) {
      test(`of ${what}, readonly ${readonly}: what fails while the bind is there is not final, and an unpublish removes it`, async () => {
        const told = new Set<string>();
        const wanted = { ...asked, readonly };
        for (const moment of ["before", "after"] as const) {
          for (let death = 1; death < 60; death++) {
            let died: string | undefined;
            for (let k = 1; ; k++) {
              const { host } = await aNode();
              await using stager = nodeOn(host);
              await stager.stage(staging(asked));
              const { mounts } = host.dump();
              const killed = crashing(host, death, moment);
              {
                await using first = nodeOn(host, killed);
                await first.publish(publishing(wanted)).catch((error: unknown) => {
                  if (killed.crashedAt() === undefined) throw error;
                });
              }
              died = killed.crashedAt();
              if (died === undefined) break;
              const time = virtualTime();
              const faulty = failingAt(host, k);
              await using second = nodeOn(host, { ...faulty, time });
              const failure = await failureOf(time.until(second.publish(publishing(wanted))));
              const failed = faulty.failed();
              if (failed === undefined) break;
              const isGone = Bun.deepEquals(host.dump().mounts, mounts);
              const isTold = failure === undefined || isGone || NOT_FINAL.includes(failure.code);
              if (failure !== undefined && !isGone) told.add(failed);
              expect({ died, moment, failed, isTold, failure }).toMatchObject({ isTold: true });
              await using last = nodeOn(host, { time });
              await time.until(last.unpublish(unpublishing()));
              expect([died, moment, failed, host.dump().mounts]).toEqual([died, moment, failed, mounts]);
            }
            if (died === undefined) break;
          }
        }
        expect([...told]).toEqual(expect.arrayContaining(["Host.mountTable", "Host.mappedDevices"]));
      }, 60_000);
    }
  }
});

describe("NodePublishVolume over a bind of an earlier call", () => {
  /** A volume that is published writable, and a driver whose every `method` fails. */
  const published = async (...failing: readonly string[]) => {
    const { host } = await aNode();
    await using first = nodeOn(host);
    await first.stage(staging());
    await first.publish(publishing());
    let failed = false;
    const faulty = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      if (failing[0] !== method && !(failed && failing.includes(method))) return act;
      failed = true;
      return Effect.fail(definite);
    });
    return { host, driver: nodeOn(host, { host: faulty }) };
  };

  test("that it cannot complete: not final, and an unpublish removes the bind", async () => {
    const { host, driver } = await published("mount");
    await using second = driver;
    const failure = await failureOf(second.publish(publishing({ readonly: true })));
    expect(failure?.code).toBe("UNAVAILABLE");
    expect(failure?.message).toContain(`the mount at ${TARGET}`);
    expect(failure?.message).toContain("NodeUnpublishVolume removes it");
    await second.unpublish(unpublishing());
    await second.unstage(unstaging());
    expect([host.dump().mapped, host.dump().mounts]).toEqual([[], []]);
  });

  test("that it cannot complete, and cannot see any more: not final", async () => {
    const { driver } = await published("mount", "mountTable");
    await using second = driver;
    const failure = await failureOf(second.publish(publishing({ readonly: true })));
    expect(failure?.code).toBe("UNAVAILABLE");
    expect(failure?.message).toContain("may be there");
  });

  test("with a request that is refused: not final", async () => {
    const { host } = await published();
    await using second = nodeOn(host);
    const noCapability = publishing({ volumeCapability: undefined as never });
    expect(await codeOf(second.publish(noCapability))).toBe("UNAVAILABLE");
    await second.unpublish(unpublishing());
    expect(await codeOf(second.publish(noCapability))).toBe("INVALID_ARGUMENT");
  });
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
