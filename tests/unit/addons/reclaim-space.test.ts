/** ControllerReclaimSpace and NodeReclaimSpace over a cluster and a node in memory: what they free, and what they leave. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { ZEROS } from "../../support/ceph-memory/content.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { eventually } from "../../support/grpc-serving.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import { hostMemoryService } from "../../support/host-memory.ts";
import {
  aNode,
  ENCRYPTED,
  IMAGE,
  nodeOn,
  PLACE,
  publishing,
  STAGING,
  staging,
  TARGET,
  toBeEncrypted,
  unstaging,
  VOLUME,
} from "../../support/node-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { asBlock, deletion, failureOf, GIB, mounted, PARAMETERS, SECRETS, seedImage } from "../../support/world.ts";

const OBJECT = 4n << 20n;
const reclaiming = { volumeId: VOLUME, secrets: SECRETS };
const trimming = { volumeId: VOLUME, stagingTargetPath: STAGING, volumePath: TARGET };
const zerosIn = (cluster: MemoryCluster, image = IMAGE) =>
  cluster.image("rbd", image).content.some(({ stamp }) => stamp === ZEROS);

/** A cluster whose volume holds an object of zeros, and another of data. */
const aHoldingCluster = async () => {
  const { cluster } = await aNode();
  const image = cluster.image("rbd", IMAGE);
  image.writeZeros(0n, OBJECT);
  image.write(OBJECT, 4096n);
  return cluster;
};

describe("ControllerReclaimSpace", () => {
  test("The zeros of a volume that nobody uses are freed, and its data stays", async () => {
    const cluster = await aHoldingCluster();
    await using driver = aDriver(cluster);
    expect(await driver.reclaim(reclaiming)).toEqual({});
    expect(zerosIn(cluster)).toBe(false);
    expect(cluster.image("rbd", IMAGE).hasData).toBe(true);
  });

  test("A volume in use stays as it is, and this is no error", async () => {
    const cluster = await aHoldingCluster();
    cluster.watch("rbd", IMAGE);
    await using driver = aDriver(cluster);
    expect(await driver.reclaim(reclaiming)).toEqual({});
    expect(zerosIn(cluster)).toBe(true);
    expect(driver.log).toContainEqual(expect.stringContaining("its zeros are freed when nobody uses it"));
  });

  test("The zeros of a static volume are freed, by the names in its volume_context", async () => {
    const cluster = await aHoldingCluster();
    await seedImage(cluster, "by-hand");
    cluster.image("rbd", "by-hand").writeZeros(0n, OBJECT);
    await using driver = aDriver(cluster);
    await driver.reclaim({ ...reclaiming, volumeId: "by-hand", parameters: { ...PARAMETERS, staticVolume: "true" } });
    expect([zerosIn(cluster, "by-hand"), zerosIn(cluster)]).toEqual([false, true]);
  });

  test.each([
    [{ volumeId: "" }, "INVALID_ARGUMENT", "volume_id"],
    [{ secrets: {} }, "INVALID_ARGUMENT", "userID"],
    [{ volumeId: "no-such-volume" }, "NOT_FOUND", "no-such-volume"],
  ])("The request %p is refused, and changes nothing", async (more, code, text) => {
    const cluster = await aHoldingCluster();
    await using driver = aDriver(cluster);
    expect(await failureOf(driver.reclaim({ ...reclaiming, ...more }))).toMatchObject({
      code,
      message: expect.stringContaining(text),
    });
    expect(zerosIn(cluster)).toBe(true);
  });

  test("A volume whose image is gone does not exist", async () => {
    const cluster = await aHoldingCluster();
    cluster.namespace("rbd", "")?.images.delete(IMAGE);
    await using driver = aDriver(cluster);
    expect(await failureOf(driver.reclaim(reclaiming))).toMatchObject({ code: "NOT_FOUND" });
  });

  test("The image of another cluster's primary is left as it is", async () => {
    const cluster = await aHoldingCluster();
    cluster.image("rbd", IMAGE).mirror = "non-primary";
    await using driver = aDriver(cluster);
    expect(await failureOf(driver.reclaim(reclaiming))).toMatchObject({ code: "FAILED_PRECONDITION" });
    expect(zerosIn(cluster)).toBe(true);
  });

  test("While a sparsify runs, the volume is not locked, and a caller that comes again joins it", async () => {
    const cluster = await aHoldingCluster();
    const [begun, end] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let sparsifies = 0;
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "imageSparsify"
        ? Effect.andThen(
            Effect.promise(() => {
              sparsifies += 1;
              begun.resolve();
              return end.promise;
            }),
            act,
          )
        : act,
    );
    await using driver = aDriver(cluster, { ceph });
    const first = failureOf(driver.reclaim(reclaiming));
    await begun.promise;
    expect((await driver.locks()).table()).toEqual([]);
    const second = failureOf(driver.reclaim(reclaiming));
    await driver.deleteVolume(deletion(VOLUME));
    end.resolve();
    for (const failure of [await first, await second]) expect(failure).toMatchObject({ code: "NOT_FOUND" });
    expect(sparsifies).toBe(1);
  });

  test("A few volumes are sparsified side by side, and the others when it is their turn", async () => {
    const { cluster } = await aNode();
    const names = Array.from({ length: 9 }, (_, i) => `static-${i}`);
    for (const name of names) await seedImage(cluster, name);
    let [running, most] = [0, 0];
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) => {
      if (method !== "imageSparsify") return act;
      most = Math.max(most, (running += 1));
      return Effect.ensuring(
        Effect.andThen(Effect.yieldNow, act),
        Effect.sync(() => void (running -= 1)),
      );
    });
    await using driver = aDriver(cluster, { ceph });
    const parameters = { ...PARAMETERS, staticVolume: "true" };
    await Promise.all(names.map((volumeId) => driver.reclaim({ ...reclaiming, volumeId, parameters })));
    expect([running, most]).toEqual([0, 4]);
  });
});

