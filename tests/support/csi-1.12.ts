/**
 * A caller that knows CSI 1.12 and nothing of 1.13: its messages are made from the golden table of 1.12, and share no
 * descriptor with the driver.
 *
 * Not here: a caller of 1.13, which is any client of lib/gen.
 */
import {
  create,
  createFileRegistry,
  createRegistry,
  type DescMessage,
  type DescService,
  fromBinary,
  type Message,
  type MessageInitShape,
  toBinary,
  toJsonString,
} from "@bufbuild/protobuf";
import {
  type DescriptorProto,
  DescriptorProtoSchema,
  type EnumDescriptorProto,
  EnumDescriptorProtoSchema,
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
  FieldDescriptorProtoSchema,
  FileDescriptorProtoSchema,
  FileDescriptorSetSchema,
  file_google_protobuf_timestamp,
  file_google_protobuf_wrappers,
} from "@bufbuild/protobuf/wkt";
import { file_csi } from "../../lib/gen/csi_pb.ts";
import table from "../golden/wire/csi-1.12.json";
import { client } from "./grpc-client.ts";

interface FieldRow {
  readonly n: number;
  readonly name: string;
  readonly type: string;
  readonly oneof?: string;
}
interface TypeRow {
  readonly message?: string;
  readonly enum?: string;
  readonly fields?: readonly FieldRow[];
  readonly values?: readonly { readonly n: number; readonly name: string }[];
}
const rows: readonly TypeRow[] = table.types;
const PACKAGE = table.package;
const enums = new Set(rows.flatMap((row) => (row.enum === undefined ? [] : [`${PACKAGE}.${row.enum}`])));

const SCALARS: Readonly<Record<string, Type>> = {
  string: Type.STRING,
  bool: Type.BOOL,
  int32: Type.INT32,
  int64: Type.INT64,
};

const typeOf = (name: string): { readonly type: Type; readonly typeName?: string } => {
  const scalar = SCALARS[name];
  if (scalar !== undefined) return { type: scalar };
  return { type: enums.has(name) ? Type.ENUM : Type.MESSAGE, typeName: `.${name}` };
};

const camelCase = (name: string): string => name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** The message that stands for an entry of a map, by protobuf's own convention for its name. */
const entryName = (field: string): string => camelCase(`_${field}_entry`);

const mapEntry = (field: string): DescriptorProto =>
  create(DescriptorProtoSchema, {
    name: entryName(field),
    options: { mapEntry: true },
    field: ["key", "value"].map((name, i) => ({
      name,
      jsonName: name,
      number: i + 1,
      label: Label.OPTIONAL,
      type: Type.STRING,
    })),
  });

const fieldOf = (message: string, oneofs: readonly string[], { n: number, name, type, oneof }: FieldRow) => {
  const isMap = type.startsWith("map<");
  const repeated = type.startsWith("repeated ");
  const of = isMap
    ? { type: Type.MESSAGE, typeName: `.${PACKAGE}.${message}.${entryName(name)}` }
    : typeOf(type.replace("repeated ", ""));
  const label = isMap || repeated ? Label.REPEATED : Label.OPTIONAL;
  const inOneof = oneof === undefined ? {} : { oneofIndex: oneofs.indexOf(oneof) };
  return create(FieldDescriptorProtoSchema, { name, jsonName: camelCase(name), number, label, ...of, ...inOneof });
};

const shortName = (name: string): string => name.slice(name.lastIndexOf(".") + 1);
const isIn = (parent: string, name: string | undefined): name is string =>
  name !== undefined && name.startsWith(`${parent}.`) && !name.slice(parent.length + 1).includes(".");

const enumOf = ({ enum: name = "", values = [] }: TypeRow): EnumDescriptorProto =>
  create(EnumDescriptorProtoSchema, {
    name: shortName(name),
    value: values.map((value) => ({ name: value.name, number: value.n })),
  });

const messageOf = ({ message = "", fields = [] }: TypeRow): DescriptorProto => {
  const oneofs = [...new Set(fields.flatMap(({ oneof }) => oneof ?? []))];
  return create(DescriptorProtoSchema, {
    name: shortName(message),
    field: fields.map((field) => fieldOf(message, oneofs, field)),
    oneofDecl: oneofs.map((name) => ({ name })),
    nestedType: [
      ...rows.filter((row) => isIn(message, row.message)).map(messageOf),
      ...fields.filter(({ type }) => type.startsWith("map<")).map(({ name }) => mapEntry(name)),
    ],
    enumType: rows.filter((row) => isIn(message, row.enum)).map(enumOf),
  });
};

const isTop = (name: string | undefined): boolean => name !== undefined && !name.includes(".");

const file = create(FileDescriptorProtoSchema, {
  name: "csi-1.12.proto",
  package: PACKAGE,
  syntax: "proto3",
  dependency: [file_google_protobuf_timestamp.proto.name, file_google_protobuf_wrappers.proto.name],
  messageType: rows.filter(({ message }) => isTop(message)).map(messageOf),
  enumType: rows.filter((row) => isTop(row.enum)).map(enumOf),
  service: table.services.map(({ service: name, rpcs }) => ({
    name,
    method: rpcs.map((rpc) => ({ name: rpc.rpc, inputType: `.${rpc.request}`, outputType: `.${rpc.response}` })),
  })),
});

const of12 = createFileRegistry(
  create(FileDescriptorSetSchema, {
    file: [file_google_protobuf_timestamp.proto, file_google_protobuf_wrappers.proto, file],
  }),
);
const of13 = createRegistry(file_csi);

const service12 = (name: string): DescService => {
  const found = of12.getService(`${PACKAGE}.${name}`);
  if (found === undefined) throw new Error(`CSI 1.12 has no service ${name}`);
  return found;
};

/** What a caller of 1.12 makes of a message, as JSON with every field that it knows. */
export const asJson12 = (schema: DescMessage, bytes: Uint8Array): unknown => {
  const known = of12.getMessage(schema.typeName);
  if (known === undefined) throw new Error(`CSI 1.12 has no message ${schema.typeName}`);
  return JSON.parse(toJsonString(known, fromBinary(known, bytes), { registry: of12, alwaysEmitImplicit: true }));
};

export interface Condition {
  readonly abnormal: boolean;
  readonly message: string;
}

/** The volume_condition that a caller of 1.12 reads in a message of the driver's. */
export const conditionOf = (message: Message | undefined): Condition | undefined => {
  const schema = message && of13.getMessage(message.$typeName);
  if (message === undefined || schema === undefined) return undefined;
  return (asJson12(schema, toBinary(schema, message)) as { volumeCondition?: Condition }).volumeCondition;
};

/** A client of one service of CSI 1.12; it answers what it can read of a response, as JSON. */
export const caller12 = (service: "Identity" | "Controller" | "Node", endpoint: string) => {
  const { close, ...calls } = client(service12(service), endpoint);
  const call = async (rpc: string, request: MessageInitShape<DescMessage> = {}): Promise<unknown> => {
    const method = service12(service).method[rpc];
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a client has one function for each unary RPC
    const ask = calls[rpc] as ((asked: MessageInitShape<DescMessage>) => Promise<Message>) | undefined;
    if (method === undefined || ask === undefined) throw new Error(`CSI 1.12 has no RPC ${rpc}`);
    return asJson12(method.output, toBinary(method.output, await ask(request)));
  };
  return { call, close };
};
