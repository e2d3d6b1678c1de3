/**
 * A node under random work: volumes of every kind are staged, published, written to, grown, unpublished and unstaged in any
 * order, while drivers die at any call, calls fail, tools are killed, and people do what they should not. No image that
 * holds anything is formatted, no file is lost, and no key is overwritten.
 *
 * Not here: each RPC on its own (./node-crash.test.ts), and the keys of copies (./encrypted-random.test.ts).
 *
 *   RUNS=10000 npm test -- unit "-t=A node keeps"
 */
import { expect, test } from "bun:test";
import { dirname } from "node:path";
import * as Effect from "effect/Effect";
import * as fc from "fast-check";
import { TimedOut } from "../../../lib/ceph/errors.ts";
import { HostFailed, HostStuck } from "../../../lib/host/errors.ts";
import { mountsAt } from "../../../lib/host/mountinfo.ts";
import { intercepted } from "../../support/ceph-faults.ts";
import { cephMemoryService, type MemoryImage } from "../../support/ceph-memory/memory.ts";
import { interceptedHost } from "../../support/host-faults.ts";
import { type Disk, diskOf, hostMemoryService, MemoryNode, setDisk, slotsOf } from "../../support/host-memory.ts";
import {
  crashing,
  ENCRYPTED,
  expanding,
  nodeOn,
  publishing,
  seedVolume,
  staging,
  toBeEncrypted,
  unpublishing,
  unstaging,
  volumeIdOf,
} from "../../support/node-world.ts";
import type { Driver, DriverWorld } from "../../support/one-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { aCluster, asBlock, codeOf, GIB, MOUNT, PARAMETERS, SECRETS } from "../../support/world.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";

const RUNS = Number(process.env["RUNS"] ?? 60);
const DEADLINE = "1 second";

const KINDS = ["krbd", "rbd-nbd", "encrypted", "block"] as const;
type Kind = (typeof KINDS)[number];

interface Action {
  readonly what:
    | "stage"
    | "publish"
    | "unpublish"
    | "unstage"
    | "grow"
    | "write"
    | "put a file in the way"
    | "lose the filesystem"
    | "kill rbd-nbd";
  readonly kind: Kind;
  /** At which call, if the RPC makes so many. */
  readonly at: number;
  readonly fault: "none" | "dies before" | "dies after" | "fails before" | "fails after" | "mkfs is killed";
}

const actionsOn = (kinds: readonly Kind[]) =>
  fc.array(
    fc.record<Action>({
      what: fc.oneof(
        { weight: 6, arbitrary: fc.constantFrom("stage" as const, "publish" as const, "write" as const) },
        { weight: 4, arbitrary: fc.constantFrom("unpublish" as const, "unstage" as const) },
        {
          weight: 2,
          arbitrary: fc.constantFrom(
            "grow" as const,
            "put a file in the way" as const,
            "lose the filesystem" as const,
            "kill rbd-nbd" as const,
          ),
        },
      ),
      kind: fc.constantFrom(...kinds),
      at: fc.integer({ min: 1, max: 45 }),
      fault: fc.constantFrom("none", "dies before", "dies after", "fails before", "fails after", "mkfs is killed"),
    }),
    { minLength: 4, maxLength: 14 },
  );

/** One volume, or two that may disturb each other, each of them new or with files. */
const histories = fc
  .record({ kinds: fc.shuffledSubarray([...KINDS], { minLength: 1, maxLength: 2 }), used: fc.boolean() })
  .chain(({ kinds, used }) =>
    fc.record({ kinds: fc.constant(kinds), used: fc.constant(used ? kinds : []), actions: actionsOn(kinds) }),
  );

/** One volume, and what must be true of it from now on. */
class Volume {
  readonly volumeId: string;
  readonly imageName: string;
  readonly stagingPath: string;
  readonly target: string;
  readonly files = new Map<string, string>();
  key: string | undefined;
  /** Whether its image holds something that only a person could say to be worthless. */
  precious = false;
  /** How often it was formatted when it became precious. */
  formats = 0;
  /** Whether its filesystem was lost, so that it cannot be staged any more. */
  lost = false;

  constructor(
    readonly kind: Kind,
    n: number,
  ) {
    const uuid = `11111111-2222-4333-8444-00000000000${n}`;
    this.volumeId = volumeIdOf(uuid);
    this.imageName = `csi-vol-${uuid}`;
    this.stagingPath = `/kubelet/staging-${n}`;
    this.target = `/kubelet/pods/${n}/mount`;
  }

  get place(): string {
    return `${this.stagingPath}/${this.volumeId}`;
  }
  get capability() {
    return this.kind === "block" ? asBlock(Mode.SINGLE_NODE_WRITER) : MOUNT;
  }
}

class World {
  readonly cluster = aCluster();
  readonly host = new MemoryNode(this.cluster);
  readonly volumes: ReadonlyMap<Kind, Volume>;
  readonly time = virtualTime();
  /** Files of people at paths of the driver. */
  readonly inTheWay = new Set<string>();
  #names = 0;