describe("NodeReclaimSpace", () => {
  test("The filesystem of a staged volume is trimmed to its end, in pieces that are locked one by one", async () => {
    const { host, cluster } = await aNode();
    cluster.image("rbd", IMAGE).sizeBytes = 40n * GIB;
    const held: number[] = [];
    const inner = hostMemoryService(host);
    await using driver = nodeOn(host, {
      host: interceptedHost(inner, ({ method }, act) =>
        method === "trim"
          ? Effect.andThen(
              Effect.promise(async () => void held.push((await driver.locks()).table().length)),
              act,
            )
          : act,
      ),
    });
    await driver.stage(staging());
    expect(await driver.trim(trimming)).toEqual({});
    expect(host.trims).toEqual([
      { point: PLACE, offset: 0n, end: 16n * GIB },
      { point: PLACE, offset: 16n * GIB, end: 32n * GIB },
      { point: PLACE, offset: 32n * GIB, end: 40n * GIB },
    ]);
    expect(held).toEqual([1, 1, 1]);
    expect((await driver.locks()).table()).toEqual([]);
  });

  test("Without a staging path it is trimmed where a pod has it", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.publish(publishing());
    await driver.trim({ volumeId: VOLUME, volumePath: TARGET });
    expect(host.trims.map(({ point }) => point)).toEqual([TARGET]);
  });

  test("A volume that is unstaged between two pieces is not looked for elsewhere", async () => {
    const { host, cluster } = await aNode();
    cluster.image("rbd", IMAGE).sizeBytes = 40n * GIB;
    let unstaged: Promise<unknown> | undefined;
    const unstage = async () => {
      const locks = await driver.locks();
      unstaged ??= driver.unstage(unstaging());
      await eventually(() => locks.table()[0]?.waiting === 1, "the unstage waits for the piece");
    };
    await using driver = nodeOn(host, {
      host: interceptedHost(hostMemoryService(host), ({ method }, act) =>
        method === "trim" ? Effect.andThen(Effect.promise(unstage), act) : act,
      ),
    });
    await driver.stage(staging());
    expect(await failureOf(driver.trim(trimming))).toMatchObject({ code: "NOT_FOUND" });
    await unstaged;
    expect(host.trims).toHaveLength(1);
    expect(host.mounts).toEqual([]);
  });

  test.each([
    ["a raw block volume, by its capability", { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) }],
    ["a volume of many writers", { volumeCapability: mounted(Mode.MULTI_NODE_MULTI_WRITER) }],
  ])("The call is not implemented for %s", async (_what, more) => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    expect(await failureOf(driver.trim({ ...trimming, ...more }))).toMatchObject({ code: "UNIMPLEMENTED" });
    expect(host.trims).toEqual([]);
  });

  test("The call is not implemented for a raw block volume whose capability the request leaves out", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging({ volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) }));
    expect(await failureOf(driver.trim(trimming))).toMatchObject({ code: "UNIMPLEMENTED" });
  });

  test("The call is not implemented for a volume that is mounted read-only", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.unstage(unstaging());
    await driver.stage(staging({ volumeCapability: mounted(Mode.SINGLE_NODE_READER_ONLY) }));
    expect(await failureOf(driver.trim(trimming))).toMatchObject({ code: "UNIMPLEMENTED" });
  });

  test("The call is not implemented for an encrypted volume, whose LUKS layer passes no discards on", async () => {
    const { host, cluster } = await aNode();
    toBeEncrypted(cluster);
    await using driver = nodeOn(host);
    await driver.stage(staging(ENCRYPTED));
    expect(await failureOf(driver.trim(trimming))).toMatchObject({
      code: "UNIMPLEMENTED",
      message: expect.stringContaining("frees no space"),
    });
  });

  test.each([
    [{ volumeId: "" }, "INVALID_ARGUMENT"],
    [{ volumeId: "a/b" }, "INVALID_ARGUMENT"],
    [{ stagingTargetPath: "relative" }, "INVALID_ARGUMENT"],
    [{ stagingTargetPath: "", volumePath: "" }, "INVALID_ARGUMENT"],
    [{ stagingTargetPath: "/kubelet/elsewhere" }, "NOT_FOUND"],
  ])("The request %p is refused with %p", async (more, code) => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    expect(await failureOf(driver.trim({ ...trimming, ...more }))).toMatchObject({ code });
    expect(host.trims).toEqual([]);
  });
});
