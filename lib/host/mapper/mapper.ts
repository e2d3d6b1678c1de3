/**
 * A mapper makes a block device of an image: krbd in the kernel (./krbd.ts), or rbd-nbd in user space (./nbd.ts). Here
 * is what the driver asks of each.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: which mappers there are (./mappers.ts).
 *
 * 1. A listing that fails is an error, never "nothing is mapped".
 * 2. A map that fails, or maps something else, unmaps before it answers whatever it has mapped. If that fails too, the
 *    answer is "unknown".
 * 3. `unmap` ends the mapping that it is given, and never another one that has got the same device number since.
 */
import type { MapRequest } from "../host.ts";
import type { MappedDevice } from "../mapped-device.ts";

export interface MapArg extends Omit<MapRequest, "key"> {
  readonly key: string;
}

export type MapAnswer =
  | { readonly kind: "mapped"; readonly device: MappedDevice }
  /** A retry does not help. `unfit`: another mapper may map it, because this one lacks what it takes. */
  | { readonly kind: "refused"; readonly errno: number; readonly reason: string; readonly unfit: boolean }
  | { readonly kind: "failed"; readonly errno: number; readonly reason: string }
  | { readonly kind: "unknown"; readonly reason: string };

export type Failure = Exclude<MapAnswer, { readonly kind: "mapped" }>;

export interface AttachArg extends MapArg {
  /** The device whose process has died. */
  readonly device: MappedDevice;
}

export interface UnmapArg {
  readonly device: MappedDevice;
  readonly options: string;
}

export type UnmapAnswer =
  | { readonly kind: "unmapped" }
  | { readonly kind: "busy"; readonly holders: readonly string[] };

export interface Mapper {
  /** Feature bits of the images that it maps; `undefined`: it does not say. */
  readonly features: () => bigint | undefined;
  readonly mappedDevices: () => readonly MappedDevice[];
  readonly map: (request: MapArg) => MapAnswer;
  readonly unmap: (request: UnmapArg) => UnmapAnswer;
}
