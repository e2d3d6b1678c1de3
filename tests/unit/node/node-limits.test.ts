/** Pods whose volumes the kernel maps, and what they may do with them: at publish, live, after a restart, with faults. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { TimedOut } from "../../../lib/ceph/errors.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { podUidOf } from "../../../lib/node/pod-mounts.ts";
import { intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { countingHost, interceptedHost } from "../../support/host-faults.ts";
import { hostMemoryService, type MemoryNode } from "../../support/host-memory.ts";
import { KubeMemory, Refused } from "../../support/kube-memory.ts";
import {
  aNode,
  ENCRYPTED,
  IMAGE,
  nodeOn,
  OTHER_UUID,
  publishing,
  seedVolume,
  staging,
  toBeEncrypted,
  unpublishing,
  unstaging,
  VOLUME,
  volumeIdOf,
} from "../../support/node-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { asBlock, modification, PARAMETERS, SECRETS } from "../../support/world.ts";

const POD = "0f5a1b2c-1111-4222-8333-444455556666";
const OTHER_POD = "0f5a1b2c-1111-4222-8333-777788889999";
const targetOf = (pod: string) => `/var/lib/kubelet/pods/${pod}/volumes/kubernetes.io~csi/pvc-1/mount`;
const publishTo = (pod: string, more: Parameters<typeof publishing>[0] = {}) =>
  publishing({ targetPath: targetOf(pod), ...more });
const CONTEXT = { ...PARAMETERS, imageName: IMAGE };
const DEVICE = "252:0";

const KEY = ".rbd.csi.ceph.com/cgroup_qos_max_";
const setMeta = (host: MemoryNode, limits: Readonly<Record<string, string>>): void => {
  const { meta } = host.cluster.image("rbd", IMAGE);
  for (const [key, value] of Object.entries(limits)) meta.set(`${KEY}${key}`, value);
};

/** A node with the control group of a pod, and a volume whose image has limits. */
const aLimitedNode = async (limits: Readonly<Record<string, string>> = { read_iops: "100", write_bps: "4096" }) => {
  const { host } = await aNode();
  setMeta(host, limits);
  host.podGroups.set(POD, new Map());
  return host;
};
const heldTo = (host: MemoryNode, pod = POD) => Object.fromEntries(host.podGroups.get(pod) ?? []);
const HELD = { [DEVICE]: { readOps: 100n, writeBytes: 4096n } };

test.each<[string, string | undefined]>([
  [targetOf(POD), POD],
  [`/data/kubelet/pods/${POD}/volumeDevices/kubernetes.io~csi/pvc-1`, POD],
  [`/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/${POD}`, POD],
  [
    "/var/lib/kubelet/pods/d41d8cd98f00b204e9800998ecf8427e/volumes/kubernetes.io~csi/a/mount",
    "d41d8cd98f00b204e9800998ecf8427e",
  ],
  ["/var/lib/kubelet/pods/../volumes/kubernetes.io~csi/a/mount", undefined],
  [`/var/lib/kubelet/pods/${POD}/volumes/kubernetes.io~csi/a/b/mount`, undefined],
  [`/var/lib/kubelet/plugins/kubernetes.io/csi/rbd.csi.ceph.com/0/globalmount/${VOLUME}`, undefined],
  ["/kubelet/pods/1/mount", undefined],
])("the pod of the path %s is %s", (path, pod) => {
  expect(podUidOf(path)).toBe(pod);
});

