/** What users write for the tools of a node: mapOptions, unmapOptions, and volumes that were made by hand. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import type { MapRequest } from "../../../lib/host/host.ts";
import { hostMemoryService, type MemoryNode, setDisk } from "../../support/host-memory.ts";
import {
  aNode,
  IMAGE,
  nodeOn,
  PLACE,
  publishing,
  STAGING,
  staging,
  STASH,
  TARGET,
  unpublishing,
  unstaging,
} from "../../support/node-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { aCluster, asBlock, creation, failureOf, GIB, mounted, PARAMETERS, seedImage } from "../../support/world.ts";

const context = (more: Readonly<Record<string, string>>) => ({
  volumeContext: { ...PARAMETERS, imageName: IMAGE, ...more },
});
const holdsFilesystem = (host: MemoryNode, more: { dirty?: boolean; type?: string } = {}) => {
  const image = host.cluster.image("rbd", IMAGE);
  image.hasData = true;
  setDisk(image, { kind: "filesystem", type: "ext4", sizeBytes: GIB, files: new Map([["data", "precious"]]), ...more });
};
const note = <A>(list: A[], value: A) => Effect.sync(() => void list.push(value));

/** A node that records what it maps and unmaps with. */
const recording = (host: MemoryNode) => {
  const inner = hostMemoryService(host);
  const maps: MapRequest[] = [];
  const unmaps: string[] = [];
  const mounts: string[] = [];
  const service: typeof inner = {
    ...inner,
    map: (request) => Effect.andThen(note(maps, request), inner.map(request)),
    unmap: (device, options) => Effect.andThen(note(unmaps, options), inner.unmap(device, options)),
    mount: (request) => Effect.andThen(note(mounts, request.options.join()), inner.mount(request)),
  };
  return { service, maps, unmaps, mounts };
};

describe("unmapOptions that rbd unmap does not take", () => {
  const options = "force,mount_timeout=30";

  test("NodeStageVolume refuses them, and nothing changes", async () => {
    const { host } = await aNode();
    const before = host.dump();
    await using driver = nodeOn(host);
    expect(await failureOf(driver.stage(staging(context({ unmapOptions: options }))))).toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringMatching(/unmapOptions.*mount_timeout/),
    });
    expect(host.dump()).toEqual(before);
  });

  test("NodeUnstageVolume unmaps a volume that was staged with them by those that are left", async () => {
    const { host } = await aNode();
    const before = host.dump();
    const { service, unmaps } = recording(host);
    await using driver = nodeOn(host, { host: service });
    await driver.stage(staging());
    const file = host.tree.get(STASH);
    const text = file?.kind === "file" ? file.text.replace('"unmapOptions":""', `"unmapOptions":"${options}"`) : "";
    expect(text).toContain(options);
    host.tree.set(STASH, { kind: "file", text });
    await driver.unstage(unstaging());
    expect(unmaps).toEqual(["force"]);
    expect(host.dump()).toEqual(before);
  });
});

