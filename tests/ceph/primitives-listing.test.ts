/** Listings on a real cluster: big ones, what OSDs answer in parts, and pools of every kind with their space. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { LIMIT, LONG_LIMIT, MIB } from "../contract/harness.ts";
import { timed, tool } from "./hands.ts";
import { primitives } from "./primitives.ts";

const padded = (i: number): string => `${i}`.padStart(6, "0");

primitives("listings", ({ session: at, rig }) => {
  test(
    "A page is whole, however many answers an OSD makes of it, and pages follow each other",
    async () => {
      const { run, pool, fresh } = at();
      const object = fresh("omap");
      const keys = Array.from({ length: 3000 }, (_, i) => `csi.volume.${padded(i)}`);
      const others = ["a", "csi.volume-", "csi.volume/", "z"];
      const set = Object.fromEntries([...keys, ...others].map((key) => [key, `value of ${key}`]));
      await run((ceph) => ceph.omapWrite(pool, object, { object: "ensure", set }));
      const list = (after: string, limit: number) =>
        run((ceph) => ceph.omapList(pool, object, { prefix: "csi.volume.", after, limit }));
      const whole = await list("", 5000);
      expect([...(whole ?? [])]).toEqual(keys.map((key) => [key, `value of ${key}`]));
      expect([...((await list("", 2500)) ?? [])].map(([key]) => key)).toEqual(keys.slice(0, 2500));
      expect([...((await list(keys[2499] ?? "", 2500)) ?? [])].map(([key]) => key)).toEqual(keys.slice(2500));
      expect((await list(keys[2999] ?? "", 10))?.size).toBe(0);
      expect(
        await run((ceph) => ceph.omapList(pool, fresh("omap"), { prefix: "", after: "", limit: 1 })),
      ).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "Five hundred briefs, and as many objects, take one call each",
    async () => {
      const { run, pool, fresh } = at();
      const images = Array.from({ length: 500 }, () => fresh("image"));
      await run((ceph) =>
        Effect.forEach(
          images,
          (image, i) =>
            ceph
              .imageCreate(pool, image, { sizeBytes: BigInt(i + 1) * MIB })
              .pipe(
                Effect.andThen(i % 2 === 0 ? ceph.imageMetaSet(pool, image, { owner: `tenant ${i}` }) : Effect.void),
              ),
          { concurrency: 8 },
        ),
      );
      const wanted = [...images.slice(0, 250), "not there", ...images.slice(250)];
      const brief = () => timed(run((ceph) => ceph.imageBriefs(pool, wanted, ["owner", "absent"])));
      await brief();
      const { value: briefs, ms } = await brief();
      expect(briefs).toHaveLength(501);
      expect(briefs[250]).toBeUndefined();
      for (const i of [0, 1, 249, 499]) {
        const found = briefs[i < 250 ? i : i + 1];
        expect(found?.sizeBytes).toBe(BigInt(i + 1) * MIB);
        expect([...(found?.metadata ?? [])]).toEqual(i % 2 === 0 ? [["owner", `tenant ${i}`]] : []);
        expect(found?.id).toBe((await run((ceph) => ceph.imageId(pool, images[i] ?? ""))) ?? "");
      }

      await run((ceph) =>
        Effect.forEach(
          images,
          (image) => ceph.omapWrite(pool, `of.${image}`, { object: "ensure", set: { name: image, other: "x" } }),
          { concurrency: 8 },
        ),
      );
      const objects = ["none", ...images].map((image) => ({ object: `of.${image}`, keys: ["name", "absent"] }));
      const { value: read, ms: readMs } = await timed(run((ceph) => ceph.omapGetMany(pool, objects)));
      expect(read[0]).toBeUndefined();
      expect(read.slice(1).map((entries) => entries && [...entries])).toEqual(images.map((image) => [["name", image]]));
      console.log(`500 briefs ${ms.toFixed(0)} ms, 500 objects ${readMs.toFixed(0)} ms`);
    },
    LONG_LIMIT,
  );

  test(
    "The listed pools are those for RBD, and each pool's space is what clients can write",
    async () => {
      const { run, fails, world, pool } = at();
      const space = async (name: string) =>
        (await run((service) => service.poolSpace(world.access, name))).availableBytes ?? 0n;
      const [profile, coded, foreign] = [`${world.pool}-21`, `${world.pool}-coded`, `${world.pool}-foreign`];
      const ceph = (...command: string[]) => tool.ceph(rig, ...command);
      const quota = (bytes: bigint) => ceph("osd", "pool", "set-quota", world.pool, "max_bytes", `${bytes}`);
      await ceph("osd", "erasure-code-profile", "set", profile, "k=2", "m=1", "crush-failure-domain=osd");
      await ceph("osd", "pool", "create", coded, "8", "8", "erasure", profile);
      await ceph("osd", "pool", "create", foreign, "8");
      try {
        const names = (await run((service) => service.pools(world.access))).map(({ name }) => name);
        expect(names).toContain(world.pool);
        expect(names).toContain(world.dataPool);
        expect(names).not.toContain(foreign);
        const ids = new Map((await run((service) => service.pools(world.access))).map(({ id, name }) => [name, id]));
        expect(ids.get(world.pool)).toBe(await run((service) => service.poolId(world.access, world.pool)));

        const replicated = await space(world.pool);
        expect(replicated).toBeGreaterThan(1_000_000_000n);
        // the monitors hear of a new pool's space from the manager, a few seconds later
        let inParts = await space(coded);
        for (let i = 0; i < 60 && inParts === 0n; i++) {
          await Bun.sleep(500);
          inParts = await space(coded);
        }
        expect(Number(inParts) / Number(replicated)).toBeCloseTo(2 / 3, 2);

        await quota(64n * MIB);
        const left = await space(world.pool);
        expect(left).toBeLessThanOrEqual(64n * MIB);
        expect(left).toBeGreaterThan(0n);
        // less than the pool holds, as soon as the monitors know that it holds anything
        await quota(1n);
        expect(await space(world.pool)).toBeLessThanOrEqual(1n);
        expect((await fails((service) => service.poolSpace(world.access, `${pool.pool}-never`)))._tag).toBe(
          "PoolNotFound",
        );
        await quota(0n);
        const limited = await run((service) => service.poolSpace(world.limited, world.pool));
        expect(limited.availableBytes).toBeGreaterThan(0n);
      } finally {
        await quota(0n);
        for (const name of [coded, foreign]) {
          await ceph("osd", "pool", "delete", name, name, "--yes-i-really-really-mean-it");
        }
      }
    },
    LONG_LIMIT,
  );
});
