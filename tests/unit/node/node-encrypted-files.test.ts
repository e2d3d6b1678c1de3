/**
 * A volume whose files are encrypted on its node: its folder is made once, unlocked with its key alone, and published in
 * place of the filesystem's root.
 */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as fc from "fast-check";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { keyOf } from "../../../lib/kms/new-key.ts";
import { metadataStore } from "../../../lib/kms/stores/metadata.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { everyDeath } from "../../support/every-death.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import { type Disk, diskOf, hostMemoryService, type MemoryNode, setDisk } from "../../support/host-memory.ts";
import { dyingAt, type Kept, keepingStore, wrappingStore } from "../../support/key-stores.ts";
import {
  aNode,
  expanding,
  IMAGE,
  nodeOn,
  PASSPHRASE,
  PLACE,
  publishing,
  STAGING,
  staging,
  STASH,
  statistics,
  TARGET,
  unpublishing,
  unstaging,
  UUID,
  VOLUME,
} from "../../support/node-world.ts";
import { asBlock, failureOf, formatted, GIB, mounted, PARAMETERS, SECRETS } from "../../support/world.ts";

type Filesystem = Extract<Disk, { kind: "filesystem" }>;

const contextOf = (kmsId: string) => ({
  ...PARAMETERS,
  imageName: IMAGE,
  encrypted: "true",
  encryptionType: "file",
  ...(kmsId !== "" && { encryptionKMSID: kmsId }),
});
const secrets = { ...SECRETS, encryptionPassphrase: PASSPHRASE };
const KEY = "the key of this very volume";

/** A node, and a volume that CreateVolume made for a KMS; with the stores `keeper`, `words` and `wrapper`. */
const aWorld = async (kmsId = "keeper") => {
  const { host, cluster } = await aNode();
  const journal = cluster.namespace("rbd", "")?.objects.get(`csi.volume.${UUID}`);
  journal?.set("csi.volume.encryptKMS", kmsId || "default").set("csi.volume.encryptionType", "file");
  const kept: Kept = new Map();
  const stores = {
    keeper: keepingStore(kept),
    words: metadataStore(keyOf("words"), "a Secret"),
    wrapper: wrappingStore(),
  };
  const volumeContext = contextOf(kmsId);
  return {
    host,
    cluster,
    kept,
    stores,
    image: cluster.image("rbd", IMAGE),
    driver: (given: Parameters<typeof nodeOn>[1] = {}) => nodeOn(host, { stores, ...given }),
    stage: (more: Parameters<typeof staging>[0] = {}) => staging({ volumeContext, secrets, ...more }),
    publish: (more: Parameters<typeof publishing>[0] = {}) => publishing({ volumeContext, ...more }),
  };
};

const filesystem = (more: Partial<Filesystem> = {}): Filesystem => ({
  kind: "filesystem",
  type: "ext4",
  sizeBytes: GIB,
  files: new Map(),
  encryptsFiles: true,
  dirty: false,
  ...more,
});
const withFolder = (key: string, source: "raw_key" | "custom_passphrase" = "raw_key") =>
  filesystem({ folder: { source, key, files: new Map([["data", "precious"]]) } });
/** The image holds this, as whatever wrote it has left it. */
const holding = (host: MemoryNode, disk: Disk) => {
  host.cluster.image("rbd", IMAGE).write(0n, GIB);
  setDisk(host.cluster.image("rbd", IMAGE), disk);
};

