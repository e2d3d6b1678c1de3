/** A device that a reader has made read-only, and whose rbd-nbd process dies: the next process can write, as the first. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import { aNode, IMAGE, nodeOn, publishing, staging, TARGET, unpublishing } from "../../support/node-world.ts";
import { asBlock, PARAMETERS } from "../../support/world.ts";

const NBD = { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" };
const staged = (mode: Mode) => staging({ volumeContext: NBD, volumeCapability: asBlock(mode) });

/** What each new process is asked for. */
const watched = (host: MemoryNode) => {
  const inner = hostMemoryService(host);
  const asked: boolean[] = [];
  const service: typeof inner = {
    ...inner,
    attach: (device, request) =>
      Effect.suspend(() => {
        asked.push(request.readOnly);
        return inner.attach(device, request);
      }),
  };
  return { service, asked };
};

describe("a raw device of rbd-nbd whose process has died", () => {
  test("it gets one that can write where it was mapped for a writer, and the next writer is published", async () => {
    const { host } = await aNode();
    const { service, asked } = watched(host);
    await using driver = nodeOn(host, { host: service });
    const block = { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) };
    await driver.stage(staged(Mode.SINGLE_NODE_WRITER));
    await driver.publish(publishing({ ...block, readonly: true }));
    expect(host.mappings.get("/dev/nbd0")?.readOnly).toBe(true);
    host.killProcess("/dev/nbd0");
    await driver.stage(staged(Mode.SINGLE_NODE_WRITER));
    expect(asked).toEqual([false]);
    await driver.unpublish(unpublishing());
    await driver.publish(publishing(block));
    expect(host.mappings.get("/dev/nbd0")?.readOnly).toBe(false);
    expect(host.mounts.filter(({ point }) => point === TARGET)).toHaveLength(1);
  });

  test("it gets one that only reads where it was mapped for readers", async () => {
    const { host } = await aNode();
    const { service, asked } = watched(host);
    await using driver = nodeOn(host, { host: service });
    await driver.stage(staged(Mode.MULTI_NODE_READER_ONLY));
    host.killProcess("/dev/nbd0");
    await driver.stage(staged(Mode.MULTI_NODE_READER_ONLY));
    expect(asked).toEqual([true]);
  });
});
