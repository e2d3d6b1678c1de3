/** Volumes that two nodes have at once, on a real kernel: a raw one that both write, and a restore that both read. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../lib/gen/csi_pb.ts";
import { namesIn, optional } from "../../lib/host/mapper/sysfs.ts";
import type { Driver } from "../ceph/driver.ts";
import { secrets } from "../ceph/requests.ts";
import { BUS, capabilityOf, checksum, left, LIMIT, mapped, MINUTES, worldOfFile, writeData } from "./kubelet.ts";
import { tool } from "./loop.ts";
import { onBothNodes, OWN_MOUNTS, startSecondNode, type VolumeOnNode } from "./nodes.ts";

const world = worldOfFile("shared", undefined, OWN_MOUNTS);
let second: Driver;
beforeAll(async () => {
  second = await startSecondNode();
}, 300_000);
afterAll(() => second?.end());
const nodes = (): readonly [Driver, Driver] => [world().driver(), second];

/** Each node is a client of its own. */
const NO_SHARE = { mapOptions: "krbd:noshare" };
const ofDevices = (name: string) => namesIn(BUS).map((id) => optional(join(BUS, id, name)));

const BLOCK = 4096;
/** Past the node's own cache, as those must that share a device. */
const write = (volume: VolumeOnNode, block: number, text: string): void => {
  const file = join(world().dir, "block");
  writeFileSync(file, Buffer.alloc(BLOCK, text));
  tool("dd", `if=${file}`, `of=${volume.at()}`, `bs=${BLOCK}`, `seek=${block}`, "oflag=direct", "conv=notrunc");
};
/** The text of `length` bytes. */
const read = (volume: VolumeOnNode, block: number, length: number): string => {
  const what = [`bs=${BLOCK}`, `skip=${block}`, "count=1", "iflag=direct", "status=none"];
  return tool("dd", `if=${volume.at()}`, ...what).slice(0, length);
};

test(
  "a raw volume that two nodes have at once is written and read by both, and goes on when one of them unstages it",
  async () => {
    const mode = Mode.MULTI_NODE_MULTI_WRITER;
    const asked = { volumeCapabilities: [capabilityOf("block", mode)] };
    const volume = (await world().makeVolume("block", NO_SHARE, asked)).as({ mode });
    const [a, b] = await onBothNodes(nodes(), volume);
    expect([mapped(), new Set(ofDevices("client_id")).size]).toEqual([[volume.spec, volume.spec], 2]);
    for (const [block, text, writer, reader] of [
      [0, "A at 0", a, b],
      [1, "B at 1", b, a],
      [0, "B at 0", b, a],
    ] as const) {
      write(writer, block, text);
      expect(read(reader, block, text.length)).toBe(text);
    }

    await a.undo();
    expect([mapped(), readdirSync(a.staging)]).toEqual([[volume.spec], []]);
    expect(read(b, 1, 6)).toBe("B at 1");
    write(b, 0, "B alone");
    expect(read(b, 0, 7)).toBe("B alone");
    await b.undo();
    expect(left(b)).toEqual([[], []]);
  },
  MINUTES,
);

test(
  "a restore that two nodes have at once is mapped and mounted read-only on both, and neither keeps the other from its unstage",
  async () => {
    const source = await world().makeVolume("ext4", NO_SHARE);
    await source.stage();
    const inSource = `/proc/${world().driver().pid}/root${source.stagingTarget}`;
    const early = writeData(`${inSource}/early`, 1);
    const late = writeData(`${inSource}/late`, 1);
    await source.unstage();
    const { snapshot } = await world()
      .driver()
      .controller.createSnapshot({ name: "shared", sourceVolumeId: source.volumeId, secrets: secrets() }, LIMIT);
    const mode = Mode.MULTI_NODE_READER_ONLY;
    const restore = await world().makeVolume("ext4", NO_SHARE, {
      volumeCapabilities: [capabilityOf("ext4", mode)],
      volumeContentSource: { type: { case: "snapshot", value: { snapshotId: snapshot?.snapshotId ?? "" } } },
    });
    const [a, b] = await onBothNodes(nodes(), restore.as({ mode }));
    expect([mapped(), new Set(ofDevices("client_id")).size]).toEqual([[restore.spec, restore.spec], 2]);
    expect(namesIn(BUS).map((id) => optional(`/sys/block/rbd${id}/ro`))).toEqual(["1", "1"]);
    for (const each of [a, b]) {
      expect(checksum(each.at("/early"), 1)).toBe(early);
      expect(() => writeFileSync(each.at("/new"), "x")).toThrow("EROFS");
    }

    await a.undo();
    expect([mapped(), readdirSync(a.staging)]).toEqual([[restore.spec], []]);
    // It is not in the cache yet.
    expect(checksum(b.at("/late"), 1)).toBe(late);
    await b.undo();
    expect(left(b)).toEqual([[], []]);
  },
  MINUTES,
);
