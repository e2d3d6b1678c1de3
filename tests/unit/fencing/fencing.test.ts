/**
 * A lost node's client is fenced before its volume goes to another node, and the fence is lifted when the node has booted
 * anew: every branch, over a cluster, nodes and a Kubernetes in memory.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Result from "effect/Result";
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import { AccessDenied, TimedOut } from "../../../lib/ceph/errors.ts";
import type { Cluster } from "../../../lib/config/clusters.ts";
import { parseFlags } from "../../../lib/config/flags.ts";
import { NO_MAPPING } from "../../../lib/config/mapping.ts";
import {
  ControllerServiceCapability_RPC_Type as Offered,
  VolumeCapability_AccessMode_Mode as Mode,
} from "../../../lib/gen/csi_pb.ts";
import { crashAt, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService, MEMORY_KEY, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import {
  attaching,
  aNodeObject,
  BOOTED,
  CLIENT,
  detaching,
  fencedAs,
  FENCING,
  IN_SERVICE,
  KEY,
  kubeWith,
  listed,
  LOST,
  MACHINE,
  metadata,
  metaOf,
  RECORD,
  TAINT,
  withFence,
  withRecord,
} from "../../support/fencing-world.ts";
import { hanging } from "../../support/hanging.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import { hostMemoryService } from "../../support/host-memory.ts";
import { type KubeMemory, Refused } from "../../support/kube-memory.ts";
import {
  aNode,
  IMAGE,
  nodeOn,
  OTHER_UUID,
  seedVolume,
  staging,
  unstaging,
  VOLUME,
  volumeIdOf,
} from "../../support/node-world.ts";
import { aDriver, type DriverWorld } from "../../support/one-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { asBlock, codeOf, EAST, failureOf, PARAMETERS } from "../../support/world.ts";

/** All clients of node-a's address, as a record of ceph-csi has it. */
const WHOLE = "10.0.0.7:0/0";
const BOOT_FILE = "/proc/sys/kernel/random/boot_id";
const controllerOn = (cluster: MemoryCluster, kube: KubeMemory, more: DriverWorld = {}) =>
  aDriver(cluster, { kube, ...more, flags: { ...FENCING, ...more.flags } });

