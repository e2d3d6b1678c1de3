/** An encrypted volume with integrity on its node: wiped before its header goes on it, and never formatted over data. */
import { describe, expect, test } from "bun:test";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as fc from "fast-check";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { FENCE_SECONDS } from "../../../lib/ceph/blocklist.ts";
import { AccessDenied, CallStuck, TimedOut, Unreachable } from "../../../lib/ceph/errors.ts";
import { HostFailed, HostRefused, HostUnexplained } from "../../../lib/host/errors.ts";
import type { HostService } from "../../../lib/host/host.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import {
  diskOf,
  type Disk,
  HEADER_BYTES,
  hostMemoryService,
  type MemoryNode,
  setDisk,
  TAG_BYTES,
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
  STAGING,
  staging,
  STATE,
  unstaging,
  VOLUME,
} from "../../support/node-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { asBlock, failureOf, GIB, mounted } from "../../support/world.ts";

const MARK = "rbd.csi.ceph.com/luks2Integrity";
const WIPING = ".rbd.csi.ceph.com/wiping";
const volumeContext = { ...ENCRYPTED.volumeContext, encryptionCipher: "aes-xts-plain64", integrityMode: "hmac-sha256" };
const encrypted = (more: Parameters<typeof staging>[0] = {}) => staging({ ...ENCRYPTED, volumeContext, ...more });
const RAW = { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) };

const BOOT_ID = "/proc/sys/kernel/random/boot_id";
const MACHINE = "/sys/class/dmi/id/product_uuid";
const boot = (host: MemoryNode, bootId: string) => void host.tree.set(BOOT_ID, { kind: "file", text: `${bootId}\n` });
/** What a node writes down of its wipe; without more the node of these tests. */
const recordOf = (more: object = {}): string =>
  JSON.stringify({
    id: "1",
    nodeId: "node-1",
    bootId: "boot-1",
    machine: "",
    client: "10.0.0.9:0/77",
    since: "2026-11-30T08:00:00.000Z",
    ...more,
  });
const FOREIGN = recordOf({ nodeId: "node-2", bootId: "boot-2" });

const anIntegrityNode = async () => {
  const world = await anEncryptedNode();
  boot(world.host, "boot-1");
  return world;
};
const meta = (host: MemoryNode) => host.cluster.image("rbd", IMAGE).meta;
const luks = (inside: Disk, key: string | undefined = PASSPHRASE): Disk => ({
  kind: "luks",
  key,
  inside,
  integrity: true,
});
const precious = (disk: Disk): boolean =>
  disk.kind === "filesystem" ? disk.files.get("data") === "precious" : disk.kind === "luks" && precious(disk.inside);
const HALF: Disk = { kind: "luks", key: undefined, inside: { kind: "blank" } };

/** A node whose calls of one method go through `around`. */
const around = (host: MemoryNode, method: keyof HostService, how: <A>(act: Effect.Effect<A>) => unknown) =>
  interceptedHost(hostMemoryService(host), (call, act) =>
    call.method === method ? (how(act as never) as never) : act,
  );