describe("NodePublishVolume", () => {
  test("NodePublishVolume holds the pod to the limits of its volume", async () => {
    const host = await aLimitedNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.publish(publishTo(POD));
    expect(heldTo(host)).toEqual(HELD);
    expect(driver.log).toContain(`pod ${POD} may do 4096 bytes written, 100 reads a second with volume ${VOLUME}`);
  });

  test("NodePublishVolume holds the pod of a raw volume, at the path that kubelet publishes it at", async () => {
    const host = await aLimitedNode();
    const block = { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) };
    await using driver = nodeOn(host);
    await driver.stage(staging(block));
    const targetPath = `/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/${POD}`;
    await driver.publish(publishing({ ...block, targetPath }));
    expect(heldTo(host)).toEqual(HELD);
  });

  test("NodePublishVolume holds the pod of an encrypted volume by the device that it writes to", async () => {
    const host = await aLimitedNode();
    toBeEncrypted(host.cluster);
    await using driver = nodeOn(host);
    await driver.stage(staging(ENCRYPTED));
    await driver.publish(publishTo(POD));
    expect(Object.keys(heldTo(host))).toEqual(["253:1"]);
  });

  for (const [what, limits] of [
    ["says nothing", {}],
    ["says max of everything", { read_iops: "max", write_iops: "max", read_bps: "max", write_bps: "0" }],
  ] as const) {
    test(`NodePublishVolume holds no pod whose volume ${what}`, async () => {
      const host = await aLimitedNode(limits);
      await using driver = nodeOn(host);
      await driver.stage(staging());
      await driver.publish(publishTo(POD));
      expect(heldTo(host)).toEqual({});
    });
  }

  test("NodePublishVolume leaves the pod of a volume of rbd-nbd to librbd", async () => {
    const host = await aLimitedNode();
    await using driver = nodeOn(host);
    await driver.stage(staging({ volumeContext: { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" } }));
    await driver.publish(publishTo(POD));
    expect(heldTo(host)).toEqual({});
  });

  test("NodePublishVolume publishes where nothing can limit I/O, and the log says what is missing, once", async () => {
    const host = await aLimitedNode();
    host.limitsNoIo = "/sys/fs/cgroup is not a control group of version 2";
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.publish(publishTo(POD));
    await driver.lookAfterLimits();
    const said = driver.log.filter((line) => line.includes("is not held to the limits"));
    expect(said).toEqual([expect.stringContaining("/sys/fs/cgroup is not a control group of version 2")]);
    expect(said[0]).toStartWith(
      `pod ${POD} is not held to the limits of volume ${VOLUME} (4096 bytes written, 100 reads`,
    );
  });

  test("NodePublishVolume asks Ceph nothing: it sets what the stage has read", async () => {
    const host = await aLimitedNode();
    const { service, calls, forget } = recorded(cephMemoryService(host.cluster));
    await using driver = nodeOn(host, { ceph: service });
    await driver.stage(staging());
    forget();
    await driver.publish(publishTo(POD));
    expect(calls()).toEqual([]);
    expect(heldTo(host)).toEqual(HELD);
  });

  test("NodePublishVolume does not wait for a call to Ceph that hangs and cannot be taken back", async () => {
    const host = await aLimitedNode();
    const time = virtualTime();
    let isSilent = false;
    const ceph = intercepted(cephMemoryService(host.cluster), (_call, act) =>
      isSilent ? Effect.andThen(Effect.uninterruptible(Effect.sleep("90 seconds")), act) : act,
    );
    await using driver = nodeOn(host, { ceph, time });
    driver.watchLimits();
    await time.until(driver.stage(staging()));
    isSilent = true;
    await time.pass("61 seconds");
    // The stage was of a driver that has ended: nothing is known of the volume.
    await using next = nodeOn(host, { ceph, time });
    next.watchLimits();
    const began = time.now();
    await time.until(driver.publish(publishTo(POD)));
    expect(heldTo(host)).toEqual(HELD);
    host.podGroups.set(POD, new Map());
    await time.until(next.publish(publishTo(POD, { secrets: SECRETS, volumeContext: CONTEXT })));
    expect(time.now() - began).toBeLessThan(1_000);
    isSilent = false;
    await time.pass("5 minutes");
    expect(heldTo(host)).toEqual(HELD);
  });

  test("a limit that is no number is named in the log, and limits nothing", async () => {
    const host = await aLimitedNode({ read_iops: "many" });
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.publish(publishTo(POD));
    expect(heldTo(host)).toEqual({});
    expect(driver.log.join("\n")).toContain(`has "many" as its metadata ${KEY}read_iops`);
  });

  test("a device of an image that has the same name, and is another, is not limited", async () => {
    const host = await aLimitedNode();
    const other = interceptedHost(hostMemoryService(host), ({ method }, act) =>
      method === "mappedDevices"
        ? Effect.map(
            act,
            (devices) => (devices as { imageId: string }[]).map((each) => ({ ...each, imageId: "other" })) as never,
          )
        : act,
    );
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.publish(publishTo(POD));
    host.podGroups.set(POD, new Map());
    await using stranger = nodeOn(host, { host: other });
    await stranger.publish(publishTo(POD, { secrets: SECRETS, volumeContext: CONTEXT }));
    await stranger.lookAfterLimits();
    expect(heldTo(host)).toEqual({});
  });
});

describe("while pods run", () => {
  test("a change by ControllerModifyVolume reaches every pod within a minute, and so does its end", async () => {
    const host = await aLimitedNode();
    host.podGroups.set(OTHER_POD, new Map());
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    driver.watchLimits();
    await time.until(driver.stage(staging()));
    for (const pod of [POD, OTHER_POD]) await time.until(driver.publish(publishTo(pod)));
    expect([heldTo(host), heldTo(host, OTHER_POD)]).toEqual([HELD, HELD]);
    await time.until(driver.modifyVolume(modification(VOLUME, { maxReadIops: "7", maxWriteBps: "max" })));
    await time.pass("60 seconds");
    const changed = { [DEVICE]: { readOps: 7n } };
    expect([heldTo(host), heldTo(host, OTHER_POD)]).toEqual([changed, changed]);
    // As ceph-csi takes limits away.
    const { meta } = host.cluster.image("rbd", IMAGE);
    for (const key of meta.keys()) if (key.startsWith(KEY)) meta.delete(key);
    await time.pass("60 seconds");
    expect([heldTo(host), heldTo(host, OTHER_POD)]).toEqual([{}, {}]);
  });

  test("a look without a change says nothing, and sets again what the kernel has lost", async () => {
    const host = await aLimitedNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    await driver.publish(publishTo(POD));
    host.podGroups.get(POD)?.clear();
    const { length } = driver.log;
    await driver.lookAfterLimits();
    expect(heldTo(host)).toEqual(HELD);
    expect(driver.log.length).toBe(length);
  });

  test("a look without a volume that is limited tells the kernel nothing", async () => {
    const host = await aLimitedNode({});
    const made: string[] = [];
    const watched = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      made.push(method);
      return act;
    });
    await using driver = nodeOn(host, { host: watched });
    await driver.stage(staging());
    await driver.publish(publishTo(POD));
    made.length = 0;
    await driver.lookAfterLimits();
    expect(made).toEqual(["mappedDevices", "mountTable"]);
    await driver.unpublish(unpublishing({ targetPath: targetOf(POD) }));
    await driver.unstage(unstaging());
    made.length = 0;
    await driver.lookAfterLimits();
    expect(made).toEqual(["mappedDevices"]);
  });

  test("images with limits are read every minute, and those without every ten", async () => {
    for (const [limits, readsInTenMinutes] of [[{ read_iops: "1" }, 10] as const, [{}, 1] as const]) {
      const host = await aLimitedNode(limits);
      const { service, calls, forget } = recorded(cephMemoryService(host.cluster));
      const time = virtualTime();
      await using driver = nodeOn(host, { ceph: service, time });
      driver.watchLimits();
      await time.until(driver.stage(staging()));
      await time.until(driver.publish(publishTo(POD)));
      forget();
      for (let minute = 0; minute < 10; minute++) await time.pass("1 minute");
      expect(calls().map(({ method }) => method)).toEqual(Array(readsInTenMinutes).fill("imageBriefs"));
    }
  });

  test("limits that an image gets reach the next pod at once, and those that run in ten minutes", async () => {
    const host = await aLimitedNode({});
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    driver.watchLimits();
    await time.until(driver.stage(staging()));
    await time.until(driver.publish(publishTo(POD)));
    await time.pass("2 minutes");
    setMeta(host, { read_iops: "7" });
    await time.pass("1 minute");
    expect(heldTo(host)).toEqual({});
    host.podGroups.set(OTHER_POD, new Map());
    await time.until(driver.publish(publishTo(OTHER_POD)));
    await time.pass("1 second");
    const changed = { [DEVICE]: { readOps: 7n } };
    expect([heldTo(host), heldTo(host, OTHER_POD)]).toEqual([changed, changed]);
  });

  test("a volume that is staged with another key is read with that key", async () => {
    const host = await aLimitedNode();
    const used = new Set<string>();
    const inner = cephMemoryService(host.cluster);
    const ceph = {
      ...inner,
      poolName: (...args: Parameters<typeof inner.poolName>) => {
        used.add(Redacted.value(args[0].key));
        return inner.poolName(...args);
      },
    };
    await using driver = nodeOn(host, { ceph });
    await driver.stage(staging());
    await driver.publish(publishTo(POD));
    await driver.lookAfterLimits();
    await driver.stage(staging({ secrets: { ...SECRETS, userKey: "another" } }));
    used.clear();
    await driver.lookAfterLimits();
    expect([...used]).toEqual(["another"]);
    expect(driver.log.join("\n")).toContain(`the limits of I/O of volume ${VOLUME} stay as they are: Ceph denied`);
  });

  test("a cluster that does not answer is asked once in a look, and holds up no other", async () => {
    const host = await aLimitedNode();
    await seedVolume(host.cluster, OTHER_UUID);
    const time = virtualTime();
    let isSilent = false;
    const asked: string[] = [];
    const ceph = intercepted(cephMemoryService(host.cluster), ({ method, subject }, act) => {
      if (!isSilent) return act;
      asked.push(method);
      const silence = Effect.fail(new TimedOut({ op: "rbd_open", subject }));
      return Effect.andThen(Effect.uninterruptible(Effect.sleep("200 seconds")), silence);
    });
    host.addDirectory("/kubelet/other");
    const OTHER = volumeIdOf(OTHER_UUID);
    await using first = nodeOn(host, { ceph, time });
    await time.until(first.stage(staging()));
    await time.until(first.publish(publishTo(POD)));
    const other = { volumeId: OTHER, stagingTargetPath: "/kubelet/other" };
    await time.until(
      first.stage(staging({ ...other, volumeContext: { ...PARAMETERS, imageName: `csi-vol-${OTHER_UUID}` } })),
    );
    const otherTarget = targetOf(OTHER_POD);
    await time.until(first.publish(publishing({ ...other, targetPath: otherTarget })));
    isSilent = true;
    await using driver = nodeOn(host, { ceph, time });
    driver.watchLimits();
    const given = { secrets: SECRETS };
    await time.until(driver.publish(publishTo(POD, { ...given, volumeContext: CONTEXT })));
    await time.until(
      driver.publish(
        publishing({
          ...other,
          ...given,
          targetPath: otherTarget,
          volumeContext: { ...PARAMETERS, imageName: `csi-vol-${OTHER_UUID}` },
        }),
      ),
    );
    await time.pass("190 seconds");
    expect(asked).toHaveLength(1);
    isSilent = false;
    await time.pass("2 minutes");
    expect(heldTo(host)).toEqual(HELD);
  });

  test("a control group that kubelet makes after the publish gets the limits within a second or two", async () => {
    const host = await aLimitedNode();
    host.podGroups.clear();
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    driver.watchLimits();
    await time.until(driver.stage(staging()));
    await time.until(driver.publish(publishTo(POD)));
    await time.pass("5 seconds");
    host.podGroups.set(POD, new Map());
    await time.pass("2 seconds");
    expect(heldTo(host)).toEqual(HELD);
  });

  test("a control group that never comes is waited for two minutes, and then the log says so, once", async () => {
    const host = await aLimitedNode();
    host.podGroups.clear();
    const time = virtualTime();
    await using driver = nodeOn(host, { time });
    driver.watchLimits();
    await time.until(driver.stage(staging()));
    await time.until(driver.publish(publishTo(POD)));
    const said = () => driver.log.filter((line) => line.includes("no control group"));
    await time.pass("90 seconds");
    expect(said()).toEqual([]);
    await time.pass("10 minutes");
    expect(said()).toEqual([`kubelet has no control group for pod ${POD}: the limits of volume ${VOLUME} do not hold`]);
  });

  test("a device that has gone meanwhile is not waited for", async () => {
    const host = await aLimitedNode();
    let told = 0;
    const gone = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      if (method !== "limitIo") return act;
      told += 1;
      return Effect.succeed({ kind: "gone" }) as never;
    });
    const time = virtualTime();
    await using driver = nodeOn(host, { host: gone, time });
    driver.watchLimits();
    await time.until(driver.stage(staging()));
    await time.until(driver.publish(publishTo(POD)));
    await time.pass("30 seconds");
    expect(told).toBe(1);
    expect(driver.log.filter((line) => line.includes(POD))).toEqual([]);
  });

  test("a driver that has nothing to look after looks no more", async () => {
    const { host } = await aNode();
    const watched = countingHost(hostMemoryService(host), "mappedDevices");
    const time = virtualTime();
    await using driver = nodeOn(host, { host: watched.host, time });
    driver.watchLimits();
    await time.pass("10 minutes");
    expect(watched.calls()).toBe(1);
  });
});

