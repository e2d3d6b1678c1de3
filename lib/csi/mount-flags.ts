/**
 * The `mount_flags` of a capability: each string holds one option of mount(8) or several with commas or line ends in
 * between, as people write them. Pure.
 *
 * Not here: which options the driver adds (lib/host/filesystem.ts). What a filesystem knows, its kernel says.
 *
 * 1. A comma inside double quotes belongs to the value: `context="system_u:object_r:data_t:s0:c1,c2"`.
 * 2. `ro` and `rw` are one question, and the last answer counts, as for mount(8).
 */
import * as Result from "effect/Result";
import { hasControl } from "../text/printable.ts";

export interface MountFlags {
  /** Without blanks, without `ro` and `rw`, and each once. */
  readonly options: readonly string[];
  readonly readOnly: boolean;
}

const OPTION = /(?:[^,"\r\n]|"[^"]*")+/g;

/** The failure says what is wrong with the flags. */
export const readMountFlags = (flags: readonly string[]): Result.Result<MountFlags, string> => {
  if (flags.some((flag) => flag.split('"').length % 2 === 0)) return Result.fail("has a double quote without its pair");
  const words = flags.flatMap((flag) => flag.match(OPTION) ?? []).map((word) => word.trim());
  if (words.some(hasControl)) return Result.fail("must not hold control characters inside of a flag");
  const options = words.filter((word) => word !== "" && word !== "ro" && word !== "rw");
  const readOnly = words.findLast((word) => word === "ro" || word === "rw") === "ro";
  return Result.succeed({ options: [...new Set(options)], readOnly });
};
