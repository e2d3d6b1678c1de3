/**
 * The mappers of this release, and the calls of a host cell that each goes to the mapper it names.
 *
 * Loaded in host cells: no Effect. All functions block.
 */
import type { MappedDevice, MapperName } from "../mapped-device.ts";
import { krbd } from "./krbd.ts";
import type { MapAnswer, MapArg, Mapper, UnmapAnswer, UnmapArg } from "./mapper.ts";

const MAPPERS: Readonly<Record<MapperName, Mapper>> = { krbd };

export const mapperFeatures = (mapper: MapperName): bigint | undefined => MAPPERS[mapper].features();

/** The devices of all mappers. */
export const mappedDevices = (): MappedDevice[] => Object.values(MAPPERS).flatMap((mapper) => mapper.mappedDevices());

export const map = (request: MapArg): MapAnswer => MAPPERS[request.mapper].map(request);

export const unmap = (request: UnmapArg): UnmapAnswer => MAPPERS[request.device.mapper].unmap(request);
