/**
 * What ceph-csi's node plugin does with a volume, step by step and with its own arguments (compat/rbd-node.md 1.5, 1.7, 2,
 * 5.2): for tests of a node that goes from one driver to the other. Its image is mapped with krbd or rbd-nbd, and has LUKS
 * between device and filesystem if there is a passphrase.
 *
 * Not here: encrypted files, and what ceph-csi does when a step fails.
 */
import { closeSync, mkdirSync, openSync, readFileSync, rmdirSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { secrets } from "../ceph/requests.ts";
import { rig } from "../rig/cluster.ts";
import { nbdLogOf, rbd, type TestVolume } from "./kubelet.ts";
import { FAST_KEY, tool, toolWith } from "./loop.ts";

/** What is between a volume's image and its filesystem. */
export interface Layers {
  readonly mounter?: "rbd" | "rbd-nbd";
  readonly passphrase?: string;
}

/** As its Go struct is written: all keys, in this order. `device`: of rbd-nbd, once the image is mapped. */
export const imageMetaOf = ({ image, spec }: TestVolume, { mounter, passphrase }: Layers = {}, device = ""): string => {
  const nbd = mounter === "rbd-nbd";
  const log = nbd ? `"logDir":"/var/log/ceph","logFileStrategy":"remove"` : `"logDir":"","logFileStrategy":""`;
  return `{"Version":3,"pool":"${spec.slice(0, -image.length - 1)}","radosNamespace":"","image":"${image}","unmapOptions":"","accessType":${nbd},"encrypted":${passphrase !== undefined},"device":"${device}",${log}}`;
};

const stash = (volume: TestVolume, ...layers: readonly [Layers, string?]): void =>
  writeFileSync(`${volume.staging}/image-meta.json`, imageMetaOf(volume, ...layers), { mode: 0o600 });

const makeMountPoint = ({ kind }: TestVolume, path: string, fileMode: number): void => {
  if (kind === "block") closeSync(openSync(path, "wx", fileMode));
  else mkdirSync(path, { mode: 0o750 });
};

/** Binds, and then binds again with the options: the kernel takes none of them in the first step. */
const bind = (source: string, target: string, readOnly: boolean): void => {
  tool("mount", "-o", "bind,_netdev", source, target);
  tool("mount", "-o", `bind,remount,_netdev${readOnly ? ",ro" : ""}`, source, target);
};

// ---------------------------------------------------------------------------------------------- the image's device

const mapWithNbd = (volume: TestVolume): string => {
  const { userID = "", userKey = "" } = secrets();
  const keyFile = `${volume.staging}/../keyfile`;
  writeFileSync(keyFile, userKey, { mode: 0o600 });
  const as = ["--id", userID, "-m", rig().monitors.join(","), `--keyfile=${keyFile}`, "--log-file", nbdLogOf(volume)];
  const how = ["--try-netlink", "--reattach-timeout=300", "--io-timeout=0", `--cookie=${volume.volumeId}`];
  const device = tool("rbd-nbd", ...as, "map", volume.spec, ...how);
  rmSync(keyFile);
  return device;
};

const mapImage = (volume: TestVolume, layers: Layers): string => {
  if (layers.mounter !== "rbd-nbd") return rbd("map", volume.spec, "--device-type", "krbd", "--options", "noudev");
  const device = mapWithNbd(volume);
  stash(volume, layers, device);
  return device;
};

const unmapImage = (nbd: boolean, what: string, unmapOptions: string): void => {
  if (nbd) tool("rbd-nbd", "unmap", what, ...(unmapOptions === "" ? [] : [`--${unmapOptions}`]));
  else {
    const options = unmapOptions === "" ? [] : ["--options", unmapOptions];
    rbd("unmap", what, "--device-type", "krbd", "--options", "noudev", ...options);
  }
};

// -------------------------------------------------------------------------------------------------- the LUKS layer

const layerOf = ({ volumeId }: TestVolume): string => `luks-rbd-${volumeId}`;

/** Formats a blank device, and records that; -> the layer's device. */
const encrypt = (volume: TestVolume, device: string, passphrase: string): string => {
  const header = ["--luks2-metadata-size", "4096k", "--luks2-keyslots-size", "8192k"];
  const how = ["--type", "luks2", "--hash", "sha256", ...header, ...FAST_KEY];
  toolWith(passphrase, "cryptsetup", "-q", "luksFormat", ...how, device, "-d", "-");
  rbd("image-meta", "set", volume.spec, "rbd.csi.ceph.com/luks2HeaderSize", String(16 << 20));
  rbd("image-meta", "set", volume.spec, "rbd.csi.ceph.com/encrypted", "encrypted");
  toolWith(passphrase, "cryptsetup", "luksOpen", device, layerOf(volume), "--disable-keyring", "-d", "-");
  return `/dev/mapper/${layerOf(volume)}`;
};

/** The device under the layer; `undefined`: the layer is not active, or cryptsetup has said anything on stderr. */
const deviceUnder = (volume: TestVolume): string | undefined => {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["cryptsetup", "status", layerOf(volume)]);
  const [first = "", ...lines] = stdout.toString().split("\n");
  if (exitCode !== 0 || stderr.length > 0 || !first.includes(" is active")) return undefined;
  return lines.map((line) => /^ *device: +(.*)$/.exec(line)?.[1]).find((device) => device !== undefined);
};

