/**
 * Programs that tests use and that are published as Go modules, built on first use.
 *
 * Not vendored: a version is pinned, Go's checksum database vouches for it, the binary is kept in the cache.
 * Where Go is too old to build one, a newer Go is taken from the same place: it is a Go module too.
 */
import { cpSync, existsSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must, run } from "./place.ts";
import { cacheFolder } from "./roots.ts";

export interface GoProgram {
  readonly name: string;
  readonly version: string;
  /** Import path of its package main. */
  readonly path: string;
  /** What its go.mod asks for, at least: `go1.25.0`. */
  readonly toolchain: string;
}

/** First Go that fetches by itself the Go that a module asks for. */
const fetchesItself = (goVersion: string): boolean => {
  const [, major = "0", minor = "0"] = /go version go(\d+)\.(\d+)/.exec(goVersion) ?? [];
  return Number(major) > 1 || Number(minor) >= 21;
};

/** A newer Go, fetched by an older one: a module's files carry no mode bits, and no go.mod of their own. */
const fetchGo = async (toolchain: string): Promise<string> => {
  const folder = join(cacheFolder("go"), toolchain);
  if (existsSync(folder)) return folder;
  const arch = process.arch === "arm64" ? "arm64" : "amd64";
  const listed = await must(
    { cwd: cacheFolder("go") },
    ["go", "mod", "download", "-json", `golang.org/toolchain@v0.0.1-${toolchain}.linux-${arch}`],
    { timeoutMs: 10 * 60_000 },
  );
  const dir = /"Dir": "(.+)"/.exec(listed)?.[1];
  if (dir === undefined) throw new Error(`go mod download named no folder for ${toolchain}`);
  const unfinished = `${folder}.${process.pid}`;
  cpSync(dir, unfinished, { recursive: true });
  await must({}, ["chmod", "-R", "u+w", unfinished]);
  await must({}, ["chmod", "-R", "a+x", `${unfinished}/bin`, `${unfinished}/pkg/tool`]);
  await must({}, ["find", unfinished, "-name", "_go.mod", "-execdir", "mv", "{}", "go.mod", ";"]);
  renameSync(unfinished, folder);
  return folder;
};

const binaryOf = ({ name, version }: GoProgram): string => join(cacheFolder("bin"), `${name}-${version}`);

/** Why a program cannot be had here; undefined where it can. */
export const goProgramLacks = (program: GoProgram): string | undefined => {
  if (existsSync(binaryOf(program))) return undefined;
  return Bun.which("go") === null ? `no Go to build ${program.name} with` : undefined;
};

/** Path of a program. */
export const goProgram = async (program: GoProgram, say: (line: string) => void = console.log): Promise<string> => {
  const { name, version, path, toolchain } = program;
  const binary = binaryOf(program);
  if (existsSync(binary)) return binary;
  say(`building ${name} ${version}`);
  const have = await run({}, ["go", "version"]);
  const root = fetchesItself(have.stdout) ? undefined : await fetchGo(toolchain);
  const folder = cacheFolder(`bin/unfinished.${process.pid}`);
  const env = { GOBIN: folder, GOTOOLCHAIN: "auto", CGO_ENABLED: "0", GOFLAGS: "" };
  const place = { env: root === undefined ? env : { ...env, GOROOT: root } };
  const go = root === undefined ? "go" : join(root, "bin", "go");
  await must(place, [go, "install", `${path}@${version}`], { timeoutMs: 15 * 60_000 });
  renameSync(join(folder, name), binary);
  rmSync(folder, { recursive: true });
  return binary;
};
