/**
 * Programs that tests use and that are published as Go modules, built on first use.
 *
 * Not vendored: a version is pinned, Go's checksum database vouches for it, the binary is kept in the cache.
 */
import { existsSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { anyGo, hasGo } from "./go.ts";
import { cacheFolder } from "./roots.ts";

export interface GoProgram {
  readonly name: string;
  readonly version: string;
  /** Import path of its package main. */
  readonly path: string;
  /** What its go.mod asks for, at least: `go1.25.0`. */
  readonly toolchain: string;
}

const binaryOf = ({ name, version }: GoProgram): string => join(cacheFolder("bin"), `${name}-${version}`);

/** Why a program cannot be had here; undefined where it can. */
export const goProgramLacks = (program: GoProgram): string | undefined =>
  existsSync(binaryOf(program)) || hasGo() ? undefined : `no Go to build ${program.name} with`;

/** Path of a program. */
export const goProgram = async (program: GoProgram, say: (line: string) => void = console.log): Promise<string> => {
  const { name, version, path, toolchain } = program;
  const binary = binaryOf(program);
  if (existsSync(binary)) return binary;
  say(`building ${name} ${version}`);
  const go = await anyGo(toolchain);
  const folder = cacheFolder(`bin/unfinished.${process.pid}`);
  await go({ env: { GOBIN: folder, CGO_ENABLED: "0" } }, ["install", `${path}@${version}`], 15);
  renameSync(join(folder, name), binary);
  rmSync(folder, { recursive: true });
  return binary;
};
