/** Many calls at once, from one driver and from two over one cluster: what each caller is told, and what is left. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { intercepted, latency, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { settled } from "../../support/copies-world.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aCluster,
  codeOf,
  creation,
  deletion,
  eventually,
  expansion,
  failureOf,
  GIB,
  PARAMETERS,
  poolDump,
  uuidOf,
  objectsOf,
} from "../../support/world.ts";

const EMPTIED = { objects: { "csi.volumes.default": {} }, images: {}, bareNames: {}, trash: {} };

/** Calls until it succeeds, as a CO does; only codes that ask for another try may come in between. */
const insisting = async <A>(call: () => Promise<A>): Promise<A> => {
  for (let attempt = 1; ; attempt++) {
    const made = call();
    const failure = await failureOf(made);
    if (failure === undefined) return made;
    expect(failure.code).toBe("ABORTED");
    if (attempt > 100) throw new Error(`never succeeds: ${failure.message}`);
    await Bun.sleep(0);
  }
};

/** Numbers of [0, below) that are the same in each run. */
const dice = (seed: number) => {
  let state = seed;
  return (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (state >>> 8) % below;
  };
};

describe("one driver", () => {
  test("16 equal CreateVolume requests make one volume, and run once", async () => {
    const cluster = aCluster();
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    const answers = await Promise.all(Array.from({ length: 16 }, () => driver.createVolume(creation())));
    expect(new Set(answers.map(({ volume }) => volume.volumeId)).size).toBe(1);
    expect(calls().filter(({ method }) => method === "poolId")).toHaveLength(1);
  });

  test("requests that differ only in the order of their maps run once, and requests that differ in a parameter run twice", async () => {
    const cluster = aCluster();
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = aDriver(cluster, { ceph: service });
    const { clusterID, pool } = PARAMETERS;
    const runs = async (...parameters: readonly Record<string, string>[]) => {
      const before = calls().filter(({ method }) => method === "poolId").length;
      await Promise.all(parameters.map((each) => driver.createVolume(creation({ parameters: each }))));
      return calls().filter(({ method }) => method === "poolId").length - before;
    };
    expect(await runs({ clusterID, pool }, { pool, clusterID })).toBe(1);
    expect(await runs({ clusterID, pool }, { clusterID, pool, mounter: "rbd" })).toBe(2);
  });

  test("requests for one name wait for each other", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, { ceph: latency(cephMemoryService(cluster), 2) });
    const sizes = [1n, 2n, 1n].map((n) => driver.createVolume(creation({ capacityRange: { requiredBytes: n * GIB } })));
    expect(await Promise.all(sizes.map(codeOf))).toEqual(["OK", "ALREADY_EXISTS", "OK"]);
  });

  test("a request that waits too long for a name answers ABORTED and names the request that holds it", async () => {
    const cluster = aCluster();
    const { promise, resolve: letGo } = Promise.withResolvers<void>();
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "imageCreate"
        ? Effect.andThen(
            Effect.promise(() => promise),
            act,
          )
        : act,
    );
    await using driver = aDriver(cluster, { ceph });
    const slow = driver.createVolume(creation());
    const other = creation({ capacityRange: { requiredBytes: 2n * GIB } });
    const failure = await failureOf(driver.createVolume(other, "2 seconds"));
    expect(failure?.code).toBe("ABORTED");
    expect(failure?.message).toMatch(
      /^volume name pvc-1 in cluster east is busy: CreateVolume of pvc-1 has been running for \d\.\d s \(stage "create image"\)\. It continues; the automatic retry waits for it/,
    );
    letGo();
    expect((await slow).volume.capacityBytes).toBe(GIB);
    expect((await driver.locks()).table()).toEqual([]);
  });

  test("CreateVolume goes on when its caller has given up, and the retry gets the result", async () => {
    const cluster = aCluster();
    const { service, calls } = recorded(latency(cephMemoryService(cluster), 20));
    await using driver = aDriver(cluster, { ceph: service });
    const failure = await failureOf(driver.createVolume(creation(), "100 millis"));
    expect(failure?.code).toBe("ABORTED");
    expect(failure?.message).toMatch(
      /^CreateVolume of pvc-1 has been running for 0\.\d s \(stage "[a-z ]+"\)\. It continues/,
    );
    await driver.createVolume(creation());
    expect(calls().filter(({ method }) => method === "imageCreate")).toHaveLength(1);
    expect((await driver.operations()).running()).toEqual([]);
  });

  test("a stuck request does not hold up requests for other volumes", async () => {
    const cluster = aCluster();
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      call.subject.includes("slow-") ? Effect.never : act,
    );
    await using driver = aDriver(cluster, { ceph });
    const parameters = { ...PARAMETERS, volumeNamePrefix: "slow-" };
    const stuck = failureOf(driver.createVolume(creation({ name: "slow", parameters }), "400 millis"));
    const ids = await Promise.all(
      Array.from({ length: 20 }, (_, n) => driver.createVolume(creation({ name: `pvc-${n}` }))),
    );
    expect(new Set(ids.map(({ volume }) => volume.volumeId)).size).toBe(20);
    expect((await stuck)?.message).toContain('(stage "create image")');
  });
});

