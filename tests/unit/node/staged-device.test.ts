/** A staged device as a stack: with a layer between image and filesystem, each question asks the right one of the two. */
import { describe, expect, test } from "bun:test";
import type { MappedDevice } from "../../../lib/host/mapped-device.ts";
import type { MountEntry } from "../../../lib/host/mountinfo.ts";
import { otherMounts, shownBy, type StagedDevice, stackOver } from "../../../lib/node/staged-device.ts";

const mapped: MappedDevice = {
  mapper: "krbd",
  path: "/dev/rbd0",
  major: 252,
  minor: 0,
  pool: "rbd",
  namespace: "",
  image: "csi-vol-1",
  imageId: "1",
  snapshot: "",
  fsid: "f",
  watcherId: "client.1",
  addresses: [],
  cookie: "",
  served: true,
  sizeBytes: 1n,
  readOnly: false,
};
const layered: StagedDevice = {
  mapped,
  top: { path: "/dev/mapper/luks-rbd-1", major: 253, minor: 4, sizeBytes: 1n, readOnly: false },
};

const mount = (point: string, more: Partial<MountEntry>): MountEntry => ({
  id: 1,
  parent: 0,
  major: 0,
  minor: 6,
  root: "/",
  point,
  options: ["rw"],
  fsType: "ext4",
  source: "udev",
  superOptions: ["rw"],
  ...more,
});
const filesystem = mount("/staging", { major: 253, minor: 4 });
const node = mount("/staging", { root: "/mapper/luks-rbd-1", fsType: "devtmpfs" });
const lower = mount("/elsewhere", { major: 252, minor: 0 });

describe("a staged device", () => {
  test("A staged device without a layer is its own top", () =>
    expect(stackOver(mapped)).toEqual({ mapped, top: mapped }));

  test("The mounts of a device's top show that it is staged, as a filesystem or as raw block", () => {
    expect(shownBy(filesystem, [layered])).toEqual({ device: layered, kind: "filesystem" });
    expect(shownBy(node, [layered])).toEqual({ device: layered, kind: "block" });
    expect(shownBy(lower, [layered])).toBeUndefined();
  });

  test("A staged device is in use by a mount of any of its layers", () => {
    const table = [filesystem, lower, mount("/other", { major: 8, minor: 1 })];
    expect(otherMounts(table, layered, ["/staging"])).toEqual(["/elsewhere"]);
    expect(otherMounts(table, layered, [])).toEqual(["/staging", "/elsewhere"]);
  });
});
