/**
 * Limits of I/O on a real kernel: `io.max` of the control groups of pods, as kubelet would have made them, with krbd and
 * dm-crypt; and librbd's own limits with rbd-nbd. What is limited is measured, too.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from "node:fs";
import { secrets } from "../ceph/requests.ts";
import { type Kind, left, LIMIT, MINUTES, type TestVolume, worldOfFile } from "./kubelet.ts";
import { tool } from "./loop.ts";

const world = worldOfFile("qos");

const ROOT = "/sys/fs/cgroup";
const KIB = 1024;
const UID = "0f5a1b2c-1111-4222-8333-444455556666";
const OTHER_UID = "0f5a1b2c-1111-4222-8333-777788889999";
const BURSTABLE = `${ROOT}/kubepods/burstable`;
const SLICE = `${ROOT}/kubepods.slice/kubepods-besteffort.slice`;

const makeGroup = (path: string): void => {
  mkdirSync(path, { recursive: true });
  for (let at = ROOT; at !== path; ) {
    writeFileSync(`${at}/cgroup.subtree_control`, "+io");
    at = `${at}/${path.slice(at.length + 1).split("/")[0]}`;
  }
};

/** The control group of a pod, by kubelet's driver of the folder. */
const groupOf = (parent: string, uid = UID): string =>
  parent === SLICE ? `${SLICE}/kubepods-besteffort-pod${uid.replaceAll("-", "_")}.slice` : `${parent}/pod${uid}`;

beforeAll(() => {
  tool("mount", "-t", "cgroup2", "none", ROOT);
});
afterAll(() => {
  for (const each of [BURSTABLE, `${ROOT}/kubepods`, SLICE, `${ROOT}/kubepods.slice`]) {
    if (existsSync(each)) rmdirSync(each);
  }
  tool("umount", ROOT);
});

/** The volume as kubelet publishes it to a pod; -> the pod's name for `publish`. */
const forPod = (volume: TestVolume, uid = UID): readonly [TestVolume, string] =>
  volume.kind === "block"
    ? [volume.as({ pods: "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1" }), uid]
    : [volume.as({ pods: `/var/lib/kubelet/pods/${uid}/volumes/kubernetes.io~csi/pvc-1` }), "mount"];

const modify = (volume: TestVolume, mutableParameters: Record<string, string>) =>
  world()
    .driver()
    .controller.controllerModifyVolume(
      { volumeId: volume.volumeId, mutableParameters, secrets: { ...volume.secrets } },
      LIMIT,
    );

const ioMax = (group: string): string => readFileSync(`${group}/io.max`, "utf8").trim();
const numberOf = (device: string): string => {
  const { rdev } = statSync(device);
  return `${rdev >> 8}:${rdev & 0xff}`;
};

const until = async (condition: () => boolean, seconds: number): Promise<boolean> => {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await Bun.sleep(500)) if (condition()) return true;
  return condition();
};

/** Seconds that a process takes to write so many KiB past the page cache, in a control group. */
const secondsToWrite = async (path: string, kibibytes: number, group?: string): Promise<number> => {
  const join = group === undefined ? "" : `echo $$ > ${group}/cgroup.procs;`;
  const dd = `exec dd if=/dev/zero of=${path} bs=64k count=${kibibytes / 64} oflag=direct conv=notrunc,fsync`;
  const began = performance.now();
  const writer = Bun.spawn(["sh", "-c", `${join} ${dd}`], { stdout: "ignore", stderr: "pipe" });
  const code = await writer.exited;
  if (code !== 0) throw new Error(await new Response(writer.stderr).text());
  return (performance.now() - began) / 1000;
};

const RATE = 256 * KIB;
const AMOUNT = 2048;
/** At that rate, but for what the kernel lets pass at once. */
const SLOW = 5;

