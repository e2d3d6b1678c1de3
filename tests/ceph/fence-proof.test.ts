/**
 * The proof that the OSDs know a fence, on a real cluster: it asks an object of each placement group, and does not come
 * about while an OSD does not answer.
 */
import { expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type { CephCalls } from "../../lib/ceph/ceph.ts";
import { groupOf, nameForEach } from "../../lib/ceph/cell/placement-groups.ts";
import type { CephError } from "../../lib/ceph/errors.ts";
import { cephLayerLive } from "../../lib/ceph/live/live.ts";
import { LONG_LIMIT } from "../contract/harness.ts";
import { wholeCeph } from "../support/whole-ceph.ts";
import { frozen, tool } from "./hands.ts";
import { primitives } from "./primitives.ts";

primitives("the proof of a fence", ({ session: at, rig }) => {
  test(
    "A fence is not proven while an OSD does not answer, although the monitors do",
    async () => {
      const { pool } = at();
      const entry = { kind: "client", address: "10.9.9.5:0/55" } as const;
      const layer = cephLayerLive({ cephConf: `${rig.dir}/absent.conf`, osdTimeout: Duration.seconds(2) });
      const over = <A>(act: (ceph: CephCalls) => Effect.Effect<A, CephError>): Promise<A> =>
        Effect.runPromise(Effect.flatMap(wholeCeph, act).pipe(Effect.provide(layer), Effect.orDie));
      await over((ceph) => ceph.blocklistAdd(pool.access, entry, 86_400));
      expect(await over((ceph) => ceph.blocklistReached(pool, entry))).toBe(true);
      await frozen(rig, "osd.0", async () => {
        expect(await over((ceph) => ceph.blocklist(pool.access))).toContainEqual(entry);
        const found = await over((ceph) =>
          Effect.match(ceph.blocklistReached(pool, entry), {
            onSuccess: String,
            onFailure: ({ _tag, message }) => `${_tag}: ${message}`,
          }),
        );
        expect(found).toMatch(/^TimedOut: .*rados_stat/);
      });
      expect(await over((ceph) => ceph.blocklistReached(pool, entry))).toBe(true);
      await over((ceph) => ceph.blocklistRemove(pool.access, entry));
    },
    LONG_LIMIT,
  );

  test.each([
    ["8", ""],
    ["12", ""],
    ["12", "tenant"],
  ])(
    'A fence is proven to every group: Ceph has the names where they are thought to be, of %s groups in the namespace "%s"',
    async (groups, namespace) => {
      const pool = `groups-${groups}-${namespace}${process.pid}`;
      await tool.ceph(rig, "osd", "pool", "create", pool, groups, groups, "--autoscale-mode=off");
      try {
        const found = new Set<number>();
        for (const name of nameForEach(namespace, Number(groups))) {
          const where = [pool, name, ...(namespace === "" ? [] : [namespace])];
          const { pgid } = JSON.parse(await tool.ceph(rig, "osd", "map", ...where, "--format=json")) as {
            pgid: string;
          };
          const group = Number.parseInt(pgid.split(".")[1] ?? "", 16);
          expect(groupOf(namespace, name, Number(groups))).toBe(group);
          found.add(group);
        }
        expect(found.size).toBe(Number(groups));
      } finally {
        await tool.ceph(rig, "osd", "pool", "delete", pool, pool, "--yes-i-really-really-mean-it");
      }
    },
    LONG_LIMIT,
  );
});
