/** On which nodes a volume is: what node plugins write beside its name, and what lists make of it. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { type Ceph, type CephCalls, cephLayer } from "../../../lib/ceph/ceph.ts";
import { TimedOut } from "../../../lib/ceph/errors.ts";
import type { PoolRef } from "../../../lib/ceph/rados.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { publishNode, unpublishNode, type JournalVolume } from "../../../lib/journal/published-nodes.ts";
import { intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, memoryAccess, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { aDriver } from "../../support/one-world.ts";
import { aNode, IMAGE, nodeOn, staging, unstaging, UUID, VOLUME } from "../../support/node-world.ts";
import { aCluster, asBlock, codeOf, creation, deletion, poolDump, seed, uuidOf } from "../../support/world.ts";
import { LISTING } from "../../support/listing-world.ts";
import { hanging } from "../../support/hanging.ts";
import { settled, virtualTime } from "../../support/virtual-time.ts";

const pool: PoolRef = { access: memoryAccess, pool: "rbd", namespace: "" };
const KEY = "csi-rbd.nodes.pvc-1";

const stage = async () => {
  const cluster = aCluster();
  const lister = aDriver(cluster, LISTING);
  const { volume: made } = await lister.createVolume(creation());
  const volume: JournalVolume = { pool, instanceId: "default", requestName: "pvc-1", uuid: uuidOf(made.volumeId) };
  const close = () => lister[Symbol.asyncDispose]();
  return { cluster, lister, volume, volumeId: made.volumeId, [Symbol.asyncDispose]: close };
};

/** What one node does; each has its own way to the cluster. */
const at = (cluster: MemoryCluster, ceph: CephCalls = cephMemoryService(cluster)) => {
  const run = <A, E>(effect: Effect.Effect<A, E, Ceph>) => Effect.runPromise(Effect.provide(effect, cephLayer(ceph)));
  return {
    publish: (volume: JournalVolume, node: string, shared = false) => run(publishNode(volume, node, shared)),
    unpublish: (volume: JournalVolume, node: string) => run(unpublishNode(volume, node)),
  };
};

const written = (cluster: MemoryCluster) => poolDump(cluster).objects["csi.volumes.default"]?.[KEY];

test("lists name a node from its staging to its unstaging, which cost one call each", async () => {
  await using world = await stage();
  const { cluster, lister, volume, volumeId } = world;
  const { service, calls } = recorded(cephMemoryService(cluster));
  const node = at(cluster, service);
  const listed = async () => (await lister.listVolumes()).entries[0]?.status.publishedNodeIds;
  expect(await listed()).toEqual([]);
  await node.publish(volume, "node-1");
  expect(await listed()).toEqual(["node-1"]);
  // nobody has the image open: one that died is not told of
  const got = async () => (await lister.getVolume({ volumeId })).status.publishedNodeIds;
  expect(await got()).toEqual([]);
  const close = cluster.watch("rbd", `csi-vol-${volume.uuid}`);
  expect(await got()).toEqual(["node-1"]);
  close();
  await node.unpublish(volume, "node-1");
  expect(await listed()).toEqual([]);
  expect(written(cluster)).toBeUndefined();
  expect(calls().map(({ method }) => method)).toEqual(["omapWrite", "omapWrite"]);
});

test("lists name the last node of a volume that one node uses, and each node of a shared volume once", async () => {
  await using world = await stage();
  const { cluster, lister, volume } = world;
  const node = at(cluster);
  const listed = async () => (await lister.listVolumes()).entries[0]?.status.publishedNodeIds;
  await node.publish(volume, "node-1");
  await node.publish(volume, "node-2");
  expect(await listed()).toEqual(["node-2"]);
  await node.unpublish(volume, "node-1");
  expect(await listed()).toEqual(["node-2"]);
  for (const name of ["node-3", "node-1", "node-3"]) await node.publish(volume, name, true);
  expect(await listed()).toEqual(["node-1", "node-2", "node-3"]);
  await node.unpublish(volume, "node-2");
  expect(await listed()).toEqual(["node-1", "node-3"]);
});

test("nodes that write at the same time lose none of each other's names", async () => {
  await using world = await stage();
  const { cluster, lister, volume } = world;
  const nodes = ["a", "b", "c", "d"];
  await Promise.all(nodes.map((node) => at(cluster).publish(volume, node, true)));
  expect((await lister.listVolumes()).entries[0]?.status.publishedNodeIds).toEqual(nodes);
  await Promise.all(nodes.map((node) => at(cluster).unpublish(volume, node)));
  expect(written(cluster)).toBeUndefined();
});

test("DeleteVolume removes the list of nodes, and a new volume of that name does not inherit it", async () => {
  await using world = await stage();
  const { cluster, lister, volume, volumeId } = world;
  await at(cluster).publish(volume, "node-1");
  const left = written(cluster);
  await lister.deleteVolume(deletion(volumeId));
  expect(poolDump(cluster).objects).toEqual({ "csi.volumes.default": {} });
  // as ceph-csi leaves it
  cluster
    .namespace("rbd", "")
    ?.objects.get("csi.volumes.default")
    ?.set(KEY, left ?? "");
  const { volume: again } = await lister.createVolume(creation());
  expect((await lister.listVolumes()).entries.map(({ status }) => status.publishedNodeIds)).toEqual([[]]);
  const next = { ...volume, uuid: uuidOf(again.volumeId) };
  await at(cluster).publish(next, "node-2", true);
  expect((await lister.listVolumes()).entries[0]?.status.publishedNodeIds).toEqual(["node-2"]);
});

