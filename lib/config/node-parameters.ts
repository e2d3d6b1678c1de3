/**
 * The StorageClass parameters that a node acts on. NodeStageVolume reads them from volume_context, which is a copy of
 * the class's parameters, and CreateVolume reads them by the same schema: a volume that no node of this release stages
 * is not created.
 *
 * Not here: parameters of the image (./parameters.ts), and what makes a volume static (lib/node/volume-context.ts).
 *
 * 1. A mounter other than rbd-nbd is the kernel's, as in ceph-csi, with a remark.
 */
import { resolve } from "node:path";
import * as Result from "effect/Result";
import * as z from "zod";
import { hasControl, oneLine } from "../text/printable.ts";
import { type Cipher, CIPHER_PARAMETERS, readCipher } from "./cipher.ts";
import { type Encryption, ENCRYPTION_PARAMETERS, hasHeader, readEncryption } from "./encryption.ts";
import { InvalidParameter } from "./errors.ts";
import { mapsReadOnly, refusalOfUnmapOptions } from "./krbd-options.ts";
import { type MapOptions, NO_MAP_OPTIONS, parseMapOptions } from "./map-options.ts";
import { nbdMapsReadOnly } from "./nbd-options.ts";
import { bool, type ParameterMap, read, readParameters, text } from "./parameter-kinds.ts";

/** What becomes of the log of a volume's rbd-nbd process once the volume is unmapped. */
export type LogStrategy = "remove" | "compress" | "preserve";

export interface NodeParameters {
  readonly mounter: "rbd" | "rbd-nbd";
  /** Whether rbd-nbd maps what the kernel's driver cannot. */
  readonly tryOtherMounters: boolean;
  /** Options of a map and of an unmap, for each mounter. */
  readonly mapOptions: MapOptions;
  readonly unmapOptions: MapOptions;
  /** Folder of the logs of rbd-nbd, an absolute path. */
  readonly logDir: string;
  readonly logStrategy: LogStrategy;
  /** Arguments that replace mkfs's default ones; `undefined` keeps those. */
  readonly mkfsOptions: readonly string[] | undefined;
  /** `undefined`: the volume is plain. */
  readonly encryption: Encryption | undefined;
  /** Of a volume that is encrypted as a whole device. */
  readonly cipher: Cipher;
  /** What has no effect, for the log. */
  readonly remarks: readonly string[];
}

const DEFAULT_LOG_DIR = "/var/log/ceph";

const options = read(parseMapOptions).default(NO_MAP_OPTIONS);

/** Words with blanks or line ends between them: a YAML block gives an argument a line, and always a final line end. */
const arguments_ = read((value) => {
  const words = value.split(/[ \t\r\n]+/).filter((word) => word !== "");
  if (words.some(hasControl)) return Result.fail("must not hold control characters");
  return Result.succeed(words.length === 0 ? undefined : words);
});

const schema = z.object({
  mounter: z.string().default("rbd"),
  tryOtherMounters: bool.default(false),
  mapOptions: options,
  unmapOptions: options,
  cephLogDir: text.default(""),
  cephLogStrategy: z.string().default(""),
  mkfsOptions: arguments_.optional(),
});
type Fields = z.output<typeof schema>;
/** The names of all parameters that a node reads. */
export const NODE_PARAMETERS: readonly string[] = [
  ...Object.keys(schema.shape),
  ...CIPHER_PARAMETERS,
  ...ENCRYPTION_PARAMETERS,
];

export const isLogStrategy = (word: string): word is LogStrategy => ["remove", "compress", "preserve"].includes(word);

const remarksOn = ({ mounter, cephLogStrategy }: Fields): readonly string[] => [
  ...(["", "rbd", "rbd-nbd"].includes(mounter)
    ? []
    : [`parameter mounter: ${oneLine(mounter)} is not a mounter, so the kernel maps the volume: write rbd or rbd-nbd`]),
  ...(cephLogStrategy === "" || isLogStrategy(cephLogStrategy)
    ? []
    : [
        `parameter cephLogStrategy: ${oneLine(cephLogStrategy)} is unknown, so logs are kept: write remove, compress or preserve`,
      ]),
];

const strategyOf = (word: string): LogStrategy => {
  if (word === "") return "remove";
  return isLogStrategy(word) ? word : "preserve";
};

/** An option that the tool does not take would leave the volume staged for ever. Those of the other mounter matter not. */
const refusalOf = (mounter: string, unmapOptions: MapOptions): InvalidParameter | undefined => {
  const reason = mounter === "rbd-nbd" ? undefined : refusalOfUnmapOptions(unmapOptions.krbd);
  return reason === undefined ? undefined : new InvalidParameter({ field: "unmapOptions", reason });
};

/** Reads what a node acts on. Names the first parameter that is wrong, or that this release does not serve. */
export const parseNodeParameters = (parameters: ParameterMap): Result.Result<NodeParameters, InvalidParameter> =>
  Result.gen(function* () {
    const fields = yield* readParameters(schema, parameters);
    const refusal = refusalOf(fields.mounter, fields.unmapOptions);
    if (refusal !== undefined) return yield* Result.fail(refusal);
    const cipher = yield* readCipher(parameters);
    const encryption = yield* readEncryption(parameters);
    return {
      mounter: fields.mounter === "rbd-nbd" ? "rbd-nbd" : "rbd",
      tryOtherMounters: fields.tryOtherMounters,
      mapOptions: fields.mapOptions,
      unmapOptions: fields.unmapOptions,
      logDir: resolve("/", fields.cephLogDir || DEFAULT_LOG_DIR),
      logStrategy: strategyOf(fields.cephLogStrategy),
      mkfsOptions: fields.mkfsOptions,
      encryption,
      cipher,
      remarks: remarksOn(fields),
    };
  });

/** Whether nodes write to a layer with integrity. */
export const writesTags = (parameters: NodeParameters): boolean =>
  hasHeader(parameters.encryption) && parameters.cipher.integrity !== undefined && !asksReadOnly(parameters);

/** Whether the options ask for a read-only device. With tryOtherMounters those of either mounter may come to count. */
export const asksReadOnly = ({
  mounter,
  tryOtherMounters,
  mapOptions,
}: Pick<NodeParameters, "mounter" | "tryOtherMounters" | "mapOptions">): boolean =>
  (mounter === "rbd" && mapsReadOnly(mapOptions.krbd)) ||
  ((mounter === "rbd-nbd" || tryOtherMounters) && nbdMapsReadOnly(mapOptions.nbd));