const kinds = [
  ["ext4", BURSTABLE, false],
  ["block", SLICE, false],
  ["ext4", SLICE, true],
] as const satisfies readonly (readonly [Kind, string, boolean])[];
for (const [kind, parent, encrypted] of kinds) {
  const what = `${encrypted ? "an encrypted " : ""}${kind}`;
  test(
    `A pod is held to the limits of its volume, ${what}, and a change reaches it while it runs`,
    async () => {
      const group = groupOf(parent);
      makeGroup(group);
      const given = { ...secrets(), ...(encrypted && { encryptionPassphrase: "a passphrase" }) };
      const parameters = { maxWriteBps: String(RATE), maxReadIops: "1000", ...(encrypted && { encrypted: "true" }) };
      const made = (await world().makeVolume(kind, parameters, { secrets: given })).as({ secrets: given });
      const [volume, pod] = forPod(made);
      await volume.stage({ timeoutMs: 170_000 });
      await volume.publish(pod);
      const target = `${volume.pods}/${pod}`;
      const device = encrypted
        ? tool("readlink", "-f", `/dev/mapper/luks-rbd-${volume.volumeId}`)
        : tool("rbd", "showmapped", "--format=json").replace(/.*"device":"([^"]+)".*/s, "$1");
      const line = `${numberOf(device)} rbps=max wbps=${RATE} riops=1000 wiops=max`;
      expect(ioMax(group)).toBe(line);
      const data = kind === "block" ? target : `${target}/data`;
      const held = await secondsToWrite(data, AMOUNT, group);
      const free = await secondsToWrite(data, AMOUNT);
      console.log(`${what}: ${AMOUNT} KiB in ${held.toFixed(1)} s held, ${free.toFixed(1)} s free`);
      expect(held).toBeGreaterThan(SLOW);
      expect(free).toBeLessThan(held / 1.5);

      await modify(volume, { maxWriteBps: "max", maxWriteIops: "3000" });
      expect(await until(() => ioMax(group) !== line, 90)).toBe(true);
      expect(ioMax(group)).toBe(`${numberOf(device)} rbps=max wbps=max riops=1000 wiops=3000`);
      expect(await secondsToWrite(data, AMOUNT, group)).toBeLessThan(held / 1.5);

      await world().restart();
      expect(ioMax(group)).not.toBe("");
      // The driver that has started knows of the volume what a publish tells it.
      const [other, otherPod] = forPod(made, OTHER_UID);
      const otherGroup = groupOf(parent, OTHER_UID);
      makeGroup(otherGroup);
      await other.publish(otherPod, false, given);
      expect(await until(() => ioMax(otherGroup) !== "", 20)).toBe(true);
      expect(ioMax(otherGroup)).toBe(ioMax(group));
      await other.unpublish(otherPod);
      rmdirSync(otherGroup);
      await volume.unpublish(pod);
      rmdirSync(group);
      await volume.unstage({ timeoutMs: 100_000 });
      expect(left(volume)).toEqual([[], []]);
    },
    2 * MINUTES,
  );
}

describe("where a limit cannot be set", () => {
  test(
    "a pod without a control group starts, and gets the limits once kubelet has made the group",
    async () => {
      const [volume, pod] = forPod(await world().makeVolume("ext4", { maxReadBps: "1048576" }));
      await volume.stage();
      await volume.publish(pod);
      const group = groupOf(BURSTABLE);
      makeGroup(group);
      expect(await until(() => ioMax(group) !== "", 20)).toBe(true);
      expect(ioMax(group)).toEndWith(" rbps=1048576 wbps=max riops=max wiops=max");
      await volume.unpublish(pod);
      await volume.unstage();
      // The kernel has forgotten the device.
      expect(ioMax(group)).toBe("");
      rmdirSync(group);
    },
    MINUTES,
  );

  test(
    "a pod of a machine whose pods have no io controller starts, and the log says what is missing",
    async () => {
      const group = groupOf(BURSTABLE);
      makeGroup(group);
      writeFileSync(`${BURSTABLE}/cgroup.subtree_control`, "-io");
      const [volume, pod] = forPod(await world().makeVolume("ext4", { maxReadBps: "1048576" }));
      await volume.stage();
      await volume.publish(pod);
      expect(world().driver().log()).toContain(`${group} has no io.max`);
      await volume.unpublish(pod);
      await volume.unstage();
      rmdirSync(group);
    },
    MINUTES,
  );
});

test(
  "rbd-nbd is held to librbd's limits, and takes a change over while it runs",
  async () => {
    const volume = await world().makeVolume("block", { mounter: "rbd-nbd", baseWriteBps: String(RATE) });
    await volume.stage();
    await volume.publish();
    const held = await secondsToWrite(volume.target, AMOUNT);
    await modify(volume, { baseWriteBps: "0" });
    const free = await secondsToWrite(volume.target, AMOUNT);
    console.log(`rbd-nbd: ${AMOUNT} KiB in ${held.toFixed(1)} s held, ${free.toFixed(1)} s free`);
    expect(held).toBeGreaterThan(SLOW);
    expect(free).toBeLessThan(held / 1.5);
    await modify(volume, { baseWriteBps: String(RATE) });
    expect(await secondsToWrite(volume.target, AMOUNT)).toBeGreaterThan(SLOW);
    await volume.unpublish();
    await volume.unstage();
    expect(left(volume)).toEqual([[], []]);
  },
  2 * MINUTES,
);
