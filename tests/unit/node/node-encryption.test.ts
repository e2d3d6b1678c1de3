/** An encrypted volume on its node: made once, opened with its key alone, closed before it is unmapped. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as fc from "fast-check";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import {
  diskOf,
  type Disk,
  HEADER_BYTES,
  hostMemoryService,
  type MemoryNode,
  setDisk,
} from "../../support/host-memory.ts";
import {
  anEncryptedNode,
  aNode,
  crashing,
  ENCRYPTED,
  EXT4,
  expanding,
  IMAGE,
  nodeOn,
  PASSPHRASE,
  PLACE,
  publishing,
  STAGING,
  staging,
  STASH,
  STATE,
  statistics,
  TARGET,
  toBeEncrypted,
  unpublishing,
  unstaging,
  VOLUME,
} from "../../support/node-world.ts";
import { asBlock, failureOf, GIB, mounted, PARAMETERS, SECRETS } from "../../support/world.ts";

const LAYER = `/dev/mapper/luks-rbd-${VOLUME}`;
const encrypted = (more: Parameters<typeof staging>[0] = {}) => staging({ ...ENCRYPTED, ...more });
const RAW = { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) };

const stateOf = (host: MemoryNode) => host.cluster.image("rbd", IMAGE).meta.get(STATE);

/** The image holds this, as whatever wrote it has left it. */
const holding = (host: MemoryNode, disk: Disk, bytes = GIB) => {
  host.cluster.image("rbd", IMAGE).write(0n, bytes);
  setDisk(host.cluster.image("rbd", IMAGE), disk);
};

describe("the first stage of an encrypted volume", () => {
  test("The first stage formats LUKS and the filesystem in it once, and says so in metadata and image-meta.json", async () => {
    const { host, image } = await anEncryptedNode();
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    expect(host.mounts.map(({ source, point }) => [source, point])).toEqual([[LAYER, PLACE]]);
    expect([host.encrypted, host.formatted]).toEqual([[image.id], [`ext4 ${image.id}`]]);
    expect([stateOf(host), image.meta.get("rbd.csi.ceph.com/luks2HeaderSize")]).toEqual([
      "encrypted",
      String(HEADER_BYTES),
    ]);
    expect(host.tree.get(STASH)).toMatchObject({ text: expect.stringContaining('"encrypted":true') });
  });

  test("A volume keeps its data from stage to stage, and is formatted no second time", async () => {
    const { host } = await anEncryptedNode();
    await using driver = nodeOn(host);
    const empty = host.dump();
    await driver.stage(encrypted());
    host.files(PLACE).set("data", "precious");
    await driver.publish(publishing());
    await driver.stage(encrypted());
    expect(host.files(TARGET).get("data")).toBe("precious");
    await driver.unpublish(unpublishing());
    await driver.unstage(unstaging());
    expect(host.dump()).toEqual(empty);
    await driver.stage(encrypted());
    expect(host.files(PLACE).get("data")).toBe("precious");
    expect([host.encrypted.length, host.formatted.length]).toEqual([1, 1]);
  });

  test("A volume that only its journal calls encrypted is encrypted", async () => {
    const { host } = await anEncryptedNode();
    await using driver = nodeOn(host);
    await driver.stage(encrypted({ volumeContext: { ...PARAMETERS, imageName: IMAGE } }));
    expect(host.encrypted).toHaveLength(1);
  });

  test("A raw volume is bound from its LUKS layer, has the layer's bytes, and is given no filesystem", async () => {
    const { host } = await anEncryptedNode();
    await using driver = nodeOn(host);
    await driver.stage(encrypted(RAW));
    await driver.publish(publishing(RAW));
    expect(host.mounts.map(({ root, point }) => [root, point])).toEqual([
      [LAYER.slice("/dev".length), PLACE],
      [LAYER.slice("/dev".length), TARGET],
    ]);
    expect((await driver.stats(statistics())).usage).toMatchObject([{ total: GIB - HEADER_BYTES }]);
    expect(host.formatted).toEqual([]);
    await driver.unpublish(unpublishing());
    await driver.unstage(unstaging());
    expect(host.dump()).toMatchObject({ mapped: [], layers: [], mounts: [] });
  });

  test("A volume for many writers is not encrypted while another node has it open, and is opened then", async () => {
    const many = encrypted({ volumeCapability: asBlock(Mode.MULTI_NODE_MULTI_WRITER) });
    const { host } = await anEncryptedNode();
    await using driver = nodeOn(host);
    const close = host.cluster.watch("rbd", IMAGE);
    expect((await failureOf(driver.stage(many)))?.message).toContain("in use");
    expect([stateOf(host), host.dump()]).toMatchObject(["encryptionPrepared", { mapped: [], layers: [], mounts: [] }]);
    close();
    await driver.stage(many);
    await driver.unstage(unstaging());
    host.cluster.watch("rbd", IMAGE);
    await driver.stage(many);
    expect(stateOf(host)).toBe("encrypted");
  });

  test("A static volume is opened if its image has LUKS and the state that says so", async () => {
    const { host } = await aNode();
    holding(host, { kind: "luks", key: PASSPHRASE, inside: EXT4() });
    host.cluster.image("rbd", IMAGE).meta.set(STATE, "encrypted");
    host.addDirectory(`${STAGING}/static`);
    const request = encrypted({
      volumeId: IMAGE,
      stagingTargetPath: `${STAGING}/static`,
      volumeContext: { ...PARAMETERS, staticVolume: "true", encrypted: "true" },
    });
    await using driver = nodeOn(host);
    await driver.stage(request);
    expect(host.files(`${STAGING}/static/${IMAGE}`).get("data")).toBe("precious");
  });
});

