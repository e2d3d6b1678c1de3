/**
 * A crash at every call of each mutating Node RPC: the driver dies before or after its k-th call, another one starts,
 * the same request succeeds, and the node is as after a run without a crash; and after the end nothing is left.
 */
import { describe, expect, test } from "bun:test";
import { dirname } from "node:path";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { type Disk, diskOf, type MemoryNode } from "../../support/host-memory.ts";
import type { Driver } from "../../support/one-world.ts";
import {
  aNode,
  crashing,
  ENCRYPTED,
  expanding,
  IMAGE,
  nodeOn,
  PLACE,
  publishing,
  staging,
  toBeEncrypted,
  unpublishing,
  unstaging,
} from "../../support/node-world.ts";
import { asBlock, GIB, PARAMETERS, SECRETS } from "../../support/world.ts";

const BLOCK = { volumeCapability: asBlock(Mode.SINGLE_NODE_WRITER) };

interface Scene {
  readonly name: string;
  /** Done before, without a crash. */
  readonly before: (driver: Driver, host: MemoryNode) => Promise<unknown>;
  readonly act: (driver: Driver) => Promise<unknown>;
  /** What makes the node empty again. */
  readonly end: (driver: Driver) => Promise<unknown>;
}

const unstage = (driver: Driver) => driver.unstage(unstaging());
const wholeEnd = async (driver: Driver) => {
  await driver.unpublish(unpublishing());
  await unstage(driver);
};
const staged = (driver: Driver) => driver.stage(staging());
const writtenTo = async (driver: Driver, host: MemoryNode) => {
  await driver.stage(staging());
  host.files(PLACE).set("data", "precious");
};

const encrypted = (driver: Driver) => driver.stage(staging(ENCRYPTED));
const encryptedAndWrittenTo = async (driver: Driver, host: MemoryNode) => {
  toBeEncrypted(host.cluster);
  await encrypted(driver);
  host.files(PLACE).set("data", "precious");
};

const NBD = { ...PARAMETERS, imageName: IMAGE, mounter: "rbd-nbd" };
const FALLBACK = { ...PARAMETERS, imageName: IMAGE, tryOtherMounters: "true" };
const stagedWith = (volumeContext: Record<string, string>) => (driver: Driver) =>
  driver.stage(staging({ volumeContext }));

/** As kubelet publishes, with what a driver needs that did not stage the volume. */
const TO_POD = {
  targetPath: "/kubelet/pods/1/volumes/kubernetes.io~csi/pvc-1/mount",
  volumeContext: { ...PARAMETERS, imageName: IMAGE },
  secrets: SECRETS,
};

const scenes: readonly Scene[] = [
  {
    name: "stage of a new encrypted volume",
    before: async (_, host) => toBeEncrypted(host.cluster),
    act: encrypted,
    end: unstage,
  },
  {
    name: "stage of a new encrypted raw volume",
    before: async (_, host) => toBeEncrypted(host.cluster),
    act: (driver) => driver.stage(staging({ ...ENCRYPTED, ...BLOCK })),
    end: unstage,
  },
  {
    name: "stage of an encrypted volume with data",
    before: async (driver, host) => {
      await encryptedAndWrittenTo(driver, host);
      await unstage(driver);
    },
    act: encrypted,
    end: unstage,
  },
  {
    name: "expand of an encrypted volume",
    before: async (driver, host) => {
      await encryptedAndWrittenTo(driver, host);
      host.cluster.image("rbd", IMAGE).sizeBytes = 2n * GIB;
    },
    act: (driver) => driver.expand(expanding({ capacityRange: { requiredBytes: 2n * GIB } })),
    end: unstage,
  },
  { name: "unstage of an encrypted volume", before: encryptedAndWrittenTo, act: unstage, end: async () => {} },
  { name: "stage of a new volume", before: async () => {}, act: staged, end: unstage },
  {
    name: "stage of a volume with data",
    before: async (driver, host) => {
      await writtenTo(driver, host);
      await unstage(driver);
    },
    act: staged,
    end: unstage,
  },
  {
    name: "stage of a raw volume",
    before: async () => {},
    act: (driver) => driver.stage(staging(BLOCK)),
    end: unstage,
  },
  { name: "stage with rbd-nbd", before: async () => {}, act: stagedWith(NBD), end: unstage },
  {
    name: "stage with rbd-nbd, because the kernel's driver cannot map",
    before: async (_, host) => {
      host.krbdUnfit = true;
    },
    act: stagedWith(FALLBACK),
    end: unstage,
  },
  {
    name: "stage of a volume whose rbd-nbd process has died",
    before: async (driver, host) => {
      await stagedWith(NBD)(driver);
      host.killProcess("/dev/nbd0");
    },
    act: stagedWith(NBD),
    end: unstage,
  },
  { name: "unstage with rbd-nbd", before: stagedWith(NBD), act: unstage, end: async () => {} },
  { name: "publish", before: writtenTo, act: (driver) => driver.publish(publishing()), end: wholeEnd },
  {
    name: "publish to a pod that its volume limits",
    before: async (driver, host) => {
      await writtenTo(driver, host);
      host.cluster.image("rbd", IMAGE).meta.set(".rbd.csi.ceph.com/cgroup_qos_max_write_iops", "9");
      host.podGroups.set("1", new Map());
    },
    act: async (driver) => {
      await driver.publish(publishing(TO_POD));
      await driver.lookAfterLimits();
    },
    end: async (driver) => {
      await driver.unpublish(unpublishing({ targetPath: TO_POD.targetPath }));
      await unstage(driver);
    },
  },
  {
    name: "publish read-only",
    before: writtenTo,
    act: (driver) => driver.publish(publishing({ readonly: true })),
    end: wholeEnd,
  },
  {
    name: "publish of a raw volume, read-only",
    before: (driver) => driver.stage(staging(BLOCK)),
    act: (driver) => driver.publish(publishing({ ...BLOCK, readonly: true })),
    end: wholeEnd,
  },
  {
    name: "expand",
    before: async (driver, host) => {
      await writtenTo(driver, host);
      host.cluster.image("rbd", IMAGE).sizeBytes = 2n * GIB;
    },
    act: (driver) => driver.expand(expanding({ capacityRange: { requiredBytes: 2n * GIB } })),
    end: unstage,
  },
  {
    name: "unpublish",
    before: async (driver, host) => {
      await writtenTo(driver, host);
      await driver.publish(publishing());
    },
    act: (driver) => driver.unpublish(unpublishing()),
    end: unstage,
  },
  { name: "unstage", before: writtenTo, act: unstage, end: async () => {} },
  {
    name: "unstage of a raw volume",
    before: (driver) => driver.stage(staging(BLOCK)),
    act: unstage,
    end: async () => {},
  },
];