describe("staging", () => {
  const nodeWith = async (flags: DriverWorld["flags"] = FENCING) => {
    const { cluster, host } = await aNode();
    host.tree.set(BOOT_FILE, { kind: "file", text: "boot-1\n" });
    return { cluster, host, driver: () => nodeOn(host, { flags: { nodeid: "node-a", ...flags } }) };
  };
  const recordOf = (client: string) => ({
    [`${KEY}clientAddress/node-a`]: client,
    [`${KEY}userID/node-a`]: "admin",
    [`${KEY}bootID/node-a`]: `boot-1 ${client}`,
  });

  test("A stage records the client that Ceph shows, its user and the boot; the unstage removes all of it", async () => {
    const { cluster, driver } = await nodeWith();
    await using node = driver();
    await node.stage(staging());
    expect(metadata(cluster)).toEqual(recordOf("10.0.0.1:0/1"));
    await node.unstage(unstaging());
    expect(metadata(cluster)).toEqual({});
  });

  test("Without --enable-fencing nothing is recorded, and no further call is made", async () => {
    const callsWith = async (flags: DriverWorld["flags"]) => {
      const { cluster, host } = await nodeWith();
      const { service, calls } = recorded(cephMemoryService(cluster));
      await using node = nodeOn(host, { ceph: service, flags: { nodeid: "node-a", ...flags } });
      await node.stage(staging());
      await node.unstage(unstaging());
      expect(metadata(cluster)).toEqual({});
      return calls().map(({ method }): string => method);
    };
    const without = await callsWith({});
    const withFencing = await callsWith(FENCING);
    expect(without).not.toContain("imageMetaSet");
    const ours = withFencing.indexOf("imageMetaSet");
    expect(withFencing.slice(ours, ours + 2)).toEqual(["imageMetaSet", "imageStatus"]);
    const theirs = withFencing.toSpliced(ours, 2).filter((method) => !method.startsWith("imageMeta"));
    expect(theirs).toEqual(without);
  });

  test("The record is there before anything is written to the image", async () => {
    const { cluster, host } = await nodeWith();
    const order: string[] = [];
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) => {
      order.push(method);
      return act;
    });
    const service = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      order.push(method);
      return act;
    });
    await using node = nodeOn(host, { ceph, host: service, flags: { nodeid: "node-a", ...FENCING } });
    await node.stage(staging());
    expect(order.indexOf("imageMetaSet")).toBeGreaterThan(order.indexOf("map"));
    expect(order.indexOf("imageMetaSet")).toBeLessThan(order.indexOf("mkfs"));
  });

  test("A stage that cannot record fails, and leaves nothing mapped", async () => {
    const { cluster, host } = await nodeWith();
    const denied = new AccessDenied({ op: "rbd_metadata_set", subject: IMAGE, user: "admin" });
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "imageMetaSet" ? Effect.fail(denied) : act,
    );
    await using node = nodeOn(host, { ceph, flags: { nodeid: "node-a", ...FENCING } });
    expect(await codeOf(node.stage(staging()))).toBe("PERMISSION_DENIED");
    expect([...host.mappings.keys()]).toEqual([]);
  });

  test("What was staged before fencing was turned on is recorded by the next stage", async () => {
    const { cluster, host } = await nodeWith();
    {
      await using before = nodeOn(host, { flags: { nodeid: "node-a" } });
      await before.stage(staging());
    }
    await using node = nodeOn(host, { flags: { nodeid: "node-a", ...FENCING } });
    await node.stage(staging());
    expect(metadata(cluster)).toEqual(recordOf("10.0.0.1:0/1"));
  });

  test("The record of ceph-csi for the same node goes with the next stage", async () => {
    const { cluster, driver } = await nodeWith();
    metaOf(cluster).set(`${KEY}clientaddress/${VOLUME}/node-a`, "10.0.0.1");
    metaOf(cluster).set(`${KEY}userid/${VOLUME}/node-a`, "old");
    metaOf(cluster).set(`${KEY}clientaddress/${VOLUME}/node-c`, "10.0.0.3");
    await using node = driver();
    await node.stage(staging());
    expect(metadata(cluster)).toEqual({
      ...recordOf("10.0.0.1:0/1"),
      [`${KEY}clientaddress/${VOLUME}/node-c`]: "10.0.0.3",
    });
  });

  test("A volume that several nodes write to is recorded by each, and one that is mapped read-only by none", async () => {
    const { cluster, driver } = await nodeWith();
    await using node = driver();
    await node.stage(staging({ volumeCapability: asBlock(Mode.MULTI_NODE_MULTI_WRITER) }));
    expect(metadata(cluster)).toEqual(recordOf("10.0.0.1:0/1"));
    await node.unstage(unstaging());
    await node.stage(staging({ volumeCapability: asBlock(Mode.MULTI_NODE_READER_ONLY) }));
    expect(metadata(cluster)).toEqual({});
  });

  test("A static volume is not recorded", async () => {
    const { cluster, host, driver } = await nodeWith();
    host.addDirectory("/kubelet/static");
    await using node = driver();
    const volumeContext = { ...PARAMETERS, staticVolume: "true" };
    await node.stage(staging({ volumeId: IMAGE, stagingTargetPath: "/kubelet/static", volumeContext }));
    expect(metadata(cluster)).toEqual({});
  });

  test("A new rbd-nbd process is another client, and replaces the record of the old one", async () => {
    const { cluster, host, driver } = await nodeWith();
    const volumeContext = { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" };
    await using node = driver();
    await node.stage(staging({ volumeContext }));
    const [path = ""] = host.mappings.keys();
    metaOf(cluster).set(`${KEY}clientAddress/node-a`, "10.0.0.1:0/999");
    host.killProcess(path);
    await node.lookAfterProcesses();
    expect(metadata(cluster)).toEqual(recordOf("10.0.0.1:0/1"));
  });

  test("A node that was fenced under this boot gets no new rbd-nbd process, and after a boot it does", async () => {
    const { cluster, host, driver } = await nodeWith();
    const volumeContext = { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" };
    await using node = driver();
    await node.stage(staging({ volumeContext }));
    const [path = ""] = host.mappings.keys();
    host.killProcess(path);
    const fenced = `${KEY}fenced/10.0.0.1:0/1`;
    metaOf(cluster).set(fenced, JSON.stringify({ nodeId: "node-a", bootId: "boot-1" }));
    await node.lookAfterProcesses();
    expect(host.mappings.get(path)?.dead).toBe(true);
    expect(node.log.join()).toContain("was taken from this node while it was lost");
    metaOf(cluster).set(fenced, JSON.stringify({ nodeId: "node-a", bootId: "boot-0" }));
    await node.lookAfterProcesses();
    expect(host.mappings.get(path)?.dead).toBe(false);
  });

  test("A fence whose boot or whose record is not known holds a new rbd-nbd process up, also of a shared volume", async () => {
    for (const shared of [false, true]) {
      const { cluster, host } = await nodeWith();
      const calls: string[] = [];
      const service = interceptedHost(hostMemoryService(host), ({ method }, act) => {
        calls.push(method);
        return act;
      });
      const volumeContext = { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" };
      const volumeCapability = asBlock(shared ? Mode.MULTI_NODE_MULTI_WRITER : Mode.SINGLE_NODE_WRITER);
      await using node = nodeOn(host, { host: service, flags: { nodeid: "node-a", ...FENCING } });
      await node.stage(staging({ volumeContext, volumeCapability }));
      const [path = ""] = host.mappings.keys();
      host.killProcess(path);
      for (const record of [fencedAs("boot-1", "boot-0"), fencedAs(""), "{"]) {
        metaOf(cluster).set(`${KEY}fenced/10.0.0.1:0/1`, record);
        await node.lookAfterProcesses();
      }
      expect(host.mappings.get(path)?.dead).toBe(true);
      // Not even for a moment: the kernel would hand the process what it holds back.
      expect(calls).not.toContain("attach");
    }
  });

  test("Under a boot that was fenced from a volume a stage maps nothing; under another one it does", async () => {
    for (const [fence, code] of [
      [fencedAs("boot-1", ""), "FAILED_PRECONDITION"],
      [fencedAs("boot-0", "boot-1"), "OK"],
      // the controller has judged it
      [fencedAs("", "boot-0"), "OK"],
      [fencedAs("boot-1").replace("node-a", "node-c"), "OK"],
      ["{", "OK"],
    ] as const) {
      const { cluster, host } = await nodeWith();
      const calls: string[] = [];
      const service = interceptedHost(hostMemoryService(host), ({ method }, act) => {
        calls.push(method);
        return act;
      });
      metaOf(cluster).set(`${KEY}fenced/${CLIENT}`, fence);
      await using node = nodeOn(host, { host: service, flags: { nodeid: "node-a", ...FENCING } });
      const failure = await failureOf(node.stage(staging()));
      expect(failure?.code ?? "OK").toBe(code);
      expect(calls.includes("map")).toBe(code === "OK");
      expect(failure?.message ?? CLIENT).toContain(CLIENT);
    }
  });

  test("A boot that the node cannot read may be the fenced one", async () => {
    const { cluster, host, driver } = await nodeWith();
    host.tree.delete(BOOT_FILE);
    metaOf(cluster).set(`${KEY}fenced/${CLIENT}`, fencedAs("boot-0"));
    await using node = driver();
    expect(await codeOf(node.stage(staging()))).toBe("FAILED_PRECONDITION");
    expect([...host.mappings.keys()]).toEqual([]);
  });

  test("What is staged still goes to no pod under the boot that was fenced from it", async () => {
    const { cluster, driver } = await nodeWith();
    await using node = driver();
    await node.stage(staging());
    const fence = `${KEY}fenced/10.0.0.1:0/1`;
    metaOf(cluster).clear();
    metaOf(cluster).set(fence, fencedAs("boot-1", "boot-of-kubelet"));
    const failure = await failureOf(node.stage(staging()));
    // kubelet unstages after this code: something of the volume is there
    expect(failure?.code).toBe("UNAVAILABLE");
    expect(failure?.message).toContain("was taken from this node while it was lost");
    expect(Object.keys(metadata(cluster))).toEqual([fence]);
    metaOf(cluster).set(fence, fencedAs("boot-0", "boot-of-kubelet"));
    await node.stage(staging());
  });

  test("A stage that was held up before its record was there finds out who got the volume meanwhile", async () => {
    const { cluster, host } = await nodeWith();
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) => {
      if (method === "imageMetaSet") cluster.image("rbd", IMAGE).watchers.add("10.0.0.8:0/8/client.8");
      return act;
    });
    await using node = nodeOn(host, { ceph, flags: { nodeid: "node-a", ...FENCING } });
    const failure = await failureOf(node.stage(staging()));
    expect(failure?.message).toContain("10.0.0.8:0/8/client.8");
    expect([...host.mappings.keys()]).toEqual([]);
  });

  describe("of a shared image with rbd-nbd, where another node is seen under this one's address", () => {
    const OTHER = "10.0.0.1:0/77";
    const spec = staging({
      volumeContext: { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" },
      volumeCapability: asBlock(Mode.MULTI_NODE_MULTI_WRITER),
    });
    const come = (cluster: MemoryCluster) => cluster.image("rbd", IMAGE).watchers.add(`${OTHER}/client.77`);

    test("the one that was there before is not recorded", async () => {
      const { cluster, driver } = await nodeWith();
      come(cluster);
      await using node = driver();
      await node.stage(spec);
      expect(metadata(cluster)).toEqual(recordOf("10.0.0.1:0/1"));
    });

    test("nothing is recorded if both have come, and the stage fails", async () => {
      const { cluster, host } = await nodeWith();
      const service = interceptedHost(hostMemoryService(host), ({ method }, act) =>
        method === "map" ? Effect.tap(act, () => Effect.sync(() => come(cluster))) : act,
      );
      await using node = nodeOn(host, { host: service, flags: { nodeid: "node-a", ...FENCING } });
      const failure = await failureOf(node.stage(spec));
      expect(failure?.code).toBe("FAILED_PRECONDITION");
      expect(failure?.message).toContain("more than one may be the client of");
      expect(metadata(cluster)).toEqual({});
      expect([...host.mappings.keys()]).toEqual([]);
    });

    test("a repeated stage keeps the record, and records nothing if there is none", async () => {
      const { cluster, driver } = await nodeWith();
      await using node = driver();
      await node.stage(spec);
      const { watchers } = cluster.image("rbd", IMAGE);
      const own = [...watchers];
      watchers.clear();
      for (const each of [`${OTHER}/client.77`, ...own]) watchers.add(each);
      await node.stage(spec);
      expect(metadata(cluster)).toEqual(recordOf("10.0.0.1:0/1"));
      metaOf(cluster).clear();
      await node.stage(spec);
      expect(metadata(cluster)).toEqual({});
      expect(node.log.join()).toContain("can be fenced on this node is not known");
    });
  });

  test("A volume that is staged already stays so if its record cannot be renewed, and the log says so", async () => {
    const { cluster, host } = await nodeWith();
    {
      await using before = nodeOn(host, { flags: { nodeid: "node-a" } });
      await before.stage(staging());
    }
    const late = new TimedOut({ op: "rbd_open", subject: IMAGE });
    const ceph = intercepted(cephMemoryService(cluster), () => Effect.fail(late));
    await using node = nodeOn(host, { ceph, flags: { nodeid: "node-a", ...FENCING } });
    await node.stage(staging());
    expect(node.log.join()).toContain("can be fenced on this node is not known");
  });

  test("An end of the record that takes effect late holds up no unstage, and leaves the record of the next stage", async () => {
    const { cluster, host } = await nodeWith();
    const hang = hanging();
    let hangs = false;
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      hangs && method === "imageMetaSet" ? hang.around(act) : act,
    );
    const time = virtualTime();
    await using node = nodeOn(host, { ceph, time, flags: { nodeid: "node-a", ...FENCING } });
    await node.stage(staging());
    hangs = true;
    expect(await time.until(codeOf(node.unstage(unstaging())))).toBe("OK");
    hangs = false;
    const staged = codeOf(node.stage(staging()));
    await time.pass("10 seconds");
    expect(host.mounts).toEqual([]);
    hang.end();
    expect(await time.until(staged)).toBe("OK");
    expect(Object.keys(metadata(cluster))).toContain(`${KEY}clientAddress/node-a`);
  });

  test("A driver that was started anew leaves the record to ControllerUnpublishVolume, which removes it", async () => {
    const { cluster, host } = await nodeWith();
    {
      await using before = nodeOn(host, { flags: { nodeid: "node-a", ...FENCING } });
      await before.stage(staging());
    }
    await using node = nodeOn(host, { kube: IN_SERVICE(), flags: { nodeid: "node-a", ...FENCING } });
    await node.unstage(unstaging());
    expect(metadata(cluster)).toEqual(recordOf("10.0.0.1:0/1"));
    await node.detach(detaching());
    expect(metadata(cluster)).toEqual({});
    expect(listed(cluster)).toEqual([]);
  });
});

