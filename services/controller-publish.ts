/**
 * The RPCs of the CSI Controller service that give a volume to a node and take it away. They are offered with
 * `--enable-fencing` only: without it there is nothing to do, and Kubernetes attaches by itself.
 *
 * Here is the wire only. Not here: what an RPC does (lib/fencing).
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { DriverSettings } from "../lib/config/settings.ts";
import { readCapability } from "../lib/csi/capability.ts";
import { Unserved } from "../lib/csi/errors.ts";
import { PUBLISHED_ACCOUNTS } from "../lib/csi/service-accounts.ts";
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
import { byVolume, text } from "./fields.ts";

const isFencing = Effect.map(DriverSettings, ({ fencing }) => fencing);

const proveOffered = (volumeId: string) =>
  Effect.flatMap(isFencing, (fencing) =>
    fencing
      ? Effect.void
      : Effect.fail(new Unserved({ volumeId, reason: "needs no attachment: --enable-fencing is not set" })),
  );

const publishRequest = Effect.fnUntraced(function* (request: ControllerPublishVolumeRequest) {
  const volumeId = yield* text("volume_id", request.volumeId);
  const nodeId = yield* text("node_id", request.nodeId);
  yield* Effect.fromResult(readCapability("volume_capability", request.volumeCapability));
  yield* proveOffered(volumeId);
  const { secrets, volumeContext } = request;
  // A context that no node takes leads to no static image: its stage says what is wrong with it.
  const context = readVolumeContext(volumeId, volumeContext);
  const isStatic = Result.isSuccess(context) && context.success.fixed !== undefined;
  return { volumeId, nodeId, secrets, isStatic };
});

const unpublishRequest = Effect.fnUntraced(function* (request: ControllerUnpublishVolumeRequest) {
  const volumeId = yield* text("volume_id", request.volumeId);
  yield* proveOffered(volumeId);
  const { nodeId, secrets } = request;
  return { volumeId, nodeId, secrets };
});

export const publishing = {
  controllerPublishVolume: mutating(
    "ControllerPublishVolume",
    ControllerPublishVolumeRequestSchema,
    byVolume,
    (request) =>
      Effect.map(Effect.flatMap(stage("validate", publishRequest(request)), attachVolume), (accounts) => ({
        publishContext: accounts === "" ? {} : { [PUBLISHED_ACCOUNTS]: accounts },
      })),
  ),
  controllerUnpublishVolume: mutating(
    "ControllerUnpublishVolume",
    ControllerUnpublishVolumeRequestSchema,
    byVolume,
    (request) => Effect.as(Effect.flatMap(stage("validate", unpublishRequest(request)), detachVolume), {}),
  ),
} satisfies ServiceImpl<typeof Controller, unknown>;

export const publishingOffered = Effect.map(isFencing, (fencing) =>
  fencing ? [Offered.PUBLISH_UNPUBLISH_VOLUME] : [],
);
