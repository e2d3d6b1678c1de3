/** Folders of other pods that have a device's name: they are no use of a volume, wherever kubelet binds them. */
import { expect, test } from "bun:test";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { aNode, nodeOn, publishing, staging, unpublishing, unstaging } from "../../support/node-world.ts";
import { mounted } from "../../support/world.ts";

const SUBPATHS = "/var/lib/kubelet/pods/tenant/volume-subpaths";

test("A volume is published to one pod alone, and unstaged, whatever other pods call their folders", async () => {
  const { host } = await aNode();
  await using driver = nodeOn(host);
  const volumeCapability = mounted(Mode.SINGLE_NODE_SINGLE_WRITER);
  await driver.stage(staging({ volumeCapability }));
  const own = [...host.mappings.values()].map(({ device }) => device.path.slice("/dev".length));
  const rw = { options: ["rw"], superOptions: ["rw"] };
  for (const [n, root] of own.entries()) {
    host.mount({ ...rw, major: 0, minor: 77, root, point: `${SUBPATHS}/mem/${n}`, fsType: "tmpfs", source: "tmpfs" });
    host.mount({
      ...rw,
      major: 252,
      minor: 4000,
      root,
      point: `${SUBPATHS}/pv/${n}`,
      fsType: "ext4",
      source: "/dev/rbd250",
    });
  }
  expect(own).toHaveLength(1);
  await driver.publish(publishing({ volumeCapability }));
  await driver.unpublish(unpublishing());
  await driver.unstage(unstaging());
  expect([...host.mappings.keys()]).toEqual([]);
});