describe("the first stage of a volume with encrypted files", () => {
  test("It makes a filesystem for them, a key, and the folder; the mount of a pod is the folder", async () => {
    const { host, image, kept, driver: start, stage, publish } = await aWorld();
    await using driver = start();
    await driver.stage(stage());
    expect(kept.get(VOLUME)).toMatch(/^[A-Za-z0-9_-]{86}==$/);
    expect([host.formatted, host.foldersMade, host.encrypted]).toEqual([[`ext4 ${image.id}`], [image.id], []]);
    const { folder, encryptsFiles } = diskOf(image) as Filesystem;
    expect([folder?.source, folder?.key, encryptsFiles]).toEqual(["raw_key", kept.get(VOLUME) ?? "", true]);
    expect(host.tree.get(STASH)).not.toMatchObject({ text: expect.stringContaining('"encrypted":true') });
    await driver.publish(publish());
    await driver.publish(publish());
    expect(host.mounts.map(({ root, point }) => [root, point])).toEqual([
      ["/", PLACE],
      ["/ceph-csi-encrypted", TARGET],
    ]);
  });

  test("A volume keeps its files from stage to stage, and its folder is made once", async () => {
    const { host, kept, driver: start, stage, publish } = await aWorld();
    await using driver = start();
    const empty = host.dump();
    await driver.stage(stage());
    const keys = [...kept];
    await driver.publish(publish());
    host.files(TARGET).set("data", "precious");
    await driver.stage(stage());
    expect((await driver.stats(statistics())).usage).toMatchObject([{ total: GIB }, {}]);
    expect((await failureOf(driver.unstage(unstaging())))?.message).toContain(TARGET);
    await driver.unpublish(unpublishing());
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(empty);
    await driver.stage(stage());
    await driver.publish(publish());
    expect([host.files(TARGET).get("data"), host.foldersMade.length, [...kept]]).toEqual(["precious", 1, keys]);
  });

  test.each([
    ["", "raw_key", PASSPHRASE],
    ["words", "custom_passphrase", "words"],
  ])("The key of KMS %p is a %s", async (kms, source, key) => {
    const { image, kept, driver: start, stage } = await aWorld(kms);
    await using driver = start();
    await driver.stage(stage());
    expect([diskOf(image) as Filesystem, kept.size]).toMatchObject([{ folder: { source, key } }, 0]);
  });

  test("A key that the store has already is used, and stays", async () => {
    const { image, kept, driver: start, stage } = await aWorld();
    kept.set(VOLUME, KEY);
    await using driver = start();
    await driver.stage(stage());
    expect([(diskOf(image) as Filesystem).folder?.key, kept.get(VOLUME)]).toEqual([KEY, KEY]);
  });

  test("A key that somebody else writes meanwhile is used in place of the node's own", async () => {
    const { image, kept, stores, driver: start, stage } = await aWorld();
    const { write } = stores.keeper;
    const late = (...args: Parameters<typeof write>) => Effect.suspend(() => (kept.set(VOLUME, KEY), write(...args)));
    await using driver = start({ stores: { keeper: { ...stores.keeper, write: late } } });
    await driver.stage(stage());
    expect([(diskOf(image) as Filesystem).folder?.key, kept.get(VOLUME)]).toEqual([KEY, KEY]);
  });

  test("A static volume is unlocked with the key of its handle", async () => {
    const { host, kept, driver: start, stage } = await aWorld();
    holding(host, withFolder(KEY));
    kept.set(IMAGE, KEY);
    host.addDirectory(`${STAGING}/static`);
    await using driver = start();
    const volumeContext = { ...contextOf("keeper"), staticVolume: "true" };
    await driver.stage(stage({ volumeId: IMAGE, stagingTargetPath: `${STAGING}/static`, volumeContext }));
    expect(host.unlocked.size).toBe(1);
  });

  test("NodeExpandVolume grows the filesystem", async () => {
    const { image, driver: start, stage, publish } = await aWorld();
    await using driver = start();
    await driver.stage(stage());
    await driver.publish(publish());
    image.sizeBytes = 2n * GIB;
    const answer = await driver.expand(expanding({ capacityRange: { requiredBytes: 2n * GIB } }));
    expect([answer, (diskOf(image) as Filesystem).sizeBytes]).toEqual([{ capacityBytes: 2n * GIB }, 2n * GIB]);
  });
});

