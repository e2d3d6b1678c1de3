/** Volumes that rbd-nbd maps: by their class, or because the kernel's driver cannot; and the death of its process. */
import { describe, expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { NodeGetVolumeHealthRequestSchema, VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { conditionOf } from "../../support/csi-1.12.ts";
import { KubeMemory, Refused } from "../../support/kube-memory.ts";
import { countingHost, interceptedHost } from "../../support/host-faults.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import {
  aNode,
  expanding,
  IMAGE,
  nodeOn,
  OTHER_UUID,
  PLACE,
  publishing,
  staging,
  STASH,
  statistics,
  TARGET,
  unpublishing,
  unstaging,
  UUID,
  VOLUME,
  volumeIdOf,
} from "../../support/node-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { asBlock, codeOf, failureOf, GIB, PARAMETERS, SECRETS, seed, seedImage } from "../../support/world.ts";

const NBD = { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" };
const withNbd = (context: Record<string, string> = {}, more: Parameters<typeof staging>[0] = {}) =>
  staging({ volumeContext: { ...NBD, ...context }, ...more });
const FALLBACK = staging({ volumeContext: { ...PARAMETERS, imageName: IMAGE, tryOtherMounters: "true" } });
const LOG = `/var/log/ceph/rbd-nbd-${VOLUME}.log`;

const OTHER_NODE = "10.0.0.9:0/1/client.7";

const stashed = (host: MemoryNode) => {
  const file = host.tree.get(STASH);
  return file?.kind === "file" ? file.text : undefined;
};
/** As ceph-csi writes it for rbd-nbd. */
const stashOf = (device: string, more = {}) =>
  JSON.stringify({
    Version: 3,
    pool: "rbd",
    radosNamespace: "",
    image: IMAGE,
    unmapOptions: "",
    accessType: true,
    encrypted: false,
    device,
    logDir: "/var/log/ceph",
    logFileStrategy: "remove",
    ...more,
  });
const paths = (host: MemoryNode) => [...host.mappings.keys()];
/** The node before anything was staged. */
const untouched = async () => (await aNode()).host.dump();

describe("a volume whose mounter is rbd-nbd", () => {
  for (const kind of ["filesystem", "block"] as const) {
    test(`A volume whose mounter is rbd-nbd is staged as ${kind} in ceph-csi's form, published, and leaves nothing`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      const given = kind === "block" ? { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) } : {};
      await driver.stage(staging({ volumeContext: NBD, ...given }));
      expect([paths(host), stashed(host)]).toEqual([["/dev/nbd0"], stashOf("/dev/nbd0")]);
      await driver.publish(publishing(given));
      expect(host.mounts.map(({ point }) => point)).toEqual([PLACE, TARGET]);
      expect(await codeOf(driver.unstage(unstaging()))).toBe("FAILED_PRECONDITION");
      await driver.unpublish(unpublishing());
      await driver.unstage(unstaging());
      expect([host.dump(), [...host.logs]]).toEqual([await untouched(), []]);
    });
  }

  test("A volume that ceph-csi has staged with rbd-nbd is taken over, and unstaged", async () => {
    const { host } = await aNode();
    {
      await using driver = nodeOn(host);
      await driver.stage(withNbd());
    }
    // Whoever staged it: what is on the node is the same.
    await using driver = nodeOn(host);
    expect(await driver.stage(withNbd())).toEqual({});
    expect(paths(host)).toEqual(["/dev/nbd0"]);
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(await untouched());
  });

  for (const [strategy, kept] of [
    ["remove", []],
    ["compress", [LOG.replace(/log$/, "gz")]],
    ["preserve", [LOG]],
  ] as const) {
    test(`The log of a volume that was unstaged is dealt with as cephLogStrategy ${strategy} says`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      await driver.stage(withNbd({ cephLogStrategy: strategy }));
      expect([...host.logs]).toEqual([LOG]);
      expect(stashed(host)).toBe(stashOf("/dev/nbd0", { logFileStrategy: strategy }));
      await driver.unstage(unstaging());
      expect([...host.logs]).toEqual([...kept]);
    });
  }

  test("A mapping of rbd-nbd that is left over is replaced, and its own watcher is nobody else", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(withNbd());
    host.mounts.length = 0;
    await driver.stage(withNbd());
    expect(paths(host)).toEqual(["/dev/nbd1"]);
    expect(host.cluster.image("rbd", IMAGE).watchers.size).toBe(1);
  });

  test("A volume that another node has open is not mapped with rbd-nbd", async () => {
    const { host } = await aNode();
    host.cluster.image("rbd", IMAGE).watchers.add("10.0.0.9:0/1/client.7");
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    const failure = await failureOf(time.until(driver.stage(withNbd(), "20 seconds")));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("10.0.0.9") });
    expect(host.dump()).toEqual(await untouched());
  });

  test("A volume that another node opens at the same time is unmapped again", async () => {
    const { host } = await aNode();
    const image = host.cluster.image("rbd", IMAGE);
    const add = host.add.bind(host);
    host.add = (...given) => {
      image.watchers.add("10.0.0.9:0/1/client.7");
      return add(...given);
    };
    await using driver = nodeOn(host);
    expect(await codeOf(driver.stage(withNbd()))).toBe("FAILED_PRECONDITION");
    expect(host.dump()).toEqual(await untouched());
  });

  test("A node that Ceph sees under another address than its own maps with rbd-nbd all the same", async () => {
    const { host } = await aNode();
    host.nbdAddress = "192.0.2.1";
    await using driver = nodeOn(host);
    await driver.stage(withNbd());
    expect(paths(host)).toEqual(["/dev/nbd0"]);
  });
});