describe("detaching", () => {
  test("The client of a node that is out of service is fenced, by exactly its address and nonce", async () => {
    const cluster = await withRecord({ ...RECORD, other: "kept" });
    await using driver = controllerOn(cluster, LOST());
    await driver.detach(detaching());
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
    expect(metadata(cluster)).toEqual({
      other: "kept",
      [`${KEY}fenced/${CLIENT}`]: fencedAs(),
    });
    expect(driver.log.join()).toContain(`Ceph refuses its client ${CLIENT} until the node has booted anew`);
    await driver.detach(detaching());
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
  });

  test("The data pool is proven, too", async () => {
    const cluster = await withRecord();
    Object.assign(cluster.image("rbd", IMAGE), { dataPool: "ec" });
    const { service, calls } = recorded(cephMemoryService(cluster));
    await using driver = controllerOn(cluster, LOST(), { ceph: service });
    await driver.detach(detaching());
    const proofs = calls().filter(({ method }) => method === "blocklistReached");
    expect(proofs).toHaveLength(2);
  });

  test("Nothing is fenced for a node in service, and its record goes", async () => {
    const cluster = await withRecord();
    await using driver = controllerOn(cluster, IN_SERVICE());
    await driver.detach(detaching());
    expect(listed(cluster)).toEqual([]);
    expect(metadata(cluster)).toEqual({});
  });

  test("A node in service whose client has the image open keeps its record, and the log says so", async () => {
    const cluster = await withRecord();
    cluster.image("rbd", IMAGE).watchers.add(`${CLIENT}/client.4711`);
    await using driver = controllerOn(cluster, IN_SERVICE());
    await driver.detach(detaching());
    expect(metadata(cluster)).toEqual(RECORD);
    expect(driver.log.join()).toContain("still has it open");
  });

  test("Of a node that is gone the recorded client is fenced, by the detach and by an attach, and nothing lifts that", async () => {
    for (const call of ["detach", "attach"] as const) {
      const cluster = await withRecord();
      await using driver = controllerOn(cluster, kubeWith(aNodeObject("node-b")));
      await (call === "detach" ? driver.detach(detaching()) : driver.attach(attaching("node-b")));
      expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
      expect(metadata(cluster)).toEqual({ [`${KEY}fenced/${CLIENT}`]: fencedAs("boot-1", "", "") });
      expect(driver.log.join()).toContain("does not exist any more");
      await using later = controllerOn(cluster, BOOTED());
      await later.attach(attaching("node-b"));
      expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
    }
  });

  test("Of a node that is gone no whole address is fenced: the record stays, and the log says so", async () => {
    const theirs = { [`${KEY}clientaddress/${VOLUME}/node-a`]: "10.0.0.7" };
    const cluster = await withRecord(theirs);
    await using driver = controllerOn(cluster, kubeWith(aNodeObject("node-b")));
    await driver.detach(detaching());
    expect(listed(cluster)).toEqual([]);
    expect(metadata(cluster)).toEqual(theirs);
    expect(driver.log.join()).toContain("which does not exist: its client 10.0.0.7:0/0 is not fenced");
  });

  test.each(["False", "Unknown"] as const)(
    "A node whose state is %s keeps its record, and is fenced when it is tainted later",
    async (ready) => {
      const cluster = await withRecord();
      const taints = [{ key: "node.kubernetes.io/unreachable", effect: "NoExecute" }];
      const kube = kubeWith(aNodeObject("node-a", { ready, taints }), aNodeObject("node-b"));
      await using driver = controllerOn(cluster, kube);
      await driver.detach(detaching());
      expect(listed(cluster)).toEqual([]);
      expect(metadata(cluster)).toEqual(RECORD);
      expect(driver.log.join()).toContain("is not ready, and not out of service");
      kube.merge("/api/v1/nodes/node-a", { spec: { taints: [TAINT] } });
      await driver.attach(attaching("node-b"));
      expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
    },
  );

  test("Another taint is none of ours", async () => {
    const cluster = await withRecord();
    const taints = [{ key: "node.kubernetes.io/unreachable", effect: "NoExecute" }];
    await using driver = controllerOn(cluster, kubeWith(aNodeObject("node-a", { taints })));
    await driver.detach(detaching());
    expect(listed(cluster)).toEqual([]);
  });

  test("Only the node that is detached is looked at; without a node ID it is every one", async () => {
    const other = { [`${KEY}clientAddress/node-c`]: "10.0.0.9:0/9" };
    const cluster = await withRecord({ ...RECORD, ...other });
    const nodes = ["node-a", "node-c"].map((name) => aNodeObject(name, { taints: [TAINT] }));
    await using driver = controllerOn(cluster, kubeWith(...nodes));
    await driver.detach(detaching());
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
    await driver.detach(detaching(""));
    expect(listed(cluster)).toEqual([`client ${CLIENT}`, "client 10.0.0.9:0/9"]);
  });

  test("A volume that is gone is detached", async () => {
    const cluster = await withRecord({});
    const kube = LOST();
    await using driver = controllerOn(cluster, kube);
    cluster.namespace("rbd", "")?.images.delete(IMAGE);
    await driver.detach(detaching());
    expect(kube.requests).toEqual([]);
  });

  test("Without a record nobody unknown may have the image open while the node is out of service", async () => {
    const cluster = await withRecord({ [`${KEY}clientAddress/node-b`]: "10.0.0.8:0/8" });
    const { watchers } = cluster.image("rbd", IMAGE);
    watchers.add("10.0.0.8:0/8/client.8").add("10.0.0.7:0/5/client.5");
    await using driver = controllerOn(cluster, LOST());
    const failure = await failureOf(driver.detach(detaching()));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain("10.0.0.7:0/5/client.5 has image");
    expect(failure?.message).toContain("ceph osd blocklist add 10.0.0.7:0/5 ");
    expect(failure?.message).not.toContain("10.0.0.8");
    watchers.delete("10.0.0.7:0/5/client.5");
    await driver.detach(detaching());
    expect(driver.log.join()).toContain("nothing was fenced");
    expect(listed(cluster)).toEqual([]);
  });

  test("The fence of a whole address, which somebody may have lifted, explains no watcher from there", async () => {
    const cluster = await withRecord({ [`${KEY}fenced/${WHOLE}`]: fencedAs("").replace("node-a", "node-c") });
    cluster.image("rbd", IMAGE).watchers.add("10.0.0.7:0/5/client.5");
    await using driver = controllerOn(cluster, LOST());
    expect(await codeOf(driver.detach(detaching()))).toBe("FAILED_PRECONDITION");
  });

  test("Without a record a node in service is detached, whoever has the image open", async () => {
    const cluster = await withRecord({});
    cluster.image("rbd", IMAGE).watchers.add("10.0.0.7:0/5/client.5");
    await using driver = controllerOn(cluster, IN_SERVICE());
    await driver.detach(detaching());
  });

  test.each([
    ["static", IMAGE],
    [
      "in-tree",
      "mig_mons-b7f67366bb43f32e07d8a261a7840da9_image-e0b45b52-7e09-47d3-8f1b-806995fa4412_706f6f6c5f7265706c6963615f706f6f6c",
    ],
  ])(
    "A volume that is %s leaves a lost node, with and without credentials, and a remark says that nothing was fenced",
    async (_, volumeId) => {
      const cluster = await withRecord();
      for (const more of [{}, { secrets: {} }]) {
        await using driver = controllerOn(cluster, LOST());
        await driver.detach(detaching("node-a", { ...more, volumeId }));
        expect(driver.log.join()).toContain("was not fenced");
        expect(listed(cluster)).toEqual([]);
      }
    },
  );

  test("If Kubernetes does not tell, the volume stays, and the message says what to grant", async () => {
    const cluster = await withRecord();
    const kube = LOST();
    kube.get = () => {
      throw new Refused(403, "Forbidden", "nodes is forbidden");
    };
    await using driver = controllerOn(cluster, kube);
    const failure = await failureOf(driver.detach(detaching()));
    expect(failure?.code).toBe("ABORTED");
    expect(failure?.message).toContain('Grant the service account the verb "get"');
    expect(metadata(cluster)).toEqual(RECORD);
  });

  test("A record of the node that cannot be read is an error, and nothing is given away", async () => {
    for (const key of [`${KEY}clientAddress/node-a`, `${KEY}clientaddress/${VOLUME}/node-a`]) {
      const cluster = await withRecord({ ...RECORD, [key]: "somewhere" });
      for (const nodeId of ["node-a", ""]) {
        await using driver = controllerOn(cluster, LOST());
        const failure = await failureOf(driver.detach(detaching(nodeId)));
        expect(failure?.code).toBe("INTERNAL");
        expect(failure?.message).toContain(key);
        expect(listed(cluster)).toEqual([]);
      }
    }
  });

  test.each([`${KEY}clientAddress/node-c`, `${KEY}fenced/10.0.0.9:0/9`])(
    "%s, unreadable, holds up no other node",
    async (key) => {
      const cluster = await withRecord({ ...RECORD, [key]: "{" });
      await using driver = controllerOn(cluster, LOST());
      await driver.detach(detaching());
      expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
      expect(metadata(cluster)[key]).toBe("{");
    },
  );

  test.each([
    [`${KEY}clientaddress/${VOLUME}/node-a`, "10.0.0.7", "client 10.0.0.7:0/0"],
    [`${KEY}clientaddress/${VOLUME}/node-a`, "fd00::7", "client [fd00::7]:0/0"],
    [`${KEY}clientAddress/node-a`, "10.0.0.7", "client 10.0.0.7:0/0"],
    [`${KEY}clientAddress/node-a`, "v1:[fd00::7]:0/12", "client [fd00::7]:0/12"],
  ])("A record of ceph-csi is read: %s = %s", async (key, value, entry) => {
    const cluster = await withRecord({ [key]: value, [`${KEY}userid/${VOLUME}/node-a`]: "u" });
    await using driver = controllerOn(cluster, LOST());
    await driver.detach(detaching());
    expect(listed(cluster)).toEqual([entry]);
    const client = entry.slice("client ".length);
    const until = client.endsWith("/0") ? "somebody lifts that by hand" : "the node has booted anew";
    expect(driver.log.join()).toContain(`${client} until ${until}`);
    // the boot that this driver left beside another client is not its own
    expect(metadata(cluster)).toEqual({ [`${KEY}fenced/${client}`]: fencedAs("") });
  });

  test("Where both drivers have recorded a node, ceph-csi came last", async () => {
    const cluster = await withRecord({ ...RECORD, [`${KEY}clientaddress/${VOLUME}/node-a`]: "10.0.0.8" });
    await using driver = controllerOn(cluster, LOST());
    await driver.detach(detaching());
    expect(listed(cluster)).toEqual(["client 10.0.0.8:0/0"]);
  });

  test("A watcher from the address of a record without a nonce is its client", async () => {
    const theirs = { [`${KEY}clientaddress/${VOLUME}/node-a`]: "10.0.0.7" };
    const cluster = await withRecord(theirs);
    cluster.image("rbd", IMAGE).watchers.add("10.0.0.7:0/5/client.5");
    await using driver = controllerOn(cluster, IN_SERVICE());
    await driver.detach(detaching());
    expect(metadata(cluster)).toEqual(theirs);
  });

  test("If the OSDs do not answer for the fence, the volume stays, and the next call fences again", async () => {
    const cluster = await withRecord();
    const late = new TimedOut({ op: "rados_stat", subject: "rbd" });
    let fails = true;
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "blocklistReached" && fails ? Effect.fail(late) : act,
    );
    await using driver = controllerOn(cluster, LOST(), { ceph });
    expect(await codeOf(driver.detach(detaching()))).toBe("DEADLINE_EXCEEDED");
    expect(metadata(cluster)).toEqual({ ...RECORD, [`${KEY}fenced/${CLIENT}`]: fencedAs() });
    fails = false;
    await driver.detach(detaching());
    expect(metadata(cluster)).toEqual({ [`${KEY}fenced/${CLIENT}`]: fencedAs() });
  });

  test("A client that the node got meanwhile is fenced, too: the detach looks again", async () => {
    const [old, another] = [`client ${CLIENT}`, "client 10.0.0.7:0/9999"];
    for (const [kube, at, fenced] of [
      [LOST, 1, [another]],
      [LOST, 2, [old, another]],
      [IN_SERVICE, 1, []],
    ] as const) {
      const cluster = await withRecord();
      let writes = 0;
      const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) => {
        if (method === "imageMetaSet" && (writes += 1) === at) {
          metaOf(cluster).set(`${KEY}clientAddress/node-a`, "10.0.0.7:0/9999");
        }
        return act;
      });
      await using driver = controllerOn(cluster, kube(), { ceph });
      expect(await codeOf(driver.detach(detaching()))).toBe("ABORTED");
      expect(metadata(cluster)[`${KEY}clientAddress/node-a`]).toBe("10.0.0.7:0/9999");
      await driver.detach(detaching());
      expect(listed(cluster)).toEqual([...fenced]);
      expect(metadata(cluster)).not.toHaveProperty([`${KEY}clientAddress/node-a`]);
    }
  });

  test("If the entry is not on the list any more, the volume stays", async () => {
    const cluster = await withRecord();
    const ceph: CephCalls = { ...cephMemoryService(cluster), blocklistAdd: () => Effect.void };
    await using driver = controllerOn(cluster, LOST(), { ceph });
    const failure = await failureOf(driver.detach(detaching()));
    expect(failure?.code).toBe("ABORTED");
    expect(failure?.message).toContain("is not on the blocklist");
    expect(metadata(cluster)).toMatchObject(RECORD);
  });

  test("A crash at any call leaves what the next call completes", async () => {
    for (const moment of ["before", "after"] as const) {
      for (let k = 1; ; k += 1) {
        const cluster = await withRecord();
        const { service, crashed } = crashAt(cephMemoryService(cluster), k, moment);
        {
          await using dying = controllerOn(cluster, LOST(), { ceph: service });
          await dying.detach(detaching()).catch(() => undefined);
        }
        if (!crashed()) break;
        // No entry that no record explains: nobody would lift it.
        if (listed(cluster).length > 0) expect(metadata(cluster)).toHaveProperty([`${KEY}fenced/${CLIENT}`]);
        await using next = controllerOn(cluster, LOST());
        await next.detach(detaching());
        expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
        expect(Object.keys(metadata(cluster))).toEqual([`${KEY}fenced/${CLIENT}`]);
      }
    }
  });
});