/** What must be the same whatever crashed: device names may differ, for a retry may map anew. */
const state = (host: MemoryNode) => {
  const image = host.cluster.image("rbd", IMAGE);
  const limits = [...host.podGroups.values()].flatMap((group) => [...group.values()]);
  return { ...host.dump(), disk: shown(diskOf(image)), meta: Object.fromEntries(image.meta), limits };
};

const shown = (disk: Disk): unknown => {
  if (disk.kind === "luks") return { ...disk, inside: shown(disk.inside) };
  return disk.kind === "filesystem"
    ? { ...disk, sizeBytes: String(disk.sizeBytes), files: [...disk.files] }
    : disk.kind;
};

const MOST_CALLS = 80;

/** One run with a crash; -> where it crashed, `undefined` when the RPC makes fewer calls. */
const run = async (scene: Scene, k: number, moment: "before" | "after") => {
  const { host } = await aNode();
  host.addDirectory(dirname(TO_POD.targetPath));
  const empty = host.dump();
  {
    await using first = nodeOn(host);
    await scene.before(first, host);
  }
  const fatal = crashing(host, k, moment);
  {
    await using dying = nodeOn(host, fatal);
    await scene.act(dying).catch((error: unknown) => {
      if (fatal.crashedAt() === undefined) throw error;
    });
  }
  await using next = nodeOn(host);
  await scene.act(next);
  const after = state(host);
  const formats = [host.formatted.length, host.encrypted.length];
  await scene.end(next);
  return { crashedAt: fatal.crashedAt(), after, formats, empty, end: host.dump() };
};

describe("death of a driver at any call to the host", () => {
  for (const scene of scenes) {
    for (const moment of ["before", "after"] as const) {
      test(`After a death ${moment} any host call of "${scene.name}", the next driver finishes or undoes it`, async () => {
        const clean = await run(scene, MOST_CALLS, moment);
        expect(clean.crashedAt).toBeUndefined();
        expect(clean.end).toEqual(clean.empty);
        for (let k = 1; k <= MOST_CALLS; k++) {
          const crashed = await run(scene, k, moment);
          if (crashed.crashedAt === undefined) {
            expect(k).toBeGreaterThan(3);
            return;
          }
          expect({ k, at: crashed.crashedAt, ...crashed.after }).toEqual({ k, at: crashed.crashedAt, ...clean.after });
          expect({ k, formats: crashed.formats }).toEqual({ k, formats: clean.formats });
          expect({ k, at: crashed.crashedAt, end: crashed.end }).toEqual({
            k,
            at: crashed.crashedAt,
            end: clean.empty,
          });
        }
        throw new Error(`more than ${MOST_CALLS} calls`);
      }, 20_000);
    }
  }
});