describe("the first stage of a volume with integrity", () => {
  test("The layer is wiped to its end, then gets its header, and nothing of the wipe stays", async () => {
    const { host, image } = await anIntegrityNode();
    const calls: string[] = [];
    const seen = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      if (method.endsWith("Crypt")) calls.push(`${method} ${meta(host).has(WIPING) ? "recorded" : ""}`.trim());
      return act;
    });
    await using driver = nodeOn(host, { host: seen });
    await driver.stage(encrypted());
    expect(calls).toEqual([
      "prepareCrypt recorded",
      "wipeCrypt recorded",
      "wipeCrypt recorded",
      "closeCrypt recorded",
      "sealCrypt recorded",
      "openCrypt recorded",
    ]);
    expect([host.wiped, host.encrypted, host.formatted]).toEqual([[image.id], [image.id], [`ext4 ${image.id}`]]);
    expect(Object.fromEntries(meta(host))).toMatchObject({
      [STATE]: "encrypted",
      "rbd.csi.ceph.com/luks2HeaderSize": String(HEADER_BYTES),
      "rbd.csi.ceph.com/luks2Integrity": "true",
    });
    expect(meta(host).has(WIPING)).toBe(false);
    host.files(PLACE).set("data", "precious");
    await driver.unstage(unstaging());
    await driver.stage(encrypted());
    expect(host.files(PLACE).get("data")).toBe("precious");
    expect(host.encrypted).toHaveLength(1);
  });

  test("integrityMode without a cipher, or none, makes a volume without integrity", async () => {
    for (const more of [{ encryptionCipher: "" }, { integrityMode: "none" }]) {
      const { host } = await anIntegrityNode();
      await using driver = nodeOn(host);
      await driver.stage(encrypted({ volumeContext: { ...volumeContext, ...more } }));
      expect([host.wiped, host.encrypted.length]).toEqual([[], 1]);
    }
  });

  test("A wipe that runs says how far it is to its caller, and to an unstage, which waits for it", async () => {
    const { host } = await anIntegrityNode();
    const gate = Deferred.makeUnsafe<void>();
    let parts = 0;
    const held = around(host, "wipeCrypt", (act) =>
      Effect.suspend(() => ((parts += 1) === 2 ? Effect.andThen(Deferred.await(gate), act) : act)),
    );
    await using driver = nodeOn(host, { host: held });
    const first = driver.stage(encrypted(), "400 millis");
    expect((await failureOf(first))?.message).toMatch(/NodeStageVolume of .*"wipe, \d\d %"/);
    expect((await failureOf(driver.unstage(unstaging(), "400 millis")))?.message).toMatch(
      /NodeStageVolume of .*"wipe, \d\d %"/,
    );
    const joined = driver.stage(encrypted());
    Deferred.doneUnsafe(gate, Effect.void);
    await joined;
    expect([host.wiped.length, parts]).toEqual([1, 2]);
  });

  test("A wipe that fails leaves nothing on the node and no header, and the next stage begins anew", async () => {
    const { host } = await anIntegrityNode();
    const broken = around(host, "wipeCrypt", () =>
      Effect.fail(new HostFailed({ op: "wipe", subject: "/dev/mapper/x", errno: 5, reason: "Input/output error" })),
    );
    {
      const time = virtualTime();
      await using driver = nodeOn(host, { host: broken, time });
      expect((await time.until(failureOf(driver.stage(encrypted()))))?.message).toContain("Input/output error");
    }
    expect([host.dump(), diskOf(host.cluster.image("rbd", IMAGE)).kind]).toMatchObject([
      { mapped: [], layers: [], mounts: [] },
      "blank",
    ]);
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    expect([host.wiped.length, meta(host).has(WIPING)]).toEqual([1, false]);
  });

  test("A part that fails is wiped again, and a Ceph that does not answer is waited for: nothing begins anew", async () => {
    const { host } = await anIntegrityNode();
    const time = virtualTime();
    const done: string[] = [];
    let silent = 0;
    const ceph = intercepted(cephMemoryService(host.cluster), ({ method, subject }, act) =>
      Effect.suspend(() => {
        if (silent === 0 || !["imageStatus", "imageBriefs"].includes(method)) return act;
        silent -= 1;
        const failures = [
          new TimedOut({ op: method, subject }),
          new Unreachable({ op: method, subject, reason: "no route" }),
          new CallStuck({ op: method, subject, reason: "it hangs" }),
        ];
        done.push("silent");
        return Effect.fail(failures[silent % failures.length] ?? failures[0]!);
      }),
    );
    let parts = 0;
    const hiccup = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      if (method !== "wipeCrypt") return act;
      parts += 1;
      if (parts === 1) silent = 9;
      done.push(`part ${parts}`);
      const broken = { op: "wipe", subject: "/dev/mapper/x", errno: 5, reason: "Input/output error" };
      if (parts === 2) return Effect.fail(new HostFailed(broken));
      return parts === 3 ? Effect.fail(new HostUnexplained(broken)) : act;
    });
    await using driver = nodeOn(host, { host: hiccup, ceph, time });
    await time.until(driver.stage(encrypted()));
    expect(done).toEqual(["part 1", ...Array<string>(9).fill("silent"), "part 2", "part 3", "part 4"]);
    expect([host.wipesBegun.length, host.wiped.length, meta(host).get(STATE)]).toEqual([1, 1, "encrypted"]);
  });

  test("A part that failed is not wiped again if another driver has come meanwhile", async () => {
    const { host } = await anIntegrityNode();
    const time = virtualTime();
    let parts = 0;
    const broken = new HostFailed({ op: "wipe", subject: "/dev/mapper/x", errno: 5, reason: "Input/output error" });
    const overtaken = around(host, "wipeCrypt", () =>
      Effect.suspend(() => {
        parts += 1;
        meta(host).set(STATE, "encrypted");
        return Effect.fail(broken);
      }),
    );
    await using driver = nodeOn(host, { host: overtaken, time });
    const failure = await time.until(failureOf(driver.stage(encrypted())));
    expect([failure?.code, parts, host.encrypted]).toEqual(["FAILED_PRECONDITION", 1, []]);
    expect(failure?.message).toContain("changed by another driver");
  });

  test("An image that is deleted while it is wiped is not said to be another driver's", async () => {
    const { host } = await anIntegrityNode();
    const ceph = intercepted(cephMemoryService(host.cluster), ({ method }, act) =>
      Effect.suspend(() =>
        method === "imageBriefs" && host.wipesBegun.length > 0 ? (Effect.succeed([undefined]) as never) : act,
      ),
    );
    await using driver = nodeOn(host, { ceph });
    const failure = await failureOf(driver.stage(encrypted()));
    expect([failure?.code, failure?.message]).toEqual(["NOT_FOUND", expect.stringContaining("does not exist")]);
  });

  test("A header that was cut off while it was written is written again, after another wipe", async () => {
    const { host } = await anIntegrityNode();
    await using driver = nodeOn(host);
    host.killsSeal = true;
    expect(await failureOf(driver.stage(encrypted()))).toBeDefined();
    host.killsSeal = false;
    await driver.stage(encrypted());
    expect([host.wiped.length, host.encrypted.length, meta(host).get(STATE)]).toEqual([2, 1, "encrypted"]);
  });

  test("An unstage after a crash in the middle of a wipe closes the layer that has no header yet", async () => {
    const { host } = await anIntegrityNode();
    let died = false;
    const dying = interceptedHost(hostMemoryService(host), ({ method }, act) => {
      died ||= method === "wipeCrypt";
      return died ? Effect.die(new Error("the driver died")) : act;
    });
    {
      await using driver = nodeOn(host, { host: dying });
      await driver.stage(encrypted()).catch(() => undefined);
    }
    expect(host.dump().layers).toHaveLength(1);
    await using driver = nodeOn(host);
    await driver.unstage(unstaging());
    expect(host.dump()).toMatchObject({ mapped: [], layers: [], mounts: [] });
    await driver.stage(encrypted());
    expect(meta(host).get(STATE)).toBe("encrypted");
  });
});

