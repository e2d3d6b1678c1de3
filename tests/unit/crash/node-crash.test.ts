/**
 * A crash at every call of each mutating Node RPC: the driver dies before or after its k-th call, another one starts,
 * the same request succeeds, and the node is as after a run without a crash; and after the end nothing is left.
 */
import { describe, expect, test } from "bun:test";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { diskOf, type MemoryNode } from "../../support/host-memory.ts";
import type { Driver } from "../../support/one-world.ts";
import {
  aNode,
  crashing,
  expanding,
  IMAGE,
  nodeOn,
  PLACE,
  publishing,
  staging,
  unpublishing,
  unstaging,
} from "../../support/node-world.ts";
import { asBlock, GIB } from "../../support/world.ts";

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

const scenes: readonly Scene[] = [
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
  { name: "publish", before: writtenTo, act: (driver) => driver.publish(publishing()), end: wholeEnd },
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
  const disk = diskOf(host.cluster.image("rbd", IMAGE));
  return {
    ...host.dump(),
    disk:
      disk.kind === "filesystem" ? { ...disk, sizeBytes: String(disk.sizeBytes), files: [...disk.files] } : disk.kind,
  };
};

const MOST_CALLS = 80;

/** One run with a crash; -> where it crashed, `undefined` when the RPC makes fewer calls. */
const run = async (scene: Scene, k: number, moment: "before" | "after") => {
  const { host } = await aNode();
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
  const formats = host.formatted.length;
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