describe("tryOtherMounters", () => {
  test("With tryOtherMounters an image with features that the kernel lacks is mapped with rbd-nbd", async () => {
    const { host } = await aNode();
    host.features = 1n;
    await using driver = nodeOn(host);
    await driver.stage(FALLBACK);
    expect([paths(host), stashed(host)]).toEqual([["/dev/nbd0"], stashOf("/dev/nbd0")]);
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(await untouched());
  });

  test("With tryOtherMounters an image that the kernel fails to map for its key is mapped with rbd-nbd", async () => {
    const { host } = await aNode();
    host.krbdUnfit = true;
    await using driver = nodeOn(host);
    await driver.stage(FALLBACK);
    expect([paths(host), stashed(host)]).toEqual([["/dev/nbd0"], stashOf("/dev/nbd0")]);
    expect(driver.log.join("\n")).toContain("is mapped with rbd-nbd");
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(await untouched());
  });

  test("Without tryOtherMounters what the kernel cannot map is refused, and with it the kernel maps all else", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(FALLBACK);
    expect(paths(host)).toEqual(["/dev/rbd0"]);
    await driver.unstage(unstaging());
    host.krbdUnfit = true;
    const before = host.dump();
    expect(await codeOf(driver.stage(staging()))).toBe("FAILED_PRECONDITION");
    expect(host.dump()).toEqual(before);
  });
});