describe("proof before harm", () => {
  const refusal = async (prepare: (host: MemoryNode) => void, more: Parameters<typeof staging>[0] = {}) => {
    const { host, image } = await anIntegrityNode();
    prepare(host);
    const before = [host.dump(), Bun.inspect(diskOf(image)), [...image.meta]];
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(encrypted(more)));
    expect([host.wipesBegun, host.encrypted, host.formatted]).toEqual([[], [], []]);
    expect([host.dump(), Bun.inspect(diskOf(image)), [...image.meta]]).toEqual(before);
    return failure?.message;
  };
  const image = (host: MemoryNode) => host.cluster.image("rbd", IMAGE);
  const wiping = (host: MemoryNode) => void meta(host).set(WIPING, recordOf());
  const written = (host: MemoryNode) => image(host).write(HEADER_BYTES, GIB / 2n);

  test("Without the record of a wipe an image that was written to is refused", async () => {
    expect(await refusal(written)).toContain("the image holds data");
    expect(await refusal((host) => (written(host), setDisk(image(host), HALF)))).toContain("the image holds data");
  });

  test("The record of a wipe lets nothing be formatted under the state of a volume that was used", async () => {
    const used = (host: MemoryNode) => (wiping(host), written(host), void meta(host).set(STATE, "encrypted"));
    expect(await refusal(used)).toContain("says that LUKS is on it");
    expect(await refusal((host) => (used(host), setDisk(image(host), HALF)))).toContain("says that LUKS is on it");
  });

  test("The record of a wipe lets nothing be formatted over what is there", async () => {
    for (const disk of [EXT4(), { kind: "other", type: "dos" } as const]) {
      const prepare = (host: MemoryNode) => (wiping(host), written(host), setDisk(image(host), disk));
      expect(await refusal(prepare)).toContain("it is to be encrypted, but it holds");
    }
  });

  test("A volume that another driver has formatted after a wipe was cut off is opened, and the record goes", async () => {
    const { host } = await anIntegrityNode();
    wiping(host);
    image(host).write(0n, GIB);
    setDisk(image(host), { kind: "luks", key: PASSPHRASE, inside: EXT4() });
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    expect([host.files(PLACE).get("data"), host.wipesBegun, host.encrypted]).toEqual(["precious", [], []]);
    expect([meta(host).has(WIPING), meta(host).get(STATE)]).toEqual([false, "encrypted"]);
  });

  test("The record of a wipe goes, too, where the other driver has said that the volume is encrypted", async () => {
    const { host } = await anIntegrityNode();
    meta(host).set(WIPING, FOREIGN);
    meta(host).set(STATE, "encrypted");
    image(host).write(0n, GIB);
    setDisk(image(host), { kind: "luks", key: PASSPHRASE, inside: EXT4() });
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    expect([host.files(PLACE).get("data"), meta(host).has(WIPING)]).toEqual(["precious", false]);
  });

  test("A header that appears while a wipe runs is not written over", async () => {
    const { host } = await anIntegrityNode();
    const theirs = luks(EXT4());
    const meanwhile = around(host, "sealCrypt", (act) =>
      Effect.suspend(() => {
        setDisk(image(host), theirs);
        return act;
      }),
    );
    await using driver = nodeOn(host, { host: meanwhile });
    expect((await failureOf(driver.stage(encrypted())))?.message).toContain("left as it is");
    expect(diskOf(image(host))).toBe(theirs);
  });

  test("A node that another one has succeeded after its wipe writes no header", async () => {
    const { host } = await anIntegrityNode();
    const late = around(host, "closeCrypt", (act) =>
      Effect.suspend(() => {
        if (meta(host).has(WIPING)) meta(host).set(WIPING, FOREIGN);
        return act;
      }),
    );
    await using driver = nodeOn(host, { host: late });
    expect((await failureOf(driver.stage(encrypted())))?.message).toContain("changed by another driver");
    expect([diskOf(image(host)).kind, host.encrypted, meta(host).get(WIPING)]).toEqual(["blank", [], FOREIGN]);
    expect(host.dump()).toMatchObject({ mapped: [], layers: [] });
  });

  const WATCHER = "10.0.0.9:0/77/client.77";
  /** What another driver does to an image during the first call that wipes: its data are there after that. */
  const SUCCESSORS: Readonly<Record<string, (host: MemoryNode) => void>> = {
    "has it open": (host) => void image(host).watchers.add(WATCHER),
    "has set its state": (host) => void meta(host).set(STATE, "encrypted"),
    "has replaced the record": (host) => void meta(host).set(WIPING, FOREIGN),
    "has removed the record": (host) => void meta(host).delete(WIPING),
  };
  for (const [what, succeed] of Object.entries(SUCCESSORS)) {
    test(`A wipe ends before its next call if another driver ${what}`, async () => {
      const { host } = await anIntegrityNode();
      const time = virtualTime();
      const theirs = luks(EXT4());
      let calls = 0;
      const meanwhile = around(host, "wipeCrypt", (act) =>
        Effect.tap(
          Effect.suspend(() => ((calls += 1), act)),
          () => Effect.sync(() => (succeed(host), setDisk(image(host), theirs))),
        ),
      );
      await using driver = nodeOn(host, { host: meanwhile, time });
      const staged = () => time.until(failureOf(driver.stage(encrypted())));
      const first = await staged();
      // It waits for who has it open longer than its caller does.
      const waited = what === "has it open";
      expect(first?.code).toBe(waited ? "ABORTED" : "FAILED_PRECONDITION");
      if (waited) expect((await staged())?.code).toBe("FAILED_PRECONDITION");
      expect([calls, host.wiped, diskOf(image(host)), host.encrypted]).toEqual([1, [], theirs, []]);
      expect(precious(diskOf(image(host)))).toBe(true);
      expect(host.dump()).toMatchObject({ mapped: [], layers: [] });
    });
  }

  test("A client that has the image open for a moment, such as a controller, does not end a wipe", async () => {
    const { host } = await anIntegrityNode();
    const time = virtualTime();
    const closing = around(host, "wipeCrypt", (act) =>
      Effect.tap(act, () => Effect.sync(() => image(host).watchers.add(WATCHER))),
    );
    let looks = 0;
    const ceph = intercepted(cephMemoryService(host.cluster), ({ method }, act) =>
      Effect.suspend(() => {
        if (method === "imageStatus" && image(host).watchers.has(WATCHER) && (looks += 1) % 2 === 0) {
          image(host).watchers.delete(WATCHER);
        }
        return act;
      }),
    );
    await using driver = nodeOn(host, { host: closing, ceph, time });
    await time.until(driver.stage(encrypted()));
    expect([looks, host.wipesBegun.length, host.wiped.length, meta(host).get(STATE)]).toEqual([4, 1, 1, "encrypted"]);
  });

  const ofWriters = (mode: Mode) => ({ volumeCapability: asBlock(mode) });
  for (const mode of [Mode.MULTI_NODE_MULTI_WRITER, Mode.MULTI_NODE_SINGLE_WRITER]) {
    test(`No layer with integrity is made or opened for ${Mode[mode]}, which are several writers`, async () => {
      const theirs = (host: MemoryNode) => {
        written(host);
        meta(host).set(STATE, "encrypted");
        setDisk(image(host), luks(EXT4()));
      };
      const marked = (host: MemoryNode) => (theirs(host), void meta(host).set(MARK, "true"));
      for (const prepare of [() => undefined, wiping, theirs, marked]) {
        const { host } = await anIntegrityNode();
        prepare(host);
        const before = [...meta(host)];
        const opened: string[] = [];
        const seen = around(host, "openCrypt", (act) => (opened.push("opened"), act));
        await using driver = nodeOn(host, { host: seen });
        const failure = await failureOf(driver.stage(encrypted(ofWriters(mode))));
        expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining(Mode[mode]) });
        expect([opened, host.wipesBegun, host.encrypted, [...meta(host)]]).toEqual([[], [], [], before]);
        expect(host.dump()).toMatchObject({ mapped: [], layers: [], mounts: [] });
      }
      // What its class says counts for nothing once there is a header without integrity.
      const { host } = await anIntegrityNode();
      theirs(host);
      setDisk(image(host), { kind: "luks", key: PASSPHRASE, inside: EXT4() });
      await using driver = nodeOn(host);
      await driver.stage(encrypted(ofWriters(mode)));
      expect(host.dump().layers).toHaveLength(1);
    });
  }

  test("Several readers, and several writers on one node, are served as they are without integrity", async () => {
    for (const mode of [Mode.MULTI_NODE_READER_ONLY, Mode.SINGLE_NODE_MULTI_WRITER]) {
      const { host } = await anIntegrityNode();
      meta(host).set(STATE, "encrypted");
      written(host);
      setDisk(image(host), luks(EXT4()));
      await using driver = nodeOn(host);
      await driver.stage(encrypted(ofWriters(mode)));
      expect(host.dump().layers).toHaveLength(1);
    }
  });

  test("Without a record nothing is wiped over what is where key slots go, and nothing is recorded", async () => {
    const prepare = (host: MemoryNode) => void host.noisySlots.add(image(host).id);
    expect(await refusal(prepare)).toContain("data that no tool knows");
    expect(await refusal((host) => (prepare(host), wiping(host)))).toContain("data that no tool knows");
  });

  test("The half of a header that another driver has said to be encrypted after a wipe may be deleted, as the refusal says", async () => {
    const marked = (host: MemoryNode) => {
      meta(host).set(WIPING, FOREIGN).set(STATE, "encrypted");
      written(host);
      setDisk(image(host), HALF);
    };
    expect(await refusal(marked)).toMatch(/record of a wipe that was cut off.*it may be deleted/);
  });

  test("A layer that another driver has not wiped to its end is refused with what is wrong with it", async () => {
    const { host } = await anIntegrityNode();
    image(host).write(0n, GIB);
    setDisk(image(host), luks({ kind: "blank" }));
    host.untagged.add(image(host).id);
    await using driver = nodeOn(host);
    const failure = await failureOf(driver.stage(encrypted()));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", message: expect.stringContaining("no valid tag") });
    expect(host.formatted).toEqual([]);
  });

  test("For readers, who replay no journal, nothing is said of a deletion: a writer is to stage it first", async () => {
    const { host } = await anIntegrityNode();
    image(host).write(0n, GIB);
    meta(host).set(STATE, "encrypted");
    setDisk(image(host), luks(EXT4()));
    host.untagged.add(image(host).id);
    await using driver = nodeOn(host);
    const readers = encrypted({ volumeCapability: mounted(Mode.MULTI_NODE_READER_ONLY) });
    const failure = await failureOf(driver.stage(readers));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect(failure?.message).toMatch(/its journal is not replayed.*Stage it once for a writer/);
    expect(failure?.message).not.toContain("deleted");
  });

  test("A volume is not wiped for readers", async () => {
    const readers = { volumeCapability: mounted(Mode.MULTI_NODE_READER_ONLY) };
    expect(await refusal(wiping, readers)).toContain("read-only");
  });

  test("A layer without a filesystem that reads as zeros gets one, and one with data does not", async () => {
    for (const used of [false, true]) {
      const { host } = await anIntegrityNode();
      meta(host).set(STATE, "encrypted");
      image(host).write(0n, GIB);
      setDisk(image(host), luks({ kind: "blank" }));
      if (used) host.cutOff.add(image(host).id);
      await using driver = nodeOn(host);
      const failure = await failureOf(driver.stage(encrypted()));
      expect([host.formatted.length, failure?.code]).toEqual(used ? [0, "FAILED_PRECONDITION"] : [1, undefined]);
    }
  });
});

