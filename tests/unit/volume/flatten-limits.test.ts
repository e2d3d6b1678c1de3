/** How chains of clones are kept short, and images from having too many snapshots: by whom, when, and what callers hear. */
import { describe, expect, test } from "bun:test";
import { AccessDenied } from "../../../lib/ceph/errors.ts";
import { intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { Metrics } from "../../../lib/telemetry/metrics.ts";
import * as Effect from "effect/Effect";
import { aDriver, type Driver } from "../../support/one-world.ts";
import {
  aVolume,
  byHand,
  cloneOf,
  holderOf,
  imageOf,
  parentOf,
  read,
  readySnapshot,
  restoreOf,
  settled,
  snapshotDeletion,
  snapshotOf,
  snapshotsOf,
} from "../../support/copies-world.ts";
import {
  aCluster,
  codeOf,
  deletion,
  eventually,
  failureOf,
  GIB,
  poolDump,
  creation,
  EAST,
} from "../../support/world.ts";

/** Images that the manager has been asked to flatten. */
const flattening = (cluster: MemoryCluster): readonly string[] =>
  cluster.tasks().flatMap(({ action, image }) => (action === "flatten" ? [image] : []));

const chain = (softDepth: number, hardDepth: number) => ({
  flags: { rbdsoftmaxclonedepth: softDepth, rbdhardmaxclonedepth: hardDepth },
});
const FREE = chain(14, 14);

/** A volume with `links` parents behind it, made by restores -> it and the snapshots in between. */
const deep = async (cluster: MemoryCluster, links: number) => {
  await using driver = aDriver(cluster, FREE);
  let volumeId = await aVolume(driver, cluster);
  const data = read(cluster, imageOf(volumeId));
  for (let at = 2; at <= links; at += 2) {
    const { snapshotId } = await readySnapshot(driver, snapshotOf(volumeId, { name: `snap-deep-${at}` }));
    volumeId = (await driver.createVolume(restoreOf(snapshotId, { name: `pvc-deep-${at}` }))).volume.volumeId;
  }
  return { volumeId, data };
};

describe("depth of clone chains", () => {
  /** [what is copied, parents of its source, soft, hard, what is asked for, code] */
  const cases: readonly (readonly [string, number, number, number, boolean, string])[] = [
    // A restore adds one parent, so its limits are one lower.
    ["snapshot", 1, 3, 5, false, "OK"],
    ["snapshot", 3, 5, 8, false, "OK"],
    ["snapshot", 3, 4, 8, true, "OK"],
    ["snapshot", 3, 4, 5, true, "OK"],
    ["snapshot", 3, 4, 4, true, "ABORTED"],
    // A clone of a volume adds two.
    ["volume", 2, 5, 8, false, "OK"],
    ["volume", 2, 4, 8, true, "OK"],
    ["volume", 2, 4, 5, true, "OK"],
    ["volume", 2, 4, 4, true, "ABORTED"],
    // Never for a source that has no parent, however low the limits are.
    ["volume", 0, 1, 1, false, "OK"],
    ["snapshot", 1, 1, 1, true, "ABORTED"],
  ];
  for (const [what, parents, soft, hard, asked, code] of cases) {
    test(`a copy of a ${what} with ${parents} parents ${asked ? "flattens" : "does not flatten"} it and answers ${code} at soft limit ${soft}, hard limit ${hard}`, async () => {
      const cluster = aCluster();
      const { volumeId } = await deep(cluster, what === "snapshot" ? parents - 1 : parents);
      await using making = aDriver(cluster, FREE);
      const snapshotId =
        what === "snapshot" ? (await readySnapshot(making, snapshotOf(volumeId))).snapshotId : undefined;
      const source = snapshotId === undefined ? imageOf(volumeId) : holderOf(snapshotId);
      cluster.managerHeld = true;
      await using driver = aDriver(cluster, chain(soft, hard));
      const request = snapshotId === undefined ? cloneOf(volumeId) : restoreOf(snapshotId);
      expect(await codeOf(driver.createVolume(request))).toBe(code);
      // Only ever what the request names.
      expect(flattening(cluster)).toEqual(asked ? [source] : []);
    });
  }

  test("a clone above the hard limit answers with the progress of the flatten, makes nothing, and succeeds after the flatten", async () => {
    const cluster = aCluster();
    const { volumeId, data } = await deep(cluster, 4);
    cluster.managerHeld = true;
    await using driver = aDriver(cluster, chain(4, 6));
    const before = poolDump(cluster);
    const message = async () => (await failureOf(driver.createVolume(cloneOf(volumeId))))?.message;
    expect(await message()).toContain(
      `image rbd/${imageOf(volumeId)} is a clone 4 levels deep, and 3 are allowed here (--rbdhardmaxclonedepth=6, and the request adds 2 of these levels). It is being flattened: waiting for its turn. Retry later`,
    );
    cluster.setProgress(imageOf(volumeId), 0.427);
    expect(await message()).toContain("42 % done");
    const served = () => Effect.runPromise(Effect.flatMap(Metrics, ({ text }) => text));
    expect(await served()).toContain(`csi_rbd_flatten_progress{image="rbd/${imageOf(volumeId)}"} 0.427`);
    expect(poolDump(cluster)).toEqual(before);
    expect(flattening(cluster)).toEqual([imageOf(volumeId)]);
    cluster.runManager();
    const { volume } = await driver.createVolume(cloneOf(volumeId));
    expect(await served()).not.toContain(imageOf(volumeId));
    expect(read(cluster, imageOf(volume.volumeId))).toEqual(data);
    expect(parentOf(cluster, imageOf(volumeId))).toBeUndefined();
  });

  test("CreateSnapshot flattens the new snapshot in the background from the soft limit on", async () => {
    for (const [soft, asked] of [
      [3, true],
      [4, false],
    ] as const) {
      const cluster = aCluster();
      const { volumeId } = await deep(cluster, 2);
      cluster.managerHeld = true;
      await using driver = aDriver(cluster, chain(soft, 8));
      const { snapshotId } = await readySnapshot(driver, snapshotOf(volumeId));
      expect(flattening(cluster)).toEqual(asked ? [holderOf(snapshotId)] : []);
    }
  });

  test("the driver flattens an image itself, once, where the manager is down, and the retry succeeds", async () => {
    const cluster = aCluster();
    const { volumeId, data } = await deep(cluster, 4);
    cluster.managerUp = false;
    const { promise, resolve: letGo } = Promise.withResolvers<void>();
    let flattens = 0;
    const ceph = intercepted(cephMemoryService(cluster), (call, act) => {
      if (call.method !== "imageFlatten") return act;
      flattens += 1;
      return Effect.andThen(
        Effect.promise(() => promise),
        act,
      );
    });
    await using driver = aDriver(cluster, { ceph, ...chain(4, 6) });
    for (let n = 0; n < 3; n++) {
      const failure = await failureOf(driver.createVolume(cloneOf(volumeId)));
      expect(failure).toMatchObject({
        code: "ABORTED",
        message: expect.stringContaining("done by this driver in the background"),
      });
    }
    letGo();
    await eventually(() => parentOf(cluster, imageOf(volumeId)) === undefined, "a flattened image");
    expect(flattens).toBe(1);
    const { volume } = await driver.createVolume(cloneOf(volumeId));
    expect(read(cluster, imageOf(volume.volumeId))).toEqual(data);
    expect(driver.log.join("\n")).toContain("the driver flattens the image itself");
    expect(driver.log).toContain(`flatten of image rbd/${imageOf(volumeId)} is over`);
  });

  test("a clone above the hard limit answers PERMISSION_DENIED when the manager refuses the flatten", async () => {
    const cluster = aCluster();
    const { volumeId } = await deep(cluster, 4);
    const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
      call.method === "managerFlatten"
        ? Effect.fail(new AccessDenied({ op: "rbd task add flatten", subject: "rbd", user: "x" }))
        : act,
    );
    await using driver = aDriver(cluster, { ceph, ...chain(4, 6) });
    expect(await codeOf(driver.createVolume(cloneOf(volumeId)))).toBe("PERMISSION_DENIED");
  });

  test("a chain of clones of clones never grows past the hard limit, and each clone has the data of the first volume", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, chain(4, 8));
    let volumeId = await aVolume(driver, cluster);
    const data = read(cluster, imageOf(volumeId));
    for (let n = 0; n < 12; n++) {
      const request = cloneOf(volumeId, { name: `pvc-${n + 2}` });
      for (let tries = 0; (await codeOf(driver.createVolume(request))) === "ABORTED"; tries++) {
        if (tries > 5) throw new Error("never flattened");
        cluster.runManager();
      }
      volumeId = (await driver.createVolume(request)).volume.volumeId;
      expect(read(cluster, imageOf(volumeId))).toEqual(data);
      let depth = 0;
      for (let { parent } = cluster.image("rbd", imageOf(volumeId)); parent; parent = parent.image.parent) depth += 1;
      expect(depth).toBeLessThan(8);
    }
  });
});

