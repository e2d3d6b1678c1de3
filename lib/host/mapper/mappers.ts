/**
 * The mappers of this release, and the calls of a host cell that each goes to the mapper it names.
 *
 * Loaded in host cells: no Effect. All functions block.
 */
import { closeLeftOver } from "../crypt.ts";
import { withCrypt } from "../crypt-layers.ts";
import type { MappedDevice, MapperName } from "../mapped-device.ts";
import { mappedClusters } from "./krbd-clusters.ts";
import { krbd } from "./krbd.ts";
import type { AttachArg, MapAnswer, MapArg, Mapper, UnmapAnswer, UnmapArg } from "./mapper.ts";
import { attach as attachNbd, detach as detachNbd, rbdNbd } from "./nbd.ts";

const MAPPERS: Readonly<Record<MapperName, Mapper>> = { krbd, "rbd-nbd": rbdNbd };

export const mapperFeatures = (mapper: MapperName): bigint | undefined => MAPPERS[mapper].features();

/** The devices of all mappers, each with the crypt layer over it. */
export const mappedDevices = (): MappedDevice[] =>
  Object.values(MAPPERS).flatMap((mapper) => mapper.mappedDevices().map(withCrypt));

export { mappedClusters };

export const map = (request: MapArg): MapAnswer => MAPPERS[request.mapper].map(request);

/** Gives a device of rbd-nbd a new process. A device of krbd needs none. */
export const attach = (request: AttachArg): MapAnswer => attachNbd(request);

/** Takes its process from a device of rbd-nbd. */
export const detach = (device: MappedDevice): void => detachNbd(device);

export const unmap = (request: UnmapArg): UnmapAnswer => {
  closeLeftOver(request.device);
  return MAPPERS[request.device.mapper].unmap(request);
};