describe("the record of a wipe that was cut off", () => {
  const CLIENT = "10.0.0.9:0/77";
  const left = async (record: string, disk: Disk = { kind: "blank" }) => {
    const at = await anIntegrityNode();
    at.image.write(0n, GIB);
    at.image.meta.set(WIPING, record);
    setDisk(at.image, disk);
    return at;
  };
  const blocked = (host: MemoryNode, address: string, kind: "client" | "range" = "client") =>
    void host.cluster.blocklist.set(`${kind} ${address}`, { kind, address });
  const isRefused = async (host: MemoryNode, given: Parameters<typeof nodeOn>[1] = {}): Promise<string> => {
    const disk = diskOf(host.cluster.image("rbd", IMAGE));
    const before = [...meta(host)];
    await using driver = nodeOn(host, given);
    const failure = await failureOf(driver.stage(encrypted()));
    expect(failure?.code).toBe("FAILED_PRECONDITION");
    expect([host.wipesBegun, host.encrypted, host.dump().mapped, [...meta(host)]]).toEqual([[], [], [], before]);
    expect(diskOf(host.cluster.image("rbd", IMAGE))).toBe(disk);
    return failure?.message ?? "";
  };
  const isWiped = async (host: MemoryNode) => {
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    expect([host.wiped.length, host.encrypted.length, meta(host).get(STATE)]).toEqual([1, 1, "encrypted"]);
    expect(meta(host).has(WIPING)).toBe(false);
  };

  test("It says which node wipes since when, by which client, and which boot of it", async () => {
    const { host, image } = await anIntegrityNode();
    host.addDirectory("/sys/class/dmi/id");
    host.tree.set(MACHINE, { kind: "file", text: "machine-1\n" });
    const seen: string[] = [];
    const looking = around(host, "wipeCrypt", (act) =>
      Effect.suspend(() => {
        seen.push(image.meta.get(WIPING) ?? "", ...image.watchers);
        return act;
      }),
    );
    await using driver = nodeOn(host, { host: looking });
    await driver.stage(encrypted());
    const [record = "", watcher = ""] = seen;
    expect(JSON.parse(record)).toEqual({
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      nodeId: "node-1",
      bootId: "boot-1",
      machine: "machine-1",
      client: watcher.slice(0, watcher.lastIndexOf("/")),
      since: expect.stringMatching(/^20\d\d-.*Z$/),
    });
    expect(new Set(seen.filter((text) => text.startsWith("{"))).size).toBe(1);
  });

  test("Another node does not go on with it, and says whose it is and what may be done", async () => {
    for (const disk of [{ kind: "blank" } as const, HALF, luks({ kind: "blank" })]) {
      const { host } = await left(FOREIGN, disk);
      const message = await isRefused(host);
      expect(message).toMatch(/by node node-2 since 2026-11-30T08:00:00.000Z/);
      expect(message).toMatch(
        /Stage it on that node.*out-of-service.*blocklist add 10\.0\.0\.9:0\/77 157784760".*delete the volume/,
      );
    }
  });

  test("Another node goes on with it once every OSD refuses its client, and not before", async () => {
    const { host } = await left(FOREIGN);
    blocked(host, "10.0.0.9:0/78");
    blocked(host, "10.0.0.9:0/0");
    blocked(host, "10.0.0.0/24", "range");
    await isRefused(host);
    blocked(host, CLIENT);
    const denied = intercepted(cephMemoryService(host.cluster), ({ method, subject }, act) =>
      method === "blocklistReached"
        ? Effect.fail(new AccessDenied({ op: "osd blocklist ls", subject, user: "kubernetes" }))
        : act,
    );
    await isRefused(host, { ceph: denied });
    await isWiped(host);
  });

  test("An entry that ends soon is made one that lasts before it counts, and nobody is fenced who was not", async () => {
    const none = await left(FOREIGN);
    await isRefused(none.host);
    expect([...none.host.cluster.blocklist]).toEqual([]);
    const { host } = await left(FOREIGN);
    const HOUR = 3600;
    host.cluster.blocklist.set(`client ${CLIENT}`, { kind: "client", address: CLIENT, seconds: HOUR });
    const order: string[] = [];
    const ceph = intercepted(cephMemoryService(host.cluster), ({ method }, act) => {
      if (method.startsWith("blocklist")) order.push(method);
      return act;
    });
    const seen = around(host, "prepareCrypt", (act) => (order.push("prepareCrypt"), act));
    await using driver = nodeOn(host, { host: seen, ceph });
    await driver.stage(encrypted());
    expect(host.cluster.blocklist.get(`client ${CLIENT}`)?.seconds).toBe(FENCE_SECONDS);
    expect(order).toEqual(["blocklist", "blocklistAdd", "blocklistReached", "prepareCrypt"]);
  });

  test("Where the data are in a pool of their own, its OSDs are asked, too", async () => {
    const { host, image } = await left(FOREIGN);
    blocked(host, CLIENT);
    Object.assign(image, { dataPool: "bulk" });
    const asked: string[] = [];
    const ceph = intercepted(cephMemoryService(host.cluster), ({ method, subject }, act) => {
      if (method !== "blocklistReached") return act;
      asked.push(subject);
      return Effect.succeed(subject !== "bulk") as never;
    });
    await isRefused(host, { ceph });
    expect(asked).toEqual([expect.stringContaining("rbd"), expect.stringContaining("bulk")]);
  });

  test("A client that is not known, or all of an address, is never taken for one that is refused", async () => {
    for (const client of ["", "10.0.0.9:0/0"]) {
      const { host } = await left(recordOf({ nodeId: "node-2", bootId: "boot-2", client }));
      blocked(host, client);
      await isRefused(host);
    }
  });

  test("The same node goes on with it under the same boot, and after a boot if it is the same machine", async () => {
    const machine = (host: MemoryNode, text: string) => {
      host.addDirectory("/sys/class/dmi/id");
      host.tree.set(MACHINE, { kind: "file", text });
    };
    await isWiped((await left(recordOf())).host);
    const booted = await left(recordOf({ bootId: "boot-0", machine: "machine-1" }));
    machine(booted.host, "machine-1");
    await isWiped(booted.host);
    const replaced = await left(recordOf({ bootId: "boot-0", machine: "machine-1" }));
    await isRefused(replaced.host);
    machine(replaced.host, "machine-2");
    await isRefused(replaced.host);
    const many = [
      "03000200-0400-0500-0006-000700080009",
      "00000000-0000-0000-0000-000000000000",
      "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
      "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ];
    for (const text of many) {
      const { host } = await left(recordOf({ bootId: "boot-0", machine: text }));
      machine(host, `${text}\n`);
      await isRefused(host);
    }
    const unknown = await left(recordOf({ bootId: "boot-0" }));
    await isRefused(unknown.host);
    // Nodes that share a kernel, as those of a test on one machine, have one boot.
    await isRefused((await left(recordOf({ nodeId: "node-2" }))).host);
  });

  test("A boot that is not known is not this one", async () => {
    const { host } = await left(recordOf({ bootId: "" }));
    boot(host, "");
    await isRefused(host);
  });

  test("A record that cannot be read is nobody's of whom it is known that he has ended", async () => {
    for (const text of ["somebody", "{}", JSON.stringify({ nodeId: "node-1", bootId: "boot-1" })]) {
      const { host } = await left(text);
      expect(await isRefused(host)).toContain("cannot be read");
    }
  });

  test("A volume that is formatted without integrity takes the same proof", async () => {
    const { host } = await left(FOREIGN);
    await using driver = nodeOn(host);
    const plain = encrypted({ volumeContext: { ...volumeContext, integrityMode: "none" } });
    expect((await failureOf(driver.stage(plain)))?.message).toContain("by node node-2");
    expect(host.encrypted).toEqual([]);
  });

  test("A wipe is not recorded over what another driver has done since the image was read", async () => {
    const since: readonly ((meta: Map<string, string>) => void)[] = [
      (of) => void of.set(STATE, "encrypted"),
      (of) => void of.set(WIPING, FOREIGN),
    ];
    for (const change of since) {
      const { host, image } = await anIntegrityNode();
      const ceph = intercepted(cephMemoryService(host.cluster), ({ method }, act) =>
        Effect.suspend(() => {
          if (method === "imageMetaSet" && host.wipesBegun.length === 0) change(image.meta);
          return act;
        }),
      );
      await using driver = nodeOn(host, { ceph });
      expect((await failureOf(driver.stage(encrypted())))?.message).toContain("changed by another driver");
      expect([host.wipesBegun, host.encrypted]).toEqual([[], []]);
    }
  });

  test("The state may be under the name that older drivers gave it", async () => {
    const { host, image } = await anIntegrityNode();
    image.meta.delete(STATE);
    image.meta.set(`.${STATE}`, "encryptionPrepared");
    await isWiped(host);
  });
});

describe("the size of a volume with integrity", () => {
  test("It keeps its size: NodeExpandVolume says so, and a stage of a larger image does not mind", async () => {
    const { host } = await anIntegrityNode();
    const image = host.cluster.image("rbd", IMAGE);
    meta(host).set(STATE, "encrypted");
    image.write(0n, GIB);
    setDisk(image, luks({ ...EXT4(), sizeBytes: GIB - HEADER_BYTES - TAG_BYTES } as Disk));
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    image.sizeBytes = 2n * GIB;
    await driver.stage(encrypted());
    expect(host.files(PLACE).get("data")).toBe("precious");
    const failure = await failureOf(driver.expand(expanding({ volumePath: PLACE })));
    expect(failure).toMatchObject({ code: "OUT_OF_RANGE", message: expect.stringContaining("integrity") });
  });

  test("The first stage of a volume that ceph-csi has made records that it has integrity", async () => {
    const { host } = await anIntegrityNode();
    meta(host).set(STATE, "encrypted");
    host.cluster.image("rbd", IMAGE).write(0n, GIB);
    setDisk(host.cluster.image("rbd", IMAGE), luks(EXT4()));
    await using driver = nodeOn(host);
    await driver.stage(encrypted());
    expect(meta(host).get("rbd.csi.ceph.com/luks2Integrity")).toBe("true");
  });

  test("A volume that ceph-csi has made is staged also by a user who may not record that, and for readers without a write", async () => {
    const theirs = async () => {
      const at = await anIntegrityNode();
      meta(at.host).set(STATE, "encrypted");
      at.image.write(0n, GIB);
      setDisk(at.image, luks(EXT4()));
      return at;
    };
    const denied = await theirs();
    const ceph = intercepted(cephMemoryService(denied.host.cluster), ({ method, subject }, act) =>
      method === "imageMetaSet"
        ? Effect.fail(new AccessDenied({ op: "rbd_metadata_set", subject, user: "kubernetes" }))
        : act,
    );
    {
      await using driver = nodeOn(denied.host, { ceph });
      await driver.stage(encrypted());
      expect(denied.host.files(PLACE).get("data")).toBe("precious");
      expect(driver.log.join("\n")).toContain("could not be recorded");
    }
    {
      const overtaken = await theirs();
      overtaken.image.meta.set(WIPING, FOREIGN).set(MARK, "true");
      const alike = intercepted(cephMemoryService(overtaken.host.cluster), ({ method, subject }, act) =>
        method === "imageMetaSet"
          ? Effect.fail(new AccessDenied({ op: "rbd_metadata_set", subject, user: "kubernetes" }))
          : act,
      );
      await using driver = nodeOn(overtaken.host, { ceph: alike });
      await driver.stage(encrypted());
      expect(driver.log.join("\n")).toMatch(/record of a wipe of volume .* could not be removed/);
      expect(driver.log.join("\n")).not.toContain("could not be recorded");
    }
    const { host, image } = await theirs();
    const before = [...image.meta];
    await using driver = nodeOn(host);
    await driver.stage(encrypted({ volumeCapability: mounted(Mode.MULTI_NODE_READER_ONLY) }));
    expect([host.files(PLACE).get("data"), [...image.meta]]).toEqual(["precious", before]);
  });

  test("A layer whose growth cryptsetup refuses stays staged, and the log says so", async () => {
    const { host } = await anIntegrityNode();
    const plain = encrypted({ volumeContext: { ...volumeContext, integrityMode: "none" } });
    const refused = around(host, "resizeCrypt", () =>
      Effect.fail(new HostRefused({ op: "cryptsetup resize", subject: "/dev/mapper/x", reason: "too small" })),
    );
    await using driver = nodeOn(host, { host: refused });
    await driver.stage(plain);
    await driver.stage(plain);
    expect(driver.log.join("\n")).toContain("too small");
  });
});

describe("at random", () => {
  const LEFT: Readonly<Record<string, () => Disk>> = {
    nothing: () => ({ kind: "blank" }),
    "half a header": () => HALF,
    "an empty layer": () => luks({ kind: "blank" }),
    "a layer of another key": () => luks(EXT4(), "another"),
    "a layer with a filesystem": () => luks(EXT4()),
    "a filesystem": EXT4,
  };

  test("No image that holds anything is ever formatted or wiped, and every crash is healed, at whatever call it came", async () => {
    const scene = fc.record({
      left: fc.constantFrom(...Object.keys(LEFT)),
      state: fc.constantFrom("", "encryptionPrepared", "encrypted"),
      recorded: fc.constantFrom("", recordOf(), FOREIGN),
      data: fc.constantFrom(0n, HEADER_BYTES, GIB),
      raw: fc.boolean(),
      unstages: fc.boolean(),
      deaths: fc.array(fc.record({ at: fc.nat(55), moment: fc.constantFrom("before" as const, "after" as const) }), {
        maxLength: 3,
      }),
    });
    await fc.assert(
      fc.asyncProperty(scene, async ({ left, state, recorded, data, raw, unstages, deaths }) => {
        const { host, image } = await anIntegrityNode();
        const disk = LEFT[left]!();
        const holds = precious(disk);
        image.write(0n, holds ? GIB : data);
        setDisk(image, disk);
        image.meta.set(STATE, state);
        if (recorded !== "") image.meta.set(WIPING, recorded);
        const isFree = ["nothing", "half a header"].includes(left) && recorded !== FOREIGN;
        const neverUsed = recorded !== "" || data <= HEADER_BYTES;
        const mayBeFormatted = isFree && state === "encryptionPrepared" && neverUsed;
        const request = encrypted(raw ? RAW : {});
        for (const { at, moment } of deaths) {
          await using dying = nodeOn(host, crashing(host, at + 1, moment));
          await dying.stage(request).catch(() => undefined);
          if (unstages) await dying.unstage(unstaging()).catch(() => undefined);
        }
        await using driver = nodeOn(host);
        const failure = await failureOf(driver.stage(request));
        expect(host.encrypted.length).toBe(mayBeFormatted ? 1 : 0);
        if (!mayBeFormatted) expect(host.wipesBegun).toEqual([]);
        if (holds) expect([precious(diskOf(image)), host.formatted]).toEqual([true, []]);
        if (mayBeFormatted) {
          expect(failure).toBeUndefined();
          expect([image.meta.get(STATE), image.meta.has(WIPING)]).toEqual(["encrypted", false]);
        }
        await driver.unstage(unstaging());
        expect(host.dump()).toMatchObject({ mapped: [], layers: [], mounts: [] });
      }),
      { numRuns: 200 },
    );
  }, 120_000);

  test("A volume is staged in the end, though the driver died at each call in turn, before it or after it", async () => {
    for (const moment of ["before", "after"] as const) {
      for (let k = 1; ; k += 1) {
        const { host } = await anIntegrityNode();
        const death = crashing(host, k, moment);
        {
          await using dying = nodeOn(host, death);
          await dying.stage(encrypted()).catch(() => undefined);
        }
        if (death.crashedAt() === undefined) {
          expect(k).toBeGreaterThan(25);
          break;
        }
        await using driver = nodeOn(host);
        await driver.stage(encrypted());
        expect([host.encrypted.length, host.formatted.length, meta(host).has(WIPING)]).toEqual([1, 1, false]);
        expect(host.dump()).toMatchObject({
          layers: [`luks-rbd-${VOLUME} over rbd/${IMAGE}`],
          mounts: [expect.anything()],
        });
      }
    }
  }, 60_000);
});

test("A static volume with integrity is staged as the image of its name", async () => {
  const { host } = await aNode();
  host.cluster.image("rbd", IMAGE).write(0n, GIB);
  setDisk(host.cluster.image("rbd", IMAGE), luks(EXT4()));
  host.cluster.image("rbd", IMAGE).meta.set(STATE, "encrypted");
  host.addDirectory(`${STAGING}/static`);
  await using driver = nodeOn(host);
  const its = { ...volumeContext, staticVolume: "true", encrypted: "true" };
  await driver.stage(encrypted({ volumeId: IMAGE, stagingTargetPath: `${STAGING}/static`, volumeContext: its }));
  expect(host.files(`${STAGING}/static/${IMAGE}`).get("data")).toBe("precious");
});