describe("number of snapshots of one image", () => {
  const limits = (minsnapshotsonimage: number, maxsnapshotsonimage: number) => ({
    flags: { minsnapshotsonimage, maxsnapshotsonimage, ...FREE.flags },
  });
  /** A volume with `count` snapshots of this layout -> their holders, the oldest first. */
  const taken = async (driver: Driver, volumeId: string, count: number) => {
    const ids: string[] = [];
    for (let n = 0; n < count; n++) {
      ids.push((await readySnapshot(driver, snapshotOf(volumeId, { name: `snap-${n}` }))).snapshotId);
    }
    return ids;
  };
  const copying = [
    ["a snapshot", (driver: Driver, id: string) => driver.createSnapshot(snapshotOf(id, { name: "one-more" }))],
    ["a clone", (driver: Driver, id: string) => driver.createVolume(cloneOf(id))],
  ] as const;

  for (const [what, copy] of copying) {
    test(`the driver makes ${what} at the lower limit of snapshots, and flattens nothing`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster, limits(4, 6));
      const id = await aVolume(driver, cluster);
      await taken(driver, id, 4);
      cluster.managerHeld = true;
      expect(await codeOf(copy(driver, id))).toBe("OK");
      expect(flattening(cluster)).toEqual([]);
    });

    test(`the driver makes ${what} above the lower limit of snapshots, and flattens the oldest ones in excess`, async () => {
      const cluster = aCluster();
      await using driver = aDriver(cluster, limits(3, 6));
      const id = await aVolume(driver, cluster);
      cluster.managerHeld = true;
      const ids = await taken(driver, id, 3);
      await using careless = aDriver(cluster, limits(99, 99));
      await taken(careless, id, 5);
      expect(await codeOf(copy(driver, id))).toBe("OK");
      expect(flattening(cluster)).toEqual(ids.slice(0, 2).map(holderOf));
    });

    test(`the driver refuses ${what} above the upper limit of snapshots until clones are flattened`, async () => {
      const cluster = aCluster();
      await using making = aDriver(cluster, limits(99, 99));
      const id = await aVolume(making, cluster);
      const ids = await taken(making, id, 5);
      cluster.managerHeld = true;
      await using driver = aDriver(cluster, limits(2, 4));
      const before = poolDump(cluster);
      const failure = await failureOf(copy(driver, id));
      expect(failure?.code).toBe("RESOURCE_EXHAUSTED");
      expect(failure?.message).toContain(
        `image rbd/${imageOf(id)} has 5 snapshots, and at most 4 are allowed. Clones keep 5 of them, and 5 of these clones can be flattened, which is under way`,
      );
      expect(poolDump(cluster)).toEqual(before);
      expect(flattening(cluster)).toEqual(ids.slice(0, 3).map(holderOf));
      cluster.runManager();
      expect(snapshotsOf(cluster, imageOf(id))).toHaveLength(2);
      expect(await codeOf(copy(driver, id))).toBe("OK");
    });
  }

  test("snapshots that only restores of deleted snapshots keep fail no request, and those volumes are not flattened", async () => {
    const cluster = aCluster();
    await using making = aDriver(cluster, limits(99, 99));
    const id = await aVolume(making, cluster);
    const [first, ...others] = await taken(making, id, 4);
    if (first === undefined) throw new Error("no snapshot");
    const { volume } = await making.createVolume(restoreOf(first));
    await making.deleteSnapshot(snapshotDeletion(first));
    cluster.managerHeld = true;
    await using driver = aDriver(cluster, limits(2, 8));
    expect(await codeOf(driver.createSnapshot(snapshotOf(id, { name: "one-more" })))).toBe("OK");
    expect(flattening(cluster)).toEqual(others.slice(0, 2).map(holderOf));
    expect(parentOf(cluster, imageOf(volume.volumeId))).toBe(`${holderOf(first)}@${holderOf(first)}`);
  });

  test("a source of 300 clones never passes its limits, and no volume is flattened for it", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster);
    const id = await aVolume(driver, cluster);
    const data = read(cluster, imageOf(id));
    cluster.managerHeld = true;
    const asked = new Set<string>();
    const images: string[] = [];
    for (let n = 0; n < 300; n++) {
      const { volume } = await driver.createVolume(cloneOf(id, { name: `pvc-${n + 2}` }));
      images.push(imageOf(volume.volumeId));
      for (const image of flattening(cluster)) asked.add(image);
      // The manager is slow: it flattens what it was asked for now and then.
      if (n % 20 === 0) cluster.runManager();
      expect(snapshotsOf(cluster, imageOf(id)).length).toBeLessThanOrEqual(270);
    }
    const direct = images.filter((image) => parentOf(cluster, image) === `${imageOf(id)}@${image}-temp`);
    expect(direct).toEqual(images.slice(0, 125));
    expect([...asked].filter((image) => !image.endsWith("-temp"))).toEqual([]);
    expect(asked.size).toBeGreaterThan(0);
    for (const image of images) expect(read(cluster, image)).toEqual(data);
  });

  test("a direct clone costs no question to the manager when room for one more snapshot is made", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, limits(6, 9));
    const id = await aVolume(driver, cluster);
    cluster.managerHeld = true;
    for (let n = 0; n < 7; n++) await driver.createVolume(cloneOf(id, { name: `pvc-${n + 2}` }));
    const kept = snapshotsOf(cluster, imageOf(id)).map((each) => each.replace("trash ", ""));
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using counting = aDriver(cluster, { ceph: service, ...limits(6, 9) });
    await counting.createVolume(cloneOf(id, { name: "pvc-one-more" }));
    const flattened = calls().filter(({ method }) => method === "managerFlatten");
    // Three are direct; the oldest of the others is the one that goes.
    expect(flattened.map(({ subject }) => subject)).toEqual([`rbd/${kept[3]}`]);
  });

  test("snapshots made by hand count towards the limit, and the driver never removes them", async () => {
    const cluster = aCluster();
    await using driver = aDriver(cluster, limits(1, 2));
    const id = await aVolume(driver, cluster);
    for (const name of ["a", "b", "c"]) await byHand(cluster).snapshot(imageOf(id), name);
    expect(await codeOf(driver.createSnapshot(snapshotOf(id)))).toBe("RESOURCE_EXHAUSTED");
    expect(snapshotsOf(cluster, imageOf(id))).toEqual(["user a", "user b", "user c"]);
  });
});