describe("after a restart of the driver", () => {
  /** A pod is held; the driver ends, and the limits of the image change. */
  const afterRestart = async () => {
    const host = await aLimitedNode();
    {
      await using driver = nodeOn(host);
      await driver.stage(staging());
      await driver.publish(publishTo(POD));
    }
    setMeta(host, { read_iops: "9" });
    return host;
  };
  const CHANGED = { [DEVICE]: { readOps: 9n, writeBytes: 4096n } };

  const attached = (): KubeMemory => {
    const kube = new KubeMemory();
    kube.create("/apis/storage.k8s.io/v1/volumeattachments", {
      metadata: { name: "va-1" },
      spec: { attacher: "rbd.csi.ceph.com", nodeName: "node-1", source: { persistentVolumeName: "pv-1" } },
      status: { attached: true },
    });
    kube.create("/api/v1/persistentvolumes", {
      metadata: { name: "pv-1" },
      spec: {
        accessModes: ["ReadWriteOnce"],
        csi: {
          driver: "rbd.csi.ceph.com",
          volumeHandle: VOLUME,
          volumeAttributes: CONTEXT,
          nodeStageSecretRef: { name: "csi", namespace: "ceph" },
        },
      },
    });
    const data = Object.fromEntries(Object.entries(SECRETS).map(([key, value]) => [key, btoa(value)]));
    kube.create("/api/v1/namespaces/ceph/secrets", { metadata: { name: "csi", namespace: "ceph" }, data });
    return kube;
  };

  test("Kubernetes is asked what the volume was staged with, and a change reaches the pod", async () => {
    const host = await afterRestart();
    const kube = attached();
    await using driver = nodeOn(host, { kube });
    await driver.lookAfterLimits();
    expect(heldTo(host)).toEqual(CHANGED);
    const asked = kube.requests.length;
    await driver.lookAfterLimits();
    expect(kube.requests.length).toBe(asked);
  });

  test("a pod that starts on a volume of before gets its limits at once, though no pod had the volume", async () => {
    const host = await aLimitedNode();
    {
      await using driver = nodeOn(host);
      await driver.stage(staging());
    }
    const time = virtualTime();
    await using driver = nodeOn(host, { kube: attached(), time });
    driver.watchLimits();
    await time.pass("5 minutes");
    await time.until(driver.publish(publishTo(POD, { volumeContext: CONTEXT })));
    await time.pass("1 second");
    expect(heldTo(host)).toEqual(HELD);
    expect(driver.log.join("\n")).not.toContain("is held to no limits");
  });

  test("a pod that starts on a volume of before is told of where Kubernetes cannot be asked", async () => {
    const host = await aLimitedNode();
    {
      await using driver = nodeOn(host);
      await driver.stage(staging());
    }
    const kube = new KubeMemory();
    kube.page = () => {
      throw new Refused(403, "Forbidden", "not permitted");
    };
    const time = virtualTime();
    await using driver = nodeOn(host, { kube, time });
    driver.watchLimits();
    await time.until(driver.publish(publishTo(POD, { volumeContext: CONTEXT })));
    await time.pass("1 second");
    const said = driver.log.filter((line) => line.includes("is held to no limits"));
    expect(said).toEqual([
      expect.stringMatching(
        new RegExp(`^pod ${POD} .* volume ${VOLUME} .* until that is staged again: .*not permitted`),
      ),
    ]);
    const nbd = { ...CONTEXT, mounter: "rbd-nbd" };
    await time.until(driver.publish(publishTo(OTHER_POD, { volumeContext: nbd })));
    await time.pass("1 second");
    expect(driver.log.join("\n")).not.toContain(OTHER_POD);
  });

  test("Kubernetes is asked again after ten minutes about a volume whose Secret could not be read", async () => {
    const host = await afterRestart();
    const kube = attached();
    const secret = "/api/v1/namespaces/ceph/secrets/csi";
    const whole = kube.get(secret);
    kube.remove(secret);
    const time = virtualTime();
    await using driver = nodeOn(host, { kube, time });
    driver.watchLimits();
    await time.pass("1 minute");
    expect(heldTo(host)).toEqual(HELD);
    kube.create("/api/v1/namespaces/ceph/secrets", whole);
    await time.pass("5 minutes");
    expect(heldTo(host)).toEqual(HELD);
    for (let minute = 0; minute < 7; minute++) await time.pass("1 minute");
    expect(heldTo(host)).toEqual(CHANGED);
  });

  test("what was set holds where Kubernetes cannot be asked, until a publish brings secrets", async () => {
    const host = await afterRestart();
    const kube = new KubeMemory();
    kube.page = () => {
      throw new Refused(403, "Forbidden", "not permitted");
    };
    await using driver = nodeOn(host, { kube });
    await driver.lookAfterLimits();
    expect(heldTo(host)).toEqual(HELD);
    expect(driver.log.join("\n")).toContain("stay as they are until these are staged again");
    await driver.publish(publishTo(POD, { secrets: SECRETS, volumeContext: CONTEXT }));
    await driver.lookAfterLimits();
    expect(heldTo(host)).toEqual(CHANGED);
  });
});