describe("attaching", () => {
  test("What a lost node still has is fenced before another node gets the volume", async () => {
    const cluster = await withRecord();
    await using driver = controllerOn(cluster, LOST());
    expect(await driver.attach(attaching())).toEqual({ publishContext: {} });
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
    expect(Object.keys(metadata(cluster))).toEqual([`${KEY}fenced/${CLIENT}`]);
  });

  test("The node gets the ServiceAccounts to which the image is restricted, as they are written there", async () => {
    const cluster = await withRecord({ [`${KEY}serviceaccount`]: "writer, reader" });
    await using driver = controllerOn(cluster, IN_SERVICE());
    expect(await driver.attach(attaching())).toEqual({ publishContext: { serviceAccount: "writer, reader" } });
  });

  test("A node in service is not fenced, nor is the node itself that gets the volume", async () => {
    const cluster = await withRecord();
    await using driver = controllerOn(cluster, IN_SERVICE());
    await driver.attach(attaching());
    expect(listed(cluster)).toEqual([]);
    await using lost = controllerOn(cluster, LOST());
    await lost.attach(attaching("node-a"));
    expect(listed(cluster)).toEqual([]);
    expect(metadata(cluster)).toEqual(RECORD);
  });

  test("The fence is lifted once the node is seen with another boot, whichever node gets the volume", async () => {
    for (const nodeId of ["node-a", "node-b"]) {
      const cluster = await withFence();
      await using driver = controllerOn(cluster, BOOTED());
      await driver.attach(attaching(nodeId));
      expect(listed(cluster)).toEqual([]);
      expect(metadata(cluster)).toEqual({});
      expect(driver.log.join()).toContain("was lifted");
    }
  });

  test("Without another boot the fence stays, and the fenced node does not get the volume", async () => {
    const cluster = await withFence();
    await using driver = controllerOn(cluster, IN_SERVICE());
    await driver.attach(attaching("node-b"));
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
    const failure = await failureOf(driver.attach(attaching("node-a")));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain(`ceph osd blocklist rm ${CLIENT}`);
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
  });

  const again = (more: Parameters<typeof aNodeObject>[1]) => () =>
    kubeWith(aNodeObject("node-a", { bootID: "boot-2", ...more }), aNodeObject("node-b"));

  test.each([
    ["a node that is gone", () => kubeWith(aNodeObject("node-b")), []],
    ["a node that tells no boot", again({ bootID: "" }), []],
    ["a boot that nobody saw at the fence", BOOTED, ["boot-1", ""]],
    ["a node that is still out of service", again({ taints: [TAINT] }), []],
    ["the boot that Kubernetes showed at the fence, which a pod sees otherwise", again({}), ["boot-of-host", "boot-2"]],
    ["the boot that the node itself recorded", again({}), ["boot-2", "boot-1"]],
    ["another machine of the same name", again({ machineID: "machine-2" }), []],
    ["a machine that nobody saw at the fence", again({}), ["boot-1", "boot-1", ""]],
    ["a machine that is not told", again({ machineID: "" }), ["boot-1", "boot-1", ""]],
  ] as const)("The fence stays with %s", async (_, kube, as) => {
    const cluster = await withFence(...as);
    await using driver = controllerOn(cluster, kube());
    await driver.attach(attaching("node-b"));
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
    expect(Object.keys(metadata(cluster))).toEqual([`${KEY}fenced/${CLIENT}`]);
  });

  test.each([
    ["its Node object was away at the fence", BOOTED, ["boot-1", "", ""]],
    ["it had booted before the fence", BOOTED, ["boot-1", "boot-2"]],
    ["it was reinstalled under its name", again({ machineID: "machine-2" }), []],
    ["it was reinstalled under its name, and tells no machine", again({ machineID: "" }), []],
  ] as const)(
    "A node with another boot than its fenced client gets the volume, and the fence stays: %s",
    async (_, kube, as) => {
      const cluster = await withFence(...as);
      await using driver = controllerOn(cluster, kube());
      await driver.attach(attaching("node-a"));
      expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
      expect(Object.keys(metadata(cluster))).toEqual([`${KEY}fenced/${CLIENT}`]);
    },
  );

  test.each([
    ["it has the boot of the client", IN_SERVICE, ["boot-1", "", ""]],
    ["it has the boot of the client, on another machine", again({ bootID: "boot-1", machineID: "machine-2" }), []],
    ["it tells no boot", again({ bootID: "" }), []],
    ["it is still out of service", again({ taints: [TAINT] }), []],
    ["the boot of the client is in no record, and Kubernetes showed none", BOOTED, ["", ""]],
    ["the boot of the client is in no record, and Kubernetes showed this one", BOOTED, ["", "boot-2"]],
  ] as const)("A fenced node that may have the boot of its client gets no volume: %s", async (_, kube, as) => {
    const cluster = await withFence(...as);
    await using driver = controllerOn(cluster, kube());
    const failure = await failureOf(driver.attach(attaching("node-a")));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain("is not proven to have booted since");
    expect(failure?.message.includes("in no record")).toBe(as[0] === "");
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
  });

  test("Another boot is no way past the fence of a whole address, whose entry would refuse the new client", async () => {
    const cluster = await withRecord({ [`${KEY}fenced/${WHOLE}`]: fencedAs("boot-1", "") });
    cluster.blocklist.set(`client ${WHOLE}`, { kind: "client", address: WHOLE });
    await using driver = controllerOn(cluster, BOOTED());
    expect(await codeOf(driver.attach(attaching("node-a")))).toBe("FAILED_PRECONDITION");
    expect(listed(cluster)).toEqual([`client ${WHOLE}`]);
  });

  test("A node whose Node object was away goes through: detach, its return, attach, stage, and its new client is recorded", async () => {
    const { cluster, host } = await aNode();
    for (const [key, value] of Object.entries(RECORD)) metaOf(cluster).set(key, value);
    host.tree.set(BOOT_FILE, { kind: "file", text: "boot-2\n" });
    {
      await using driver = controllerOn(cluster, kubeWith(aNodeObject("node-b")));
      await driver.detach(detaching());
    }
    await using driver = controllerOn(cluster, BOOTED());
    await driver.attach(attaching("node-a"));
    await using node = nodeOn(host, { flags: { nodeid: "node-a", ...FENCING } });
    await node.stage(staging());
    expect(metadata(cluster)[`${KEY}clientAddress/node-a`]).toBe("10.0.0.1:0/1");
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
  });

  test("The fence of a client whose own boot is not known is lifted by what Kubernetes showed", async () => {
    const cluster = await withFence("");
    await using driver = controllerOn(cluster, BOOTED());
    await driver.attach(attaching("node-b"));
    expect(listed(cluster)).toEqual([]);
  });

  test("A boot that stands beside another client, which ceph-csi has written since, is not the client's", async () => {
    const cluster = await withRecord({ ...RECORD, [`${KEY}clientAddress/node-a`]: "10.0.0.7:0/99" });
    await using driver = controllerOn(cluster, LOST());
    await driver.detach(detaching());
    expect(metadata(cluster)).toEqual({ [`${KEY}fenced/10.0.0.7:0/99`]: fencedAs("") });
  });

  test("An old fence of a whole address does not lift a newer one of the lost node", async () => {
    const cluster = await withRecord({ [`${KEY}fenced/${WHOLE}`]: fencedAs("", "boot-0") });
    cluster.blocklist.set(`client ${WHOLE}`, { kind: "client", address: WHOLE });
    await using driver = controllerOn(cluster, LOST());
    await driver.attach(attaching("node-b"));
    expect(listed(cluster)).toEqual([`client ${WHOLE}`]);
  });

  test("A record that cannot be read keeps a volume from other nodes while its node may be lost, and only then", async () => {
    const key = `${KEY}clientAddress/node-a`;
    const fence = `${KEY}fenced/${CLIENT}`;
    for (const [entry, kube, nodeId, code] of [
      [key, LOST(), "node-b", "INTERNAL"],
      [key, kubeWith(aNodeObject("node-b")), "node-b", "INTERNAL"],
      [key, IN_SERVICE(), "node-b", "OK"],
      [key, LOST(), "node-a", "OK"],
      [fence, LOST(), "node-b", "OK"],
    ] as const) {
      const cluster = await withRecord({ [entry]: "{" });
      await using driver = controllerOn(cluster, kube);
      expect(await codeOf(driver.attach(attaching(nodeId)))).toBe(code);
      expect(metadata(cluster)).toEqual({ [entry]: "{" });
    }
  });

  test("No volume is attached to a node that Kubernetes does not have", async () => {
    const cluster = await withRecord({});
    await using driver = controllerOn(cluster, LOST());
    const volumeContext = { ...PARAMETERS, staticVolume: "true" };
    for (const more of [{}, { volumeId: "static", volumeContext }]) {
      const failure = await failureOf(driver.attach(attaching("node-x", more)));
      expect(failure?.code).toBe("NOT_FOUND");
      expect(failure?.message).toContain("node node-x does not exist in Kubernetes");
    }
  });

  test("A fence that somebody lifted by hand is forgotten", async () => {
    const cluster = await withFence();
    cluster.blocklist.clear();
    await using driver = controllerOn(cluster, IN_SERVICE());
    await driver.attach(attaching("node-a"));
    expect(metadata(cluster)).toEqual({});
  });

  test("A user that may not lift a fence is no obstacle, and the log says what it takes", async () => {
    const cluster = await withFence();
    cluster.users.set("admin", { key: MEMORY_KEY, manager: true, pools: ["rbd"] });
    await using driver = controllerOn(cluster, BOOTED());
    await driver.attach(attaching("node-a"));
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
    expect(driver.log.join()).toContain('allow command "osd blocklist"');
  });

  test("A node that has booted gets no volume while its whole address is fenced, until a person lifts that", async () => {
    for (const as of [[""], ["boot-1"], ["boot-1", "boot-0"]] as const) {
      const cluster = await withRecord({ [`${KEY}fenced/${WHOLE}`]: fencedAs(...as) });
      cluster.blocklist.set(`client ${WHOLE}`, { kind: "client", address: WHOLE });
      await using driver = controllerOn(cluster, BOOTED());
      await driver.attach(attaching("node-b"));
      const failure = await failureOf(driver.attach(attaching("node-a")));
      expect(failure?.code).toBe("FAILED_PRECONDITION");
      expect(failure?.message).toContain(`"ceph osd blocklist rm ${WHOLE}" lifts the fence for all volumes`);
      expect(listed(cluster)).toEqual([`client ${WHOLE}`]);
      cluster.blocklist.clear();
      await driver.attach(attaching("node-a"));
      expect(metadata(cluster)).toEqual({});
    }
  });

  test("The old fence of a whole address in one image lifts no newer one in another", async () => {
    const cluster = await withRecord({ [`${KEY}fenced/${WHOLE}`]: fencedAs("", "boot-1") });
    await seedVolume(cluster, OTHER_UUID);
    const other = cluster.image("rbd", `csi-vol-${OTHER_UUID}`).meta;
    other.set(`${KEY}fenced/${WHOLE}`, fencedAs("", "boot-2"));
    cluster.blocklist.set(`client ${WHOLE}`, { kind: "client", address: WHOLE });
    // its client of boot-2, which has the other volume, may run
    await using driver = controllerOn(cluster, BOOTED());
    for (const nodeId of ["node-b", "node-a"]) {
      await driver.attach(attaching(nodeId)).catch(() => undefined);
      expect(listed(cluster)).toEqual([`client ${WHOLE}`]);
    }
    expect(await codeOf(driver.attach(attaching("node-a", { volumeId: volumeIdOf(OTHER_UUID) })))).toBe(
      "FAILED_PRECONDITION",
    );
  });

  test("A volume that does not exist is NOT_FOUND, and a static one is attached unseen", async () => {
    const cluster = await withRecord({});
    await using driver = controllerOn(cluster, IN_SERVICE());
    expect(await codeOf(driver.attach(attaching("node-b", { volumeId: "no-volume" })))).toBe("NOT_FOUND");
    const volumeContext = { ...PARAMETERS, staticVolume: "true" };
    expect(await codeOf(driver.attach(attaching("node-b", { volumeId: "static", volumeContext })))).toBe("OK");
    cluster.namespace("rbd", "")?.images.delete(IMAGE);
    expect(await codeOf(driver.attach(attaching()))).toBe("NOT_FOUND");
  });

  test.each([
    ["volume_id", { volumeId: "" }],
    ["node_id", { nodeId: "" }],
    ["volume_capability", { volumeCapability: undefined }],
  ])("A request without %s is refused", async (field, more) => {
    const cluster = await withRecord();
    await using driver = controllerOn(cluster, LOST());
    const failure = await failureOf(driver.attach(attaching("node-b", more)));
    expect(failure?.code).toBe("INVALID_ARGUMENT");
    expect(failure?.message).toContain(field);
    expect(listed(cluster)).toEqual([]);
  });
});