describe("the death of an rbd-nbd process", () => {
  test("NodeStageVolume gives a device whose process has died another one, and its mount stays", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(withNbd());
    await driver.publish(publishing());
    const before = host.dump();
    host.killProcess("/dev/nbd0");
    await driver.stage(withNbd());
    expect(host.dump()).toEqual(before);
    expect(host.mappings.get("/dev/nbd0")?.dead).toBe(false);
  });

  test("A device whose process has died gets another one as soon as Ceph has forgotten the first one's watch", async () => {
    const { host } = await aNode();
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    await driver.stage(withNbd());
    host.killProcess("/dev/nbd0", false);
    const healed = driver.stage(withNbd());
    await time.pass("25 seconds");
    expect(host.mappings.get("/dev/nbd0")?.dead).toBe(true);
    host.cluster.image("rbd", IMAGE).watchers.clear();
    await time.until(healed);
    expect(host.mappings.get("/dev/nbd0")?.dead).toBe(false);
  });

  test("A device whose process has died gets no other one while another node has the image open", async () => {
    const { host } = await aNode();
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    await driver.stage(withNbd());
    host.killProcess("/dev/nbd0");
    host.cluster.image("rbd", IMAGE).watchers.add("10.0.0.9:0/1/client.7");
    expect(await codeOf(time.until(driver.stage(withNbd(), "20 seconds")))).toBe("UNAVAILABLE");
    expect(host.mappings.get("/dev/nbd0")?.dead).toBe(true);
  });

  test("The condition of a volume whose process has died says so", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(withNbd());
    await driver.publish(publishing());
    host.killProcess("/dev/nbd0");
    expect(conditionOf(await driver.stats(statistics()))).toMatchObject({
      abnormal: true,
      message: expect.stringContaining("the rbd-nbd process of /dev/nbd0 has died"),
    });
  });

  test("A volume whose process has died is unstaged, also if image-meta.json is lost", async () => {
    for (const lost of [false, true]) {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      await driver.stage(withNbd());
      host.killProcess("/dev/nbd0");
      if (lost) host.tree.delete(STASH);
      await driver.unstage(unstaging());
      expect(host.dump()).toEqual(await untouched());
    }
  });

  test("A device of rbd-nbd that is another's stays when a volume is unstaged", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    host.tree.set(STASH, { kind: "file", text: stashOf("/dev/nbd0") });
    const image = host.cluster.image("rbd", IMAGE);
    const name = { pool: "rbd", namespace: "", image: IMAGE };
    host.add(image, { ...name, mapper: "rbd-nbd", readOnly: false, cookie: "by-hand", logFile: "/tmp/log" });
    await driver.unstage(unstaging());
    expect(paths(host)).toEqual(["/dev/nbd0"]);
  });
});

/** As on a kernel that keeps none. */
const forgetCookie = (host: MemoryNode, path: string) => {
  const mapping = host.mappings.get(path)!;
  host.mappings.set(path, { ...mapping, device: { ...mapping.device, cookie: "" } });
};

describe("network block devices without a cookie", () => {
  for (const [what, device] of [
    ["at the path that image-meta.json names", "/dev/nbd0"],
    ["while image-meta.json names no path", ""],
  ] as const) {
    test(`A device of another program ${what} stays when a volume is unstaged`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      const name = { pool: "rbd", namespace: "", image: IMAGE };
      // Of qemu-nbd or nbd-client, as sysfs shows it: no image, no cookie, and no process of rbd-nbd.
      host.add(host.cluster.image("rbd", IMAGE), {
        ...name,
        mapper: "rbd-nbd",
        readOnly: false,
        cookie: "",
        logFile: "",
      });
      host.killProcess("/dev/nbd0");
      host.tree.set(STASH, { kind: "file", text: stashOf(device) });
      await driver.unstage(unstaging());
      expect([paths(host), stashed(host)]).toEqual([["/dev/nbd0"], undefined]);
    });
  }

  for (const [what, dead, mounted] of [
    ["is mounted, and whose process has died", true, true],
    ["is not mounted, and whose process tells the image", false, false],
    ["is mounted, and whose process tells the image", false, true],
  ] as const) {
    test(`The volume's device without a cookie that ${what} is unmapped when it is unstaged`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      await driver.stage(withNbd());
      forgetCookie(host, "/dev/nbd0");
      if (!mounted) host.mounts.length = 0;
      if (dead) host.killProcess("/dev/nbd0");
      await driver.unstage(unstaging());
      expect(host.dump()).toEqual(await untouched());
    });
  }
});

