/**
 * Fencing on a real kernel: a stage records the client of krbd, the client is refused after the detach while another one of
 * the same node writes, and a boot lifts the fence.
 *
 * Each volume is mapped with a client of its own (`noshare`), so that other tests on this node keep theirs.
 */
import { afterAll, expect, test } from "bun:test";
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { namesIn, optional } from "../../lib/host/mapper/sysfs.ts";
import { secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { kubeconfigFor, kubeServer } from "../support/kube-server.ts";
import { capabilityOf, failureOf, left, LIMIT, MINUTES, rbd, type TestVolume, worldOfFile } from "./kubelet.ts";
import { tool } from "./loop.ts";
import { showNode, TAINT } from "./lost-node.ts";

const NO_SHARE = { mapOptions: "krbd:noshare" };

const kube = kubeServer();
afterAll(() => kube.stop());
const world = worldOfFile("fence", (dir) => {
  const kubeconfig = kubeconfigFor(kube, dir);
  return ["--controllerserver=true", "--enable-fencing", "--nodeid=node-a", `--kubeconfig=${kubeconfig}`];
});

const bootId = (): string => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
const setNode = (taints: readonly object[], bootID = bootId()): void => showNode(kube, bootID, taints);

const metadata = ({ spec }: TestVolume): Record<string, string> => {
  const listed = rbd("image-meta", "ls", "--format=json", spec);
  return listed === "" ? {} : (JSON.parse(listed) as Record<string, string>);
};

/** The client of the kernel that has the image, as sysfs tells it. */
const clientOf = ({ image }: TestVolume): string => {
  const bus = "/sys/bus/rbd/devices";
  const id = namesIn(bus).find((each) => optional(join(bus, each, "name")) === image);
  return readFileSync(join(bus, id ?? "", "client_addr"), "utf8").trim();
};

/** Writes a sector and waits until it is in the cluster; -> whether that succeeded. */
const writes = (path: string, byte: number): boolean => {
  const fd = openSync(path, "r+");
  try {
    writeSync(fd, Buffer.alloc(4096, byte), 0, 4096, 0);
    fsyncSync(fd);
    return true;
  } catch {
    return false;
  } finally {
    closeSync(fd);
  }
};

const detach = ({ volumeId }: TestVolume) =>
  world().driver().controller.controllerUnpublishVolume({ volumeId, nodeId: "node-a", secrets: secrets() }, LIMIT);
const attach = ({ volumeId, volumeContext }: TestVolume, nodeId: string) =>
  world()
    .driver()
    .controller.controllerPublishVolume(
      {
        volumeId,
        nodeId,
        volumeContext: { ...volumeContext },
        volumeCapability: capabilityOf("block"),
        secrets: secrets(),
      },
      LIMIT,
    );
const blocklist = (): string => tool("ceph", "-c", rig().conf, "osd", "blocklist", "ls");

test(
  "A stage records krbd's client as sysfs has it, and the unstage removes the record",
  async () => {
    setNode([]);
    const volume = await world().makeVolume("ext4", NO_SHARE);
    await attach(volume, "node-a");
    await volume.stage();
    expect(metadata(volume)).toMatchObject({
      ".rbd.csi.ceph.com/clientAddress/node-a": clientOf(volume),
      ".rbd.csi.ceph.com/bootID/node-a": `${bootId()} ${clientOf(volume)}`,
    });
    await volume.unstage();
    await detach(volume);
    expect(Object.keys(metadata(volume)).filter((key) => key.startsWith(".rbd"))).toEqual([]);
    expect(left(volume)).toEqual([[], []]);
  },
  MINUTES,
);

test(
  "After the detach from a lost node its client writes no more, and another one of the same address does; a boot lifts it",
  async () => {
    setNode([]);
    const volume = await world().makeVolume("block", NO_SHARE);
    await attach(volume, "node-a");
    await volume.stage();
    const device = volume.stagingTarget;
    expect(writes(device, 1)).toBe(true);
    const client = clientOf(volume);
    setNode([TAINT]);
    await detach(volume);
    expect(blocklist()).toContain(client);
    expect(writes(device, 2)).toBe(false);

    // the other node: another client of the kernel, on the same address
    await attach(volume, "node-b");
    const other = rbd("map", "-o", "noudev,noshare", volume.spec);
    expect(writes(other, 3)).toBe(true);
    expect(writes(device, 4)).toBe(false);
    tool("sync");
    rbd("unmap", "-o", "noudev", other);

    await volume.unstage();
    expect(left(volume)).toEqual([[], []]);
    setNode([]);
    expect(await failureOf(attach(volume, "node-a"))).toMatchObject({ code: "FAILED_PRECONDITION" });
    setNode([], "another-boot");
    await attach(volume, "node-a");
    expect(blocklist()).not.toContain(client);
    await volume.stage();
    const exported = join(world().dir, "exported");
    rbd("export", "--no-progress", volume.spec, exported);
    expect(readFileSync(exported)[0]).toBe(3);
    await volume.unstage();
    expect(existsSync(device)).toBe(false);
  },
  MINUTES,
);