  constructor(kinds: readonly Kind[]) {
    this.volumes = new Map(kinds.map((kind, n) => [kind, new Volume(kind, n)]));
  }

  async begin(): Promise<void> {
    for (const { kind, volumeId, stagingPath, target } of this.volumes.values()) {
      const uuid = volumeId.slice(-36);
      await seedVolume(this.cluster, uuid);
      if (kind === "encrypted") toBeEncrypted(this.cluster, uuid);
      this.host.addDirectory(stagingPath);
      this.host.addDirectory(dirname(target));
    }
  }

  volume(kind: Kind): Volume {
    const found = this.volumes.get(kind);
    if (found === undefined) throw new Error(`no volume of ${kind}`);
    return found;
  }

  image({ imageName }: Volume): MemoryImage {
    return this.cluster.image("rbd", imageName);
  }

  /** What is seen of a volume through its layer, if it has one. */
  inside(volume: Volume): Disk {
    const disk = diskOf(this.image(volume));
    return disk.kind === "luks" ? disk.inside : disk;
  }

  formatsOf(volume: Volume): number {
    const { id } = this.image(volume);
    const { formatted, encrypted } = this.host;
    return formatted.filter((each) => each.endsWith(` ${id}`)).length + encrypted.filter((each) => each === id).length;
  }

  keep(volume: Volume): void {
    volume.precious = true;
    volume.formats = this.formatsOf(volume);
  }

  /** A pod writes a file, or raw bytes. */
  write(volume: Volume): void {
    const at = [volume.target, volume.place].find((path) => mountsAt(this.host.mounts, path).length > 0);
    if (at === undefined) return;
    if (volume.kind === "block") this.image(volume).write(1n << 20n, 4096n);
    else {
      const name = `file-${this.#names++}`;
      this.host.files(at).set(name, `text of ${name}`);
      volume.files.set(name, `text of ${name}`);
    }
    this.keep(volume);
  }

  /** Blkid finds nothing any more, and the image holds what it held. */
  loseFilesystem(volume: Volume): void {
    const { place, target } = volume;
    if (!volume.precious || [place, target].some((path) => mountsAt(this.host.mounts, path).length > 0)) return;
    const disk = diskOf(this.image(volume));
    if (disk.kind === "luks") disk.inside = { kind: "blank" };
    else setDisk(this.image(volume), { kind: "blank" });
    this.image(volume).write(32n << 20n, 4096n);
    volume.lost = volume.kind !== "block";
    volume.files.clear();
  }

  prove(): void {
    for (const volume of this.volumes.values()) {
      const disk = diskOf(this.image(volume));
      if (disk.kind === "luks") {
        const state = this.image(volume).meta.get("rbd.csi.ceph.com/encrypted");
        if (state === "encrypted") volume.key ??= slotsOf(disk).get(0);
        if (volume.key !== undefined) expect([...slotsOf(disk)]).toEqual([[0, volume.key]]);
      } else expect([volume.kind, volume.key]).toEqual([volume.kind, undefined]);
      if (volume.precious) expect([volume.kind, this.formatsOf(volume)]).toEqual([volume.kind, volume.formats]);
      const inside = this.inside(volume);
      const files = inside.kind === "filesystem" ? inside.files : new Map();
      expect([volume.kind, Object.fromEntries(files)]).toEqual([volume.kind, Object.fromEntries(volume.files)]);
    }
    for (const path of this.inTheWay) expect(this.host.tree.get(path)).toEqual({ kind: "file", text: "a person's" });
  }
}

const contextOf = ({ kind, imageName }: Volume) => ({
  ...PARAMETERS,
  imageName,
  ...(kind === "rbd-nbd" ? { mounter: "rbd-nbd" } : {}),
  ...(kind === "encrypted" ? { encrypted: "true" } : {}),
});

/** The RPC of an action; `undefined`: it is none. */
const call = (world: World, { what }: Action, volume: Volume): ((driver: Driver) => Promise<unknown>) | undefined => {
  const { volumeId, stagingPath: stagingTargetPath, target: targetPath, capability: volumeCapability } = volume;
  const named = { volumeId, stagingTargetPath };
  switch (what) {
    case "stage": {
      const { secrets } = volume.kind === "encrypted" ? ENCRYPTED : { secrets: SECRETS };
      const request = staging({ ...named, volumeCapability, volumeContext: contextOf(volume), secrets });
      return (driver) => driver.stage(request, DEADLINE);
    }
    case "publish":
      return (driver) => driver.publish(publishing({ ...named, targetPath, volumeCapability }), DEADLINE);
    case "unpublish":
      return (driver) => driver.unpublish(unpublishing({ volumeId, targetPath }), DEADLINE);
    case "unstage":
      return (driver) => driver.unstage(unstaging(named), DEADLINE);
    case "grow": {
      const image = world.image(volume);
      image.sizeBytes += GIB;
      const capacityRange = { requiredBytes: image.sizeBytes };
      return (driver) =>
        driver.expand(expanding({ ...named, volumePath: targetPath, capacityRange, volumeCapability }), DEADLINE);
    }
    default:
      return undefined;
  }
};

