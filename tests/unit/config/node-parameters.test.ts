/** What a node of this release would not stage, CreateVolume does not create: the same parameters, asked of both. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { FEATURE_BITS } from "../../../lib/ceph/feature-bits.ts";
import { parseNodeParameters } from "../../../lib/config/node-parameters.ts";
import { cephMemoryService, memoryAccess } from "../../support/ceph-memory/memory.ts";
import { aNode, IMAGE, nodeOn, staging } from "../../support/node-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { aCluster, creation, failureOf, GIB, PARAMETERS } from "../../support/world.ts";

const VALUES: Readonly<Record<string, readonly (readonly [value: string, accepted: boolean])[]>> = {
  encrypted: [
    ["false", true],
    ["0", true],
    ["", false],
    ["yes", false],
    [" true", false],
  ],
  mounter: [
    ["", true],
    ["rbd", true],
    ["rbd-nbd", true],
    ["krbd", true],
    ["RBD", true],
    ["fuse", true],
    ["a\nb", true],
  ],
  mapOptions: [
    ["", true],
    ["lock_on_read,notrim", true],
    ["krbd:ms_mode=secure;nbd:try-netlink", true],
    ["nbd:try-netlink", true],
    ["lock_on_read,\n  notrim\n", true],
    ["fuse:x", false],
    ["lock_on_read\0", false],
  ],
  unmapOptions: [
    ["force", true],
    ["noudev,force", true],
    ["nbd:force", true],
    ["nbd:mount_timeout=30;force", true],
    ["force,mount_timeout=30", false],
    ["krbd:exclusive", false],
    ["force\n", true],
    ["fuse:force", false],
    ["force\0", false],
  ],
  mkfsOptions: [
    ["", true],
    ["-m0 -L data", true],
    ["-L\0", false],
    ["-m0\n-L data\n", true],
    ["-L\v", false],
  ],
};

describe("parameters of CreateVolume and NodeStageVolume", () => {
  for (const [key, values] of Object.entries(VALUES)) {
    test.each(values)(`CreateVolume and NodeStageVolume agree on ${key}=%j`, async (value, accepted) => {
      const cluster = aCluster();
      await using controller = aDriver(cluster);
      const created = await failureOf(
        controller.createVolume(creation({ parameters: { ...PARAMETERS, [key]: value } })),
      );
      const { host } = await aNode();
      await using node = nodeOn(host);
      const volumeContext = { ...PARAMETERS, imageName: IMAGE, [key]: value };
      const staged = await failureOf(node.stage(staging({ volumeContext })));
      if (accepted) {
        expect([created, staged]).toEqual([undefined, undefined]);
        return;
      }
      for (const failure of [created, staged]) {
        expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining(key) });
      }
      expect(cluster.dump()).toEqual(aCluster().dump());
    });
  }

  test("CreateVolume and NodeStageVolume refuse the feature journaling, which the kernel does not map", async () => {
    const cluster = aCluster();
    await using controller = aDriver(cluster);
    const parameters = { ...PARAMETERS, imageFeatures: "exclusive-lock,journaling" };
    const created = await failureOf(controller.createVolume(creation({ parameters })));
    expect(created).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining("imageFeatures") });
    const { cluster: other, host } = await aNode();
    const pool = { access: memoryAccess, pool: "rbd", namespace: "" };
    const features = FEATURE_BITS["exclusive-lock"] | FEATURE_BITS.journaling;
    await Effect.runPromise(cephMemoryService(other).imageCreate(pool, "journaled", { sizeBytes: GIB, features }));
    await using node = nodeOn(host);
    const volumeContext = { ...PARAMETERS, staticVolume: "true" };
    const staged = await failureOf(node.stage(staging({ volumeId: "journaled", volumeContext })));
    expect(staged).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("journaling") });
  });
});

test("A volume whose mounter is unknown is the kernel's, and the log of create and of stage warns of it", async () => {
  const warning = 'parameter mounter: "krbd" is not a mounter, so the kernel maps the volume: write rbd or rbd-nbd';
  await using controller = aDriver(aCluster());
  await controller.createVolume(creation({ parameters: { ...PARAMETERS, mounter: "krbd" } }));
  expect(controller.log).toContain(warning);
  const { host } = await aNode();
  await using node = nodeOn(host);
  await node.stage(staging({ volumeContext: { ...PARAMETERS, imageName: IMAGE, mounter: "krbd" } }));
  expect(node.log).toContain(warning);
});

test("A node gets the options of each mounter apart, and mkfs's arguments one by one", () => {
  const parameters = {
    mapOptions: "lock_on_read,\n notrim;\nnbd:try-netlink\n",
    unmapOptions: "force\n",
    mkfsOptions: " -m0  \n\t-K\r\n",
    cephLogDir: "/logs",
    cephLogStrategy: "compress",
    tryOtherMounters: "true",
  };
  expect(Result.getOrThrow(parseNodeParameters(parameters))).toEqual({
    mounter: "rbd",
    tryOtherMounters: true,
    mapOptions: { krbd: "lock_on_read,notrim", nbd: "try-netlink" },
    unmapOptions: { krbd: "force", nbd: "" },
    logDir: "/logs",
    logStrategy: "compress",
    mkfsOptions: ["-m0", "-K"],
    encryption: undefined,
    cipher: { arguments: [] },
    remarks: [],
  });
  expect(Result.getOrThrow(parseNodeParameters({ mounter: "rbd-nbd" }))).toEqual({
    mounter: "rbd-nbd",
    tryOtherMounters: false,
    mapOptions: { krbd: "", nbd: "" },
    unmapOptions: { krbd: "", nbd: "" },
    logDir: "/var/log/ceph",
    logStrategy: "remove",
    mkfsOptions: undefined,
    encryption: undefined,
    cipher: { arguments: [] },
    remarks: [],
  });
});
