/** How connecting fails, and what becomes of a connection: each failure its own error, within its limit. */
import { createServer } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as ManagedRuntime from "effect/ManagedRuntime";
import * as Redacted from "effect/Redacted";
import * as Result from "effect/Result";
import type { Ceph, CephCalls } from "../../lib/ceph/ceph.ts";
import type { CephError } from "../../lib/ceph/errors.ts";
import { cephLayerLive } from "../../lib/ceph/live/live.ts";
import { Manager } from "../../lib/ceph/manager.ts";
import { type ClusterAccess, Rados } from "../../lib/ceph/rados.ts";
import { hasRig, rig, type Rig } from "../rig/cluster.ts";
import { CONF_FILES, type ConfFile } from "../support/conf-files.ts";
import { wholeCeph } from "../support/whole-ceph.ts";
import { frozen, timed, tool } from "./hands.ts";

const LIMIT = 30_000;
const CONNECT_MS = 3_000;
/** A client of Ceph 20 may lose a refusal and ask anew; it hears one within the driver's usual limit. */
const REFUSED_MS = 15_000;
/** What an error may take that needs no waiting. */
const PROMPT_MS = 2_500;

/** A key as Ceph writes them: type, time, length, secret. */
const keyOf = (type: number, bytes: number, stated = bytes): string => {
  const key = Buffer.alloc(12 + bytes, 7);
  key.writeUInt16LE(type, 0);
  key.writeUInt16LE(stated, 10);
  return key.toString("base64");
};
/** AES-256, as Ceph 20 makes them. */
const NEWER = keyOf(2, 32);