describe("the size of an encrypted volume", () => {
  for (const [what, more] of [
    ["a filesystem", {}],
    ["a raw volume", RAW],
  ] as const) {
    test(`NodeExpandVolume of ${what} grows the LUKS layer, and answers with the bytes of the image`, async () => {
      const { host, image } = await anEncryptedNode();
      await using driver = nodeOn(host);
      await driver.stage(encrypted(more));
      await driver.publish(publishing(more));
      image.sizeBytes = 2n * GIB;
      const answer = await driver.expand(expanding({ capacityRange: { requiredBytes: 2n * GIB } }));
      expect(answer).toEqual({ capacityBytes: 2n * GIB });
      const usage = (await driver.stats(statistics())).usage;
      expect(usage?.[0]?.total).toBe(2n * GIB - HEADER_BYTES);
    });
  }

  test("A stage grows the filesystem of a volume that is larger than its source or was expanded before", async () => {
    const { host, image } = await anEncryptedNode();
    image.meta.set(STATE, "encrypted");
    holding(host, { kind: "luks", key: PASSPHRASE, inside: { ...EXT4(), sizeBytes: GIB - HEADER_BYTES } as Disk });
    image.sizeBytes = 3n * GIB;
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    const disk = diskOf(image);
    expect(disk.kind === "luks" && disk.inside).toMatchObject({ sizeBytes: 3n * GIB - HEADER_BYTES });
  });

  test("A repeated stage grows what an earlier one has left small", async () => {
    const { host, image } = await anEncryptedNode();
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    image.sizeBytes = 2n * GIB;
    await driver.stage(encrypted());
    const disk = diskOf(image);
    expect(disk.kind === "luks" && disk.inside).toMatchObject({ sizeBytes: 2n * GIB - HEADER_BYTES });
  });
});