describe("credentials", () => {
  const bare = { secrets: {} };
  const SECRET = { name: "rbd", namespace: "ceph" };
  const secretObject = {
    metadata: { name: "rbd", namespace: "ceph" },
    data: { userID: btoa("admin"), userKey: btoa(MEMORY_KEY) },
  };
  const clusters = [{ ...EAST, controllerPublishSecret: SECRET }];

  test("Without any, a volume is attached with a remark, and detached from a node in service", async () => {
    const cluster = await withRecord();
    await using driver = controllerOn(cluster, IN_SERVICE());
    await driver.attach(attaching("node-b", bare));
    expect(driver.log.join()).toContain("cannot be fenced when node node-b is lost");
    await driver.detach(detaching("node-a", bare));
    expect(metadata(cluster)).toEqual(RECORD);
  });

  test("Without any, a volume leaves a node that is gone, and the log says that it was not fenced", async () => {
    const cluster = await withRecord();
    await using driver = controllerOn(cluster, kubeWith());
    await driver.detach(detaching("node-a", bare));
    expect(metadata(cluster)).toEqual(RECORD);
    expect(driver.log.join()).toContain("was not fenced");
  });

  test("Without any, no volume is taken from a node that is out of service", async () => {
    const cluster = await withRecord();
    await using driver = controllerOn(cluster, LOST());
    const failure = await failureOf(driver.detach(detaching("node-a", bare)));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toContain("controllerPublishSecretRef");
  });

  test("The Secret that config.json names stands in", async () => {
    const cluster = await withRecord();
    const kube = LOST();
    kube.create("/api/v1/namespaces/ceph/secrets", secretObject);
    await using driver = controllerOn(cluster, kube, { clusters });
    await driver.detach(detaching("node-a", bare));
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
  });

  test("So do the credentials of --secrets-dir", async () => {
    const cluster = await withRecord();
    const credentials = { user: "admin", key: Redacted.make(MEMORY_KEY) };
    const secrets = { east: { credentials, pools: undefined } };
    await using driver = controllerOn(cluster, LOST(), { clusters, secrets });
    await driver.detach(detaching("node-a", bare));
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
  });

  test("An ID of no driver has none", async () => {
    await using driver = controllerOn(await withRecord(), IN_SERVICE());
    expect(await codeOf(driver.detach(detaching("node-a", { ...bare, volumeId: "no-volume" })))).toBe("OK");
  });
});

