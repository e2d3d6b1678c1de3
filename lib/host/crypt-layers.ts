/**
 * The LUKS layers that are open over mapped devices, as sysfs shows them.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: cryptsetup, which opens and closes them (./crypt.ts).
 *
 * 1. A layer is found by the device under it, and not by its name alone. Of the device-mapper devices over a mapped
 *    device only those are layers of the driver's kind that are LUKS and have its prefix: a pod may have its own.
 * 2. What a cryptsetup leaves that was killed is not a layer: a half of one, or devices of the tool's own names, one over the
 *    other.
 * 3. A layer that is gone while it is read is not there. Any other failure is an error, never "no layer".
 */
import { readdirSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { CRYPT_PREFIX, type CryptDevice, type MappedDevice } from "./mapped-device.ts";
import type { BlockDevice } from "./mountinfo.ts";

const BLOCK = "/sys/block";
const SECTOR = 512n;
/** LUKS with integrity has a layer of its own between the crypt layer and the device. */
const MOST_LAYERS = 2;

/** A device-mapper device that is being removed answers EINVAL. */
const isAbsent = (error: unknown): boolean =>
  ["ENOENT", "ENODEV", "EINVAL"].includes(String((error as { readonly code?: unknown }).code));

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

const LUKS = "CRYPT-LUKS";
/**
 * How cryptsetup names the devices by which it formats and wipes: by the UUID of the header, and where it wipes by numbers,
 * the lower one of two with an ending.
 */
const TEMPORARY = /^temporary-cryptsetup-(?:reduced-)?[0-9a-f-]+(?:_dif)?$/;

/** The layer that the device-mapper device `dm-N` is; `undefined`: it is something else, or gone. */
const layerOf = (device: string, depth: number): CryptDevice | undefined =>
  ifThere(() => {
    const name = attribute(device, "dm/name");
    if (!name.startsWith(CRYPT_PREFIX) || !attribute(device, "dm/uuid").startsWith(LUKS)) return undefined;
    const [major, minor] = attribute(device, "dev").split(":").map(Number);
    return {
      name,
      path: `/dev/mapper/${name}`,
      kernelPath: `/dev/${device}`,
      major: major ?? 0,
      minor: minor ?? 0,
      sizeBytes: BigInt(attribute(device, "size")) * SECTOR,
      readOnly: attribute(device, "ro") === "1",
      ...(depth === MOST_LAYERS && { integrity: true as const }),
    };
  });

const holdersOver = (device: string): readonly string[] =>
  ifThere(() => readdirSync(`${BLOCK}/${device}/holders`)) ?? [];

const layerAbove = (device: string, depth: number): CryptDevice | undefined => {
  for (const holder of holdersOver(device)) {
    const found = layerOf(holder, depth) ?? (depth < MOST_LAYERS ? layerAbove(holder, depth + 1) : undefined);
    if (found !== undefined) return found;
  }
  return undefined;
};

/**
 * The names of what a killed cryptsetup has left over a device, of which the kernel's own path is known, from the top down:
 * in that order they can be closed. What carries anything else is not in it.
 */
export const leftOver = ({ path }: Pick<BlockDevice, "path">): readonly string[] => leftOverOn(basename(path)).names;

/** `nothingElse`: a device under them can be closed after them. */
const leftOverOn = (device: string): { readonly names: readonly string[]; readonly nothingElse: boolean } => {
  const names: string[] = [];
  let nothingElse = true;
  for (const holder of holdersOver(device)) {
    const above = leftOverOn(holder);
    const name = above.nothingElse ? leftOverName(holder) : undefined;
    names.push(...above.names, ...(name === undefined ? [] : [name]));
    nothingElse &&= name !== undefined;
  }
  return { names, nothingElse };
};

/** The name of a device that a killed cryptsetup has left; `undefined`: it is something else, or gone. */
const leftOverName = (device: string): string | undefined =>
  ifThere(() => {
    const [name, uuid] = [attribute(device, "dm/name"), attribute(device, "dm/uuid")];
    if (!uuid.startsWith("CRYPT-")) return undefined;
    const isHalf = name.startsWith(CRYPT_PREFIX) && !uuid.startsWith(LUKS);
    return isHalf || TEMPORARY.test(name) ? name : undefined;
  });

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
