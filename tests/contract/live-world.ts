/**
 * A world of the contract suite on the rig's cluster: pools, a namespace and a user of its own, and Ceph's own
 * command-line tools in the part of other clients.
 *
 * 1. Its pools and its user are removed with it; nothing else of the cluster changes.
 * 2. The manager is stopped in its own process and goes on in the same one: the rig still owns it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import type * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import type { Ceph, ClusterAccess, PoolRef } from "../../lib/ceph/ceph.ts";
import type { MoveCutShort } from "../../lib/ceph/memory-cluster.ts";
import type { Rig } from "../rig/cluster.ts";
import type { World } from "./harness.ts";

const inPool = ({ pool, namespace }: PoolRef, image: string): string =>
  namespace === "" ? `${pool}/${image}` : `${pool}/${namespace}/${image}`;

export const liveWorld = async (rig: Rig, layer: Layer.Layer<Ceph, unknown>): Promise<World> => {
  const env = { ...process.env, CEPH_CONF: rig.conf, LC_ALL: "C" };
  const tool = async (...command: string[]): Promise<string> => {
    const child = Bun.spawn(command, { env, stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 60_000 });
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    if ((await child.exited) !== 0) throw new Error(`${command.join(" ")}: ${err.trim()}`);
    return out;
  };
  const poolIdOf = async (name: string): Promise<bigint> => {
    const listed = await tool("ceph", "osd", "pool", "ls", "detail", "--format=json");
    const found = (JSON.parse(listed) as { pool_id: number; pool_name: string }[]).find(
      ({ pool_name }) => pool_name === name,
    );
    if (found === undefined) throw new Error(`pool ${name} was not made`);
    return BigInt(found.pool_id);
  };

  const pools: string[] = [];
  const addPool = async (name: string): Promise<bigint> => {
    await tool("ceph", "osd", "pool", "create", name, "8");
    pools.push(name);
    await tool("rbd", "pool", "init", name);
    return poolIdOf(name);
  };
  const mark = crypto.randomUUID().slice(0, 8);
  const pool = `contract-${mark}`;
  const dataPool = `${pool}-data`;
  const namespace = "other";
  const user = `limited-${mark}`;
  await addPool(pool);
  await addPool(dataPool);
  await tool("rbd", "namespace", "create", "--pool", pool, "--namespace", namespace);
  const caps = ["mon", "profile rbd", "osd", `profile rbd pool=${pool}`];
  const [made] = JSON.parse(
    await tool("ceph", "auth", "get-or-create", `client.${user}`, ...caps, "--format=json"),
  ) as { key: string }[];
  const access: ClusterAccess = { monitors: rig.monitors, user: rig.user, key: Redacted.make(rig.key) };

  const idOf = async (ref: PoolRef, image: string): Promise<string> => {
    const info = JSON.parse(await tool("rbd", "info", inPool(ref, image), "--format=json")) as { id: string };
    return info.id;
  };
  const rados = (ref: PoolRef, ...command: string[]): Promise<string> =>
    tool("rados", "--pool", ref.pool, "--namespace", ref.namespace, ...command);
  const omapValue = async (ref: PoolRef, object: string, key: string): Promise<Uint8Array> => {
    const file = `${rig.dir}/contract-omap-value`;
    await rados(ref, "getomapval", object, key, file);
    return new Uint8Array(readFileSync(file));
  };
  const setOmapValue = async (ref: PoolRef, object: string, key: string, value: Uint8Array): Promise<void> => {
    const file = `${rig.dir}/contract-omap-value`;
    writeFileSync(file, value);
    await rados(ref, "setomapval", object, key, "--input-file", file);
  };
  /** Moves the image, then puts back what a mover that died would not have come to. */
  const cutMoveShort = async (how: MoveCutShort, ref: PoolRef, image: string, id: string): Promise<void> => {
    const nameFile = `${rig.dir}/contract-name`;
    await rados(ref, "get", `rbd_id.${image}`, nameFile);
    const byName = await omapValue(ref, "rbd_directory", `name_${image}`);
    const byId = await omapValue(ref, "rbd_directory", `id_${id}`);
    await tool("rbd", "trash", "mv", inPool(ref, image));
    const entry = await omapValue(ref, "rbd_trash", `id_${id}`);
    // the last byte of an entry is its state: 0 in the trash, 1 on its way there
    entry[entry.length - 1] = 1;
    await setOmapValue(ref, "rbd_trash", `id_${id}`, entry);
    if (how === "entry-gone") return;
    await setOmapValue(ref, "rbd_directory", `name_${image}`, byName);
    await setOmapValue(ref, "rbd_directory", `id_${id}`, byId);
    if (how === "trash-entered") await rados(ref, "put", `rbd_id.${image}`, nameFile);
  };
  const signalManager = (signal: "SIGSTOP" | "SIGCONT"): void => {
    process.kill(Number(readFileSync(`${rig.dir}/run/mgr.x.pid`, "utf8")), signal);
  };
  const managerAnswers = async (): Promise<void> => {
    for (let i = 0; i < 120; i++) {
      const listed = await tool("ceph", "rbd", "task", "list").catch(() => undefined);
      if (listed !== undefined) return;
      await Bun.sleep(500);
    }
    throw new Error("the manager did not come back");
  };

  return {
    layer,
    access,
    pool,
    dataPool,
    namespace,
    limited: { ...access, user, key: Redacted.make(made?.key ?? "") },
    addPool,
    write: async (ref, image) => {
      await tool("rbd", "bench", inPool(ref, image), "--io-type=write", "--io-size=4K", "--io-total=4K");
    },
    watch: async (ref, image) => {
      const child = Bun.spawn(["rbd", "watch", inPool(ref, image)], { env, stdin: "pipe", stdout: "pipe" });
      // it says "press enter to exit" once it watches
      const output = child.stdout.getReader();
      await output.read();
      output.releaseLock();
      return async () => {
        await child.stdin.end();
        await child.exited;
      };
    },
    cutShort: async (what, ref, image) => {
      const id = await idOf(ref, image);
      if (what === "header") await rados(ref, "rm", `rbd_header.${id}`);
      else if (what === "object-map") await rados(ref, "rm", `rbd_object_map.${id}`);
      else await cutMoveShort(what, ref, image, id);
    },
    hasObjectMap: async (ref, image) => {
      const stat = rados(ref, "stat", `rbd_object_map.${await idOf(ref, image)}`);
      return stat.then(
        () => true,
        () => false,
      );
    },
    stopManager: async () => {
      signalManager("SIGSTOP");
      // without this the monitor misses it only after half a minute
      await tool("ceph", "mgr", "fail", "x");
    },
    startManager: async () => {
      signalManager("SIGCONT");
      await managerAnswers();
    },
    remove: async () => {
      await tool("ceph", "auth", "rm", `client.${user}`);
      for (const name of pools) {
        await tool("ceph", "osd", "pool", "delete", name, name, "--yes-i-really-really-mean-it");
      }
    },
  };
};