describe("a cluster that is not configured any more", () => {
  const WEST: Cluster = { ...EAST, clusterId: "west" };
  const unconfigured = { clusters: [WEST] };
  const given = { east: { credentials: { user: "admin", key: Redacted.make(MEMORY_KEY) }, pools: undefined } };
  const ways: readonly (readonly [string, object, DriverWorld])[] = [
    ["of the request", {}, unconfigured],
    ["of --secrets-dir", { secrets: {} }, { ...unconfigured, secrets: given }],
    ["of nobody", { secrets: {} }, unconfigured],
  ];
  const away = () => kubeWith(aNodeObject("node-a", { ready: "Unknown" }), aNodeObject("node-b"));

  test.each(ways)("With credentials %s a volume leaves a node, and the log names all of it", async (_, more, world) => {
    for (const kube of [IN_SERVICE(), away(), kubeWith(aNodeObject("node-b"))]) {
      const cluster = await withRecord();
      await using driver = controllerOn(cluster, kube, world);
      await driver.detach(detaching("node-a", more));
      const said = driver.log.join();
      for (const part of [VOLUME, "node node-a", "cluster east", "was not fenced", "it has west"]) {
        expect(said).toContain(part);
      }
      expect(listed(cluster)).toEqual([]);
      expect(metadata(cluster)).toEqual(RECORD);
    }
  });

  test.each(ways)("With credentials %s it does not leave one that is out of service", async (_, more, world) => {
    const cluster = await withRecord();
    await using driver = controllerOn(cluster, LOST(), world);
    const failure = await failureOf(driver.detach(detaching("node-a", more)));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    for (const part of [VOLUME, "node node-a", "cluster east", "delete the Node object"]) {
      expect(failure?.message).toContain(part);
    }
  });

  test("It does not leave a node of which Kubernetes does not tell", async () => {
    const kube = IN_SERVICE();
    kube.get = () => {
      throw new Refused(403, "Forbidden", "nodes is forbidden");
    };
    await using driver = controllerOn(await withRecord(), kube, unconfigured);
    expect(await codeOf(driver.detach(detaching()))).toBe("ABORTED");
  });

  test.each(ways)("With credentials %s it is attached to no node", async (_, more, world) => {
    const cluster = await withRecord();
    await using driver = controllerOn(cluster, IN_SERVICE(), world);
    const failure = await failureOf(driver.attach(attaching("node-b", more)));
    expect(failure?.code).toBe("INVALID_ARGUMENT");
    expect(failure?.message).toContain('no cluster with clusterID "east"');
  });

  test("Once it is configured again, an attach fences what the detach left unfenced", async () => {
    const cluster = await withRecord();
    const kube = away();
    await using before = controllerOn(cluster, kube, unconfigured);
    await before.detach(detaching());
    kube.merge("/api/v1/nodes/node-a", { spec: { taints: [TAINT] } });
    await using after = controllerOn(cluster, kube);
    await after.attach(attaching("node-b"));
    expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
  });

  test("So it is with the place to which a volume has moved", async () => {
    const mapping = { ...NO_MAPPING, elements: [{ clusters: [["east", "dr"]], pools: [[["2", "7"]]] }] } as const;
    const { cluster } = await aNode();
    cluster.namespace("rbd", "")?.objects.clear();
    await using driver = controllerOn(cluster, IN_SERVICE(), { mapping });
    await driver.detach(detaching());
    expect(driver.log.join()).toContain("cluster dr");
  });
});

