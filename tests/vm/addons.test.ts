/** CSI-Addons on a real kernel, over its own socket: space that is given back, and new keys, with krbd and dm-crypt. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { EncryptionKeyRotationController } from "../../lib/gen/csi_addons_encryptionkeyrotation_pb.ts";
import { ReclaimSpaceController, ReclaimSpaceNode } from "../../lib/gen/csi_addons_reclaimspace_pb.ts";
import { keyOf } from "../../lib/kms/new-key.ts";
import { metadataStore } from "../../lib/kms/stores/metadata.ts";
import { MIB, secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { type Client, client } from "../support/grpc-client.ts";
import {
  capabilityOf,
  checksum,
  failureOf,
  LIMIT,
  MINUTES,
  rbd,
  type TestVolume,
  worldOfFile,
  writeData,
} from "./kubelet.ts";
import { tool, toolWith } from "./loop.ts";

const world = worldOfFile("addons", (dir) => {
  const kmsConfig = join(dir, "kms.json");
  writeFileSync(kmsConfig, JSON.stringify({ passphrases: { encryptionKMSType: "metadata" } }));
  return [`--kms-config=${kmsConfig}`];
});
let space: Client<typeof ReclaimSpaceNode>;
let images: Client<typeof ReclaimSpaceController>;
let keys: Client<typeof EncryptionKeyRotationController>;

beforeAll(() => {
  const endpoint = `unix://${join(world().dir, "csi-addons.sock")}`;
  space = client(ReclaimSpaceNode, endpoint);
  images = client(ReclaimSpaceController, endpoint);
  keys = client(EncryptionKeyRotationController, endpoint);
});
afterAll(() => {
  space?.close();
  images?.close();
  keys?.close();
});

/** The bytes that Ceph holds of the image. */
const usedBytes = ({ spec }: TestVolume): bigint => {
  const { images } = JSON.parse(rbd("du", "--format=json", spec)) as { images: { used_size: number }[] };
  return BigInt(images[0]?.used_size ?? 0);
};

const reclaim = (volume: TestVolume) => {
  const { volumeId, staging, target, kind, mode } = volume;
  const volumeCapability = capabilityOf(kind, mode);
  return space.nodeReclaimSpace({ volumeId, volumePath: target, stagingTargetPath: staging, volumeCapability }, LIMIT);
};

test.each(["ext4", "xfs"] as const)(
  "What was deleted from a volume with %s is given back to the cluster, and what is there stays",
  async (kind) => {
    const volume = await world().makeVolume(kind);
    await volume.stage();
    await volume.publish();
    const sum = writeData(`${volume.target}/kept`, 8);
    writeData(`${volume.target}/deleted`, 96);
    const full = usedBytes(volume);
    rmSync(`${volume.target}/deleted`);
    tool("sync", "-f", volume.target);
    await reclaim(volume);
    // xfs trims by stretches that begin anywhere in an object, so that of each object a part is freed at a time: they are
    // empty then, and still there
    if (kind === "ext4") expect(usedBytes(volume)).toBeLessThan(full - 64n * MIB);
    await volume.unpublish();
    await volume.unstage();
    await images.controllerReclaimSpace({ volumeId: volume.volumeId, secrets: secrets() }, LIMIT);
    expect(usedBytes(volume)).toBeLessThan(full - 64n * MIB);
    await volume.stage();
    await volume.publish();
    expect(checksum(`${volume.target}/kept`, 8)).toBe(sum);
    await volume.unpublish();
    await volume.unstage();
  },
  MINUTES,
);

test(
  "A raw block volume is not trimmed, and the answer says that the call is not implemented for it",
  async () => {
    const volume = await world().makeVolume("block");
    await volume.stage();
    await volume.publish();
    expect(await failureOf(reclaim(volume))).toMatchObject({ code: "UNIMPLEMENTED" });
    await volume.unpublish();
    await volume.unstage();
  },
  MINUTES,
);

// ------------------------------------------------------------------------------------------------------- new keys

const PASSPHRASE = "a passphrase of the tenant";
const withPassphrase = () => ({ ...secrets(), encryptionPassphrase: PASSPHRASE });
const store = metadataStore(keyOf(PASSPHRASE), "this test");
/** An emulated processor is slow at all that cryptsetup does. */
const LONG = { timeoutMs: 600_000 };

/** The key that the image's metadata has, as Ceph's own tool and the passphrase tell. */
const keptKey = async ({ spec, volumeId }: TestVolume): Promise<string> => {
  const wrapped = rbd("image-meta", "get", spec, "rbd.csi.ceph.com/dek").trim();
  return Redacted.value(await Effect.runPromise(store.unwrap(volumeId, wrapped)));
};

const deviceOf = ({ spec }: TestVolume): string => {
  const [pool, name] = spec.split("/");
  const listed = JSON.parse(rbd("device", "list", "--format=json")) as { pool: string; name: string; device: string }[];
  return listed.find((each) => each.pool === pool && each.name === name)?.device ?? "";
};

/** The key slots that the header of the volume's image has. */
const slotsOf = (volume: TestVolume): string[] => {
  const dump = JSON.parse(tool("cryptsetup", "luksDump", "--dump-json-metadata", deviceOf(volume))) as {
    keyslots: object;
  };
  return Object.keys(dump.keyslots);
};

const opens = (volume: TestVolume, key: string): boolean => {
  try {
    toolWith(key, "cryptsetup", "open", "--test-passphrase", deviceOf(volume), "-d", "-");
    return true;
  } catch {
    return false;
  }
};

const rotate = ({ volumeId }: TestVolume) => keys.encryptionKeyRotate({ volumeId, secrets: withPassphrase() }, LONG);

test("A mounted volume gets a new key, also after a killed driver has left a slot; its data stays, and it opens anew", async () => {
  const made = await world().makeVolume(
    "ext4",
    { encrypted: "true", encryptionKMSID: "passphrases" },
    { secrets: withPassphrase() },
  );
  const volume = made.as({ secrets: withPassphrase() });
  await volume.stage(LONG);
  await volume.publish();
  const sum = writeData(`${volume.target}/data`, 4);
  const first = await keptKey(volume);
  expect(slotsOf(volume)).toEqual(["0"]);

  // cut off while slot 1 has the old key as well
  const cut = { ended: false };
  const end = () => void (cut.ended = true);
  const rotation = rotate(volume).then(end, end);
  while (slotsOf(volume).length < 2 && !cut.ended) await Bun.sleep(100);
  expect(cut.ended).toBe(false);
  await world().restart("SIGKILL");
  await rotation;
  // in a container its tools die with it; here they end by themselves
  while (tool("sh", "-c", "pgrep -x cryptsetup || true") !== "") await Bun.sleep(100);
  expect(opens(volume, await keptKey(volume))).toBe(true);
  // Ceph ends the dead driver's lock after three minutes; here an administrator does
  tool("rados", "-c", rig().conf, "-p", world().pool.name, "rm", volume.volumeId);
  await rotate(volume);
  const second = await keptKey(volume);
  expect(second).not.toBe(first);
  expect(slotsOf(volume)).toEqual(["0"]);
  expect([opens(volume, first), opens(volume, second)]).toEqual([false, true]);
  expect(checksum(`${volume.target}/data`, 4)).toBe(sum);

  await volume.unpublish();
  await volume.unstage();
  await volume.stage(LONG);
  await volume.publish();
  expect(checksum(`${volume.target}/data`, 4)).toBe(sum);
  for (const key of [first, second, PASSPHRASE]) expect(world().driver().log()).not.toContain(key);
  await volume.unpublish();
  await volume.unstage();
}, 1_400_000);
