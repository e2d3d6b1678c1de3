/**
 * csi-sanity, the conformance tests of the Kubernetes CSI project, built from its Go module.
 *
 * Not vendored: the version is pinned here, Go's checksum database vouches for it, the binary is kept in the cache.
 * Where Go is missing or too old to build it, a newer Go is taken from the same place: it is a Go module too.
 */
import { cpSync, existsSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must, run } from "./place.ts";
import { cacheFolder } from "./roots.ts";

const version = "v5.6.0";
/** What csi-sanity's go.mod asks for, at least. */
const toolchain = "go1.25.0";

/** First Go that fetches by itself the Go that a module asks for. */
const fetchesItself = (goVersion: string): boolean => {
  const [, major = "0", minor = "0"] = /go version go(\d+)\.(\d+)/.exec(goVersion) ?? [];
  return Number(major) > 1 || Number(minor) >= 21;
};

/** A newer Go, fetched by an older one: a module's files carry no mode bits, and no go.mod of their own. */
const fetchGo = async (): Promise<string> => {
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

/** Why csi-sanity cannot be had here; undefined where it can. */
export const sanityLacks = async (): Promise<string | undefined> => {
  if (existsSync(join(cacheFolder("bin"), `csi-sanity-${version}`))) return undefined;
  return Bun.which("go") === null ? "no Go to build csi-sanity with" : undefined;
};

/** Path of the csi-sanity program, built on first use (half a minute). */
export const sanityBinary = async (say: (line: string) => void = console.log): Promise<string> => {
  const binary = join(cacheFolder("bin"), `csi-sanity-${version}`);
  if (existsSync(binary)) return binary;
  say(`building csi-sanity ${version}`);
  const have = await run({}, ["go", "version"]);
  const root = fetchesItself(have.stdout) ? undefined : await fetchGo();
  const folder = cacheFolder(`bin/unfinished.${process.pid}`);
  const env = { GOBIN: folder, GOTOOLCHAIN: "auto", CGO_ENABLED: "0", GOFLAGS: "" };
  const place = { env: root === undefined ? env : { ...env, GOROOT: root } };
  const go = root === undefined ? "go" : join(root, "bin", "go");
  await must(place, [go, "install", `github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@${version}`], {
    timeoutMs: 10 * 60_000,
  });
  renameSync(join(folder, "csi-sanity"), binary);
  rmSync(folder, { recursive: true });
  return binary;
};

if (import.meta.main) console.log(await sanityBinary(console.error));
