/**
 * The LUKS layers that are open over mapped devices, as sysfs shows them.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: cryptsetup, which opens and closes them (./crypt.ts).
 *
 * 1. A layer is found by the device under it, and not by its name alone. Of the device-mapper devices over a mapped
 *    device only those are layers of the driver's kind that are LUKS and have its prefix: a pod may have its own.
 * 2. A layer that is gone while it is read is not there. Any other failure is an error, never "no layer".
 */
import { readdirSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { CRYPT_PREFIX, type CryptDevice, type MappedDevice } from "./mapped-device.ts";
import type { BlockDevice } from "./mountinfo.ts";

const BLOCK = "/sys/block";
const SECTOR = 512n;
/** LUKS with integrity has a layer of its own between the crypt layer and the device. */
const MOST_LAYERS = 2;

const isAbsent = (error: unknown): boolean =>
  ["ENOENT", "ENODEV"].includes(String((error as { readonly code?: unknown }).code));

/** What `read` gives; `undefined` if the device is gone by now. */
const ifThere = <A>(read: () => A): A | undefined => {
  try {
    return read();
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
};

const attribute = (device: string, name: string): string => readFileSync(`${BLOCK}/${device}/${name}`, "utf8").trim();

/** The layer that the device-mapper device `dm-N` is; `undefined`: it is something else, or gone. */
const layerOf = (device: string): CryptDevice | undefined =>
  ifThere(() => {
    const name = attribute(device, "dm/name");
    if (!name.startsWith(CRYPT_PREFIX) || !attribute(device, "dm/uuid").startsWith("CRYPT-LUKS")) return undefined;
    const [major, minor] = attribute(device, "dev").split(":").map(Number);
    return {
      name,
      path: `/dev/mapper/${name}`,
      kernelPath: `/dev/${device}`,
      major: major ?? 0,
      minor: minor ?? 0,
      sizeBytes: BigInt(attribute(device, "size")) * SECTOR,
      readOnly: attribute(device, "ro") === "1",
    };
  });

const layerAbove = (device: string, depth: number): CryptDevice | undefined => {
  for (const holder of ifThere(() => readdirSync(`${BLOCK}/${device}/holders`)) ?? []) {
    const found = layerOf(holder) ?? (depth < MOST_LAYERS ? layerAbove(holder, depth + 1) : undefined);
    if (found !== undefined) return found;
  }
  return undefined;
};

/** The layer over a device, of which the kernel's own path is known. */
export const layerOver = ({ path }: Pick<BlockDevice, "path">): CryptDevice | undefined =>
  layerAbove(basename(path), 1);

/** The same device with the layer over it, if there is one. */
export const withCrypt = (device: MappedDevice): MappedDevice => {
  const crypt = layerOver(device);
  return crypt === undefined ? device : { ...device, crypt };
};

/** The device-mapper device of that name, whatever it is, and the devices under it. */
export const namedDevice = (
  name: string,
): { readonly device: string; readonly under: readonly string[]; readonly number: string } | undefined => {
  for (const device of readdirSync(BLOCK).filter((each) => each.startsWith("dm-"))) {
    const found = ifThere(() =>
      attribute(device, "dm/name") === name
        ? { device, under: readdirSync(`${BLOCK}/${device}/slaves`), number: attribute(device, "dev") }
        : undefined,
    );
    if (found !== undefined) return found;
  }
  return undefined;
};