/** A driver of which the call of that number fails: before it has acted, or with an outcome that nobody knows. */
const failing = (host: MemoryNode, at: number, moment: "before" | "after"): DriverWorld => {
  let begun = 0;
  const around = <A, E>(act: Effect.Effect<A, E>, error: E): Effect.Effect<A, E> => {
    begun += 1;
    if (begun !== at) return act;
    const failure = Effect.fail(error);
    return moment === "before" ? failure : Effect.andThen(Effect.exit(act), failure);
  };
  return {
    ceph: intercepted(cephMemoryService(host.cluster), ({ method, subject }, act) =>
      around(act, new TimedOut({ op: method, subject })),
    ),
    host: interceptedHost(hostMemoryService(host), ({ method, subject }, act) =>
      around(
        act,
        moment === "before"
          ? new HostFailed({ op: method, subject, errno: 5, reason: "it fails here" })
          : new HostStuck({ op: method, subject, reason: "it does not answer" }),
      ),
    ),
  };
};

const worldOf = ({ host, time }: World, { fault, at }: Action): DriverWorld => {
  if (fault === "dies before" || fault === "dies after") {
    return { ...crashing(host, at, fault === "dies before" ? "before" : "after"), time };
  }
  if (fault === "fails before" || fault === "fails after") {
    return { ...failing(host, at, fault === "fails before" ? "before" : "after"), time };
  }
  return { time };
};

const run = async (world: World, action: Action): Promise<void> => {
  const { host, time } = world;
  const volume = world.volume(action.kind);
  switch (action.what) {
    case "write":
      return world.write(volume);
    case "lose the filesystem":
      return world.loseFilesystem(volume);
    case "put a file in the way": {
      if (mountsAt(host.mounts, volume.target).length > 0 || host.tree.get(volume.target)?.kind === "file") return;
      const path = `${volume.target}/a-file`;
      host.addDirectory(volume.target);
      host.tree.set(path, { kind: "file", text: "a person's" });
      return void world.inTheWay.add(path);
    }
    case "kill rbd-nbd":
      for (const { device, dead } of host.mappings.values()) {
        if (device.mapper === "rbd-nbd" && dead !== true) host.killProcess(device.path);
      }
      return;
    default:
  }
  const rpc = call(world, action, volume);
  if (rpc === undefined) return;
  host.killsMkfs = action.fault === "mkfs is killed";
  const driver = nodeOn(host, worldOf(world, action));
  // an RPC that comes at the wrong time is refused, and one with a fault fails: what counts is what is left
  await time.until(rpc(driver).catch(() => undefined));
  // what the driver waits for at its end needs time, too
  await time.until(driver[Symbol.asyncDispose]());
  host.killsMkfs = false;
};

/** As kubelet ends all pods: without a fault everything comes down, and up again. */
const end = async (world: World): Promise<void> => {
  const { host, time, volumes, inTheWay } = world;
  for (const path of inTheWay) host.tree.delete(path);
  inTheWay.clear();
  await using driver = nodeOn(host, { time });
  const now = (what: Action["what"], volume: Volume) => {
    const rpc = call(world, { what, kind: volume.kind, at: 0, fault: "none" }, volume);
    if (rpc === undefined) throw new Error(`${what} is no RPC`);
    return time.until(rpc(driver));
  };
  for (const volume of volumes.values()) {
    await now("unpublish", volume);
    await now("unstage", volume);
  }
  expect(host.dump()).toMatchObject({ mapped: [], layers: [], mounts: [] });
  world.prove();
  for (const volume of volumes.values()) {
    // nobody can tell what a mkfs has left from data
    if (volume.lost || host.cutOff.has(world.image(volume).id)) {
      expect(await codeOf(now("stage", volume))).toBe("FAILED_PRECONDITION");
      continue;
    }
    await now("stage", volume);
    await now("publish", volume);
  }
  world.prove();
};

test(`A node keeps files, images and keys through ${RUNS} random histories with deaths and failures`, async () => {
  await fc.assert(
    fc.asyncProperty(histories, async ({ kinds, used, actions }) => {
      const world = new World(kinds);
      await world.begin();
      const quiet = { at: 1, fault: "none" } as const;
      for (const kind of used) {
        for (const what of ["stage", "write", "unstage"] as const) await run(world, { what, kind, ...quiet });
        expect(world.volume(kind).precious).toBe(true);
      }
      for (const action of actions) {
        await run(world, action);
        world.prove();
      }
      await end(world);
    }),
    { numRuns: RUNS, interruptAfterTimeLimit: 3_600_000, markInterruptAsFailure: true },
  );
}, 3_700_000);
