/**
 * The contract in proto/ against the golden tables in tests/golden/wire, name by name and number by number, in both
 * directions; and lib/gen against what `buf generate` makes of proto/ now.
 *
 * The tables are data of the published contracts. They are compared with what `buf build` compiles, not with the
 * text, and not with lib/gen.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import {
  createFileRegistry,
  type DescEnum,
  type DescExtension,
  type DescField,
  type DescFile,
  type DescMessage,
  type DescMethod,
  type DescService,
  type FileRegistry,
  fromBinary,
  getOption,
  hasOption,
  ScalarType,
} from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";

const root = resolve(import.meta.dir, "../../..");
const bin = join(root, "node_modules/.bin");

type Row = Readonly<Record<string, unknown>>;
type Table = { readonly [Part in "services" | "types" | "extensions"]: readonly Row[] } & { readonly package: string };
type Options = Readonly<Record<string, unknown>>;

const buf = (...args: string[]): Uint8Array => {
  const run = Bun.spawnSync([join(bin, "buf"), ...args], {
    cwd: root,
    env: { ...process.env, PATH: `${bin}${delimiter}${process.env["PATH"]}` },
    timeout: 30_000,
  });
  if (run.exitCode !== 0) throw new Error(`buf ${args.join(" ")}: ${run.stderr.toString()}`);
  return run.stdout;
};

let registry: FileRegistry;
beforeAll(() => {
  registry = createFileRegistry(
    fromBinary(FileDescriptorSetSchema, buf("build", "--as-file-descriptor-set", "-o", "-")),
  );
}, 40_000);

/** Drops the key when there are no options, as the tables do. */
const withOptions = (options: Options): { options?: Options } => (Object.keys(options).length === 0 ? {} : { options });

/** Every option that the compiled file sets on something, by the extension's name. */
const optionsOf = (
  desc: DescEnum | DescField | DescMessage | DescMethod | DescService | DescEnum["values"][number],
) => {
  const found: Record<string, unknown> = {};
  for (const extension of registry) {
    if (extension.kind !== "extension" || !extendsOptionsOf(extension, desc)) continue;
    if (hasOption(desc, extension)) found[extension.name] = getOption(desc, extension);
  }
  return withOptions(found);
};

const EXTENDEE = {
  enum: "EnumOptions",
  enum_value: "EnumValueOptions",
  field: "FieldOptions",
  message: "MessageOptions",
  rpc: "MethodOptions",
  service: "ServiceOptions",
};

const extendsOptionsOf = (extension: DescExtension, desc: { readonly kind: keyof typeof EXTENDEE }): boolean =>
  extension.extendee.typeName === `google.protobuf.${EXTENDEE[desc.kind]}`;

const typeName = (field: DescField | DescExtension): string => {
  const one = (): string =>
    field.message?.typeName ?? field.enum?.typeName ?? ScalarType[field.scalar ?? 0]?.toLowerCase() ?? "?";
  if (field.fieldKind === "map") return `map<${ScalarType[field.mapKey].toLowerCase()},${one()}>`;
  return field.fieldKind === "list" ? `repeated ${one()}` : one();
};

const fieldRow = (field: DescField) => ({
  n: field.number,
  name: field.name,
  type: typeName(field),
  ...(field.oneof === undefined ? {} : { oneof: field.oneof.name }),
  ...optionsOf(field),
});

const shortName = (file: DescFile, desc: DescEnum | DescMessage) => desc.typeName.slice(file.proto.package.length + 1);

const messageRows = (file: DescFile, message: DescMessage): Row[] => [
  { message: shortName(file, message), fields: message.fields.map(fieldRow), ...optionsOf(message) },
  ...message.nestedMessages.flatMap((nested) => messageRows(file, nested)),
  ...message.nestedEnums.map((nested) => enumRow(file, nested)),
];

const enumRow = (file: DescFile, desc: DescEnum) => ({
  enum: shortName(file, desc),
  values: desc.values.map((value) => ({ n: value.number, name: value.name, ...optionsOf(value) })),
  ...optionsOf(desc),
});

const rpcRow = (method: DescMethod) => ({
  rpc: method.name,
  request: method.input.typeName,
  response: method.output.typeName,
  ...(method.proto.clientStreaming ? { clientStreaming: true } : {}),
  ...(method.proto.serverStreaming ? { serverStreaming: true } : {}),
  ...optionsOf(method),
});

/** A compiled file in the form of the tables. */
const table = (file: DescFile): Table => ({
  package: file.proto.package,
  services: file.services.map((service) => ({
    service: service.name,
    ...optionsOf(service),
    rpcs: service.methods.map(rpcRow),
  })),
  types: [
    ...file.messages.flatMap((message) => messageRows(file, message)),
    ...file.enums.map((desc) => enumRow(file, desc)),
  ],
  extensions: file.extensions.map((extension) => ({
    n: extension.number,
    name: extension.name,
    extends: extension.extendee.typeName,
    type: typeName(extension),
  })),
});

/** Rows by name, since their order in a file means nothing on the wire; that of fields within a row is kept. */
const byName = (rows: readonly Row[]): Readonly<Record<string, Row>> => {
  const named = rows.map(
    (row) => [String(row["service"] ?? row["message"] ?? row["enum"] ?? row["name"]), row] as const,
  );
  expect(new Set(named.map(([name]) => name)).size).toBe(rows.length);
  return Object.fromEntries(named);
};

describe.each(["csi", "pluginregistration"])("proto/%s.proto", (name) => {
  const golden: Table = JSON.parse(readFileSync(join(root, `tests/golden/wire/${name}.json`), "utf8"));
  const compiled = (): Table => {
    const file = registry.getFile(`${name}.proto`);
    if (file === undefined) throw new Error(`buf build made no ${name}.proto`);
    return table(file);
  };

  test(`proto/${name}.proto has the package of the golden table`, () => {
    expect(compiled().package).toBe(golden.package);
  });

  test.each(["services", "types", "extensions"] as const)(
    "The compiled proto file has exactly the %s of the golden table",
    (part) => {
      const [ours, theirs] = [byName(compiled()[part]), byName(golden[part])];
      expect(Object.keys(ours).toSorted()).toEqual(Object.keys(theirs).toSorted());
      for (const [row, want] of Object.entries(theirs)) expect({ [row]: ours[row] }).toEqual({ [row]: want });
    },
  );
});

test("The golden tables hold five CSI services with 32 RPCs, and mark secrets", () => {
  const golden: Table = JSON.parse(readFileSync(join(root, "tests/golden/wire/csi.json"), "utf8"));
  expect(golden.services.map(({ rpcs }) => (Array.isArray(rpcs) ? rpcs.length : 0))).toEqual([3, 15, 4, 2, 8]);
  expect(JSON.stringify(golden.types).split('"csi_secret":true').length - 1).toBe(19);
});

const files = (directory: string) =>
  Object.fromEntries(readdirSync(directory).map((file) => [file, readFileSync(join(directory, file), "utf8")]));

describe("lib/gen", () => {
  const fresh = mkdtempSync(join(tmpdir(), "csi-rbd-gen-"));
  afterAll(() => rmSync(fresh, { recursive: true }));
  test("lib/gen is what `npm run generate` makes of proto/", () => {
    buf("generate", "-o", fresh);
    const [now, committed] = [files(join(fresh, "lib/gen")), files(join(root, "lib/gen"))];
    expect(Object.keys(committed).toSorted()).toEqual(Object.keys(now).toSorted());
    for (const [file, text] of Object.entries(now)) expect(committed[file] === text, `${file} is stale`).toBe(true);
  }, 40_000);
});
