/**
 * What ceph-csi's node plugin does with a volume that krbd maps, step by step and with its own arguments
 * (compat/rbd-node.md 1.5, 1.7, 2): for tests of a node that goes from one driver to the other.
 *
 * Not here: encryption, and rbd-nbd.
 */
import { closeSync, mkdirSync, openSync, readFileSync, rmdirSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { rbd, type TestVolume } from "./kubelet.ts";
import { tool } from "./loop.ts";

/** As its Go struct is written: all keys, in this order. */
export const imageMetaOf = ({ image, spec }: TestVolume): string =>
  `{"Version":3,"pool":"${spec.slice(0, -image.length - 1)}","radosNamespace":"","image":"${image}","unmapOptions":"","accessType":false,"encrypted":false,"device":"","logDir":"","logFileStrategy":""}`;

const makeMountPoint = ({ kind }: TestVolume, path: string, fileMode: number): void => {
  if (kind === "block") closeSync(openSync(path, "wx", fileMode));
  else mkdirSync(path, { mode: 0o750 });
};

/** Binds, and then binds again with the options: the kernel takes none of them in the first step. */
const bind = (source: string, target: string, readOnly: boolean): void => {
  tool("mount", "-o", "bind,_netdev", source, target);
  tool("mount", "-o", `bind,remount,_netdev${readOnly ? ",ro" : ""}`, source, target);
};

/** NodeStageVolume of a blank image; -> its device. */
export const stagedByCephCsi = (volume: TestVolume): string => {
  const { kind, spec, staging, stagingTarget } = volume;
  writeFileSync(`${staging}/image-meta.json`, imageMetaOf(volume), { mode: 0o600 });
  const device = rbd("map", spec, "--device-type", "krbd", "--options", "noudev");
  makeMountPoint(volume, stagingTarget, 0o600);
  if (kind === "block") bind(device, stagingTarget, false);
  else {
    tool("mkfs.ext4", "-q", "-m0", "-Enodiscard,lazy_itable_init=1,lazy_journal_init=1", device);
    tool("mount", "-t", kind, "-o", "_netdev,defaults", device, stagingTarget);
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
}
const readImageMeta = ({ staging }: TestVolume): ImageMeta => {
  const meta = JSON.parse(readFileSync(`${staging}/image-meta.json`, "utf8")) as ImageMeta;
  if (meta.accessType || meta.encrypted) throw new Error("this is not of a plain volume that krbd maps");
  return meta;
};

interface ListedDevice {
  readonly name: string;
  readonly namespace: string;
  readonly pool: string;
  readonly device: string;
}

/** NodeExpandVolume, which finds the device in the list of what is mapped, by image-meta.json alone. */
export const expandedByCephCsi = (volume: TestVolume): void => {
  const meta = readImageMeta(volume);
  const listed = JSON.parse(rbd("device", "list", "--format=json", "--device-type", "krbd")) as readonly ListedDevice[];
  const found = listed.find(
    ({ name, namespace, pool }) => name === meta.image && namespace === meta.radosNamespace && pool === meta.pool,
  );
  if (found === undefined) throw new Error(`${volume.staging}/image-meta.json leads to no device`);
  if (volume.kind !== "block") tool("resize2fs", found.device);
};

/** NodeUnpublishVolume, and NodeUnstageVolume, which knows the image by image-meta.json alone. */
export const undoneByCephCsi = (volume: TestVolume): void => {
  for (const path of [volume.target, volume.stagingTarget]) {
    tool("umount", path);
    if (volume.kind === "block") unlinkSync(path);
    else rmdirSync(path);
  }
  const { image, pool, radosNamespace, unmapOptions } = readImageMeta(volume);
  const spec = [pool, radosNamespace, image].filter((each) => each !== "").join("/");
  const options = unmapOptions === "" ? [] : ["--options", unmapOptions];
  rbd("unmap", spec, "--device-type", "krbd", "--options", "noudev", ...options);
  rmSync(`${volume.staging}/image-meta.json`);
};