describe("two drivers over one cluster", () => {
  test("two drivers make one volume for each of eight names that 32 calls ask for at once", async () => {
    const cluster = aCluster();
    await using first = aDriver(cluster, { ceph: latency(cephMemoryService(cluster), 1) });
    await using second = aDriver(cluster);
    const calls = Array.from({ length: 32 }, async (_, n) => {
      const name = `pvc-${n % 8}`;
      const driver = n % 16 < 8 ? first : second;
      // Half of the calls are equal to another one, so that some join and some wait.
      const capacityRange = { requiredBytes: n < 16 ? GIB : GIB - 1n };
      const { volume } = await insisting(() => driver.createVolume(creation({ name, capacityRange })));
      return { name, id: volume.volumeId };
    });
    const answers = await Promise.all(calls);
    const ids = new Map(answers.map(({ name, id }) => [name, id]));
    expect(answers.filter(({ name, id }) => ids.get(name) !== id)).toEqual([]);
    const { objects, images, trash } = poolDump(cluster);
    expect(Object.keys(images)).toHaveLength(8);
    expect(Object.keys(objects)).toHaveLength(9);
    expect(trash).toEqual({});
    for (const [name, id] of ids) expect(objects["csi.volumes.default"]?.[`csi.volume.${name}`]).toBe(uuidOf(id));
    for (const driver of [first, second]) expect((await driver.locks()).table()).toEqual([]);
  });

  test("two drivers that delete one volume at once both succeed", async () => {
    for (const [slow, fast] of [
      [1, 0],
      [0, 0],
      [3, 1],
    ] as const) {
      const cluster = aCluster();
      await using first = aDriver(cluster, { ceph: latency(cephMemoryService(cluster), slow) });
      await using second = aDriver(cluster, { ceph: latency(cephMemoryService(cluster), fast) });
      const { volume } = await second.createVolume(creation());
      await Promise.all([first, second, first].map((driver) => driver.deleteVolume(deletion(volume.volumeId))));
      await settled(cluster);
      expect(poolDump(cluster)).toEqual(EMPTIED);
    }
  });

  test("random creates, deletes and expansions at two drivers answer only with codes that CSI permits, and leave nothing behind", async () => {
    const legal = { create: ["OK", "ABORTED"], delete: ["OK", "ABORTED"], expand: ["OK", "NOT_FOUND", "ABORTED"] };
    for (let seed = 1; seed <= 8; seed++) {
      const roll = dice(seed);
      const cluster = aCluster();
      const slowed = intercepted(cephMemoryService(cluster), (_, act) =>
        roll(3) === 0 ? Effect.delay(act, roll(2)) : act,
      );
      const flags = { clustername: "prod" };
      await using first = aDriver(cluster, { ceph: slowed, flags });
      await using second = aDriver(cluster, { flags });
      const drivers: readonly Driver[] = [first, second];
      const known = new Map<string, Set<string>>();
      const one = async (): Promise<readonly [rpc: keyof typeof legal, code: string]> => {
        const driver = drivers[roll(2)] ?? first;
        const name = `pvc-${roll(3)}`;
        const ids = [...(known.get(name) ?? [])];
        const id = ids[roll(ids.length || 1)];
        const what = roll(5);
        if (id === undefined || what < 2) {
          const call = driver.createVolume(creation({ name }));
          const code = await codeOf(call);
          if (code === "OK") known.set(name, new Set([...(known.get(name) ?? []), (await call).volume.volumeId]));
          return ["create", code];
        }
        if (what < 4) return ["delete", await codeOf(driver.deleteVolume(deletion(id)))];
        return ["expand", await codeOf(driver.expandVolume(expansion(id)))];
      };
      const callers = Array.from({ length: 8 }, async () => {
        for (let n = 0; n < 12; n++) {
          const [rpc, code] = await one();
          if (!legal[rpc].includes(code)) throw new Error(`${rpc} is ${code}, seed ${seed}`);
        }
      });
      await Promise.all(callers);
      for (const id of [...known.values()].flatMap((ids) => [...ids])) {
        await insisting(() => first.deleteVolume(deletion(id)));
      }
      await eventually(() => Object.keys(poolDump(cluster).trash).length === 0, "an empty trash");
      expect([seed, poolDump(cluster)]).toEqual([seed, EMPTIED]);
      for (const driver of drivers) expect((await driver.locks()).table()).toEqual([]);
    }
  }, 60_000);
});

test("R20: deletes of volumes that the journal does not know wait for nobody, and take nobody's key", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster, { ceph: latency(cephMemoryService(cluster), 1) });
  await driver.createVolume(creation());
  objectsOf(cluster).get("csi.volumes.default")?.set("csi.volume.", "not ours");
  const before = cluster.dump();
  const ids = Array.from(
    { length: 8 },
    (_, n) => `0001-0004-east-0000000000000002-b0285c97-a0ce-41eb-8c66-0242ac11000${n}`,
  );
  const codes = await Promise.all(ids.map((id) => codeOf(driver.deleteVolume(deletion(id), "5 seconds"))));
  expect(new Set(codes)).toEqual(new Set(["OK"]));
  expect(cluster.dump()).toEqual(before);
});