test("a malformed list of nodes reads as empty, and a node plugin does not fail without a journal", async () => {
  await using world = await stage();
  const { cluster, lister, volume } = world;
  const directory = cluster.namespace("rbd", "")?.objects.get("csi.volumes.default");
  for (const nonsense of ["", "[]", "{", '"x"', '["other","node"]', "[1]"]) {
    directory?.set(KEY, nonsense);
    expect((await lister.listVolumes()).entries[0]?.status.publishedNodeIds).toEqual([]);
  }
  await at(cluster).publish(volume, "node-1");
  expect((await lister.listVolumes()).entries[0]?.status.publishedNodeIds).toEqual(["node-1"]);
  cluster.namespace("rbd", "")?.objects.clear();
  await at(cluster).publish(volume, "node-1");
  await at(cluster).unpublish(volume, "node-1");
  expect(poolDump(cluster).objects).toEqual({});
});

test("a node plugin gives up an endless race to write its name after five attempts", async () => {
  await using world = await stage();
  const { cluster, volume } = world;
  let writes = 0;
  const racing = intercepted(cephMemoryService(cluster), ({ method }, act) => {
    if (method !== "omapWrite") return act;
    cluster
      .namespace("rbd", "")
      ?.objects.get("csi.volumes.default")
      ?.set(KEY, JSON.stringify([volume.uuid, `n${writes++}`]));
    return act;
  });
  await at(cluster, racing).publish(volume, "node-1", true);
  expect(writes).toBe(5);
});

const nodesOf = (cluster: MemoryCluster) =>
  poolDump(cluster).objects["csi.volumes.default"]?.[`csi-rbd.nodes.pvc-${UUID}`];

const aListedNode = async () => {
  const world = await aNode();
  seed(world.cluster, { "csi.volumes.default": { [`csi.volume.pvc-${UUID}`]: UUID } });
  return world;
};

test("a node plugin writes its name when it stages, and takes it back when it unstages", async () => {
  const { cluster, host } = await aListedNode();
  await using node = nodeOn(host);
  await node.stage(staging());
  expect(nodesOf(cluster)).toBe(JSON.stringify([UUID, "node-1"]));
  await using lister = aDriver(cluster, LISTING);
  const { entries } = await lister.listVolumes();
  expect(entries.map(({ volume, status }) => [volume.volumeId, status.publishedNodeIds])).toEqual([
    [VOLUME, ["node-1"]],
  ]);
  expect((await lister.getVolume({ volumeId: VOLUME })).status.publishedNodeIds).toEqual(["node-1"]);
  await node.unstage(unstaging());
  expect(nodesOf(cluster)).toBeUndefined();
});

test("node plugins add and remove only their own name in the list of a shared volume", async () => {
  const { cluster, host } = await aListedNode();
  seed(cluster, {
    "csi.volumes.default": {
      [`csi.volume.pvc-${UUID}`]: UUID,
      [`csi-rbd.nodes.pvc-${UUID}`]: JSON.stringify([UUID, "node-0"]),
    },
  });
  await using node = nodeOn(host);
  const volumeCapability = asBlock(Mode.MULTI_NODE_MULTI_WRITER);
  await node.stage(staging({ volumeCapability }));
  expect(nodesOf(cluster)).toBe(JSON.stringify([UUID, "node-0", "node-1"]));
  await node.unstage(unstaging());
  expect(nodesOf(cluster)).toBe(JSON.stringify([UUID, "node-0"]));
});

test("a failed write of the node's name fails neither staging nor unstaging, and a hanging write does not hold up staging", async () => {
  const { cluster, host } = await aListedNode();
  let hangs = false;
  const hang = hanging();
  const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) => {
    if (method !== "omapWrite") return act;
    return hangs ? hang.around(act) : Effect.fail(new TimedOut({ op: "rados_write_op_operate", subject: IMAGE }));
  });
  const time = virtualTime();
  await using node = nodeOn(host, { ceph, time });
  expect(await codeOf(node.stage(staging()))).toBe("OK");
  expect(await codeOf(node.unstage(unstaging()))).toBe("OK");
  hangs = true;
  const staged = codeOf(node.stage(staging()));
  await settled();
  expect((await node.operations()).running()).toMatchObject([{ rpc: "NodeStageVolume" }]);
  await time.pass("2 seconds");
  expect(await staged).toBe("OK");
  expect(nodesOf(cluster)).toBeUndefined();
  hang.end();
});

test("a removal of the node's name that takes effect late leaves the name of the next staging", async () => {
  const { cluster, host } = await aListedNode();
  const hang = hanging();
  let hangs = false;
  const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
    hangs && method === "omapWrite" ? hang.around(act) : act,
  );
  const time = virtualTime();
  await using node = nodeOn(host, { ceph, time });
  await node.stage(staging());
  hangs = true;
  expect(await time.until(codeOf(node.unstage(unstaging())))).toBe("OK");
  hangs = false;
  const staged = codeOf(node.stage(staging()));
  await settled();
  hang.end();
  expect(await time.until(staged)).toBe("OK");
  expect(nodesOf(cluster)).toBe(JSON.stringify([UUID, "node-1"]));
});

test("what a stage looks up only to complete the record holds it up for five seconds at most", async () => {
  const { cluster, host } = await aListedNode();
  {
    await using before = nodeOn(host);
    await before.stage(staging());
  }
  const hang = hanging();
  const time = virtualTime();
  await using node = nodeOn(host, {
    ceph: intercepted(cephMemoryService(cluster), (_, act) => hang.around(act)),
    time,
  });
  const staged = codeOf(node.stage(staging()));
  await time.pass("5 seconds");
  expect(await staged).toBe("OK");
  expect(hang.begun()).toBe(1);
  hang.end();
});