describe("mapOptions", () => {
  test.each([
    ["krbd:foo=1", {}, "foo"],
    ["queue_depth=many", {}, "decimal number"],
    ["exclusive", { imageFeatures: "layering" }, "exclusive-lock"],
    ["lock_on_read", { imageFeatures: "layering" }, "exclusive-lock"],
  ])("CreateVolume refuses the mapOptions %j with %j, which no node would map", async (mapOptions, more, word) => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const parameters = { ...PARAMETERS, ...more, mapOptions };
    const failure = await failureOf(driver.createVolume(creation({ parameters })));
    expect(failure).toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringMatching(new RegExp(`mapOptions.*${word}`)),
    });
    expect(cluster.dump()).toEqual(aCluster().dump());
  });

  test("NodeStageVolume leaves an option that this driver does not know to the rbd tool of the node", async () => {
    const { host } = await aNode();
    const { service, maps } = recording(host);
    await using driver = nodeOn(host, { host: service });
    await driver.stage(staging(context({ mapOptions: "newer_option=1" })));
    expect(maps.map((each) => each.options)).toEqual(["newer_option=1"]);
  });

  test("The map option ro makes the volume read-only, as filesystem and raw, without being asked at publish", async () => {
    for (const volumeCapability of [mounted(Mode.SINGLE_NODE_WRITER), asBlock(Mode.SINGLE_NODE_WRITER)]) {
      const { host } = await aNode();
      holdsFilesystem(host);
      const { service, maps } = recording(host);
      await using driver = nodeOn(host, { host: service });
      const asked = { ...context({ mapOptions: "ro,notrim" }), volumeCapability };
      for (let times = 0; times < 2; times += 1) {
        await driver.stage(staging(asked));
        await driver.publish(publishing(asked));
      }
      expect(maps.map(({ options, readOnly }) => [options, readOnly])).toEqual([["notrim", true]]);
      expect(host.mounts.map(({ point, options }) => [point, options[0]])).toEqual([
        [PLACE, "ro"],
        [TARGET, "ro"],
      ]);
      await driver.unpublish(unpublishing());
      await driver.unstage(unstaging());
    }
  });

  test("The map option rw does not make the device of a reader's volume writable", async () => {
    const { host } = await aNode();
    holdsFilesystem(host);
    const { service, maps } = recording(host);
    await using driver = nodeOn(host, { host: service });
    const volumeCapability = mounted(Mode.MULTI_NODE_READER_ONLY);
    await driver.stage(staging({ ...context({ mapOptions: "rw" }), volumeCapability }));
    expect(maps.map(({ options, readOnly }) => [options, readOnly])).toEqual([["", true]]);
  });
});

describe("a filesystem whose journal is to be replayed", () => {
  test.each<[dirty: boolean, mode: Mode, mountFlags: string[], tried: string[]]>([
    [true, Mode.MULTI_NODE_READER_ONLY, [], ["_netdev,ro", "_netdev,ro,noload"]],
    [true, Mode.MULTI_NODE_READER_ONLY, ["norecovery"], ["_netdev,norecovery,ro"]],
    [true, Mode.SINGLE_NODE_READER_ONLY, [], ["_netdev,ro"]],
    [false, Mode.MULTI_NODE_READER_ONLY, [], ["_netdev,ro"]],
  ])(
    "A journal with changes %p, the mode %p and the flags %j: it is mounted with %j",
    async (dirty, mode, mountFlags, tried) => {
      const { host } = await aNode();
      holdsFilesystem(host, { dirty });
      const { service, mounts } = recording(host);
      await using driver = nodeOn(host, { host: service });
      const accessType = { case: "mount" as const, value: { fsType: "ext4", mountFlags } };
      await driver.stage(staging({ volumeCapability: { accessType, accessMode: { mode } } }));
      expect(mounts).toEqual(tried);
      expect(host.files(PLACE).get("data")).toBe("precious");
    },
  );
});

describe("a static volume", () => {
  const more = { volumeId: "by-hand", volumeContext: { ...PARAMETERS, staticVolume: "true" } };

  test("NodeStageVolume formats its image if it is blank, once, and it is published and unstaged", async () => {
    const { host } = await aNode();
    await seedImage(host.cluster, "by-hand");
    await using driver = nodeOn(host);
    const before = host.dump();
    for (let times = 0; times < 2; times += 1) {
      await driver.stage(staging(more));
      expect(host.mounts.map(({ point, fsType }) => [point, fsType])).toEqual([[`${STAGING}/by-hand`, "ext4"]]);
      await driver.unstage(unstaging({ volumeId: "by-hand" }));
    }
    expect(host.formatted).toHaveLength(1);
    expect(host.dump()).toEqual(before);
  });

  test("NodeStageVolume does not format its image if it holds data, is in use, or is for readers", async () => {
    const { host } = await aNode();
    const image = await seedImage(host.cluster, "by-hand").then(() => host.cluster.image("rbd", "by-hand"));
    const before = host.dump();
    await using driver = nodeOn(host);
    const volumeCapability = mounted(Mode.SINGLE_NODE_READER_ONLY);
    expect((await failureOf(driver.stage(staging({ ...more, volumeCapability }))))?.message).toContain("blank");
    image.hasData = true;
    expect(await failureOf(driver.stage(staging(more)))).toMatchObject({
      code: "FAILED_PRECONDITION",
      message: expect.stringContaining("holds data"),
    });
    expect([host.formatted, host.dump()]).toEqual([[], before]);
  });
});
