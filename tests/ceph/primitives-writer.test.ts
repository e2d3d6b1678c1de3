/** Who writes to an image, as its status says it: the client that has the lock which clients take by themselves. */
import { expect, test } from "bun:test";
import { LIMIT, LONG_LIMIT, MIB } from "../contract/harness.ts";
import { primitives } from "./primitives.ts";

primitives("who writes", ({ session: at, rig }) => {
  /** An image with exclusive-lock, its status, and the command of `rbd` on it. */
  const anImage = async () => {
    const { pool, run } = at();
    const image = at().fresh("image");
    await run((ceph) => ceph.imageCreate(pool, image, { sizeBytes: 64n * MIB, features: 5n }));
    const namespace = pool.namespace === "" ? [] : [`--namespace=${pool.namespace}`];
    return {
      status: () => run((ceph) => ceph.imageStatus(pool, image)),
      rbd: (...words: string[]) => ["rbd", "-c", rig.conf, ...words, `--pool=${pool.pool}`, ...namespace, image],
    };
  };

  test(
    "The status of an image names the watcher that writes to it, and nobody once that one has ended",
    async () => {
      const { status, rbd } = await anImage();
      expect((await status()).writer).toBeUndefined();
      const bench = ["bench", "--io-type=write", "--io-size=4K", "--io-total=1T", "--io-threads=1"];
      const writer = Bun.spawn(rbd(...bench), {
        stdio: ["ignore", "ignore", "ignore"],
      });
      try {
        let now = await status();
        while (now.writer === undefined && writer.exitCode === null) now = await status();
        expect(now.watchers).toEqual([expect.stringMatching(new RegExp(`/${now.writer}$`))]);
        expect(now.locks).toEqual([]);
      } finally {
        writer.kill("SIGINT");
        await writer.exited;
      }
      while ((await status()).watchers.length > 0) await Bun.sleep(200);
      expect((await status()).writer).toBeUndefined();
    },
    LONG_LIMIT,
  );

  test(
    "A client that has an image open and does not write to it is not its writer",
    async () => {
      const { status, rbd } = await anImage();
      const reader = Bun.spawn(rbd("watch"), {
        stdio: ["pipe", "ignore", "ignore"],
      });
      try {
        while ((await status()).watchers.length === 0 && reader.exitCode === null) await Bun.sleep(50);
        const { watchers, writer } = await status();
        expect([watchers.length, writer]).toEqual([1, undefined]);
      } finally {
        await reader.stdin.write("\n");
        await reader.stdin.end();
        await reader.exited;
      }
    },
    LIMIT,
  );
});
