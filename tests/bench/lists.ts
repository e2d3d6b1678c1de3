/**
 * Lists: how long a page of 500 takes, of 2,000 volumes in a pool of Ceph and of 20,000 in the model of one, and whether
 * the whole grows with their number and no faster.
 *
 * Over the model it is the driver's own work that is measured: a page that looked at more than its own entries would
 * show there.
 */
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import type { PoolRef } from "../../lib/ceph/rados.ts";
import type { Driver } from "../ceph/driver.ts";
import { LISTING } from "../support/listing-world.ts";
import { aDriver } from "../support/one-world.ts";
import { aCluster, creation } from "../support/world.ts";
import { emptySample, quantile, type Sample, timed } from "./measure.ts";
import { column, judged, type Line } from "./report.ts";
import { driverSide } from "./sides.ts";

const PAGE = 500;
const TARGETS = {
  pageMs: 100,
  /** Of a whole list of four times as many, over four times the time; 1 is linear. */
  growth: 1.25,
};

interface Page {
  readonly entries: readonly unknown[];
  readonly nextToken: string;
}

/** One whole list, page by page; -> how many entries it has. */
const listed = async (sample: Sample, page: (startingToken: string) => Promise<Page>): Promise<number> => {
  let count = 0;
  for (let startingToken = ""; ; ) {
    const since = performance.now();
    const { entries, nextToken } = await page(startingToken);
    const ms = performance.now() - since;
    sample.latencies.push(ms);
    sample.wallMs += ms;
    count += entries.length;
    if (nextToken === "") return count;
    startingToken = nextToken;
  }
};

const expectCount = (what: string, count: number, wanted: number): void => {
  if (count !== wanted) throw new Error(`${what}: ${count} entries, ${wanted} were made`);
};

/** In a pool of Ceph, through gRPC; against one read of the names and one of the images' headers per page. */
export const pages = async (
  driver: Driver,
  ceph: CephCalls,
  pool: PoolRef,
  { volumes, rounds }: { readonly volumes: number; readonly rounds: number },
): Promise<readonly Line[]> => {
  const side = driverSide(driver, pool.pool);
  const names = Array.from({ length: volumes }, (_, i) => `pvc-list-${i}`);
  const many = { atOnce: 16, pid: side.pid };
  await timed(emptySample(), names, many, side.create);
  const [ours, least] = [emptySample(), emptySample()];
  for (let i = 0; i <= rounds; i++) {
    // the first is not counted
    const [sample, floor] = i === 0 ? [emptySample(), emptySample()] : [ours, least];
    const count = await listed(sample, (startingToken) =>
      driver.controller.listVolumes({ maxEntries: PAGE, startingToken }),
    );
    expectCount("ListVolumes", count, volumes);
    await listed(floor, async (after) => {
      const found = await Effect.runPromise(
        ceph.omapList(pool, "csi.volumes.default", { prefix: "csi.volume.", after, limit: PAGE }),
      );
      const page = [...(found ?? [])];
      const images = page.map(([, uuid]) => `csi-vol-${uuid}`);
      const entries = await Effect.runPromise(ceph.imageBriefs(pool, images, []));
      return { entries, nextToken: page.length < PAGE ? "" : (page.at(-1)?.[0] ?? "") };
    });
  }
  const [p50, p50Floor] = [quantile(ours, 0.5), quantile(least, 0.5)];
  console.log(
    `\nListVolumes of ${volumes}, a page of ${PAGE}: ${column(p50, 7)} ms, floor ${column(p50Floor, 7)} ms, p99 ${column(quantile(ours, 0.99), 7)} ms`,
  );
  await timed(emptySample(), names, many, side.delete);
  return [judged(`a page of ${PAGE} of ${volumes} volumes, p50 ms`, p50, "at most", TARGETS.pageMs)];
};

/** Over the model of Ceph, without gRPC. */
export const pagesInMemory = async (volumes: number): Promise<readonly Line[]> => {
  const cluster = aCluster({ pools: ["rbd"] });
  await using lister = aDriver(cluster, LISTING);
  let made = 0;
  const whole = async (count: number): Promise<Sample> => {
    for (; made < count; made += 1) await lister.createVolume(creation({ name: `pvc-${made}` }));
    const sample = emptySample();
    for (let i = 0; i < 3; i++) {
      const fresh = emptySample();
      const found = await listed(fresh, (startingToken) => lister.listVolumes({ maxEntries: PAGE, startingToken }));
      expectCount("ListVolumes", found, count);
      // the quickest of three: a pause for garbage is nobody's page
      if (i === 0 || fresh.wallMs < sample.wallMs) Object.assign(sample, fresh);
    }
    return sample;
  };
  const quarter = await whole(volumes / 4);
  const all = await whole(volumes);
  const growth = all.wallMs / quarter.wallMs / 4;
  console.log(
    `ListVolumes over the model: ${volumes / 4} in ${column(quarter.wallMs, 7)} ms, ${volumes} in ${column(all.wallMs, 7)} ms; a page ${column(quantile(all, 0.5), 6)} ms`,
  );
  return [
    judged(`a page of ${PAGE} of ${volumes} in the model, p50 ms`, quantile(all, 0.5), "at most", TARGETS.pageMs),
    judged(`the whole list of ${volumes}, over linear growth`, growth, "at most", TARGETS.growth),
  ];
};