describe("the flag", () => {
  const offered = async (flags: DriverWorld["flags"] = {}) => {
    const { cluster } = await aNode();
    await using driver = aDriver(cluster, { flags });
    const { capabilities } = await driver.capabilities();
    return capabilities.map(({ type }) => type.value.type);
  };

  test("Attaching is offered with it and without it", async () => {
    expect(await offered()).toContain(Offered.PUBLISH_UNPUBLISH_VOLUME);
    expect(await offered(FENCING)).toContain(Offered.PUBLISH_UNPUBLISH_VOLUME);
  });

  test("Without it both RPCs succeed, ask neither Ceph nor Kubernetes, and change nothing", async () => {
    const cluster = await withRecord();
    await using driver = aDriver(cluster, { kube: LOST() });
    const volumeContext = { ...PARAMETERS, staticVolume: "true" };
    for (const more of [{}, { volumeId: "static", volumeContext }, { secrets: {} }, { nodeId: "unknown" }]) {
      expect((await driver.attach({ ...attaching(), ...more })).publishContext).toEqual({});
      expect(await codeOf(driver.detach({ ...detaching(), ...more }))).toBe("OK");
    }
    expect(metadata(cluster)).toEqual(RECORD);
  });

  test.each([
    ["n".repeat(256), "OK"],
    ["ü".repeat(128), "OK"],
    ["n".repeat(257), "INVALID_ARGUMENT"],
    ["ü".repeat(129), "INVALID_ARGUMENT"],
  ])("A node_id is as long as NodeGetInfo may give it out: %s is %s", async (nodeId, code) => {
    await using driver = aDriver(await withRecord());
    expect(await codeOf(driver.attach(attaching(nodeId)))).toBe(code);
    const flag = parseFlags(["--type=rbd", `--nodeid=${nodeId}`]);
    expect(Result.isSuccess(flag)).toBe(code === "OK");
  });

  test("Without it a request that is wrong is refused, too", async () => {
    await using driver = aDriver(await withRecord());
    expect(await codeOf(driver.attach(attaching("")))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(driver.detach(detaching("node-a", { volumeId: "" })))).toBe("INVALID_ARGUMENT");
    const strange = attaching("node-a", { volumeId: "strange" });
    expect(await codeOf(driver.attach({ ...strange, volumeContext: {} }))).toBe("NOT_FOUND");
  });
});

