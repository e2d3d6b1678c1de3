/** What each Node RPC asks of Ceph: the table is the budget, and one call more fails. All but staging ask nothing. */
import { describe, expect, test } from "bun:test";
import { recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import {
  aNode,
  expanding,
  type NodeDriver,
  nodeOn,
  publishing,
  staging,
  statistics,
  unpublishing,
  unstaging,
} from "../../support/node-world.ts";
import { asBlock } from "../../support/world.ts";

type Step = (driver: NodeDriver) => Promise<unknown>;
const stage: Step = (driver) => driver.stage(staging());
const publish: Step = (driver) => driver.publish(publishing());
const unstage: Step = (driver) => driver.unstage(unstaging());

const FIND = ["poolName", "omapGet"];
/** In use by others, before and after it is mapped here. */
const LOOK_TWICE = ["imageStatus", "imageStatus"];

const table: readonly (readonly [what: string, before: readonly Step[], act: Step, calls: readonly string[]])[] = [
  ["the first stage", [], stage, [...FIND, ...LOOK_TWICE, "imageHasData"]],
  ["a later stage", [stage, unstage], stage, [...FIND, ...LOOK_TWICE]],
  ["a repeated stage", [stage], stage, []],
  [
    "a stage for many writers",
    [],
    (driver) => driver.stage(staging({ volumeCapability: asBlock(Mode.MULTI_NODE_MULTI_WRITER) })),
    [...FIND, "imageStatus"],
  ],
  ["publish", [stage], publish, []],
  ["stats", [stage, publish], (driver) => driver.stats(statistics()), []],
  ["expand", [stage, publish], (driver) => driver.expand(expanding()), []],
  ["unpublish", [stage, publish], (driver) => driver.unpublish(unpublishing()), []],
  ["unstage", [stage], unstage, []],
];

describe("the calls to Ceph of", () => {
  for (const [what, before, act, wanted] of table) {
    test(`${what} are ${wanted.length}`, async () => {
      const { host, cluster } = await aNode();
      const { service, calls, forget } = recorded(cephMemoryService(cluster));
      await using driver = nodeOn(host, { ceph: service });
      for (const step of before) await step(driver);
      forget();
      await act(driver);
      const made: readonly string[] = calls().map(({ method }) => method);
      expect(made).toEqual(wanted);
    });
  }
});