describe("proof before harm", () => {
  const refused = async (
    prepare: (host: MemoryNode) => unknown,
    more: Parameters<typeof staging>[0] = {},
    code = "FAILED_PRECONDITION",
  ) => {
    const { host, image } = await anEncryptedNode();
    await prepare(host);
    const [before, disk, state] = [host.dump(), Bun.inspect(diskOf(image)), stateOf(host)];
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(encrypted(more)));
    expect([host.encrypted, host.formatted]).toEqual([[], []]);
    expect([host.dump(), Bun.inspect(diskOf(image)), stateOf(host)]).toEqual([before, disk, state]);
    expect(failure?.code).toBe(code);
    expect(failure?.message).not.toContain(PASSPHRASE);
    return failure?.message ?? "";
  };
  const is = (state: string) => (host: MemoryNode) => void host.cluster.image("rbd", IMAGE).meta.set(STATE, state);

  for (const [what, disk] of [
    ["a filesystem", EXT4()],
    ["a partition table", { kind: "other", type: "dos" }],
  ] as const) {
    test(`An image with ${what} is not encrypted, whatever its state`, async () => {
      expect(await refused((host) => holding(host, disk))).toContain("it is to be encrypted, but it holds");
      const lost = await refused((host) => (is("encrypted")(host), holding(host, disk)));
      expect(lost).toMatch(/LUKS is on it, but it holds .*(backup|snapshot)/);
    });
  }

  test("An image with data behind the place of a header is not encrypted", async () => {
    const image = (host: MemoryNode) => host.cluster.image("rbd", IMAGE);
    expect(await refused((host) => image(host).write(HEADER_BYTES, 1n))).toContain("holds data");
    const half: Disk = { kind: "luks", key: undefined, inside: { kind: "blank" } };
    expect(await refused((host) => (image(host).write(GIB / 2n, 1n), setDisk(image(host), half)))).toContain(
      "holds data",
    );
  });

  test("An image that was formatted once is not formatted again, though nothing is on it any more", async () => {
    expect(await refused(is("encrypted"))).toContain("nothing where a header goes");
  });

  test("A header that no key ever opened, of an image that is said to be encrypted, is left, and the message says what to set", async () => {
    const half: Disk = { kind: "luks", key: undefined, inside: { kind: "blank" } };
    const message = await refused((host) => (is("encrypted")(host), setDisk(host.cluster.image("rbd", IMAGE), half)));
    expect(message).toContain(`rbd image-meta set rbd/${IMAGE} ${STATE} encryptionPrepared`);
  });

  test("An image without the state of an encrypted one is not touched, and the message says how to set it", async () => {
    expect(await refused(is(""))).toContain(`rbd image-meta set rbd/${IMAGE} ${STATE} encrypted`);
    expect(await refused(is("nonsense"))).toContain("unknown value nonsense");
  });

  test("A wrong passphrase opens nothing, and changes nothing", async () => {
    const luks = (host: MemoryNode) => holding(host, { kind: "luks", key: "another", inside: EXT4() });
    await refused((host) => (is("encrypted")(host), luks(host)));
    await refused(luks);
  });

  test("A volume without a passphrase in its Secret is refused before anything is mapped", async () => {
    const { host } = await anEncryptedNode();
    let maps = 0;
    const counted = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      if (method === "map") maps += 1;
      return act;
    });
    await using driver = nodeOn(host, { host: counted });
    const failure = await failureOf(driver.stage(encrypted({ secrets: SECRETS })));
    expect([failure?.code, maps]).toEqual(["INVALID_ARGUMENT", 0]);
    expect(failure?.message).toContain("encryptionPassphrase");
  });

  test("A volume is not encrypted for readers", async () => {
    const readers = { volumeCapability: mounted(Mode.MULTI_NODE_READER_ONLY) };
    expect(await refused(() => {}, readers)).toContain("read-only");
  });

  test("A plain volume whose image holds LUKS is not mounted", async () => {
    const { host } = await aNode();
    holding(host, { kind: "luks", key: PASSPHRASE, inside: EXT4() });
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(staging()));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("crypto_LUKS") });
  });

  test("A static volume that is not said to be encrypted is not staged from the image of one that is", async () => {
    const { host } = await aNode();
    is("encrypted")(host);
    host.addDirectory(`${STAGING}/static`);
    await using driver = nodeOn(host);
    for (const more of [{}, RAW]) {
      const request = staging({
        ...more,
        volumeId: IMAGE,
        stagingTargetPath: `${STAGING}/static`,
        volumeContext: { ...PARAMETERS, staticVolume: "true" },
      });
      const failure = await failureOf(driver.stage(request));
      expect(failure).toMatchObject({
        code: "FAILED_PRECONDITION",
        message: expect.stringContaining('encrypted: "true"'),
      });
    }
  });

  test("A volume that is staged plain is not taken for an encrypted one", async () => {
    const { host, cluster } = await aNode();
    await using driver = nodeOn(host);
    await driver.stage(staging());
    toBeEncrypted(cluster);
    const failure = await failureOf(driver.stage(encrypted()));
    expect(failure).toMatchObject({ code: "ALREADY_EXISTS", message: expect.stringContaining("asks for encryption") });
  });
});

describe("a format that was killed", () => {
  const half: Disk = { kind: "luks", key: undefined, inside: { kind: "blank" } };
  for (const [what, left] of [
    ["before it wrote a header", { kind: "blank" }],
    ["before its header had a key slot", half],
  ] as const) {
    test(`A format that was killed ${what} is made again`, async () => {
      const { host, image } = await anEncryptedNode();
      image.write(0n, HEADER_BYTES);
      setDisk(image, left);
      await using driver = nodeOn(host);
      await driver.stage(encrypted());
      expect([host.encrypted.length, stateOf(host)]).toEqual([1, "encrypted"]);
    });
  }

  test("A format whose end nobody recorded is opened, and recorded", async () => {
    const { host } = await anEncryptedNode();
    holding(host, { kind: "luks", key: PASSPHRASE, inside: { kind: "blank" } }, HEADER_BYTES);
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    expect([host.encrypted, stateOf(host), host.formatted.length]).toEqual([[], "encrypted", 1]);
  });
});