describe("proof before harm", () => {
  type Given = Awaited<ReturnType<typeof aWorld>>;
  /** The stage fails, and node, content and keys are as before. */
  const refused = async (
    prepare: (world: Given) => unknown,
    more: Parameters<typeof staging>[0] = {},
    code = "FAILED_PRECONDITION",
    kms = "keeper",
  ) => {
    const world = await aWorld(kms);
    const { host, image, kept } = world;
    await prepare(world);
    const before = [host.dump(), Bun.inspect(diskOf(image)), [...kept]];
    await using driver = world.driver();
    const failure = await failureOf(driver.stage(world.stage(more)));
    expect([host.dump(), Bun.inspect(diskOf(image)), [...kept]]).toEqual(before);
    expect(failure?.code).toBe(code);
    for (const text of [PASSPHRASE, KEY]) expect(failure?.message).not.toContain(text);
    return failure?.message ?? "";
  };

  test("A folder whose key is lost gets no other one", async () => {
    expect(await refused(({ host }) => holding(host, withFolder(KEY)))).toContain(`no key of ${VOLUME} in keeper/`);
  });

  test("A wrong key unlocks nothing, and nothing stays mounted", async () => {
    const wrong = ({ host, kept }: Given) => (holding(host, withFolder(KEY)), kept.set(VOLUME, "another"));
    expect(await refused(wrong)).toContain("incorrect key");
  });

  test("A key store that only wraps keys is refused before anything is mapped", async () => {
    let maps = 0;
    const world = await aWorld("wrapper");
    const counted = interceptedHost(hostMemoryService(world.host), ({ method }, act) => {
      if (method === "map") maps += 1;
      return act;
    });
    await using driver = world.driver({ host: counted });
    const failure = await failureOf(driver.stage(world.stage()));
    expect([failure?.code, maps]).toEqual(["FAILED_PRECONDITION", 0]);
    expect(failure?.message).toContain("encrypts no files");
  });

  test("A filesystem that lacks the feature, or is not ext4, is left as it is", async () => {
    const lacking = ({ host }: Given) => holding(host, filesystem({ encryptsFiles: false }));
    expect(await refused(lacking, {}, "FAILED_PRECONDITION", "")).toContain("not enabled");
    const any = { volumeCapability: formatted("") };
    const xfs = ({ host }: Given) => holding(host, filesystem({ type: "xfs" }));
    expect(await refused(xfs, any)).toContain("files are encrypted in ext4 only");
  });

  test("Keys beside files that nobody knows are left", async () => {
    const files = new Map([["data", "precious"]]);
    const foreign = ({ host }: Given) => holding(host, filesystem({ halfMade: true, files }));
    expect(await refused(foreign)).toContain("was left as it is");
  });

  test("Nothing is set up for readers, who unlock what is there", async () => {
    const volumeCapability = mounted(Mode.SINGLE_NODE_READER_ONLY);
    expect(await refused(({ host }) => holding(host, filesystem()), { volumeCapability })).toContain("for a writer");
    const world = await aWorld();
    holding(world.host, withFolder(KEY));
    world.kept.set(VOLUME, KEY);
    await using driver = world.driver();
    await driver.stage(world.stage({ volumeCapability }));
    await driver.publish(world.publish({ volumeCapability }));
    expect(world.host.files(TARGET).get("data")).toBe("precious");
    expect(world.host.mounts.at(-1)?.options).toContain("ro");
  });

  test.each([
    ["raw block", asBlock(Mode.SINGLE_NODE_WRITER), "asks for raw block"],
    ["xfs", formatted("xfs"), "asks for xfs"],
  ])("%s is refused", async (_, volumeCapability, says) => {
    expect(await refused(() => {}, { volumeCapability }, "INVALID_ARGUMENT")).toContain(says);
    const world = await aWorld();
    await using driver = world.driver();
    const failure = await failureOf(driver.publish(world.publish({ volumeCapability })));
    expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining(says) });
  });

  test("A volume whose journal and context disagree about its files is not staged", async () => {
    const plain = { volumeContext: { ...PARAMETERS, imageName: IMAGE } };
    expect(await refused(() => {}, plain)).toContain("and plain as its volume_context says");
    const whole = ({ cluster }: Given) =>
      cluster.namespace("rbd", "")?.objects.get(`csi.volume.${UUID}`)?.set("csi.volume.encryptionType", "block");
    expect(await refused(whole)).toContain("encrypted (block, KMS keeper) as its journal says");
  });

  test("A volume that is locked, or bound as a whole, is not published", async () => {
    const world = await aWorld();
    const { host, image } = world;
    await using driver = world.driver();
    await driver.stage(world.stage());
    host.unlocked.delete(image.id);
    const locked = await failureOf(driver.publish(world.publish()));
    expect(locked).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("is not unlocked") });
    await driver.stage(world.stage());
    const plain = await failureOf(driver.publish(publishing()));
    expect(plain).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("does not say so") });
    // as a driver that leaves no mark has staged it
    const stash = host.tree.get(STASH);
    const unmarked = stash?.kind === "file" ? stash.text.replace(',"encryptedFiles":true', "") : "";
    host.tree.set(STASH, { kind: "file", text: unmarked });
    await driver.publish(publishing());
    const whole = await failureOf(driver.publish(world.publish()));
    expect(whole).toMatchObject({ code: "ALREADY_EXISTS", message: expect.stringContaining("/ceph-csi-encrypted") });
  });

  test("Its key is not exchanged", async () => {
    const world = await aWorld();
    await using driver = world.driver();
    await driver.stage(world.stage());
    const request = { volumeId: VOLUME, parameters: contextOf("keeper"), secrets };
    const failure = await failureOf(driver.rotateKey(request));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("not exchanged") });
  });
});