test("DeleteVolume deletes a volume that the driver is flattening", async () => {
  const cluster = aCluster();
  const { volumeId } = await deep(cluster, 4);
  cluster.managerUp = false;
  const { promise, resolve: letGo } = Promise.withResolvers<void>();
  const ceph = intercepted(cephMemoryService(cluster), (call, act) =>
    call.method === "imageFlatten"
      ? Effect.andThen(
          Effect.promise(() => promise),
          act,
        )
      : act,
  );
  await using driver = aDriver(cluster, { ceph, ...chain(4, 6) });
  expect(await codeOf(driver.createVolume(cloneOf(volumeId, { capacityRange: { requiredBytes: GIB } })))).toBe(
    "ABORTED",
  );
  await driver.deleteVolume(deletion(volumeId));
  letGo();
  await settled(cluster);
  await eventually(
    () => driver.log.includes(`flatten of image rbd/${imageOf(volumeId)} is over`),
    "the end of the flatten",
  );
});

test("R12: before a restore the snapshot that the request names is flattened, and never the snapshot's source", async () => {
  const cluster = aCluster();
  cluster.managerHeld = true;
  // The source is a clone of depth 2, and is not what the request names.
  await using making = aDriver(cluster, { flags: { rbdsoftmaxclonedepth: 14, rbdhardmaxclonedepth: 14 } });
  const id = await aVolume(making, cluster);
  const { volume } = await making.createVolume(cloneOf(id));
  const { snapshotId } = await readySnapshot(making, snapshotOf(volume.volumeId));
  await using driver = aDriver(cluster, { flags: { rbdsoftmaxclonedepth: 3, rbdhardmaxclonedepth: 6 } });
  await driver.createVolume(restoreOf(snapshotId, { name: "pvc-restored" }));
  expect(
    cluster
      .tasks()
      .filter(({ action }) => action === "flatten")
      .map(({ image }) => image),
  ).toEqual([holderOf(snapshotId)]);
});

test("R23: a flatten is asked of the manager in the image's own RADOS namespace", async () => {
  const cluster = aCluster();
  cluster.managerHeld = true;
  const settings = {
    clusters: [{ ...EAST, radosNamespace: "tenant" }],
    flags: { rbdsoftmaxclonedepth: 1, rbdhardmaxclonedepth: 8 },
  };
  await using driver = aDriver(cluster, settings);
  const { volume } = await driver.createVolume(creation());
  const { snapshotId } = await readySnapshot(driver, snapshotOf(volume.volumeId));
  expect(cluster.tasks()).toEqual([
    expect.objectContaining({ action: "flatten", pool: "rbd", namespace: "tenant", image: holderOf(snapshotId) }),
  ]);
});

test("R23: a clone of an image without a parent needs no flatten", async () => {
  const cluster = aCluster();
  await using driver = aDriver(cluster, { flags: { rbdsoftmaxclonedepth: 1, rbdhardmaxclonedepth: 1 } });
  const id = await aVolume(driver, cluster);
  expect(await codeOf(driver.createVolume(cloneOf(id)))).toBe("OK");
});
