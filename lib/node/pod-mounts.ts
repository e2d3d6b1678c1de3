/**
 * Which pods have which device, by the kernel's mount table: kubelet binds a pod's volumes in the pod's own folder. Pure.
 */
import type { MountTable } from "../host/mountinfo.ts";
import { otherMounts, type StagedDevice } from "./staged-device.ts";

const UID = "([0-9A-Za-z-]{1,64})";
/** kubelet's folder of a pod: for filesystems, for raw devices, and where it publishes these. */
const POD_PATHS = [
  new RegExp(String.raw`/pods/${UID}/volumes/kubernetes\.io~csi/[^/]+/mount$`),
  new RegExp(String.raw`/pods/${UID}/volumeDevices/kubernetes\.io~csi/[^/]+$`),
  new RegExp(String.raw`/plugins/kubernetes\.io/csi/volumeDevices/publish/[^/]+/${UID}$`),
];

/** The UID of the pod that a path is for; `undefined`: it is not a path of kubelet's. */
export const podUidOf = (path: string): string | undefined =>
  POD_PATHS.map((pattern) => pattern.exec(path)?.[1]).find((uid) => uid !== undefined);

/** A device, and the UIDs of the pods that have it. */
export interface UsedDevice {
  readonly device: StagedDevice;
  readonly pods: readonly string[];
}

export const usedByPods = (table: MountTable, device: StagedDevice): UsedDevice => ({
  device,
  pods: [...new Set(otherMounts(table, device, []).flatMap((point) => podUidOf(point) ?? []))],
});
