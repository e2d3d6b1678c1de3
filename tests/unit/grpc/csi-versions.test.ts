/**
 * One socket, and callers of two versions: one made from the golden table of CSI 1.12, one from proto/. Requests and
 * responses pass as bytes through a real gRPC server.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type Message, toBinary } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import { VOLUME_CONDITION, withCondition } from "../../../lib/csi/volume-condition.ts";
import {
  Controller,
  ControllerGetVolumeResponse_VolumeStatusSchema,
  ControllerServiceCapability_RPC_Type as ControllerOffered,
  ListVolumesResponse_VolumeStatusSchema,
  Node,
  NodeGetVolumeStatsResponseSchema,
  NodeServiceCapability_RPC_Type as NodeOffered,
  VolumeUsage_Unit as Unit,
} from "../../../lib/gen/csi_pb.ts";
import { served } from "../../../lib/grpc/service.ts";
import { makeHealing } from "../../../lib/node/healing.ts";
import { makeClientRecord } from "../../../lib/node/client-record.ts";
import { makePodLimits } from "../../../lib/node/io-limits.ts";
import { makePublishedNodeRecord } from "../../../lib/node/published-node-record.ts";
import { node } from "../../../services/node.ts";
import { caller12 } from "../../support/csi-1.12.ts";
import { client } from "../../support/grpc-client.ts";
import { type Served, serving } from "../../support/grpc-serving.ts";
import { LISTING } from "../../support/listing-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { aCluster, creation } from "../../support/world.ts";

const BROKEN = "the image is gone";

/** The messages and capabilities of the driver's own answers; the driver in memory makes them. */
const answers = async () => {
  await using driver = aDriver(aCluster(), LISTING);
  await driver.createVolume(creation());
  return { list: await driver.listVolumes(), capabilities: await driver.capabilities() };
};

let server: Served;
const PARTS = {
  nodeId: "node-1",
  record: makePublishedNodeRecord("node-1", undefined),
  clients: makeClientRecord("node-1", false, Effect.succeed(undefined)),
  healing: makeHealing(Effect.succeed({ staged: [], volumeIds: [] })),
  limits: makePodLimits(Effect.succeed({ staged: [] })),
};

beforeAll(async () => {
  const { list, capabilities } = await answers();
  const status = withCondition(ControllerGetVolumeResponse_VolumeStatusSchema, { publishedNodeIds: ["n"] }, BROKEN);
  const usage = { usage: [{ unit: Unit.BYTES, total: 5n }] };
  server = await serving({
    services: [
      served(Controller, {
        listVolumes: () => Effect.succeed(list),
        controllerGetVolume: () => Effect.succeed({ volume: { volumeId: "v" }, status }),
        controllerGetCapabilities: () => Effect.succeed(capabilities),
      }),
      served(Node, {
        nodeGetVolumeStats: () => Effect.succeed(withCondition(NodeGetVolumeStatsResponseSchema, usage, undefined)),
        nodeGetCapabilities: node(PARTS).nodeGetCapabilities,
      }),
    ],
  });
});
afterAll(() => server.stop());

const HEALTHY = { abnormal: false, message: "volume is in a healthy condition" };
const fieldsBeyond = (message: Message | undefined) => message?.$unknown?.map(({ no }) => no);

