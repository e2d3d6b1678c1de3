/**
 * The EncryptionKeyRotation service of CSI-Addons, which nodes serve: a new key for an encrypted volume that is in use.
 *
 * Here is the wire only. Not here: what the RPC does (lib/node/rotate-key.ts).
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import {
  EncryptionKeyRotationController,
  type EncryptionKeyRotateRequest,
  EncryptionKeyRotateRequestSchema,
} from "../lib/gen/csi_addons_encryptionkeyrotation_pb.ts";
import { Capability_EncryptionKeyRotation_Type as Offered } from "../lib/gen/csi_addons_identity_pb.ts";
import { served, type ServiceImpl } from "../lib/grpc/service.ts";
import { rotateKey, type RotateSpec } from "../lib/node/rotate-key.ts";
import { readVolumeContext } from "../lib/node/volume-context.ts";
import { stage } from "../lib/operations/pipeline.ts";
import { mutating } from "../lib/operations/rpc.ts";
import { remark } from "../lib/operations/remark.ts";
import { role } from "../lib/process/role.ts";
import { volumesLayer, type World } from "../lib/process/world.ts";
import type { AddOn } from "./csi-addons.ts";
import { byVolume, credentials } from "./fields.ts";
import { volumeIdOf } from "./node-fields.ts";

const rotateSpec = Effect.fnUntraced(function* (request: EncryptionKeyRotateRequest) {
  const volumeId = yield* volumeIdOf(request.volumeId);
  const who = yield* credentials(request.secrets, { allowMigration: true });
  // Without a context that says more, the volume is one of a journal, which knows all that is needed.
  const asked = readVolumeContext(volumeId, request.parameters);
  const context = yield* Effect.fromResult(Result.isSuccess(asked) ? asked : readVolumeContext(volumeId, {}));
  if (request.encryptionKey !== "") yield* remark(["encryption_key is not used: the driver makes the new key itself"]);
  const spec: RotateSpec = { volumeId, context, credentials: who, secrets: request.secrets };
  return spec;
});

export const keyRotationOfNode = () =>
  ({
    encryptionKeyRotate: mutating("EncryptionKeyRotate", EncryptionKeyRotateRequestSchema, byVolume, (request) =>
      Effect.as(Effect.flatMap(stage("validate", rotateSpec(request)), rotateKey), {}),
    ),
  }) satisfies ServiceImpl<typeof EncryptionKeyRotationController, unknown>;

export const keyRotation = (world: World) =>
  ({
    role: role({
      name: "key rotation",
      layer: Layer.merge(volumesLayer(world), world.host),
      serves: [served(EncryptionKeyRotationController, keyRotationOfNode())],
    }),
    offers: [{ type: { case: "encryptionKeyRotation" as const, value: { type: Offered.ENCRYPTIONKEYROTATION } } }],
  }) satisfies AddOn;
