/** Credentials per cluster by file, on a real file system: read, changed, missing, wrong, open to everybody. */
import { afterAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as Redacted from "effect/Redacted";
import { ClusterSecrets } from "../../../lib/config/cluster-secrets.ts";

const root = mkdtempSync(join(tmpdir(), "csi-rbd-secrets-"));
afterAll(() => rmSync(root, { recursive: true }));
let folders = 0;
const folder = (): string => {
  const path = join(root, `${folders++}`);
  mkdirSync(path);
  return path;
};
const settle = () => Bun.sleep(130);
const KEY = "QVFEc2VjcmV0PT0=";

const write = (dir: string, clusterId: string, files: Readonly<Record<string, string>>, mode = 0o600): void => {
  mkdirSync(join(dir, clusterId), { recursive: true });
  for (const [name, text] of Object.entries(files)) {
    const path = join(dir, clusterId, name);
    writeFileSync(path, text, { mode });
    chmodSync(path, mode);
  }
};

/** What the driver would see of a cluster, each time again after something was done. */
const seen = async (dir: string, clusterId: string, ...between: readonly (() => void | Promise<void>)[]) => {
  const log: string[] = [];
  const recorder = Logger.make<unknown, void>(({ message }) => void log.push([message].flat().map(String).join(" ")));
  const ask = Effect.gen(function* () {
    const secrets = yield* ClusterSecrets;
    const look = Effect.match(secrets.get(clusterId), {
      onSuccess: (secret) =>
        secret && [secret.credentials.user, Redacted.value(secret.credentials.key), secret.pools ?? "all"],
      onFailure: ({ message }) => message,
    });
    const found = [yield* look];
    for (const act of between) {
      yield* Effect.promise(async () => act());
      found.push(yield* look);
    }
    return found;
  });
  const layers = Layer.merge(ClusterSecrets.layer(dir), Logger.layer([recorder]));
  return { found: await Effect.runPromise(Effect.provide(ask, layers)), log };
};

test("the driver reads userID and userKey from a mounted Secret, and again when they change", async () => {
  const dir = folder();
  const publish = (version: string, files: Readonly<Record<string, string>>) => {
    write(dir, `east/..${version}`, files);
    symlinkSync(`..${version}`, join(dir, "east/..tmp"));
    renameSync(join(dir, "east/..tmp"), join(dir, "east/..data"));
  };
  mkdirSync(join(dir, "east"));
  publish("1", { userID: "csi\n", userKey: `${KEY}\n` });
  for (const name of ["userID", "userKey"]) symlinkSync(`..data/${name}`, join(dir, "east", name));
  const { found, log } = await seen(
    dir,
    "east",
    settle,
    () => publish("2", { userID: "csi-2", userKey: "bmV3" }),
    () => rmSync(join(dir, "east"), { recursive: true }),
  );
  expect(found).toEqual([["csi", KEY, "all"], ["csi", KEY, "all"], ["csi-2", "bmV3", "all"], undefined]);
  expect(log).toEqual([]);
});

test("a file of pools limits the pools to look in, and an empty one is an error", async () => {
  const dir = folder();
  write(dir, "east", { userID: "csi", userKey: KEY, pools: "rbd\n ssd ,ec\n\nrbd\n" });
  const { found } = await seen(dir, "east", () => write(dir, "east", { pools: "\n" }));
  expect(found[0]).toEqual(["csi", KEY, ["rbd", "ssd", "ec"]]);
  expect(found[1]).toContain(`${dir}/east/pools`);
});

test("half a secret is an error that names the file and no value, and a missing secret is none", async () => {
  const dir = folder();
  write(dir, "user", { userID: "csi" });
  write(dir, "key", { userKey: KEY });
  write(dir, "empty", { userID: "csi", userKey: "\n" });
  write(dir, "pools", { pools: "rbd" });
  const of = async (clusterId: string) => (await seen(dir, clusterId)).found[0];
  expect(await of("user")).toContain(`${dir}/user/userKey`);
  expect(await of("key")).toContain(`${dir}/key/userID`);
  expect(await of("key")).not.toContain(KEY);
  expect(await of("empty")).toContain("is empty");
  expect(await of("pools")).toBeUndefined();
  expect(await of("west")).toBeUndefined();
});

test("the driver uses a key that everybody can read, and logs one warning without the key", async () => {
  const dir = folder();
  write(dir, "east", { userID: "csi", userKey: KEY }, 0o644);
  const { found, log } = await seen(dir, "east", settle, settle, settle);
  expect(found).toEqual(Array.from({ length: 4 }, () => ["csi", KEY, "all"]));
  expect(log).toEqual([
    `${dir}/east/userKey can be read by everybody: set defaultMode 0400 where the Secret is mounted`,
  ]);
});

test("no clusterID leads out of the folder", async () => {
  const dir = folder();
  write(dir, "secret", { userID: "csi", userKey: KEY });
  write(dir, "in/east", { userID: "csi", userKey: KEY });
  for (const clusterId of ["..", ".", "", "../secret", "east/../../secret", "/secret", "east\0"]) {
    expect([clusterId, (await seen(join(dir, "in"), clusterId)).found[0]]).toEqual([clusterId, undefined]);
  }
});
