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

/** What 1.13 has given up of 1.12: the golden table of 1.12 has it, and no table after it. */
const GIVEN_UP_MESSAGES = ["VolumeCondition"];
const GIVEN_UP_FIELD = [2, "volume_condition"];
const GIVEN_UP_VALUE = "VOLUME_CONDITION";

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

/** First and last number of each reserved range; protobuf has the end of a message's range one higher. */
const reservedIn = (desc: DescEnum | DescMessage) => {
  const last = desc.kind === "message" ? 1 : 0;
  const ranges = desc.proto.reservedRange.map(({ start, end }) => [start, end - last]);
  return ranges.length === 0 ? {} : { reserved: ranges };
};

const messageRows = (file: DescFile, message: DescMessage): Row[] => [
  {
    message: shortName(file, message),
    fields: message.fields.map(fieldRow),
    ...optionsOf(message),
    ...reservedIn(message),
  },
  ...message.nestedMessages.flatMap((nested) => messageRows(file, nested)),
  ...message.nestedEnums.map((nested) => enumRow(file, nested)),
];

const enumRow = (file: DescFile, desc: DescEnum) => ({
  enum: shortName(file, desc),
  values: desc.values.map((value) => ({ n: value.number, name: value.name, ...optionsOf(value) })),
  ...optionsOf(desc),
  ...reservedIn(desc),
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

const goldenTable = (name: string): Table =>
  JSON.parse(readFileSync(join(root, `tests/golden/wire/${name}.json`), "utf8"));

const CONTRACTS = [
  "csi",
  "csi_addons_encryptionkeyrotation",
  "csi_addons_fence",
  "csi_addons_identity",
  "csi_addons_reclaimspace",
  "pluginregistration",
];

describe.each(CONTRACTS)("proto/%s.proto", (name) => {
  const golden = goldenTable(name);
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

test("The golden tables hold five CSI services with 32 RPCs in 1.12 and 36 in 1.13, and mark secrets", () => {
  for (const [name, rpcsOf, secrets] of [
    ["csi-1.12", [3, 15, 4, 2, 8], 19],
    ["csi", [3, 17, 4, 2, 10], 22],
  ] as const) {
    const golden = goldenTable(name);
    expect(golden.services.map(({ rpcs }) => (Array.isArray(rpcs) ? rpcs.length : 0))).toEqual([...rpcsOf]);
    expect(JSON.stringify(golden.types).split('"csi_secret":true').length - 1).toBe(secrets);
  }
});

describe("proto/ against the golden table of CSI 1.12", () => {
  const old = goldenTable("csi-1.12");
  const rowsIn = (row: Row | undefined, part: string): readonly Row[] => {
    const rows = row?.[part];
    return Array.isArray(rows) ? rows : [];
  };
  const compiled = (file: string): Table => {
    const found = registry.getFile(file);
    if (found === undefined) throw new Error(`buf build made no ${file}`);
    return table(found);
  };

  test("proto/csi_1_12.proto has exactly the messages that 1.13 has given up", () => {
    const given = byName(compiled("csi_1_12.proto").types);
    expect(Object.keys(given)).toEqual(GIVEN_UP_MESSAGES);
    for (const name of GIVEN_UP_MESSAGES) expect(given[name]).toEqual(byName(old.types)[name]);
  });

  test("proto/csi.proto has every RPC, field and value of 1.12 but those that it reserves", () => {
    const [services, types] = [byName(compiled("csi.proto").services), byName(compiled("csi.proto").types)];
    for (const [name, row] of Object.entries(byName(old.services))) {
      expect(rowsIn(services[name], "rpcs")).toEqual(expect.arrayContaining([...rowsIn(row, "rpcs")]));
    }
    for (const [name, row] of Object.entries(byName(old.types))) {
      if (GIVEN_UP_MESSAGES.includes(name)) continue;
      const reserved = JSON.stringify(types[name]?.["reserved"] ?? []);
      const isGone = ({ n }: Row) => reserved === JSON.stringify([[n, n]]);
      for (const part of ["fields", "values"] as const) {
        const kept = rowsIn(row, part).filter((each) => !isGone(each));
        expect({ [name]: rowsIn(types[name], part) }).toEqual({ [name]: expect.arrayContaining([...kept]) });
        for (const gone of rowsIn(row, part).filter(isGone)) {
          if (part === "fields") expect([gone["n"], gone["name"]]).toEqual(GIVEN_UP_FIELD);
          else expect(gone["name"]).toBe(GIVEN_UP_VALUE);
        }
      }
    }
  });
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
