/**
 * Programs built from Go modules: their versions are pinned where they are asked for, Go's checksum database vouches for
 * them, and each is kept in the cache.
 *
 * Where Go is too old to fetch the Go that a module asks for, a newer one is taken from the same place: it is a Go
 * module too. No host is named here: Go's own settings tell where modules come from.
 */
import { cpSync, existsSync } from "node:fs";
import { join } from "node:path";
import { must, type Place, run } from "./place.ts";
import { cacheFolder, inPlace } from "./roots.ts";

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
  inPlace(unfinished, folder);
  return folder;
};

export const hasGo = (): boolean => Bun.which("go") !== null;

/** Runs `go` with the given arguments and returns its output; `place` adds variables and the working directory. */
export type Go = (place: Place, args: ReadonlyArray<string>, limitMinutes: number) => Promise<string>;

/** A Go that builds any module: this machine's own, or the `toolchain` that it fetches, which fetches newer ones. */
export const anyGo = async (toolchain = "go1.25.0"): Promise<Go> => {
  const have = await run({}, ["go", "version"]);
  const root = fetchesItself(have.stdout) ? undefined : await fetchGo(toolchain);
  const env = { GOTOOLCHAIN: "auto", GOFLAGS: "", ...(root === undefined ? {} : { GOROOT: root }) };
  const go = root === undefined ? "go" : join(root, "bin", "go");
  // a build takes all cores for minutes, and whoever waits for it may do something else meanwhile
  return (place, args, limitMinutes) =>
    must({ ...place, env: { ...env, ...place.env } }, ["nice", "-n", "10", go, ...args], {
      timeoutMs: limitMinutes * 60_000,
    });
};