describe("a stage that was cut off", () => {
  test("A setup that left keys alone is made again, and what is locked on a mounted volume is unlocked", async () => {
    const { host, image, driver: start, stage } = await aWorld();
    holding(host, filesystem({ halfMade: true }));
    await using driver = start();
    await driver.stage(stage());
    expect(host.foldersMade).toHaveLength(1);
    host.unlocked.delete(image.id);
    await driver.stage(stage());
    expect([host.unlocked.has(image.id), host.foldersMade.length]).toEqual([true, 1]);
  });

  test("A driver that dies at any call leaves what the next one completes, with the one key that was made", async () => {
    const deaths = await everyDeath(100, async (call, moment) => {
      const { host, cluster, kept, stores, driver: start, stage, publish } = await aWorld();
      const dying = dyingAt(call, moment);
      const run = async (driver: ReturnType<typeof start>) => {
        await driver.stage(stage());
        await driver.publish(publish());
      };
      {
        const given = { stores: { keeper: dying.store(stores.keeper) }, host: dying.host(hostMemoryService(host)) };
        await using driver = start({ ...given, ceph: dying.ceph(cephMemoryService(cluster)) });
        await run(driver).catch(() => undefined);
      }
      const before = [...kept];
      await using driver = start();
      await run(driver);
      host.files(TARGET).set("data", "precious");
      expect([...kept].slice(0, before.length)).toEqual(before);
      expect([kept.size, host.formatted.length, host.foldersMade.length]).toEqual([1, 1, 1]);
      await driver.unpublish(unpublishing());
      await driver.unstage(unstaging());
      expect(host.dump()).toMatchObject({ mapped: [], mounts: [] });
      await run(driver);
      expect(host.files(TARGET).get("data")).toBe("precious");
      return dying.died() !== undefined;
    });
    expect(Math.min(deaths.before, deaths.after)).toBeGreaterThan(20);
  }, 60_000);

  test("No files are ever lost, with whatever content, key and death at whatever calls", async () => {
    const LEFT: Readonly<Record<string, () => Disk>> = {
      nothing: () => ({ kind: "blank" }),
      "a filesystem": () => filesystem(),
      "half a folder": () => filesystem({ halfMade: true }),
      "half a folder beside files": () => filesystem({ halfMade: true, files: new Map([["data", "precious"]]) }),
      "files without a folder": () => filesystem({ files: new Map([["data", "precious"]]) }),
      "a folder": () => withFolder(KEY),
      "a folder of another key": () => withFolder("another"),
      "a filesystem without the feature": () => filesystem({ encryptsFiles: false }),
    };
    const precious = (disk: Disk): boolean =>
      disk.kind === "filesystem" && [disk.files, disk.folder?.files].some((files) => files?.get("data") === "precious");
    const scene = fc.record({
      left: fc.constantFrom(...Object.keys(LEFT)),
      hasKey: fc.boolean(),
      deaths: fc.array(fc.record({ at: fc.nat(40), moment: fc.constantFrom("before" as const, "after" as const) }), {
        maxLength: 3,
      }),
    });
    await fc.assert(
      fc.asyncProperty(scene, async ({ left, hasKey, deaths }) => {
        const { host, cluster, image, kept, stores, driver: start, stage } = await aWorld();
        const disk = LEFT[left]!();
        if (disk.kind !== "blank") holding(host, disk);
        if (hasKey) kept.set(VOLUME, KEY);
        const held = precious(disk);
        for (const { at, moment } of deaths) {
          const dying = dyingAt(at + 1, moment);
          const given = { stores: { keeper: dying.store(stores.keeper) }, host: dying.host(hostMemoryService(host)) };
          await using driver = start({ ...given, ceph: dying.ceph(cephMemoryService(cluster)) });
          await driver.stage(stage()).catch(() => undefined);
        }
        await using driver = start();
        const failure = await failureOf(driver.stage(stage()));
        if (hasKey) expect(kept.get(VOLUME)).toBe(KEY);
        if (left.startsWith("a folder")) expect([host.foldersMade, kept.size]).toEqual([[], hasKey ? 1 : 0]);
        if (held) expect(precious(diskOf(image))).toBe(true);
        if (["nothing", "a filesystem", "half a folder"].includes(left) || (left === "a folder" && hasKey)) {
          expect(failure).toBeUndefined();
          // a driver that died may have left the mount: kubelet has to come back then
        } else expect(["FAILED_PRECONDITION", "UNAVAILABLE"]).toContain(failure?.code ?? "OK");
        await driver.unstage(unstaging());
        expect(host.dump()).toMatchObject({ mapped: [], mounts: [] });
      }),
      { numRuns: 150 },
    );
  }, 120_000);
});