describe("a caller of CSI 1.12", () => {
  test("A caller of CSI 1.12 reads the volume condition in every message that has it in 1.12", async () => {
    const controller = caller12("Controller", server.endpoint);
    const nodes = caller12("Node", server.endpoint);
    try {
      expect(await controller.call("listVolumes")).toMatchObject({
        entries: [{ volume: { capacityBytes: "1073741824" }, status: { volumeCondition: HEALTHY } }],
      });
      expect(await controller.call("controllerGetVolume", { volumeId: "v" })).toMatchObject({
        status: { publishedNodeIds: ["n"], volumeCondition: { abnormal: true, message: BROKEN } },
      });
      expect(await nodes.call("nodeGetVolumeStats", { volumeId: "v" })).toMatchObject({
        usage: [{ unit: "BYTES", total: "5" }],
        volumeCondition: HEALTHY,
      });
    } finally {
      controller.close();
      nodes.close();
    }
  });

  test("A caller of CSI 1.12 reads VOLUME_CONDITION, and has no name for the capabilities of 1.13", async () => {
    const controller = caller12("Controller", server.endpoint);
    const nodes = caller12("Node", server.endpoint);
    try {
      const offered = await controller.call("controllerGetCapabilities");
      const types = (offered as { capabilities: { rpc: { type: unknown } }[] }).capabilities.map(({ rpc }) => rpc.type);
      expect(types).toContain("VOLUME_CONDITION");
      expect(types.filter((type) => typeof type === "number")).toEqual([16, 17]);
      expect(JSON.stringify(await nodes.call("nodeGetCapabilities"))).toContain('"VOLUME_CONDITION"');
    } finally {
      controller.close();
      nodes.close();
    }
  });
});

describe("a caller of CSI 1.13", () => {
  test("A caller of CSI 1.13 keeps the volume condition apart as a field that it does not know", async () => {
    const controller = client(Controller, server.endpoint);
    const nodes = client(Node, server.endpoint);
    try {
      const { entries } = await controller.listVolumes({});
      expect(fieldsBeyond(entries[0]?.status)).toEqual([2]);
      const { volume, status } = await controller.controllerGetVolume({ volumeId: "v" });
      expect(volume?.volumeId).toBe("v");
      expect(status?.publishedNodeIds).toEqual(["n"]);
      expect(fieldsBeyond(status)).toEqual([2]);
      const stats = await nodes.nodeGetVolumeStats({ volumeId: "v" });
      expect(stats.usage).toMatchObject([{ unit: Unit.BYTES, total: 5n }]);
      expect(fieldsBeyond(stats)).toEqual([2]);
    } finally {
      controller.close();
      nodes.close();
    }
  });

  test("A caller of CSI 1.13 knows every capability but the two numbers that it reserves", async () => {
    const controller = client(Controller, server.endpoint);
    const nodes = client(Node, server.endpoint);
    try {
      const ofController = (await controller.controllerGetCapabilities({})).capabilities.map(({ type }) =>
        type.case === "rpc" ? type.value.type : 0,
      );
      const ofNode = (await nodes.nodeGetCapabilities({})).capabilities.map(({ type }) =>
        type.case === "rpc" ? type.value.type : 0,
      );
      expect(ofController).toContain(ControllerOffered.LIST_VOLUME_HEALTH);
      expect(ofController.filter((type) => ControllerOffered[type] === undefined)).toEqual([
        VOLUME_CONDITION.controller,
      ]);
      expect(ofNode.filter((type) => NodeOffered[type] === undefined)).toEqual([VOLUME_CONDITION.node]);
      expect(ofNode).toContain(NodeOffered.GET_VOLUME_HEALTH);
      expect(ofNode).toContain(NodeOffered.GET_STORAGE_HEALTH);
    } finally {
      controller.close();
      nodes.close();
    }
  });
});

test("A status with a volume condition has the bytes that CSI 1.12 gives it", () => {
  const message = withCondition(ListVolumesResponse_VolumeStatusSchema, { publishedNodeIds: ["n"] }, "bad");
  // 0a: field 1, text; 12: field 2, a message with 08: field 1, true, and 12: field 2, text.
  expect(Buffer.from(toBinary(ListVolumesResponse_VolumeStatusSchema, message)).toString("hex")).toBe(
    "0a016e120708011203626164",
  );
  const healthy = withCondition(ListVolumesResponse_VolumeStatusSchema, {}, undefined);
  const words = Buffer.from(HEALTHY.message).toString("hex");
  expect(Buffer.from(toBinary(ListVolumesResponse_VolumeStatusSchema, healthy)).toString("hex")).toBe(
    `12221220${words}`,
  );
});