describe("what looks after rbd-nbd processes", () => {
  const isDead = (host: MemoryNode) => host.mappings.get("/dev/nbd0")?.dead;
  /** A node whose volume was staged by a driver that is gone, and whose process died with it. */
  const afterRestart = async () => {
    const { host, cluster } = await aNode();
    {
      await using driver = nodeOn(host);
      await driver.stage(withNbd());
      await driver.publish(publishing());
    }
    const before = host.dump();
    host.killProcess("/dev/nbd0");
    return { host, cluster, before };
  };
  /** What Kubernetes says of the volume. */
  const attached = (
    more: { nodeName?: string; attacher?: string } = {},
    accessModes = ["ReadWriteOnce"],
    kube = new KubeMemory(),
  ) => {
    kube.create("/apis/storage.k8s.io/v1/volumeattachments", {
      metadata: { name: "va" },
      spec: {
        attacher: "rbd.csi.ceph.com",
        nodeName: "node-1",
        source: { persistentVolumeName: "pv" },
        ...more,
      },
      status: { attached: true },
    });
    const nodeStageSecretRef = { name: "stage", namespace: "ceph" };
    const csi = { driver: "rbd.csi.ceph.com", volumeHandle: VOLUME, volumeAttributes: NBD, nodeStageSecretRef };
    kube.create("/api/v1/persistentvolumes", {
      metadata: { name: "pv" },
      spec: { accessModes, csi },
    });
    const data = Object.fromEntries(Object.entries(SECRETS).map(([key, value]) => [key, btoa(value)]));
    kube.create("/api/v1/namespaces/ceph/secrets", { metadata: { name: "stage", namespace: "ceph" }, data });
    return kube;
  };

  test("A process that dies under the driver has a successor at the next look", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(withNbd());
    const before = host.dump();
    host.killProcess("/dev/nbd0");
    await driver.lookAfterProcesses();
    expect([isDead(host), host.dump()]).toEqual([false, before]);
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(await untouched());
  });

  test("The driver looks every ten seconds once it has a volume of rbd-nbd, and not before", async () => {
    const { host } = await aNode();
    const watched = countingHost(hostMemoryService(host), "mappedDevices");
    const time = virtualTime();
    await using driver = nodeOn(host, { host: watched.host, time });
    driver.watchProcesses();
    await time.pass("10 minutes");
    expect(watched.calls()).toBe(1);
    await time.until(driver.stage(withNbd()));
    await time.pass("10 seconds");
    host.killProcess("/dev/nbd0");
    await time.pass("10 seconds");
    expect(isDead(host)).toBe(false);
  });

  test("A process that died with the driver has a successor as soon as the next driver has asked Kubernetes", async () => {
    const { host, before } = await afterRestart();
    await using driver = nodeOn(host, { kube: attached(), flags: { nodeid: "node-1" } });
    await driver.lookAfterProcesses();
    expect([isDead(host), host.dump()]).toEqual([false, before]);
  });

  for (const [what, kube] of [
    ["attached to another node", attached({ nodeName: "node-2" })],
    ["attached by another driver", attached({ attacher: "other.example.com" })],
    ["nothing that Kubernetes knows", new KubeMemory()],
  ] as const) {
    test(`A device without a process whose volume is ${what} is left alone`, async () => {
      const { host } = await afterRestart();
      await using driver = nodeOn(host, { kube, flags: { nodeid: "node-1" } });
      await driver.lookAfterProcesses();
      expect(isDead(host)).toBe(true);
    });
  }

  describe("on a kernel that keeps no cookie", () => {
    /** A volume that is staged and published, whose process has died. */
    const forgotten = async () => {
      const { host, cluster } = await aNode();
      const driver = nodeOn(host);
      await driver.stage(withNbd());
      await driver.publish(publishing());
      const before = host.dump();
      forgetCookie(host, "/dev/nbd0");
      host.killProcess("/dev/nbd0");
      return { host, cluster, driver, before };
    };
    const setMeta = (host: MemoryNode, text: string) => host.tree.set(STASH, { kind: "file", text });

    test("a process that dies has a successor, also after a restart of the driver", async () => {
      const { host, driver, before } = await forgotten();
      await driver.lookAfterProcesses();
      expect([isDead(host), host.dump()]).toEqual([false, before]);
      host.killProcess("/dev/nbd0");
      await using next = nodeOn(host, { kube: attached(), flags: { nodeid: "node-1" } });
      await next.lookAfterProcesses();
      expect([isDead(host), host.dump()]).toEqual([false, before]);
    });

    test("a process has a successor before the unmount", async () => {
      const { host, driver } = await forgotten();
      await driver.unpublish(unpublishing());
      await driver.unstage(unstaging());
      expect(driver.log.join("\n")).toContain("has a new rbd-nbd process");
      expect(host.dump()).toEqual(await untouched());
    });

    test("the statistics and the health say that the process has died", async () => {
      const { driver } = await forgotten();
      for (const volumePath of [TARGET, PLACE]) {
        const { abnormal, message } = conditionOf(await driver.stats(statistics({ volumePath }))) ?? {};
        expect([abnormal, message]).toEqual([true, expect.stringContaining("has died")]);
      }
      const anywhere = create(NodeGetVolumeHealthRequestSchema, { volumeId: VOLUME });
      const { volumeHealth } = await driver.volumeHealth(anywhere);
      expect(volumeHealth?.healthStatuses.map(({ reason }) => reason)).toEqual(["ProcessGone"]);
    });

    test("another volume's statistics are not this one's", async () => {
      const { driver } = await forgotten();
      const other = statistics({ volumeId: volumeIdOf(OTHER_UUID) });
      expect(await codeOf(driver.stats(other))).toBe("NOT_FOUND");
    });

    for (const [what, spoil] of [
      ["image-meta.json names another device", (host: MemoryNode) => void setMeta(host, stashOf("/dev/nbd7"))],
      ["image-meta.json is gone", (host: MemoryNode) => void host.tree.delete(STASH)],
      ["image-meta.json cannot be read", (host: MemoryNode) => void setMeta(host, "{")],
      ["it is not mounted", (host: MemoryNode) => void host.mounts.splice(0)],
    ] as const) {
      test(`a device gets no process if ${what}`, async () => {
        const { host, driver } = await forgotten();
        spoil(host);
        await driver.lookAfterProcesses();
        expect(isDead(host)).toBe(true);
      });
    }
  });

  test("Of volumes that share a cookie none gets another's process, and the log names them", async () => {
    const { host, cluster } = await aNode();
    const volumes = ["rbd", "other"].map((pool) => ({ volumeId: `mig_mons-1_image-db_${pool}`, pool }));
    for (const { pool } of volumes) {
      if (pool !== "rbd") cluster.addPool(pool);
      await seedImage(cluster, "db", pool);
    }
    await using driver = nodeOn(host);
    for (const { volumeId, pool } of volumes) {
      host.addDirectory(`/kubelet/${pool}`);
      host.addDirectory(`/kubelet/${pool}/${volumeId}`);
      const volumeContext = { ...NBD, pool, staticVolume: "true", migration: "true", imageName: "db" };
      await driver.stage(staging({ volumeId, volumeContext, stagingTargetPath: `/kubelet/${pool}` }));
    }
    expect(paths(host)).toEqual(["/dev/nbd0", "/dev/nbd1"]);
    host.killProcess("/dev/nbd0");
    await driver.lookAfterProcesses();
    expect(isDead(host)).toBe(true);
    expect(driver.log.join("\n")).toContain("several volumes here have that cookie");
  });

  test("Kubernetes is asked only while a process is missing, and then once a minute", async () => {
    const { host } = await afterRestart();
    const time = virtualTime();
    const kube = new KubeMemory();
    await using driver = nodeOn(host, { kube, time, flags: { nodeid: "node-1" } });
    const asked = async (pause: Duration.Input) => {
      const before = kube.requests.length;
      await time.until(driver.lookAfterProcesses());
      await time.pass(pause);
      return kube.requests.length - before;
    };
    expect([await asked("10 seconds"), await asked("50 seconds"), await asked("1 seconds")]).toEqual([1, 0, 1]);
    const healthy = await aNode();
    await using other = nodeOn(healthy.host, { kube, time, flags: { nodeid: "node-1" } });
    await other.stage(withNbd());
    const before = kube.requests.length;
    await other.lookAfterProcesses();
    expect(kube.requests.length).toBe(before);
  });

  test("Kubernetes is asked again at the next look if it did not answer", async () => {
    const { host } = await afterRestart();
    const time = virtualTime();
    const kube = attached();
    const page = kube.page.bind(kube);
    kube.page = () => {
      throw new Refused(503, "ServiceUnavailable", "starting");
    };
    await using driver = nodeOn(host, { kube, time, flags: { nodeid: "node-1" } });
    await time.until(driver.lookAfterProcesses());
    kube.page = page;
    await time.pass("10 seconds");
    expect(isDead(host)).toBe(true);
    await time.until(driver.lookAfterProcesses());
    expect(isDead(host)).toBe(false);
  });

  test("Before an unmount Kubernetes is asked whenever it was asked last", async () => {
    const { host } = await afterRestart();
    const kube = new KubeMemory();
    await using driver = nodeOn(host, { kube, flags: { nodeid: "node-1" } });
    await driver.lookAfterProcesses();
    attached({}, ["ReadWriteOnce"], kube);
    await driver.unpublish(unpublishing());
    await driver.unstage(unstaging());
    expect(driver.log.join("\n")).toContain("has a new rbd-nbd process");
  });

  test("The log says so if a volume is unmounted without its process, because nobody knows it", async () => {
    const { host } = await afterRestart();
    await using driver = nodeOn(host, { kube: new KubeMemory(), flags: { nodeid: "node-1" } });
    await driver.unpublish(unpublishing());
    await driver.unstage(unstaging());
    expect(driver.log.join("\n")).toMatch(/\/dev\/nbd0 lacks its rbd-nbd process.*what is not written yet is lost/);
    expect(host.dump()).toEqual(await untouched());
  });

  test("A process gets no successor while another node has the image open, and gets one afterwards", async () => {
    const { host, cluster } = await afterRestart();
    const leave = cluster.watch("rbd", IMAGE);
    cluster.image("rbd", IMAGE).watchers.add("10.0.0.9:0/1/client.7");
    await using driver = nodeOn(host, { kube: attached(), flags: { nodeid: "node-1" } });
    await driver.lookAfterProcesses();
    expect([isDead(host), driver.log.join("\n")]).toEqual([true, expect.stringContaining("10.0.0.9")]);
    leave();
    cluster.image("rbd", IMAGE).watchers.clear();
    await driver.lookAfterProcesses();
    expect(isDead(host)).toBe(false);
  });

  /** What the journal says of the nodes that have the volume. */
  const recordedNodes = (cluster: MemoryCluster, nodes: readonly string[] | undefined) =>
    seed(cluster, {
      "csi.volumes.default": {
        [`csi.volume.pvc-${UUID}`]: UUID,
        ...(nodes && { [`csi-rbd.nodes.pvc-${UUID}`]: JSON.stringify([UUID, ...nodes]) }),
      },
    });

  for (const [what, nodes, dead] of [
    ["another node's", ["node-2"], true],
    ["nobody's any more, though this driver had recorded it", undefined, true],
    ["this node's", ["node-1"], false],
  ] as const) {
    const is = dead ? "gets no successor, and the log says why" : "gets a successor";
    test(`A process whose volume is ${what} by the journal ${is}`, async () => {
      const { host, cluster } = await aNode();
      recordedNodes(cluster, []);
      await using driver = nodeOn(host, { flags: { nodeid: "node-1" } });
      await driver.stage(withNbd());
      host.killProcess("/dev/nbd0");
      recordedNodes(cluster, nodes);
      await driver.lookAfterProcesses();
      expect([isDead(host), driver.log.join("\n").includes("would damage newer data")]).toEqual([dead, dead]);
      if (dead) expect(await codeOf(driver.stage(withNbd()))).toBe("UNAVAILABLE");
      expect(isDead(host)).toBe(dead);
    });
  }

  test("A volume that may be on several nodes is healed whatever nodes the journal names", async () => {
    const { host, cluster } = await afterRestart();
    recordedNodes(cluster, ["node-2"]);
    await using driver = nodeOn(host, { kube: attached({}, ["ReadWriteMany"]), flags: { nodeid: "node-1" } });
    await driver.lookAfterProcesses();
    expect(isDead(host)).toBe(false);
  });

  const ELSEWHERE = { nodeName: "node-2" };
  const volumeGone = attached();
  volumeGone.remove("/api/v1/persistentvolumes/pv");
  for (const [what, kube, dead] of [
    ["attached to this node", attached(), false],
    ["attached to another node", attached(ELSEWHERE), true],
    ["not among the attachments that are known in part", volumeGone, false],
    ["in a cluster that attaches no volume of the driver", attached({ attacher: "other.example.com" }), false],
  ] as const) {
    test(`A process that dies under the driver ${dead ? "stays dead" : "is replaced"} if its volume is ${what}`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host, { kube, flags: { nodeid: "node-1" } });
      await driver.stage(withNbd());
      host.killProcess("/dev/nbd0");
      await driver.lookAfterProcesses();
      expect([isDead(host), driver.log.join("\n").includes("no VolumeAttachment")]).toEqual([dead, dead]);
    });
  }

  for (const [what, mounted, healed] of [
    ["the mounted one of several devices of a volume is healed", ["/dev/nbd1"], ["/dev/nbd1"]],
    ["of several devices of a volume none is healed if none is mounted", [], []],
    ["of several devices of a volume none is healed if two are mounted", ["/dev/nbd0", "/dev/nbd1"], []],
  ] as const) {
    test(`After the deaths of all processes ${what}`, async () => {
      const { host } = await aNode();
      await using driver = nodeOn(host);
      await driver.stage(withNbd());
      const name = { pool: "rbd", namespace: "", image: IMAGE };
      const again = { ...name, mapper: "rbd-nbd", readOnly: false, cookie: VOLUME, logFile: "/x" } as const;
      host.add(host.cluster.image("rbd", IMAGE), again);
      const [mount] = host.mounts.splice(0);
      for (const path of mounted) {
        const { major, minor } = host.mappings.get(path)!.device;
        host.mount({ ...mount!, source: path, major, minor, point: `${PLACE}${path}` });
      }
      for (const path of paths(host)) host.killProcess(path);
      await driver.lookAfterProcesses();
      expect(paths(host).filter((path) => host.mappings.get(path)?.dead === false)).toEqual([...healed]);
      const said = driver.log.filter((line) => line.includes("several devices"));
      expect(said).toEqual(healed.length === 1 ? [] : [expect.stringContaining("/dev/nbd0, /dev/nbd1")]);
    });
  }

  for (const shared of [false, true]) {
    const is = shared ? "stays if the volume may be" : "ends again if the volume must not be";
    test(`The new process of a device ${is} open on another node, which opens it at the same time`, async () => {
      const { host, cluster } = await aNode();
      const watchers = cluster.image("rbd", IMAGE).watchers;
      const racing = interceptedHost(hostMemoryService(host), ({ method }, act) =>
        method === "attach" ? Effect.tap(act, () => Effect.sync(() => watchers.add(OTHER_NODE))) : act,
      );
      await using driver = nodeOn(host, { host: racing });
      const more = shared ? { volumeCapability: asBlock(Mode.MULTI_NODE_MULTI_WRITER) } : {};
      await driver.stage(withNbd({}, more));
      host.killProcess("/dev/nbd0");
      await driver.lookAfterProcesses();
      expect([isDead(host), driver.log.join("\n").includes("gets no other one yet")]).toEqual([!shared, !shared]);
      expect([...watchers].filter((each) => each !== OTHER_NODE)).toHaveLength(shared ? 1 : 0);
      watchers.delete(OTHER_NODE);
    });
  }

  test("The new process of a device ends again if the driver ends before it is proven", async () => {
    const { host, cluster } = await aNode();
    const [proving, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let attached = false;
    const watched = interceptedHost(hostMemoryService(host), ({ method }, act) =>
      Effect.tap(act, () =>
        Effect.sync(() => {
          if (method === "attach") attached = true;
          if (method === "detach") ended.resolve();
        }),
      ),
    );
    const silent = intercepted(cephMemoryService(cluster), ({ method }, act) => {
      if (!attached || method !== "imageStatus") return act;
      proving.resolve();
      return Effect.never;
    });
    {
      await using driver = nodeOn(host, { host: watched, ceph: silent });
      await driver.stage(withNbd());
      host.killProcess("/dev/nbd0");
      driver.watchProcesses();
      await proving.promise;
      expect(isDead(host)).toBe(false);
    }
    await ended.promise;
    expect(isDead(host)).toBe(true);
  });

  test("A volume that several nodes may have is healed though it is attached elsewhere alone", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host, { kube: attached(ELSEWHERE), flags: { nodeid: "node-1" } });
    await driver.stage(withNbd({}, { volumeCapability: asBlock(Mode.MULTI_NODE_MULTI_WRITER) }));
    host.killProcess("/dev/nbd0");
    await driver.lookAfterProcesses();
    expect(isDead(host)).toBe(false);
  });

  test("A remembered volume is healed if Kubernetes cannot be asked", async () => {
    const { host } = await aNode();
    const kube = new KubeMemory();
    kube.page = () => {
      throw new Refused(403, "Forbidden", "not permitted");
    };
    await using driver = nodeOn(host, { kube, flags: { nodeid: "node-1" } });
    await driver.stage(withNbd());
    host.killProcess("/dev/nbd0");
    await driver.lookAfterProcesses();
    expect(isDead(host)).toBe(false);
  });

  for (const [modes, dead] of [
    [["ReadWriteOnce", "ReadWriteMany"], true],
    [["ReadWriteOncePod"], true],
    [[], true],
    [["ReadWriteMany", "ReadWriteOnce"], false],
    [["ReadOnlyMany"], false],
  ] as const) {
    const is = dead ? "waits until nobody else has the image open" : "goes on beside other nodes";
    test(`After a restart a volume of the access modes [${modes.join(", ")}] ${is}: kubelet stages with the first`, async () => {
      const { host, cluster } = await afterRestart();
      cluster.image("rbd", IMAGE).watchers.add("10.0.0.9:0/1/client.7");
      await using driver = nodeOn(host, { kube: attached({}, [...modes]), flags: { nodeid: "node-1" } });
      await driver.lookAfterProcesses();
      expect(isDead(host)).toBe(dead);
    });
  }

  test("A volume whose process has died gets another one for its unmount, so that nothing is lost", async () => {
    const { host } = await afterRestart();
    const calls: string[] = [];
    const watched = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      calls.push(method);
      return act;
    });
    await using driver = nodeOn(host, { host: watched, kube: attached(), flags: { nodeid: "node-1" } });
    await driver.unpublish(unpublishing());
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(await untouched());
    expect(calls.indexOf("attach")).toBeLessThan(calls.lastIndexOf("unmount"));
    expect(calls).toContain("attach");
  });

  test("A volume that is unstaged is looked after no more", async () => {
    const { host } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(withNbd());
    await driver.unstage(unstaging());
    const image = host.cluster.image("rbd", IMAGE);
    const name = { pool: "rbd", namespace: "", image: IMAGE };
    const { path } = host.add(image, { ...name, mapper: "rbd-nbd", readOnly: false, cookie: VOLUME, logFile: "/x" });
    host.killProcess(path);
    await driver.lookAfterProcesses();
    expect(host.mappings.get(path)?.dead).toBe(true);
  });
});

describe("the growth of a device of rbd-nbd", () => {
  for (const keeps of [false, true]) {
    const how = keeps ? "does not tell the kernel, and is renewed" : "tells the kernel";
    test(`NodeExpandVolume grows a volume whose rbd-nbd process ${how}`, async () => {
      const { host } = await aNode();
      host.nbdKeepsSize = keeps;
      const time = virtualTime();
      await using driver = nodeOn(host, { time });
      await driver.stage(withNbd());
      await driver.publish(publishing());
      host.cluster.image("rbd", IMAGE).sizeBytes = 2n * GIB;
      const request = expanding({ capacityRange: { requiredBytes: 2n * GIB } });
      expect((await time.until(driver.expand(request))).capacityBytes).toBe(2n * GIB);
      expect(host.mappings.get("/dev/nbd0")?.dead ?? false).toBe(false);
    });
  }
});
