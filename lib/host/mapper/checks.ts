/**
 * What is the same for all mappers before and after a map: the network namespace that it runs in, and the proof that the
 * device may be used.
 *
 * Loaded in host cells: no Effect.
 */
import { statSync } from "node:fs";
import { deviceNumber } from "../block.ts";
import { imageSpec, isImage, type MappedDevice } from "../mapped-device.ts";
import type { Failure, MapArg } from "./mapper.ts";

const ENOENT = 2;

type InNamespace = Pick<MapArg, "netNamespace">;

/** The failure if the network namespace of the request does not exist. */
export const namespaceAbsent = ({ netNamespace }: InNamespace): Failure | undefined => {
  if (netNamespace === undefined || statSync(netNamespace, { throwIfNoEntry: false }) !== undefined) return undefined;
  const reason = `the network namespace ${netNamespace} of its cluster does not exist. Create it, or correct netNamespaceFilePath in config.json`;
  return { kind: "refused", errno: ENOENT, reason, unfit: false };
};

/** What stands before a command that is to run in the network namespace of the request. */
export const inNamespace = ({ netNamespace }: InNamespace): readonly string[] =>
  netNamespace === undefined ? [] : ["nsenter", `--net=${netNamespace}`, "--"];

/** Why a device that was just mapped must not be used; `undefined`: it may be used. */
export const faultOf = (device: MappedDevice, request: MapArg): string | undefined => {
  if (!isImage(device, request)) return `${device.path} is ${imageSpec(device)}, not ${imageSpec(request)}`;
  const node = statSync(device.path, { throwIfNoEntry: false });
  if (node === undefined) return `${device.path} does not exist here. Mount the host's /dev at /dev`;
  const number = `${device.major}:${device.minor}`;
  if (!node.isBlockDevice() || deviceNumber(node.rdev) !== number) {
    return `${device.path} is not the block device ${number}. Mount the host's /dev at /dev`;
  }
  if (device.readOnly !== request.readOnly) return `${device.path} is ${device.readOnly ? "" : "not "}read-only`;
  return undefined;
};
