/**
 * Claims that two pods have at the same time: who may read, who may write, and what each sees of the other.
 *
 * Not here: a claim for one writer whose second pod has it read-only (./failures.ts).
 */
import type { Cluster } from "./cluster.ts";
import { untilNothingIsLeft, untilNothingIsStaged } from "./left-overs.ts";
import { claim, DEVICE, MOUNTED, pod, snapshot } from "./objects.ts";
import {
  checksum,
  deletePod,
  expectEqual,
  expectIn,
  LIMIT,
  READY,
  type Scenario,
  SNAPSHOT_READY,
  startWriter,
  untilItWrites,
  WAITER,
} from "./scenario.ts";

/** Copies a MiB. */
const copy = (from: string, to: string, where: string): string =>
  `dd if=${from} of=${to} bs=1M count=1 ${where} 2> /dev/null`;

/** -> the checksum of what it writes. */
const writeRaw = async (cluster: Cluster, name: string, mib: number): Promise<string> => {
  const make = copy("/dev/urandom", "/tmp/file", "");
  await cluster.inPod(name, `${make}; ${copy("/tmp/file", DEVICE, `oflag=direct seek=${mib}`)}`);
  return checksum(cluster, name, "/tmp/file");
};

const readRaw = async (cluster: Cluster, name: string, mib: number): Promise<string> => {
  await cluster.inPod(name, copy(DEVICE, "/tmp/read", `iflag=direct skip=${mib}`));
  return checksum(cluster, name, "/tmp/read");
};

const sharedBlock: Scenario = {
  title: "two pods have a raw block claim for many writers, and each reads what the other writes",
  act: async (cluster) => {
    const names = ["one", "other"];
    await cluster.apply(
      claim("shared", { size: "1Gi", block: true, accessMode: "ReadWriteMany" }),
      ...names.map((name) => pod(name, "shared", WAITER, { block: true })),
    );
    await cluster.until(READY, ...names.map((name) => `pod/${name}`));
    for (const [mib, writer, reader] of [
      [0, "one", "other"],
      [1000, "other", "one"],
    ] as const) {
      const written = await writeRaw(cluster, writer, mib);
      expectEqual(`what ${reader} reads at ${mib} MiB`, await readRaw(cluster, reader, mib), written);
    }
    await deletePod(cluster, ...names);
    await cluster.kubectl("delete", LIMIT, "pvc/shared");
    await untilNothingIsLeft(cluster);
  },
};

const LINES = `${MOUNTED}/lines`;

const readersOfSnapshot: Scenario = {
  title: "two pods have a claim for many readers that is restored from a snapshot: both read it, neither can write",
  act: async (cluster) => {
    await startWriter(cluster, "source");
    await untilItWrites(cluster, "source");
    // readers do not get what is still in the journal of a filesystem that is mounted
    await deletePod(cluster, "source");
    await untilNothingIsStaged(cluster);
    await cluster.apply(snapshot("point", "source"));
    await cluster.until(SNAPSHOT_READY, "volumesnapshot/point");
    await cluster.apply(
      claim("restored", { size: "1Gi", from: "point", accessMode: "ReadOnlyMany" }),
      pod("asks", "restored", WAITER, { readOnly: true }),
      pod("asks-not", "restored", WAITER),
    );
    await cluster.until(READY, "pod/asks", "pod/asks-not");
    const lines = await checksum(cluster, "asks", LINES);
    expectEqual("the lines that the other pod reads", await checksum(cluster, "asks-not", LINES), lines);
    for (const name of ["asks", "asks-not"]) {
      const refused = await cluster.inPod(name, `wc -c < ${LINES}; touch ${MOUNTED}/file 2>&1 || true`);
      if (refused.startsWith("0\n")) throw new Error(`${name} reads no line`);
      expectIn(`the answer to a write of ${name}`, refused, "Read-only file system");
    }
    await deletePod(cluster, "asks", "asks-not");
    await cluster.kubectl("delete", LIMIT, "pvc/restored");
    await cluster.kubectl("delete", LIMIT, "volumesnapshot/point");
    await cluster.kubectl("delete", LIMIT, "pvc/source");
    await untilNothingIsLeft(cluster);
  },
};

export const access: ReadonlyArray<Scenario> = [sharedBlock, readersOfSnapshot];