describe.skipIf(!hasRig())("connecting to a real cluster", () => {
  let cluster: Rig;
  type Runtime = ManagedRuntime.ManagedRuntime<Ceph, unknown>;
  let runtime: Runtime;
  let patient: Runtime;
  let access: ClusterAccess;

  beforeAll(async () => {
    cluster = rig();
    access = { monitors: cluster.monitors, user: cluster.user, key: Redacted.make(cluster.key) };
    const cephConf = `${cluster.dir}/absent.conf`;
    const connecting = (connectMs: number) =>
      ManagedRuntime.make(
        cephLayerLive({
          cells: 4,
          connectTimeout: Duration.millis(connectMs),
          osdTimeout: Duration.millis(3_000),
          cephConf,
        }),
      );
    [runtime, patient] = [connecting(CONNECT_MS), connecting(REFUSED_MS)];
    await runtime.context();
  }, LIMIT);
  afterAll(() => Promise.all([runtime.dispose(), patient.dispose()]), LIMIT);

  const run = <A>(act: (ceph: CephCalls) => Effect.Effect<A, CephError>) =>
    runtime.runPromise(Effect.flatMap(wholeCeph, act));
  const ask = (changed: Partial<ClusterAccess> = {}) =>
    run((ceph) => ceph.poolId({ ...access, ...changed }, cluster.pool));
  const refusal = (changed: Partial<ClusterAccess>, at = runtime) =>
    timed(
      at.runPromise(
        Effect.flatMap(wholeCeph, (ceph) =>
          Effect.orDie(Effect.flip(ceph.poolId({ ...access, ...changed }, cluster.pool))),
        ),
      ),
    );
  const refusedWithinMs = () => (cluster.release >= 20 ? REFUSED_MS : PROMPT_MS);
  const keyed = (key: string) => ({ key: Redacted.make(key) });

  test(
    "A ceph.conf that librados takes is taken, and one that it refuses is named with the line that is wrong",
    async () => {
      const path = `${cluster.dir}/written.conf`;
      // A runtime each: a connection that was made stays, and so does the id of a pool.
      const asked = async () => {
        const own = ManagedRuntime.make(cephLayerLive({ cells: 1, cephConf: path }));
        const ask = Effect.flatMap(wholeCeph, (ceph) => Effect.result(ceph.poolId(access, cluster.pool)));
        return own.runPromise(ask).finally(() => own.dispose());
      };
      const beyondAscii = "[global]\nfsid = café\n";
      const files: readonly ConfFile[] = [
        ...CONF_FILES,
        { text: beyondAscii, ...(cluster.release < 18 && { says: "line 2 has a letter beyond ASCII" }) },
      ];
      for (const { text, says } of files) {
        await Bun.write(path, text);
        const answer = await asked();
        if (says === undefined) {
          expect([text, Result.isSuccess(answer)]).toEqual([text, true]);
          continue;
        }
        const error = Result.isFailure(answer) ? answer.failure : undefined;
        expect([text, error?._tag]).toEqual([text, "ConfFileInvalid"]);
        expect(error?.message).toContain(`${path} is not a ceph.conf that Ceph's library can read: ${says}`);
      }
    },
    2 * LIMIT,
  );

  test(
    "A wrong key and an unknown user are denied at once, in each notation of the monitors",
    async () => {
      const [monitor = ""] = cluster.monitors;
      for (const monitors of [[monitor], [`v1:${monitor}`], [`[v1:${monitor}]`]]) {
        const wrong = await refusal({ monitors, ...keyed(keyOf(1, 16)) }, patient);
        expect(wrong.value._tag).toBe("AccessDenied");
        expect(wrong.value.message).toContain("ceph auth get client.admin");
        expect(wrong.ms).toBeLessThan(refusedWithinMs());
        const unknown = await refusal({ monitors, user: "nobody" }, patient);
        expect(unknown.value._tag).toBe("AccessDenied");
        expect(unknown.value.message).toContain("client.nobody");
        expect(unknown.ms).toBeLessThan(refusedWithinMs());
      }
    },
    6 * REFUSED_MS,
  );

  test(
    "Monitors by name connect as with the rbd tool, and a wrong login is denied at once, whatever else is in the list",
    async () => {
      const [monitor = ""] = cluster.monitors;
      const [address = "", port = ""] = monitor.split(":");
      const hosts = `${cluster.dir}/hosts`;
      // Nothing listens on the other address of the second name.
      await Bun.write(hosts, `${address} mon.ceph.test\n127.9.9.9 both.ceph.test\n${address} both.ceph.test\n`);
      const named = [
        [`mon.ceph.test:${port}`],
        [`127.9.9.9:${port}`, `mon.ceph.test:${port}`],
        [`mon.ceph.test:${port}, ${monitor}`],
        [`${monitor};127.9.9.9:${port}`],
        [`both.ceph.test:${port}`],
        [`${monitor}/0`],
      ];
      const refused: readonly (readonly [list: readonly string[], says: string])[] = [
        [[`v1:mon.ceph.test:${port}`], `in a form that is for addresses: write mon.ceph.test:${port}`],
        [[monitor, "no-such.ceph.test:6790"], "cannot be reached: no-such.ceph.test:6790 has a name that cannot be"],
      ];
      const lists = JSON.stringify([...named, ...refused.map(([list]) => list)]);
      // Where the root folder is another release's (tests/rig/place.ts) all mounts are private, and it is none itself.
      const script = 'mount --make-rprivate / 2>/dev/null; mount --bind "$1" /etc/hosts && exec "$2" "$3" "$4"';
      const argv = [hosts, process.execPath, join(import.meta.dir, "ask-monitors.ts"), lists];
      const asking = Bun.spawn(["unshare", "--mount", "--propagation=unchanged", "sh", "-c", script, "sh", ...argv], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      // librados writes there as well.
      const lines = (await new Response(asking.stdout).text()).trim().split("\n");
      const answers: unknown = JSON.parse(lines.at(-1) ?? "");
      expect(answers).toEqual([
        ...named.map(() => ["OK", "AccessDenied"]),
        ...refused.map(([, says]) => [expect.stringContaining(says), expect.stringContaining(says)]),
      ]);
    },
    2 * LIMIT,
  );

  test(
    "A malformed key is AccessDenied, and the error says that it is not a key and does not show it",
    async () => {
      const malformed = ["", "no key", "c2hvcnQ=", keyOf(1, 16, 40), keyOf(1, 8), keyOf(0, 16), `${keyOf(1, 16)}==x`];
      for (const key of malformed) {
        const { value, ms } = await refusal(keyed(key));
        expect([key, value._tag]).toEqual([key, "AccessDenied"]);
        expect(value.message).toContain("its key is malformed");
        if (key !== "") expect(Bun.inspect(value)).not.toContain(key);
        // no attempt to connect, which would take that long
        expect(ms).toBeLessThan(CONNECT_MS);
      }
    },
    LIMIT,
  );

  test(
    "A key of a newer Ceph than the client library is ClientTooOld",
    async () => {
      const { value, ms } = await refusal(keyed(NEWER), patient);
      expect(ms).toBeLessThan(refusedWithinMs());
      if (cluster.release >= 20) {
        expect(value._tag).toBe("AccessDenied");
      } else {
        expect(value._tag).toBe("ClientTooOld");
        expect(value.message).toContain(`Ceph ${cluster.release}.`);
        expect(value.message).toContain("newer type");
      }
      expect(Bun.inspect(value)).not.toContain(NEWER);
      // a type that no release has
      expect((await refusal(keyed(keyOf(99, 32)))).value._tag).toBe("ClientTooOld");
    },
    LIMIT,
  );

  test(
    "The error of an address without a monitor says what is there instead, when the limit is over",
    async () => {
      const stranger = createServer((socket) => socket.write("HTTP/1.1 400 Bad Request\r\n\r\n"));
      await new Promise<void>((done) => stranger.listen(0, "127.0.0.1", done));
      const at = stranger.address();
      const port = typeof at === "object" && at !== null ? at.port : 0;
      try {
        const cases = [
          ["127.0.0.1:1", "nothing listens there"],
          [`127.0.0.1:${port}`, "is not a Ceph monitor"],
          ["no-such-host.invalid:6789", "cannot be resolved"],
        ] as const;
        for (const [monitor, says] of cases) {
          const { value, ms } = await refusal({ monitors: [monitor] });
          expect([monitor, value._tag]).toEqual([monitor, "Unreachable"]);
          expect(value.message).toContain(monitor);
          expect(value.message).toContain(says);
          expect(ms).toBeLessThan(CONNECT_MS + 4_000);
        }
        const none = await refusal({ monitors: [] });
        expect(none.value._tag).toBe("Unreachable");
        expect(none.ms).toBeLessThan(CONNECT_MS);
      } finally {
        stranger.close();
      }
    },
    LIMIT,
  );

  test(
    "One reachable monitor of several is enough to connect",
    async () => {
      const { ms } = await timed(ask({ monitors: ["127.0.0.1:1", ...cluster.monitors] }));
      expect(ms).toBeLessThan(CONNECT_MS + 2_000);
    },
    LIMIT,
  );

  test(
    "A monitor that does not answer is Unreachable in time, delays no other connection, and is tried again later",
    async () => {
      const other = { ...access, user: "hangs" };
      const { key } = await tool.userOf(cluster, "hangs", ["mon", "profile rbd", "osd", "profile rbd"]);
      const pool = { access, pool: cluster.pool, namespace: "" };
      await ask();
      await frozen(cluster, "mon.a", async () => {
        const hanging = refusal({ user: other.user, ...keyed(key) });
        // the connection that is there goes on, for its calls ask the OSDs
        for (let i = 0; i < 5; i++) {
          expect((await timed(run((ceph) => ceph.omapGet(pool, "absent", ["k"])))).ms).toBeLessThan(CONNECT_MS);
        }
        const { value, ms } = await hanging;
        expect(value._tag).toBe("Unreachable");
        expect(value.message).toContain("its process hangs");
        expect(ms).toBeLessThan(CONNECT_MS + 4_000);
      });
      expect((await timed(ask({ user: other.user, ...keyed(key) }))).ms).toBeLessThan(PROMPT_MS);
    },
    LIMIT,
  );

  test(
    "An OSD that does not answer is TimedOut within its limit",
    async () => {
      const pool = { access, pool: cluster.pool, namespace: "" };
      await ask();
      await frozen(cluster, "osd.0", async () => {
        const { value, ms } = await timed(
          run((ceph) => Effect.orDie(Effect.flip(ceph.omapWrite(pool, "connect-test", { object: "ensure" })))),
        );
        expect(value._tag).toBe("TimedOut");
        expect(ms).toBeGreaterThan(2_000);
        expect(ms).toBeLessThan(15_000);
      });
      await run((ceph) => ceph.objectRemove(pool, "connect-test"));
    },
    LIMIT,
  );

  test(
    "A client on the blocklist reports it once, and connects anew",
    async () => {
      const { key } = await tool.userOf(cluster, "blocked", ["mon", "profile rbd", "osd", "profile rbd"]);
      const pool = {
        access: { ...access, user: "blocked", key: Redacted.make(key) },
        pool: cluster.pool,
        namespace: "",
      };
      const write = run((ceph) => Effect.result(ceph.omapWrite(pool, "connect-test", { object: "ensure" })));
      expect((await write)._tag).toBe("Success");
      const [before] = await tool.sessionsOf(cluster, "blocked");
      await tool.ceph(cluster, "osd", "blocklist", "add", before ?? "", "60");
      try {
        const attempt = () => run((ceph) => Effect.result(ceph.omapWrite(pool, "connect-test", { object: "ensure" })));
        let answer = await attempt();
        // until the OSD has heard of it
        for (let i = 0; i < 100 && answer._tag === "Success"; i++) {
          await Bun.sleep(50);
          answer = await attempt();
        }
        expect(answer).toMatchObject({ _tag: "Failure", failure: { _tag: "CephUnexplained", errno: 108 } });
        if (answer._tag === "Failure") expect(answer.failure.message).toContain("blocklist");
        expect((await attempt())._tag).toBe("Success");
        expect(await tool.sessionsOf(cluster, "blocked")).not.toContain(before);
      } finally {
        await tool.ceph(cluster, "osd", "blocklist", "rm", before ?? "");
        await run((ceph) => ceph.objectRemove(pool, "connect-test"));
      }
    },
    LIMIT,
  );

  test(
    "A manager's late answer affects no call, and the next call is made as soon as the manager answers",
    async () => {
      const pool = { access, pool: cluster.pool, namespace: "" };
      const own = ManagedRuntime.make(cephLayerLive({ cells: 2, monTimeout: Duration.millis(1_500), cephConf: "" }));
      const remove = () =>
        own.runPromise(
          Effect.flatMap(Manager, (manager) =>
            Effect.orDie(Effect.flip(manager.managerTrashRemove(pool, "0123456789ab"))),
          ),
        );
      try {
        await frozen(cluster, "mgr.x", async () => {
          const first = await timed(remove());
          expect(first.value._tag).toBe("ManagerUnavailable");
          expect(first.ms).toBeLessThan(10_000);
          const second = await timed(remove());
          expect(second.value._tag).toBe("ManagerUnavailable");
          expect(second.ms).toBeLessThan(1_500);
        });
        let answer = await remove();
        for (let i = 0; i < 100 && answer._tag === "ManagerUnavailable"; i++) {
          await Bun.sleep(50);
          answer = await remove();
        }
        expect(answer._tag).toBe("ImageNotFound");
      } finally {
        await own.dispose();
      }
    },
    LIMIT,
  );

  test(
    "An idle connection is closed, and made again on the next call",
    async () => {
      const { key } = await tool.userOf(cluster, "idle", ["mon", "profile rbd", "osd", "profile rbd"]);
      const own = ManagedRuntime.make(cephLayerLive({ cells: 1, idle: Duration.millis(2_000), cephConf: "" }));
      const idle = { ...access, user: "idle", key: Redacted.make(key) };
      const askIdle = () => own.runPromise(Effect.flatMap(Rados, (rados) => rados.poolId(idle, cluster.pool)));
      try {
        await Promise.all([askIdle(), askIdle(), askIdle()]);
        const sessions = await tool.sessionsOf(cluster, "idle");
        expect(sessions).toHaveLength(1);
        let left = sessions;
        for (let i = 0; i < 40 && left.length > 0; i++) {
          await Bun.sleep(200);
          left = await tool.sessionsOf(cluster, "idle");
        }
        expect(left).toEqual([]);
        await askIdle();
        expect(await tool.sessionsOf(cluster, "idle")).toHaveLength(1);
      } finally {
        await own.dispose();
      }
      expect(await tool.sessionsOf(cluster, "idle")).toEqual([]);
    },
    LIMIT,
  );

  test(
    "The error of an image in a namespace that does not exist names the namespace",
    async () => {
      const pool = { access, pool: cluster.pool, namespace: "never-made" };
      const error = await run((ceph) =>
        Effect.orDie(Effect.flip(ceph.imageCreate(pool, "image", { sizeBytes: 4096n }))),
      );
      expect(error._tag).toBe("PoolNotFound");
      expect(error.message).toContain(`${cluster.pool}/never-made`);
      expect(error.message).toContain("rbd namespace create");
    },
    LIMIT,
  );
});
