/** lib/grpc/mask.ts over every message of CSI: what is marked as secret is never shown, and the rest is. */
import { describe, expect, test } from "bun:test";
import {
  create,
  type DescField,
  type DescMessage,
  fromBinary,
  getOption,
  type Message,
  ScalarType,
} from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import {
  ControllerServiceCapability_RPC_Type,
  ControllerServiceCapabilitySchema,
  CreateVolumeRequestSchema,
  csi_secret,
  DeleteVolumeRequestSchema,
  file_csi,
  GetCapacityResponseSchema,
  ProbeResponseSchema,
  SnapshotSchema,
} from "../../../lib/gen/csi_pb.ts";
import { masked } from "../../../lib/grpc/mask.ts";

const MARK = "marker-5f3a";

/** Fills every field, at every depth; text below a secret field carries the mark, all other text is the field's name. */
const fill = (message: ReflectMessage, secret: boolean, depth: number): Message => {
  for (const field of message.fields) {
    // One member of a oneof is set; the last one wins.
    const hidden = secret || getOption(field, csi_secret);
    if (field.fieldKind === "map") {
      message
        .get(field)
        .set(field.mapKey === ScalarType.STRING ? `key of ${field.name}` : 1, valueFor(field, hidden, depth));
    } else if (field.fieldKind === "list") {
      const value = valueFor(field, hidden, depth);
      if (value !== undefined) message.get(field).add(value);
    } else {
      const value = valueFor(field, hidden, depth);
      if (value !== undefined) message.set(field, value);
    }
  }
  return message.message;
};

const valueFor = (field: DescField, hidden: boolean, depth: number): unknown => {
  if (field.message !== undefined) {
    if (depth > 6) return undefined;
    const inner = reflect(field.message);
    fill(inner, hidden, depth + 1);
    return inner;
  }
  if (field.enum !== undefined) return field.enum.values.at(-1)?.number;
  const samples: { readonly [type: number]: unknown } = {
    3: 7n,
    5: 7,
    8: true,
    9: hidden ? MARK : `text of ${field.name}`,
  };
  return samples[field.scalar ?? 0];
};

const everyMessage = (messages: readonly DescMessage[]): DescMessage[] =>
  messages.flatMap((message) => [message, ...everyMessage(message.nestedMessages)]);

const secretFields = (message: DescMessage): DescField[] =>
  message.fields.filter((field) => getOption(field, csi_secret));

describe("every message of csi.v1", () => {
  const all = everyMessage(file_csi.messages);

  test("The test covers every message of csi.v1, and finds 22 secret fields", () => {
    expect(all.length).toBeGreaterThan(80);
    expect(all.flatMap(secretFields)).toHaveLength(22);
  });

  test.each(all.map((message) => [message.typeName, message] as const))("A masked %s shows no secret", (_, schema) => {
    const message = fill(reflect(schema), false, 0);
    const shown = JSON.stringify(masked(schema, message));
    expect(shown).not.toContain(MARK);
    expect(shown).not.toContain("undefined");
    for (const field of schema.fields) {
      const secret = getOption(field, csi_secret);
      if (field.fieldKind === "scalar" && field.scalar === ScalarType.STRING)
        expect(shown).toContain(`text of ${field.name}`);
      if (field.fieldKind === "map") expect(shown).toContain(`"key of ${field.name}":"${secret ? "***" : "text of"}`);
    }
  });

  test("A field without the secret option shows its value", () => {
    // The same filling, of a field that isn't secret: proves that the test above can fail.
    const request = create(DeleteVolumeRequestSchema, { volumeId: MARK });
    expect(JSON.stringify(masked(DeleteVolumeRequestSchema, request))).toContain(MARK);
  });
});

test("A masked message shows the fields that are set, by proto names, ready for JSON", () => {
  const request = create(CreateVolumeRequestSchema, {
    name: "pvc-1",
    capacityRange: { requiredBytes: 2n ** 62n },
    volumeCapabilities: [{ accessType: { case: "mount", value: { fsType: "ext4", mountFlags: ["noatime"] } } }],
    parameters: { pool: "rbd" },
    secrets: { userID: "admin", userKey: "AQ" },
  });
  expect(masked(CreateVolumeRequestSchema, request)).toEqual({
    name: "pvc-1",
    capacity_range: { required_bytes: "4611686018427387904" },
    volume_capabilities: [{ mount: { fs_type: "ext4", mount_flags: ["noatime"] } }],
    parameters: { pool: "rbd" },
    secrets: { userID: "***", userKey: "***" },
  });
});

test("A masked message names enum values, numbers unknown ones, and unwraps well-known types", () => {
  // { rpc { type: N } } on the wire.
  const capability = (type: number) =>
    masked(
      ControllerServiceCapabilitySchema,
      fromBinary(ControllerServiceCapabilitySchema, new Uint8Array([0x0a, 2, 0x08, type])),
    );
  expect(capability(ControllerServiceCapability_RPC_Type.EXPAND_VOLUME)).toEqual({ rpc: { type: "EXPAND_VOLUME" } });
  expect(capability(99)).toEqual({ rpc: { type: 99 } });
  expect(masked(ProbeResponseSchema, create(ProbeResponseSchema, { ready: false }))).toEqual({ ready: false });
  expect(masked(GetCapacityResponseSchema, create(GetCapacityResponseSchema, { maximumVolumeSize: 5n }))).toEqual({
    maximum_volume_size: "5",
  });
  expect(masked(SnapshotSchema, create(SnapshotSchema, { creationTime: { seconds: 9n } }))).toEqual({
    creation_time: { seconds: "9" },
  });
});

test("A masked message leaves unknown fields out", () => {
  const request = create(DeleteVolumeRequestSchema, { volumeId: "v" });
  request.$unknown = [{ no: 77, wireType: WireType.LengthDelimited, data: new TextEncoder().encode(MARK) }];
  expect(JSON.stringify(masked(DeleteVolumeRequestSchema, request))).toBe('{"volume_id":"v"}');
});
