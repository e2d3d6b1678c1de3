/** What an attacher does for each attachment, with a driver that publishes volumes, over the API in memory. */
import { describe, expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { ATTACHMENTS } from "../../../lib/attacher/objects.ts";
import { KubeFailed } from "../../../lib/kube/errors.ts";
import { attacherWorld, DRIVER, FINALIZER } from "../../support/attacher-world.ts";
import { ABLE, failing } from "../../support/csi-driver-memory.ts";
import { settled } from "../../support/virtual-time.ts";

const PROTECTED = ["kubernetes.io/pv-protection", FINALIZER];
const IN_TREE = { csi: null, rbd: { monitors: ["10.0.0.1:6789"], image: "kubernetes-dynamic-pvc-e0b45b52" } };
const SECRETS = "/api/v1/namespaces/storage/secrets";

describe("attach", () => {
  test("Attaching takes three writes: the volume's finalizer, the attachment's, and the status", async () => {
    const { attach, node, volume, attachment, writes, find, finalizersOf, driver } = attacherWorld();
    driver.context = { lun: "7" };
    node("node-1");
    volume("pv-1");
    await attach();
    writes();
    attachment("va-1", "pv-1");
    await settled();
    expect(writes()).toEqual([
      "patch persistentvolumes/pv-1",
      "patch volumeattachments/va-1",
      "patch volumeattachments/va-1/status",
    ]);
    expect(find("va-1")).toMatchObject({
      metadata: {
        finalizers: [FINALIZER],
        annotations: { "csi.alpha.kubernetes.io/node-id": "id-of-node-1", "csi-rbd/volume-handle": "handle-pv-1" },
      },
      status: { attached: true, attachmentMetadata: { lun: "7" } },
    });
    expect(finalizersOf("/api/v1/persistentvolumes/pv-1")).toEqual(PROTECTED);
    expect(driver.calls).toEqual(["publish handle-pv-1 id-of-node-1"]);
  });

  test("Without a resync an attachment is looked at when it changes, and only then", async () => {
    const { attach, node, volume, attachment, status, memory, time } = attacherWorld();
    node("node-1");
    volume("pv-1");
    await attach({ resync: Duration.zero });
    attachment("va-1", "pv-1");
    await settled();
    expect(status("va-1")).toMatchObject({ attached: true });
    memory.requests.splice(0);
    await time.pass("1 hour");
    expect(memory.requests.filter((request) => !request.startsWith("watch"))).toEqual([]);
  });

  test("The driver gets the volume's attributes, capability and secrets, and read-only where it can do that", async () => {
    const { attach, node, volume, attachment, memory, driver } = attacherWorld({
      ...ABLE,
      singleNodeMultiWriter: true,
    });
    memory.create(SECRETS, { metadata: { name: "s" }, data: { userKey: Buffer.from("s3cret").toString("base64") } });
    node("node-1");
    const csi = {
      readOnly: true,
      fsType: "xfs",
      volumeAttributes: { pool: "p" },
      controllerPublishSecretRef: { name: "s", namespace: "storage" },
    };
    volume("pv-1", csi, { mountOptions: ["noatime"] });
    volume("pv-2", {}, { volumeMode: "Block", accessModes: ["ReadWriteMany"] });
    attachment("va-1", "pv-1");
    attachment("va-2", "pv-2");
    await attach();
    const [first, second] = driver.requests.toSorted((a, b) => a.volumeId.localeCompare(b.volumeId));
    expect(first).toEqual({
      volumeId: "handle-pv-1",
      nodeId: "id-of-node-1",
      access: { fsType: "xfs", mountFlags: ["noatime"] },
      mode: "SINGLE_NODE_MULTI_WRITER",
      readOnly: true,
      volumeContext: { pool: "p" },
      secrets: { userKey: "s3cret" },
    });
    expect(second).toMatchObject({ access: "block", mode: "MULTI_NODE_MULTI_WRITER", readOnly: false });
  });

  test("Inline volumes and migrated in-tree RBD volumes are attached, too", async () => {
    const { attach, node, volume, attachment, driver, memory } = attacherWorld();
    node("node-1");
    const csi = { driver: DRIVER, volumeHandle: "inline-handle" };
    attachment("va-1", { inlineVolumeSpec: { csi, accessModes: ["ReadWriteOnce"] } });
    volume("pv-2");
    const rbd = {
      monitors: ["10.0.0.1:6789", "10.0.0.2:6789"],
      image: "kubernetes-dynamic-pvc-e0b45b52",
      pool: "kube",
    };
    memory.merge("/api/v1/persistentvolumes/pv-2", { spec: { csi: null, rbd } });
    attachment("va-2", "pv-2");
    await attach();
    const md5 = "8c7a98a3d1a3de2dc28e9ba2d2c4cf95".length;
    const handle = driver.requests.map(({ volumeId }) => volumeId).toSorted();
    expect(handle[0]).toBe("inline-handle");
    expect(handle[1]).toMatch(new RegExp(`^mig_mons-[0-9a-f]{${md5}}_image-e0b45b52_6b756265$`));
    expect(driver.requests.find(({ volumeId }) => volumeId === handle[1])).toMatchObject({
      volumeContext: { staticVolume: "true", pool: "kube", imageName: rbd.image, migration: "true" },
    });
  });

  test("A failed attach writes the error with time and code, waits 1, 2 and 4 seconds, and the success clears it", async () => {
    const { attach, node, volume, attachment, status, driver, time } = attacherWorld();
    node("node-1");
    volume("pv-1");
    attachment("va-1", "pv-1");
    driver.around = () => failing(13, "no path to the storage");
    await attach();
    expect(status("va-1")).toMatchObject({
      attached: false,
      attachError: { message: "no path to the storage", errorCode: 13 },
    });
    expect(String(status("va-1")?.["attachError"]?.["time"])).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    await time.pass("6900 millis");
    expect(driver.calls).toHaveLength(3);
    driver.around = () => Effect.void;
    await time.pass("200 millis");
    expect(driver.calls).toHaveLength(4);
    expect(status("va-1")).toEqual({ attached: true } as never);
  });

  const impossible: readonly (readonly [string, (world: ReturnType<typeof attacherWorld>) => void, string])[] = [
    ["a volume that does not exist", ({ node }) => void node("node-1"), "PersistentVolume pv-1 does not exist"],
    [
      "a volume that is being deleted",
      ({ node, volume, memory }) => {
        node("node-1");
        volume("pv-1");
        memory.remove("/api/v1/persistentvolumes/pv-1");
      },
      "PersistentVolume pv-1 is being deleted",
    ],
    ["a node without the driver", ({ node, volume }) => void (node("node-1", ["other"]), volume("pv-1")), "has no ID"],
    ["a node that is not registered", ({ volume }) => void volume("pv-1"), "node node-1 has no ID"],
    [
      "a secret that does not exist",
      ({ node, volume }) => {
        node("node-1");
        volume("pv-1", { controllerPublishSecretRef: { name: "s", namespace: "storage" } });
      },
      "secrets/s",
    ],
    [
      "access modes that exclude each other",
      ({ node, volume }) => {
        node("node-1");
        volume("pv-1", {}, { accessModes: ["ReadWriteOncePod", "ReadWriteOnce"] });
      },
      "ReadWriteOncePod excludes others",
    ],
    [
      "a volume that is not CSI's",
      ({ node, volume, memory }) => {
        node("node-1");
        volume("pv-1");
        memory.merge("/api/v1/persistentvolumes/pv-1", { spec: { csi: null, nfs: { server: "s" } } });
      },
      "is not a CSI volume",
    ],
  ];
  for (const [what, make, said] of impossible) {
    test(`${what} is an error on the attachment, which gets no finalizer, and the driver is not asked`, async () => {
      const world = attacherWorld();
      make(world);
      world.attachment("va-1", "pv-1");
      await world.attach();
      expect(String(world.status("va-1")?.["attachError"]?.["message"])).toContain(said);
      expect(world.finalizersOf("/apis/storage.k8s.io/v1/volumeattachments/va-1")).toEqual([]);
      expect(world.driver.calls).toEqual([]);
      // Deleting it needs nobody.
      world.remove("va-1");
      expect(world.find("va-1")).toBeUndefined();
    });
  }

  test("Attachments of other drivers are left alone", async () => {
    const { attach, memory, writes } = attacherWorld();
    const list = "/apis/storage.k8s.io/v1/volumeattachments";
    const spec = { attacher: "other.example.com", nodeName: "n", source: { persistentVolumeName: "pv" } };
    memory.create(list, { metadata: { name: "va-1" }, spec, status: { attached: false } });
    await attach();
    expect(writes()).toEqual([]);
  });

  test("A finalizer that somebody else adds meanwhile is kept, and ours is not written twice", async () => {
    const { attach, node, volume, attachment, memory, finalizersOf } = attacherWorld();
    node("node-1");
    volume("pv-1");
    const path = "/api/v1/persistentvolumes/pv-1";
    let raced = false;
    await attach({}, ({ verb, path: asked }, act) => {
      if (verb !== "patch" || asked !== path || raced) return act;
      raced = true;
      memory.merge(path, { metadata: { finalizers: ["kubernetes.io/pv-protection", "other/one", FINALIZER] } });
      return act;
    });
    attachment("va-1", "pv-1");
    await settled();
    expect(finalizersOf(path)).toEqual(["kubernetes.io/pv-protection", "other/one", FINALIZER]);
  });
});

describe("detach", () => {
  const attached = async (abilities = ABLE) => {
    const world = attacherWorld(abilities);
    world.node("node-1");
    world.volume("pv-1");
    world.attachment("va-1", "pv-1");
    const running = await world.attach();
    world.writes();
    world.driver.calls.length = 0;
    return { ...world, running };
  };

  test("Detaching unpublishes, and one write lets the attachment go", async () => {
    const { remove, find, writes, driver } = await attached();
    remove("va-1");
    await settled();
    expect(find("va-1")).toBeUndefined();
    expect(driver.calls).toEqual(["unpublish handle-pv-1 id-of-node-1"]);
    expect(writes()).toEqual(["patch volumeattachments/va-1"]);
  });

  test("An attachment that somebody else keeps is told to be detached", async () => {
    const { remove, find, memory } = await attached();
    memory.merge("/apis/storage.k8s.io/v1/volumeattachments/va-1", {
      metadata: { finalizers: [FINALIZER, "other/one"] },
    });
    remove("va-1");
    await settled();
    expect(find("va-1")).toMatchObject({ metadata: { finalizers: ["other/one"] }, status: { attached: false } });
  });

  test("A failed detach writes the error and keeps the finalizer; the driver's success ends it", async () => {
    const { remove, find, status, driver, time, finalizersOf } = await attached();
    driver.around = () => failing(14, "the storage is away");
    remove("va-1");
    await settled();
    expect(status("va-1")).toMatchObject({ attached: true, detachError: { message: "the storage is away" } });
    expect(finalizersOf("/apis/storage.k8s.io/v1/volumeattachments/va-1")).toEqual([FINALIZER]);
    driver.around = () => Effect.void;
    await time.pass("1 second");
    expect(find("va-1")).toBeUndefined();
  });

  test("The node's ID comes from the attachment when the node is gone", async () => {
    const { remove, find, memory, driver } = await attached();
    memory.remove("/apis/storage.k8s.io/v1/csinodes/node-1");
    await settled();
    remove("va-1");
    await settled();
    expect(driver.calls).toEqual(["unpublish handle-pv-1 id-of-node-1"]);
    expect(find("va-1")).toBeUndefined();
  });

  test("A volume that is deleted before the detach stays until the detach, and goes then", async () => {
    const { remove, memory, finalizersOf } = await attached();
    const path = "/api/v1/persistentvolumes/pv-1";
    memory.remove(path);
    memory.merge(path, { metadata: { finalizers: [FINALIZER] } });
    await settled();
    expect(finalizersOf(path)).toEqual([FINALIZER]);
    remove("va-1");
    await settled();
    expect(memory.find(path)).toBeUndefined();
  });

  test("A volume that was taken away by force is still unpublished, by this attacher or the next one", async () => {
    for (const restarted of [false, true]) {
      const { remove, find, memory, driver, running, attach } = await attached();
      const path = "/api/v1/persistentvolumes/pv-1";
      memory.merge(path, { metadata: { finalizers: null } });
      memory.remove(path);
      await settled();
      if (restarted) {
        await running.stop();
        await attach();
      }
      remove("va-1");
      await settled();
      expect(driver.calls).toEqual(["unpublish handle-pv-1 id-of-node-1"]);
      expect(find("va-1")).toBeUndefined();
    }
  });

  test("An in-tree volume that was taken away by force is unpublished by what the attachment says", async () => {
    const { attach, node, volume, attachment, remove, find, driver, memory } = attacherWorld();
    node("node-1");
    volume("pv-1");
    const path = "/api/v1/persistentvolumes/pv-1";
    memory.merge(path, { spec: IN_TREE });
    attachment("va-1", "pv-1");
    await attach();
    const handle = driver.requests[0]?.volumeId ?? "";
    expect(handle).toStartWith("mig_mons-");
    memory.merge(path, { metadata: { finalizers: null } });
    memory.remove(path);
    await settled();
    driver.calls.length = 0;
    remove("va-1");
    await settled();
    expect(driver.calls).toEqual([`unpublish ${handle} id-of-node-1`]);
    expect(find("va-1")).toBeUndefined();
  });

  test("What was published is unpublished, although another volume has the name by now", async () => {
    const { remove, find, memory, driver, volume } = await attached();
    const path = "/api/v1/persistentvolumes/pv-1";
    memory.merge(path, { metadata: { finalizers: null } });
    memory.remove(path);
    volume("pv-1", {
      volumeHandle: "another-handle",
      controllerPublishSecretRef: { name: "absent", namespace: "storage" },
    });
    await settled();
    remove("va-1");
    await settled();
    expect(driver.calls).toEqual(["unpublish handle-pv-1 id-of-node-1"]);
    expect(find("va-1")).toBeUndefined();
  });

  test("A 404 that is not the API's own is an error, and nothing is believed to be gone", async () => {
    const { attach, node, volume, attachment, remove, driver, memory, status, finalizersOf } = attacherWorld();
    const state = { proxied: false };
    node("node-1");
    volume("pv-1");
    memory.merge("/api/v1/persistentvolumes/pv-1", { spec: IN_TREE });
    attachment("va-1", "pv-1");
    await attach({}, ({ verb, path }, act) =>
      state.proxied && verb === "get"
        ? Effect.fail(new KubeFailed({ verb, path, status: 404, code: "", reason: "HTTP 404" }))
        : act,
    );
    driver.calls.length = 0;
    state.proxied = true;
    remove("va-1");
    await settled();
    expect(driver.calls).toEqual([]);
    expect(finalizersOf(`${ATTACHMENTS}/va-1`)).toEqual([FINALIZER]);
    expect(String(status("va-1")?.["detachError"]?.["message"])).toContain("HTTP 404");
  });

  test("Why the API takes no patch of a volume is on the attachment", async () => {
    const { attach, node, volume, attachment, status } = attacherWorld();
    node("node-1");
    volume("pv-1");
    attachment("va-1", "pv-1");
    await attach({}, ({ verb, path }, act) =>
      verb === "patch" && path.includes("persistentvolumes")
        ? Effect.fail(
            new KubeFailed({ verb, path, status: 422, code: "Invalid", reason: "HTTP 422: a webhook says no" }),
          )
        : act,
    );
    expect(String(status("va-1")?.["attachError"]?.["message"])).toContain("a webhook says no");
  });

  test("Where nobody knows any more what was published, the detach ends, and the log says what may be left", async () => {
    const { attach, node, attachment, remove, find, driver } = attacherWorld();
    node("node-1");
    attachment("va-1", "pv-gone", "node-1", { finalizers: [FINALIZER] });
    remove("va-1");
    const { log } = await attach();
    expect(find("va-1")).toBeUndefined();
    expect(driver.calls).toEqual([]);
    expect(log.join("\n")).toContain("PersistentVolume pv-gone is gone");
  });

  test("A volume that is there and that this attacher cannot translate ends no detach", async () => {
    const { attach, node, attachment, remove, find, driver, memory, status } = attacherWorld();
    node("node-1");
    const foreign = { accessModes: ["ReadWriteOnce"], awsElasticBlockStore: { volumeID: "vol-123" } };
    memory.create("/api/v1/persistentvolumes", { metadata: { name: "pv-1" }, spec: foreign });
    attachment("va-1", "pv-1", "node-1", { finalizers: [FINALIZER] });
    remove("va-1");
    await attach();
    expect(find("va-1")).toBeDefined();
    expect(driver.calls).toEqual([]);
    const message = String(status("va-1")?.["detachError"]?.["message"]);
    expect(message).toContain("PersistentVolume pv-1 is not a CSI volume");
    expect(message).toContain("remove the attachment's finalizer by hand");
  });

  test("A hundred detaches that hang hold up no attach", async () => {
    const world = attacherWorld();
    const { attach, node, volume, attachment, remove, status, driver } = world;
    node("node-1");
    for (let n = 0; n < 100; n++) {
      volume(`pv-${n}`);
      attachment(`va-${n}`, `pv-${n}`);
    }
    await attach();
    driver.around = (call) => (call.startsWith("unpublish") ? Effect.never : Effect.void);
    for (let n = 0; n < 100; n++) remove(`va-${n}`);
    await settled();
    volume("pv-new");
    attachment("va-new", "pv-new");
    await settled();
    expect(status("va-new")).toMatchObject({ attached: true });
  });
});

describe("many at once", () => {
  test("The driver is asked for so many publishes at once as the flag says, while others are made ready for theirs", async () => {
    const { attach, node, volume, attachment, finalizersOf, status, driver, time } = attacherWorld();
    node("node-1");
    const numbers = Array.from({ length: 20 }, (_, n) => n);
    for (const n of numbers) {
      volume(`pv-${n}`);
      attachment(`va-${n}`, `pv-${n}`);
    }
    let running = 0;
    let most = 0;
    driver.around = () =>
      Effect.sync(() => void (most = Math.max(most, (running += 1)))).pipe(
        Effect.andThen(Effect.sleep("1 second")),
        Effect.ensuring(Effect.sync(() => void (running -= 1))),
      );
    await attach({ workers: 2 });
    const ready = numbers.filter((n) => finalizersOf(`${ATTACHMENTS}/va-${n}`).length > 0);
    expect([driver.calls.length, ready.length]).toEqual([2, 8]);
    await time.pass("11 seconds");
    expect(numbers.filter((n) => status(`va-${n}`)?.["attached"] !== (true as unknown))).toEqual([]);
    expect(most).toBe(2);
  });
});

describe("in between", () => {
  test("An attachment that is deleted while it is attached is detached after, never at the same time", async () => {
    const { attach, node, volume, attachment, remove, find, driver, time } = attacherWorld();
    node("node-1");
    volume("pv-1");
    driver.around = (call) => (call.startsWith("publish") ? Effect.sleep("3 seconds") : Effect.void);
    attachment("va-1", "pv-1");
    await attach();
    remove("va-1");
    await time.pass("2 seconds");
    expect(driver.calls).toEqual(["publish handle-pv-1 id-of-node-1"]);
    await time.pass("10 seconds");
    expect(driver.calls.at(-1)).toBe("unpublish handle-pv-1 id-of-node-1");
    expect(driver.published.get("handle-pv-1")?.size).toBe(0);
    expect(find("va-1")).toBeUndefined();
  });

  test("An attacher that dies at any write leaves what the next one completes", async () => {
    for (let last = 0; last < 6; last++) {
      const { attach, node, volume, attachment, remove, status, find, driver } = attacherWorld();
      node("node-1");
      volume("pv-1");
      attachment("va-1", "pv-1");
      let left = last;
      const dying = await attach({}, ({ verb }, act) => (verb === "patch" && left-- <= 0 ? Effect.never : act));
      if (last > 3) remove("va-1");
      await settled();
      await dying.stop();
      await attach();
      if (last <= 3) {
        expect(status("va-1")).toMatchObject({ attached: true });
        expect(driver.published.get("handle-pv-1")?.size).toBe(1);
        remove("va-1");
        await settled();
      }
      expect(find("va-1")).toBeUndefined();
      expect(driver.published.get("handle-pv-1")?.size).toBe(0);
    }
  });

  test("A server that loses every third write does not change how it ends", async () => {
    const { attach, node, volume, attachment, remove, status, find, time } = attacherWorld();
    node("node-1");
    volume("pv-1");
    let count = 0;
    await attach({}, ({ verb, path }, act) => {
      const lost = verb === "patch" && (count += 1) % 3 === 1;
      return lost ? Effect.fail(new KubeFailed({ verb, path, reason: "reset" })) : act;
    });
    attachment("va-1", "pv-1");
    await time.pass("2 minutes");
    expect(status("va-1")).toMatchObject({ attached: true });
    remove("va-1");
    await time.pass("2 minutes");
    expect(find("va-1")).toBeUndefined();
  });
});

describe("the driver's own list", () => {
  const LISTS = { ...ABLE, listPublishedNodes: true };

  test("A volume that the driver has lost is published again, and one that it should not have is taken back", async () => {
    const { attach, node, volume, attachment, driver, time } = attacherWorld(LISTS);
    node("node-1");
    volume("pv-1");
    attachment("va-1", "pv-1");
    await attach();
    driver.published.clear();
    driver.calls.length = 0;
    await time.pass("61 seconds");
    expect(driver.calls).toEqual(["list", "publish handle-pv-1 id-of-node-1"]);
    await time.pass("60 seconds");
    expect(driver.calls.slice(2)).toEqual(["list"]);
  });

  test("A list that fails changes nothing", async () => {
    const { attach, node, volume, attachment, driver, time, status } = attacherWorld(LISTS);
    node("node-1");
    volume("pv-1");
    attachment("va-1", "pv-1");
    const { log } = await attach();
    driver.around = () => failing(14, "away");
    await time.pass("61 seconds");
    expect(status("va-1")).toMatchObject({ attached: true });
    expect(log.join("\n")).toContain("cannot compare attachments");
  });
});
