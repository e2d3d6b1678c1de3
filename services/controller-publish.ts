/**
 * The RPCs of the CSI Controller service that give a volume to a node and take it away. Without `--enable-fencing` they have
 * nothing to do, and are offered all the same, as by ceph-csi: an attacher that was told otherwise would not take its
 * finalizers off what it has attached, and a provisioner would delete volumes that are attached.
 *
 * Here is the wire only. Not here: what an RPC does (lib/fencing).
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { DriverSettings } from "../lib/config/settings.ts";
import { readCapability } from "../lib/csi/capability.ts";
import { VolumeNotFound } from "../lib/csi/errors.ts";
import { requiredNodeId } from "../lib/csi/request-fields.ts";
import { PUBLISHED_ACCOUNTS } from "../lib/csi/service-accounts.ts";
import { volumeKind } from "../lib/csi/volume-id.ts";
import { attachVolume } from "../lib/fencing/attach.ts";
import { detachVolume } from "../lib/fencing/detach.ts";
import {
  type Controller,
  type ControllerPublishVolumeRequest,
  ControllerPublishVolumeRequestSchema,
  ControllerServiceCapability_RPC_Type as Offered,
  type ControllerUnpublishVolumeRequest,
  ControllerUnpublishVolumeRequestSchema,
} from "../lib/gen/csi_pb.ts";
import type { ServiceImpl } from "../lib/grpc/service.ts";
import { readVolumeContext } from "../lib/node/volume-context.ts";
import { stage } from "../lib/operations/pipeline.ts";
import { mutating } from "../lib/operations/rpc.ts";
import { byVolume, volumeIdText } from "./fields.ts";

const publishRequest = Effect.fnUntraced(function* (request: ControllerPublishVolumeRequest) {
  const volumeId = yield* volumeIdText("volume_id", request.volumeId);
  const nodeId = yield* Effect.fromResult(requiredNodeId("node_id", request.nodeId));
  yield* Effect.fromResult(readCapability("volume_capability", request.volumeCapability));
  const { secrets, volumeContext } = request;
  // A context that no node takes leads to no static image: its stage says what is wrong with it.
  const context = readVolumeContext(volumeId, volumeContext);
  const isStatic = Result.isSuccess(context) && context.success.fixed !== undefined;
  if (Result.isSuccess(context) && !isStatic && volumeKind(volumeId) === "other") {
    return yield* new VolumeNotFound({
      volumeId,
      reason: "no driver has given that ID, and its context names no image",
    });
  }
  return { volumeId, nodeId, secrets, isStatic };
});

const unpublishRequest = Effect.fnUntraced(function* (request: ControllerUnpublishVolumeRequest) {
  const volumeId = yield* volumeIdText("volume_id", request.volumeId);
  const { nodeId, secrets } = request;
  return { volumeId, nodeId, secrets };
});

/** A request that is right, and what it asks for, which is `otherwise` without fencing. */
const withFencing = <A, B, E, F, R, S>(
  request: Effect.Effect<A, E, R>,
  act: (request: A) => Effect.Effect<B, F, S>,
  otherwise: B,
) =>
  Effect.gen(function* () {
    const asked = yield* request;
    const { fencing } = yield* DriverSettings;
    return fencing ? yield* act(asked) : otherwise;
  });

export const publishing = {
  controllerPublishVolume: mutating(
    "ControllerPublishVolume",
    ControllerPublishVolumeRequestSchema,
    byVolume,
    (request) =>
      Effect.map(withFencing(stage("validate", publishRequest(request)), attachVolume, ""), (accounts) => ({
        publishContext: accounts === "" ? {} : { [PUBLISHED_ACCOUNTS]: accounts },
      })),
  ),
  controllerUnpublishVolume: mutating(
    "ControllerUnpublishVolume",
    ControllerUnpublishVolumeRequestSchema,
    byVolume,
    (request) => Effect.as(withFencing(stage("validate", unpublishRequest(request)), detachVolume, undefined), {}),
  ),
} satisfies ServiceImpl<typeof Controller, unknown>;

export const publishingOffered = [Offered.PUBLISH_UNPUBLISH_VOLUME];
