/**
 * Measures, in the virtual machine, the driver's stage, publish, unpublish and unstage of volumes that hold a filesystem, and
 * a shell script that runs the same tools in the same order. Started by ./node.ts: `node-in-vm.ts RESULT ROUNDS`.
 *
 * 1. The two take turns on the same volumes, and every other round the script is first: what changes with time changes for
 *    both.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startDriver, testFolder, writeConfig } from "../ceph/driver.ts";
import { CLUSTER, filesystem, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import type { NodeFigures } from "./node.ts";

const [result = "", rounds = "3"] = process.argv.slice(2);
const MANY = 16;

/** What the driver runs: with its options, and with the checks that it makes by a tool of their own. */
const UP = `set -e
dev=$(rbd --id "$ID" -m "$MON" --keyfile="$KEY" map "$1" --device-type krbd --options noudev 2>/dev/null)
blkid -p -s TYPE -s PTTYPE -s USAGE -o export $dev >/dev/null
fsck.ext4 -a $dev >/dev/null
mkdir "$2"
mount -t ext4 -o _netdev $dev "$2"
dumpe2fs -h $dev >/dev/null 2>&1
mkdir "$3"
mount --bind "$2" "$3"
`;
const DOWN = `set -e
umount "$3"
rmdir "$3"
umount "$2"
rmdir "$2"
rbd unmap "$1" --device-type krbd --options noudev 2>/dev/null
`;

const dir = testFolder("node");
writeConfig(dir, [{ clusterID: CLUSTER, monitors: rig().monitors }]);
const driver = await startDriver({ dir, flags: ["--nodeserver=true"] });
/** Sixteen at once take minutes where the machine is emulated and others use it, too. */
const LIMIT = { timeoutMs: 600_000 };

/** A volume of the rig's pool, and kubelet's calls for it. */
const makeVolume = async (n: number) => {
  const request = {
    name: `bench-${n}`,
    capacityRange: { requiredBytes: 64n << 20n },
    volumeCapabilities: [filesystem],
    parameters: { clusterID: CLUSTER, pool: rig().pool, imageFeatures: "layering,exclusive-lock,object-map,fast-diff" },
    secrets: secrets(),
  };
  const { volume } = await driver.controller.createVolume(request, LIMIT);
  if (volume === undefined) throw new Error("no volume");
  const { volumeId, volumeContext } = volume;
  const stagingTargetPath = join(dir, `staging-${n}`);
  const targetPath = join(dir, `pod-${n}`);
  mkdirSync(stagingTargetPath);
  const named = { volumeId, stagingTargetPath };
  const asked = { ...named, volumeContext, volumeCapability: filesystem, secrets: secrets() };
  const image = volumeContext["imageName"] ?? "";
  return {
    image,
    spec: `${rig().pool}/${image}`,
    stage: () => driver.node.nodeStageVolume(asked, LIMIT),
    publish: () => driver.node.nodePublishVolume({ ...asked, secrets: {}, targetPath }, LIMIT),
    unpublish: () => driver.node.nodeUnpublishVolume({ volumeId, targetPath }, LIMIT),
    unstage: () => driver.node.nodeUnstageVolume(named, LIMIT),
  };
};
type TestVolume = Awaited<ReturnType<typeof makeVolume>>;

const keyFile = join(dir, "key");
writeFileSync(keyFile, rig().key, { mode: 0o600 });
const folder = join(dir, "script");
mkdirSync(folder);
for (const [name, text] of [
  ["up", UP],
  ["down", DOWN],
] as const)
  writeFileSync(join(folder, name), text);

const script = async (name: "up" | "down", { image, spec }: TestVolume): Promise<void> => {
  const argv = ["sh", join(folder, name), spec, join(folder, `${image}-staged`), join(folder, `${image}-pod`)];
  const env = { ...process.env, ID: rig().user, MON: rig().monitors.join(","), KEY: keyFile, LC_ALL: "C" };
  const child = Bun.spawn(argv, { env, stdin: "ignore", stdout: "inherit", stderr: "inherit" });
  if ((await child.exited) !== 0) throw new Error(`${name} of ${spec} failed`);
};

interface Side {
  readonly up: (volume: TestVolume) => Promise<unknown>;
  readonly down: (volume: TestVolume) => Promise<unknown>;
}
const SIDES: Readonly<Record<keyof NodeFigures, Side>> = {
  driver: {
    up: (volume) => volume.stage().then(() => volume.publish()),
    down: (volume) => volume.unpublish().then(() => volume.unstage()),
  },
  script: { up: (volume) => script("up", volume), down: (volume) => script("down", volume) },
};

const took = async (work: () => Promise<unknown>): Promise<number> => {
  const since = performance.now();
  await work();
  return performance.now() - since;
};

const volumes = await Promise.all(Array.from({ length: MANY }, (_, n) => makeVolume(n)));
// formatted before anything is measured
await Promise.all(volumes.map(({ stage, unstage }) => stage().then(unstage)));
console.log(`${MANY} volumes are formatted`);

const figures: Record<string, { driver: number[]; script: number[] }> = {};
const note = (what: string, side: keyof NodeFigures, ms: number): void => {
  (figures[what] ??= { driver: [], script: [] })[side].push(ms);
};
for (let round = -1; round < Number(rounds); round++) {
  const order: readonly (keyof NodeFigures)[] = round % 2 === 0 ? ["driver", "script"] : ["script", "driver"];
  for (const side of order) {
    const { up, down } = SIDES[side];
    const some = volumes.slice(0, 4);
    const alone = { up: [] as number[], down: [] as number[] };
    for (const volume of some) {
      alone.up.push(await took(() => up(volume)));
      alone.down.push(await took(() => down(volume)));
    }
    console.log(`round ${round}, ${side}, 1 at once: ${[...alone.up, ...alone.down].map(Math.round).join(" ")} ms`);
    // the first round warms both up
    if (round < 0) continue;
    const allUp = await took(() => Promise.all(volumes.map(up)));
    const allDown = await took(() => Promise.all(volumes.map(down)));
    console.log(`round ${round}, ${side}, ${MANY} at once: ${Math.round(allUp)} ${Math.round(allDown)} ms`);
    for (const ms of alone.up) note("stage and publish, 1 at once", side, ms);
    for (const ms of alone.down) note("unpublish and unstage, 1 at once", side, ms);
    note(`stage and publish, ${MANY} at once`, side, allUp);
    note(`unpublish and unstage, ${MANY} at once`, side, allDown);
  }
}
writeFileSync(result, JSON.stringify(figures));
await driver.end();