describe("a machine that was replaced under the name of its node", () => {
  const OF_MACHINE = { ...RECORD, [`${KEY}machine/node-a`]: `${CLIENT} ${MACHINE}` };
  /** Kubernetes with the new machine, which has booted. */
  const replaced = (more: Parameters<typeof aNodeObject>[1] = {}) =>
    kubeWith(aNodeObject("node-a", { bootID: "boot-9", machineID: "machine-2", ...more }), aNodeObject("node-b"));
  const FENCE = { [`${KEY}fenced/${CLIENT}`]: fencedAs("boot-1", "boot-9") };
  const newMachine = async (record: Readonly<Record<string, string>> = OF_MACHINE, boot = "boot-9") => {
    const { cluster, host } = await aNode();
    host.tree.set(BOOT_FILE, { kind: "file", text: `${boot}\n` });
    for (const [key, value] of Object.entries(record)) metaOf(cluster).set(key, value);
    return { cluster, host };
  };
  const nodeA = { nodeid: "node-a", ...FENCING };
  const OWN = "10.0.0.1:0/1";

  test("A stage records the machine that Kubernetes shows with the boot of this node, and asks for it once", async () => {
    for (const [kube, machine] of [
      [replaced(), `${OWN} machine-2`],
      [replaced({ bootID: "boot-of-another-view" }), undefined],
      [replaced({ machineID: "" }), undefined],
      [kubeWith(), undefined],
    ] as const) {
      const { cluster, host } = await newMachine({});
      await using node = nodeOn(host, { kube, flags: nodeA });
      await node.stage(staging());
      expect(metadata(cluster)[`${KEY}machine/node-a`]).toBe(machine);
      await node.unstage(unstaging());
      expect(metadata(cluster)).toEqual({});
      await node.stage(staging());
      if (machine !== undefined) expect(kube.requests).toHaveLength(1);
    }
  });

  test("Kubernetes that does not answer holds up no stage", async () => {
    const { cluster, host } = await newMachine({});
    const kube = replaced();
    kube.get = () => {
      throw new Refused(403, "Forbidden", "nodes is forbidden");
    };
    await using node = nodeOn(host, { kube, flags: nodeA });
    await node.stage(staging());
    expect(metadata(cluster)).toMatchObject({ [`${KEY}bootID/node-a`]: `boot-9 ${OWN}` });
    expect(metadata(cluster)).not.toHaveProperty([`${KEY}machine/node-a`]);
  });

  test.each([
    ["is shown", replaced],
    ["is not shown", () => kubeWith()],
  ] as const)(
    "The old one's client is fenced before the new one maps the volume, if the new one %s",
    async (_, kube) => {
      const { cluster, host } = await newMachine();
      const order: string[] = [];
      const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) => {
        order.push(method);
        return act;
      });
      const service = interceptedHost(hostMemoryService(host), ({ method }, act) => {
        order.push(method);
        return act;
      });
      await using node = nodeOn(host, { ceph, host: service, kube: kube(), flags: nodeA });
      await node.stage(staging());
      expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
      expect(metadata(cluster)).toMatchObject({ ...FENCE, [`${KEY}clientAddress/node-a`]: OWN });
      expect(order.indexOf("blocklistReached")).toBeGreaterThan(order.indexOf("blocklistAdd"));
      expect(order.indexOf("map")).toBeGreaterThan(order.indexOf("blocklistReached"));
      expect(node.log.join()).toContain("is not proven to be the machine that had volume");
    },
  );

  test("Without a proof of that fence nothing is mapped, and the record stays", async () => {
    const { cluster, host } = await newMachine();
    const late = new TimedOut({ op: "rados_stat", subject: "rbd" });
    const ceph = intercepted(cephMemoryService(cluster), ({ method }, act) =>
      method === "blocklistReached" ? Effect.fail(late) : act,
    );
    await using node = nodeOn(host, { ceph, kube: replaced(), flags: nodeA });
    expect(await codeOf(node.stage(staging()))).toBe("DEADLINE_EXCEEDED");
    expect([...host.mappings.keys()]).toEqual([]);
    expect(metadata(cluster)).toEqual({ ...OF_MACHINE, ...FENCE });
  });

  test.each([
    ["the same machine, after a boot", OF_MACHINE, "boot-9", { machineID: MACHINE }],
    ["the boot of the record, whatever its machine is called now", OF_MACHINE, "boot-1", { bootID: "boot-1" }],
    ["a record without a machine, of an older driver", RECORD, "boot-9", {}],
    [
      "a machine beside another client, which ceph-csi has written since",
      { ...OF_MACHINE, [`${KEY}clientAddress/node-a`]: "10.0.0.7:0/99" },
      "boot-9",
      {},
    ],
  ] as const)("A stage, and the detach of a node in service, fences nothing for %s", async (_, record, boot, more) => {
    {
      const { cluster, host } = await newMachine(record, boot);
      await using node = nodeOn(host, { kube: replaced(more), flags: nodeA });
      await node.stage(staging());
      expect(metadata(cluster)[`${KEY}clientAddress/node-a`]).toBe(OWN);
      expect(listed(cluster)).toEqual([]);
    }
    const cluster = await withRecord(record);
    await using driver = controllerOn(cluster, replaced(more));
    await driver.attach(attaching("node-b"));
    await driver.attach(attaching("node-a"));
    expect(metadata(cluster)).toEqual(record);
    await driver.detach(detaching());
    expect(metadata(cluster)).toEqual({});
    expect(listed(cluster)).toEqual([]);
  });

  test("Its client is fenced by the detach, and by an attach to the new machine or to another node", async () => {
    for (const call of ["detach", "node-a", "node-b"] as const) {
      const cluster = await withRecord(OF_MACHINE);
      await using driver = controllerOn(cluster, replaced());
      await (call === "detach" ? driver.detach(detaching()) : driver.attach(attaching(call)));
      expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
      expect(metadata(cluster)).toEqual(FENCE);
    }
  });

  test("That fence is lifted by a boot of the old machine, and by none of the new one", async () => {
    const cluster = await withRecord(OF_MACHINE);
    for (const [kube, entries] of [
      [replaced(), 1],
      [replaced({ bootID: "boot-10" }), 1],
      [replaced({ bootID: "boot-1", machineID: MACHINE }), 1],
      [replaced({ bootID: "boot-11", machineID: MACHINE }), 0],
    ] as const) {
      await using driver = controllerOn(cluster, kube);
      await driver.attach(attaching("node-b"));
      expect(listed(cluster)).toHaveLength(entries);
    }
  });

  test("A node in service that tells no boot keeps the record of its machine's client, and the log says so", async () => {
    const cluster = await withRecord(OF_MACHINE);
    await using driver = controllerOn(cluster, replaced({ bootID: "" }));
    await driver.detach(detaching());
    expect(metadata(cluster)).toEqual(OF_MACHINE);
    expect(listed(cluster)).toEqual([]);
    expect(driver.log.join()).toContain("is not known to be the machine that had it");
  });

  test("The unstage of the old machine leaves the record of the new one", async () => {
    const { cluster, host } = await newMachine({}, "boot-1");
    await using old = nodeOn(host, { flags: nodeA });
    await old.stage(staging());
    metaOf(cluster).set(`${KEY}clientAddress/node-a`, "10.0.0.9:0/9");
    await old.unstage(unstaging());
    expect(metadata(cluster)[`${KEY}clientAddress/node-a`]).toBe("10.0.0.9:0/9");
  });

  test("What is staged, and has gone to another machine of this name since, is not recorded, and gets no new process", async () => {
    const { cluster, host } = await newMachine({}, "boot-1");
    const volumeContext = { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" };
    await using node = nodeOn(host, { kube: IN_SERVICE(), flags: nodeA });
    await node.stage(staging({ volumeContext }));
    const others = {
      [`${KEY}clientAddress/node-a`]: "10.0.0.9:0/9",
      [`${KEY}bootID/node-a`]: "boot-9 10.0.0.9:0/9",
      [`${KEY}machine/node-a`]: "10.0.0.9:0/9 machine-2",
    };
    for (const [key, value] of Object.entries(others)) metaOf(cluster).set(key, value);
    await node.stage(staging({ volumeContext }));
    expect(metadata(cluster)).toMatchObject(others);
    expect(node.log.join()).toContain("maybe of another machine that is called node-a");
    const [path = ""] = host.mappings.keys();
    host.killProcess(path);
    await node.lookAfterProcesses();
    expect(host.mappings.get(path)?.dead).toBe(true);
    expect(metadata(cluster)).toMatchObject(others);
    expect(listed(cluster)).toEqual([]);
  });
});