describe("an unstage", () => {
  test("An unstage closes the layer whatever its name, and fails while somebody uses it", async () => {
    const { host, image } = await anEncryptedNode();
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    await driver.publish(publishing());
    expect((await failureOf(driver.unstage(unstaging())))?.message).toContain(TARGET);
    await driver.unpublish(unpublishing());
    await driver.unstage(unstaging());
    const device = host.add(image, mapRequest);
    host.openLayer("luks-rbd-other", host.mappings.get(device.path)!, false);
    host.tree.set(STASH, { kind: "file", text: `{"Version":3,"pool":"rbd","image":"${IMAGE}","encrypted":true}` });
    await driver.unstage(unstaging());
    expect(host.dump()).toMatchObject({ mapped: [], layers: [] });
  });

  test("A stage takes down what another driver has left open over the image, and opens it anew", async () => {
    const { host, image } = await anEncryptedNode();
    image.meta.set(STATE, "encrypted");
    holding(host, { kind: "luks", key: PASSPHRASE, inside: EXT4() });
    const device = host.add(image, mapRequest);
    host.openLayer(`luks-rbd-${VOLUME}`, host.mappings.get(device.path)!, false);
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    expect(host.files(PLACE).get("data")).toBe("precious");
    expect(host.dump().layers).toHaveLength(1);
  });

  const mapRequest = { mapper: "krbd" as const, pool: "rbd", namespace: "", image: IMAGE, readOnly: false } as never;
});

describe("at random", () => {
  const LEFT: Readonly<Record<string, () => Disk>> = {
    nothing: () => ({ kind: "blank" }),
    "half a header": () => ({ kind: "luks", key: undefined, inside: { kind: "blank" } }),
    "an empty layer": () => ({ kind: "luks", key: PASSPHRASE, inside: { kind: "blank" } }),
    "a layer of another key": () => ({ kind: "luks", key: "another", inside: EXT4() }),
    "a layer with a filesystem": () => ({ kind: "luks", key: PASSPHRASE, inside: EXT4() }),
    "a filesystem": EXT4,
  };
  const precious = (disk: Disk): boolean =>
    disk.kind === "filesystem" ? disk.files.get("data") === "precious" : disk.kind === "luks" && precious(disk.inside);

  test("No image that holds anything is ever formatted, with whatever state, content and crash at whatever call", async () => {
    const scene = fc.record({
      left: fc.constantFrom(...Object.keys(LEFT)),
      state: fc.constantFrom("", "encryptionPrepared", "encrypted"),
      data: fc.constantFrom(0n, HEADER_BYTES, GIB),
      raw: fc.boolean(),
      deaths: fc.array(fc.record({ at: fc.nat(40), moment: fc.constantFrom("before" as const, "after" as const) }), {
        maxLength: 3,
      }),
    });
    await fc.assert(
      fc.asyncProperty(scene, async ({ left, state, data, raw, deaths }) => {
        const { host, image } = await anEncryptedNode();
        const disk = LEFT[left]!();
        const holds = precious(disk);
        image.write(0n, holds ? GIB : data);
        setDisk(image, disk);
        image.meta.set(STATE, state);
        const mayBeFormatted = state === "encryptionPrepared" && data <= HEADER_BYTES;
        const request = encrypted(raw ? RAW : {});
        for (const { at, moment } of deaths) {
          await using dying = nodeOn(host, crashing(host, at + 1, moment));
          await dying.stage(request).catch(() => undefined);
        }
        await using driver = nodeOn(host);
        const failure = await failureOf(driver.stage(request));
        const headers = ["nothing", "half a header"].includes(left) && mayBeFormatted ? 1 : 0;
        expect(host.encrypted.length).toBe(headers);
        if (holds) expect([precious(diskOf(image)), host.formatted]).toEqual([true, []]);
        if (headers === 1) expect(failure).toBeUndefined();
        await driver.unstage(unstaging());
        expect(host.dump()).toMatchObject({ mapped: [], layers: [], mounts: [] });
      }),
      { numRuns: 150 },
    );
  }, 120_000);
});

test("A driver that loses the node at a close leaves the rest of the unstage to the next", async () => {
  const { host } = await anEncryptedNode();
  let fails = true;
  const failing = interceptedHost(hostMemoryService(host), ({ method }, act) =>
    method === "closeCrypt" && fails ? Effect.die(new Error("gone")) : act,
  );
  await using driver = nodeOn(host, { host: failing });
  await driver.stage(encrypted());
  await driver.unstage(unstaging()).catch(() => undefined);
  expect(host.dump().layers).toHaveLength(1);
  fails = false;
  await driver.unstage(unstaging());
  expect(host.dump()).toMatchObject({ mapped: [], layers: [], mounts: [] });
});
