/**
 * The volume condition of CSI 1.12, which 1.13 has given up: field 2 of three responses, and the capability
 * VOLUME_CONDITION of the Controller and the Node.
 *
 * Not here: how a volume is (lib/listing/volume-health.ts, lib/node/health.ts), and VolumeHealth, which takes its place (./volume-health.ts).
 *
 * 1. Nothing in a call says which version its caller speaks, so every caller gets the condition and the capability. 1.13
 *    reserves the numbers: its callers skip a field and a capability that they do not know, and neither number can ever
 *    mean something else.
 * 2. A response has the bytes that a driver of 1.12 sends.
 */
import { create, type DescMessage, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { VolumeConditionSchema } from "../gen/csi_1_12_pb.ts";
import type {
  ControllerServiceCapability_RPC_Type as ControllerRpc,
  NodeServiceCapability_RPC_Type as NodeRpc,
} from "../gen/csi_pb.ts";

const NUMBERS: { readonly controller: number; readonly node: number } = { controller: 11, node: 4 };

/** The number of the capability VOLUME_CONDITION of CSI 1.12 in each service. */
// oxlint-disable-next-line typescript/no-unsafe-enum-assignment -- an enum of proto3 is open: it takes any number
export const VOLUME_CONDITION: { readonly controller: ControllerRpc; readonly node: NodeRpc } = NUMBERS;

/** The number of the field volume_condition of CSI 1.12, the same in all three messages. */
const FIELD = 2;

/** The message of a condition that is not abnormal. */
const HEALTHY_MESSAGE = "volume is in a healthy condition";

/** The message with its volume_condition. `fault` says for people what is wrong with the volume; absent: nothing is. */
export const withCondition = <D extends DescMessage>(
  schema: D,
  init: MessageInitShape<D>,
  fault: string | undefined,
): MessageShape<D> => {
  const condition = { abnormal: fault !== undefined, message: fault ?? HEALTHY_MESSAGE };
  const bytes = toBinary(VolumeConditionSchema, create(VolumeConditionSchema, condition));
  const data = new BinaryWriter().bytes(bytes).finish();
  const message = create(schema, init);
  message.$unknown = [{ no: FIELD, wireType: WireType.LengthDelimited, data }];
  return message;
};
