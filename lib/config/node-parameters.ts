/**
 * The StorageClass parameters that a node acts on. NodeStageVolume reads them from volume_context, which is a copy of
 * the class's parameters, and CreateVolume reads them by the same schema: a volume that no node of this release stages
 * is not created.
 *
 * Not here: parameters of the image (./parameters.ts), and what makes a volume static (lib/node/volume-context.ts).
 *
 * 1. A volume that asks for encryption, or for rbd-nbd, is refused: never staged plain. Any other mounter is the kernel's,
 *    as in ceph-csi, with a remark.
 */
import * as Result from "effect/Result";
import * as z from "zod";
import { hasControl, oneLine } from "../text/printable.ts";
import type { InvalidParameter } from "./errors.ts";
import { refusalOfUnmapOptions } from "./krbd-options.ts";
import { parseMapOptions } from "./map-options.ts";
import { bool, type ParameterMap, read, readParameters } from "./parameter-kinds.ts";

export interface NodeParameters {
  /** Options of `rbd map` and `rbd unmap`, for the kernel's driver; "" for none. */
  readonly mapOptions: string;
  readonly unmapOptions: string;
  /** Arguments that replace mkfs's default ones; `undefined` keeps those. */
  readonly mkfsOptions: readonly string[] | undefined;
  /** What has no effect, for the log. */
  readonly remarks: readonly string[];
}

const krbdOptions = read((value) => Result.map(parseMapOptions(value), ({ krbd }) => krbd));

/** An option that the tool does not take would leave the volume staged for ever. */
const unmapOptions = krbdOptions.transform((options, context) => {
  const refusal = refusalOfUnmapOptions(options);
  if (refusal !== undefined) context.addIssue({ code: "custom", message: refusal });
  return options;
});

/** Words with blanks or line ends between them: a YAML block gives an argument a line, and always a final line end. */
const arguments_ = read((value) => {
  const words = value.split(/[ \t\r\n]+/).filter((word) => word !== "");
  if (words.some(hasControl)) return Result.fail("must not hold control characters");
  return Result.succeed(words.length === 0 ? undefined : words);
});

const schema = z.object({
  encrypted: bool
    .refine((encrypted) => !encrypted, "is true, and this release does not encrypt: it makes no plain volume instead")
    .default(false),
  mounter: z
    .string()
    .refine((value) => value !== "rbd-nbd", "is rbd-nbd, which this release does not have: write rbd, or leave it out")
    .default("rbd"),
  mapOptions: krbdOptions.default(""),
  unmapOptions: unmapOptions.default(""),
  mkfsOptions: arguments_.optional(),
});

const remarksOn = (mounter: string): readonly string[] =>
  mounter === "" || mounter === "rbd"
    ? []
    : [`parameter mounter: ${oneLine(mounter)} is not a mounter, so the kernel maps the volume: write rbd`];

/** Reads what a node acts on. Names the first parameter that is wrong, or that this release does not serve. */
export const parseNodeParameters = (parameters: ParameterMap): Result.Result<NodeParameters, InvalidParameter> =>
  Result.map(readParameters(schema, parameters), (fields) => ({
    mapOptions: fields.mapOptions,
    unmapOptions: fields.unmapOptions,
    mkfsOptions: fields.mkfsOptions,
    remarks: remarksOn(fields.mounter),
  }));
