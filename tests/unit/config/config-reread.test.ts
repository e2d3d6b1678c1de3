// Configuration files that change under a running driver, on a real file system: rewritten, swapped by symlink as
// kubelet does, removed, broken, unreadable.
import { afterAll, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { Clusters } from "../../../lib/config/clusters.ts";
import { ClusterMapping } from "../../../lib/config/mapping.ts";
import { reread } from "../../../lib/config/reread.ts";

const root = mkdtempSync(join(tmpdir(), "csi-rbd-reread-"));
afterAll(() => rmSync(root, { recursive: true }));
let folders = 0;
const folder = (): string => {
  const path = join(root, `${folders++}`);
  mkdirSync(path);
  return path;
};
/** Until a file is old enough to be told from a later one, and what was seen of it is trusted no longer. */
const settle = () => Bun.sleep(130);

const entry = (id: string, monitor: string) => JSON.stringify([{ clusterID: id, monitors: [monitor] }]);
/** Asks one Clusters service several times, with something done in between. */
const monitorsOf = async (dir: string, id: string, ...between: ReadonlyArray<() => void | Promise<void>>) => {
  const ask = Effect.gen(function* () {
    const clusters = yield* Clusters;
    const get = Effect.match(clusters.get(id), {
      onSuccess: (it) => it.monitors[0] ?? "",
      onFailure: (it) => it.message,
    });
    const seen = [yield* get];
    for (const act of between) {
      yield* Effect.promise(async () => act());
      seen.push(yield* get);
    }
    return seen;
  });
  return Effect.runPromise(Effect.provide(ask, Clusters.layer(dir)));
};

test("The reader reads a rewritten file again, at once and also when the length is the same", async () => {
  const file = join(folder(), "f");
  const look = reread<string>({ path: file, parse: Result.succeed, missing: Result.succeed("(none)") });
  // On a kernel with coarse file times (before 6.13) some of these versions look the same from outside.
  const versions = Array.from({ length: 60 }, (_, at) => `version ${at + 10}`);
  for (const version of versions) {
    writeFileSync(file, version);
    expect(await Effect.runPromise(look)).toBe(version);
  }
});

test("The reader notices a ConfigMap's symlink swap, whether times and sizes are equal or not", async () => {
  const dir = folder();
  const version = (name: string, monitor: string) => {
    mkdirSync(join(dir, name));
    const file = join(dir, name, "config.json");
    writeFileSync(file, entry("c", monitor));
    utimesSync(file, 1_000_000, 1_000_000);
  };
  version("..v1", "m1");
  version("..v2", "m2");
  symlinkSync("..v1", join(dir, "..data"));
  symlinkSync("..data/config.json", join(dir, "config.json"));
  await settle();
  const swap = async () => {
    symlinkSync("..v2", join(dir, "..data_tmp"));
    renameSync(join(dir, "..data_tmp"), join(dir, "..data"));
    await settle();
  };
  expect(await monitorsOf(dir, "c", () => {}, swap)).toEqual(["m1", "m1", "m2"]);
});

test("The reader parses an unchanged file once, and a changed file once more", async () => {
  const file = join(folder(), "f");
  writeFileSync(file, "one");
  await settle();
  const parsed: Array<string> = [];
  const told: Array<string> = [];
  const look = reread<string>({
    path: file,
    parse: (text) => {
      parsed.push(text);
      return Result.succeed(text);
    },
    missing: Result.succeed("(none)"),
    onRead: (text) => Effect.sync(() => void told.push(text)),
  });
  const ask = () => Effect.runPromise(look);
  for (let round = 0; round < 3; round++) expect(await ask()).toBe("one");
  writeFileSync(file, "two");
  // Too young to be trusted, so it is read each time; parsed and told it is once.
  for (let round = 0; round < 3; round++) expect(await ask()).toBe("two");
  expect(parsed).toEqual(["one", "two"]);
  expect(told).toEqual(["one", "two"]);
  unlinkSync(file);
  expect(await ask()).toBe("(none)");
});

test("The reader trusts a file as long as its user permits, and looks again after that", async () => {
  const file = join(folder(), "f");
  const trustedMs = 2000;
  const look = reread<string>({ path: file, parse: Result.succeed, missing: Result.succeed("(none)"), trustedMs });
  const ask = () => Effect.runPromise(look);
  writeFileSync(file, "one");
  expect(await ask()).toBe("one");
  writeFileSync(file, "two");
  // the first was too young to be trusted
  expect(await ask()).toBe("two");
  await settle();
  expect(await ask()).toBe("two");
  unlinkSync(file);
  expect(await ask()).toBe("two");
  await Bun.sleep(trustedMs);
  expect(await ask()).toBe("(none)");
}, 10_000);

test("Each look reports whether the file is missing, broken or mended", async () => {
  const dir = folder();
  const file = join(dir, "config.json");
  const seen = await monitorsOf(
    dir,
    "c",
    () => settle().then(() => writeFileSync(file, "[{")),
    () => settle().then(() => writeFileSync(file, entry("c", "m"))),
    () => settle().then(() => unlinkSync(file)),
  );
  expect(seen[0]).toContain(`${file}: the file does not exist: mount the ConfigMap`);
  expect(seen[1]).toContain(`${file}: is not valid JSON`);
  expect(seen[2]).toBe("m");
  expect(seen[3]).toContain("the file does not exist");
});

test("The reader refuses a folder, a FIFO and a loop of links, and does not wait for them", async () => {
  const dir = folder();
  const look = (path: string) =>
    Effect.runPromise(Effect.flip(reread<string>({ path, parse: Result.succeed, missing: Result.succeed("") })));
  expect((await look(dir)).message).toContain("is not a regular file");
  execFileSync("mkfifo", [join(dir, "fifo")]);
  expect((await look(join(dir, "fifo"))).kind).toBe("file-unreadable");
  symlinkSync("loop", join(dir, "loop"));
  expect((await look(join(dir, "loop"))).message).toContain("ELOOP");
}, 4000);

test("A missing mapping file means no mapping, and a mapping file that appears has effect", async () => {
  const dir = folder();
  const ask = Effect.gen(function* () {
    const mapping = yield* ClusterMapping;
    const before = yield* mapping.mapped("a", 1n);
    yield* Effect.promise(settle);
    const text = JSON.stringify([{ clusterIDMapping: { a: "b" }, RBDPoolIDMapping: [{ 1: "2" }] }]);
    writeFileSync(join(dir, "cluster-mapping.json"), text);
    return [before, yield* mapping.mapped("a", 1n), yield* mapping.mappedClusters("b")];
  });
  expect(await Effect.runPromise(Effect.provide(ask, ClusterMapping.layer(dir)))).toEqual([
    [],
    [{ clusterId: "b", poolId: 2n }],
    ["a"],
  ]);
});
