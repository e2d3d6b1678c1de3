/** The monitors of the kernel's clusters, as sysfs and debugfs show them. */
import { expect, test } from "bun:test";
import { clustersOf, readMonmap } from "../../../lib/host/mapper/krbd-clusters.ts";

test("A monmap is read with the types of addresses and without", () => {
  const text = "epoch 3\n\tmon0\t(2)10.0.0.1:3300\n\tmon1\t(1)[fd00::1]:6789\n\tmon2\t10.0.0.3:6789\n";
  expect(readMonmap(text)).toEqual({ epoch: 3, monitors: ["10.0.0.1:3300", "[fd00::1]:6789", "10.0.0.3:6789"] });
  expect(readMonmap("")).toEqual({ epoch: -1, monitors: [] });
});

test("The devices of one cluster are taken together, whatever each was mapped by", () => {
  const stat =
    "     10        0      80        3      2        0       16        1        0        4        4        1        0        0        0        7        2\n";
  const mapping = (fsid: string, monitors: string) => ({
    fsid,
    configInfo: monitors === "" ? "" : `${monitors} name=admin,key=client.admin rbd image -`,
    stat,
  });
  const mappings = [
    mapping("one", "10.0.0.1:6789,10.0.0.2:6789"),
    mapping("one", "10.0.0.2:6789,10.0.0.9:6789"),
    mapping("two", "10.1.0.1:6789"),
    mapping("two", ""),
    mapping("", "10.2.0.1:6789"),
  ];
  expect(clustersOf(mappings, new Map([["two", ["10.1.0.7:6789"]]]))).toEqual([
    { fsid: "one", mappedBy: ["10.0.0.1:6789", "10.0.0.2:6789", "10.0.0.9:6789"], monitors: undefined, completed: 40n },
    { fsid: "two", mappedBy: ["10.1.0.1:6789"], monitors: ["10.1.0.7:6789"], completed: 40n },
  ]);
  expect(clustersOf([{ ...mapping("one", "10.0.0.1:6789"), stat: "" }], new Map())[0]?.completed).toBe(0n);
});