// ------------------------------------------------------------------------------------------------------- its calls

/** NodeStageVolume of a blank image; -> the device that it maps. */
export const stagedByCephCsi = (volume: TestVolume, layers: Layers = {}): string => {
  const { kind, stagingTarget } = volume;
  stash(volume, layers);
  const device = mapImage(volume, layers);
  const top = layers.passphrase === undefined ? device : encrypt(volume, device, layers.passphrase);
  makeMountPoint(volume, stagingTarget, 0o600);
  if (kind === "block") bind(top, stagingTarget, false);
  else {
    tool("mkfs.ext4", "-q", "-m0", "-Enodiscard,lazy_itable_init=1,lazy_journal_init=1", top);
    tool("mount", "-t", kind, "-o", "_netdev,defaults", top, stagingTarget);
  }
  return device;
};

/** NodePublishVolume. */
export const publishedByCephCsi = (volume: TestVolume, pod = "0", readOnly = false): void => {
  const target = `${volume.pods}/${pod}`;
  makeMountPoint(volume, target, 0o750);
  bind(volume.stagingTarget, target, readOnly);
};

interface ImageMeta {
  readonly pool: string;
  readonly radosNamespace: string;
  readonly image: string;
  readonly unmapOptions: string;
  readonly accessType: boolean;
  readonly encrypted: boolean;
  readonly logDir: string;
}
const readImageMeta = ({ staging }: TestVolume): ImageMeta =>
  JSON.parse(readFileSync(`${staging}/image-meta.json`, "utf8")) as ImageMeta;

/** krbd's list has the image as `name`. */
interface ListedDevice {
  readonly name?: string;
  readonly image?: string;
  readonly namespace: string;
  readonly pool: string;
  readonly device: string;
}

const listed = (nbd: boolean): readonly ListedDevice[] =>
  JSON.parse(
    nbd
      ? tool("rbd-nbd", "list-mapped", "--format=json")
      : rbd("device", "list", "--format=json", "--device-type", "krbd"),
  ) as readonly ListedDevice[];

/** NodeExpandVolume, which finds the device in the list of what is mapped, by image-meta.json alone. */
export const expandedByCephCsi = (volume: TestVolume): void => {
  const meta = readImageMeta(volume);
  const found = listed(meta.accessType).find(
    ({ name, image = name, namespace, pool }) =>
      image === meta.image && namespace === meta.radosNamespace && pool === meta.pool,
  );
  if (found === undefined) throw new Error(`${volume.staging}/image-meta.json leads to no device`);
  if (meta.encrypted) tool("cryptsetup", "resize", layerOf(volume));
  if (volume.kind !== "block") tool("resize2fs", meta.encrypted ? `/dev/mapper/${layerOf(volume)}` : found.device);
};

/** NodeUnpublishVolume, and NodeUnstageVolume, which knows by image-meta.json alone what is to be undone. */
export const undoneByCephCsi = (volume: TestVolume): void => {
  for (const path of [volume.target, volume.stagingTarget]) {
    tool("umount", path);
    if (volume.kind === "block") unlinkSync(path);
    else rmdirSync(path);
  }
  const { image, pool, radosNamespace, unmapOptions, accessType, encrypted, logDir } = readImageMeta(volume);
  const under = encrypted ? deviceUnder(volume) : undefined;
  if (under !== undefined) tool("cryptsetup", "luksClose", layerOf(volume));
  const spec = [pool, radosNamespace, image].filter((each) => each !== "").join("/");
  unmapImage(accessType, under ?? spec, unmapOptions);
  if (accessType) unlinkSync(`${logDir}/rbd-nbd-${volume.volumeId}.log`);
  rmSync(`${volume.staging}/image-meta.json`);
};
