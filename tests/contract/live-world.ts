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
import type { Ceph } from "../../lib/ceph/ceph.ts";
import type { ClusterAccess, PoolRef } from "../../lib/ceph/rados.ts";
import type { Rig } from "../rig/cluster.ts";
import type { CloneCutShort, MoveCutShort } from "../support/ceph-memory/cluster.ts";
import type { World } from "./harness.ts";
import { liveGroups } from "./live-groups.ts";

const inPool = ({ pool, namespace }: PoolRef, image: string): string =>
  namespace === "" ? `${pool}/${image}` : `${pool}/${namespace}/${image}`;

const importTo = (ref: PoolRef, image: string): string[] => [
  "rbd",
  "import-diff",
  "--no-progress",
  "-",
  inPool(ref, image),
];

/** Of an image that is made without options. */
const OBJECT_BYTES = 4 << 20;

/** What `rbd import-diff` takes: one range that is written, or zeroed. */
const diffStream = (kind: "w" | "z", offset: bigint, length: bigint, bytes = Buffer.alloc(0)): Uint8Array => {
  const numbers = Buffer.alloc(16);
  numbers.writeBigUInt64LE(offset, 0);
  numbers.writeBigUInt64LE(length, 8);
  return Buffer.concat([Buffer.from(`rbd diff v1\n${kind}`), numbers, bytes, Buffer.from("e")]);
};

export const liveWorld = async (rig: Rig, layer: Layer.Layer<Ceph, unknown>): Promise<World> => {
  const env = { ...process.env, CEPH_CONF: rig.conf, LC_ALL: "C" };
  const bytesOf = async (command: readonly string[], input?: Uint8Array): Promise<Uint8Array> => {
    const stdin = input ?? "ignore";
    const child = Bun.spawn([...command], { env, stdin, stdout: "pipe", stderr: "pipe", timeout: 60_000 });
    const [out, err] = await Promise.all([new Response(child.stdout).bytes(), new Response(child.stderr).text()]);
    if ((await child.exited) !== 0) throw new Error(`${command.join(" ")}: ${err.trim()}`);
    return out;
  };
  const tool = async (...command: string[]): Promise<string> => new TextDecoder().decode(await bytesOf(command));
  const poolIdOf = async (name: string): Promise<bigint> => {
    const listed = await tool("ceph", "osd", "pool", "ls", "detail", "--format=json");
    const found = (JSON.parse(listed) as { pool_id: number; pool_name: string }[]).find(
      ({ pool_name }) => pool_name === name,
    );
    if (found === undefined) throw new Error(`pool ${name} was not made`);
    return BigInt(found.pool_id);
  };

  const pools: string[] = [];
  const poolNames = new Map<bigint, string>();
  const addPool = async (name: string): Promise<bigint> => {
    await tool("ceph", "osd", "pool", "create", name, "8");
    pools.push(name);
    await tool("rbd", "pool", "init", name);
    const id = await poolIdOf(name);
    poolNames.set(id, name);
    return id;
  };
  const addCodedPool = async (name: string): Promise<void> => {
    await tool("ceph", "osd", "pool", "create", name, "1", "1", "erasure");
    pools.push(name);
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
  /** Makes the clone, then takes back what a maker that died would not have come to. */
  const cutCloneShort = async (
    how: CloneCutShort,
    ref: PoolRef,
    source: { readonly image: string; readonly snapshot: string },
    image: string,
  ): Promise<void> => {
    const header = `rbd_header.${await idOf(ref, source.image)}`;
    const keys = async () => (await rados(ref, "listomapkeys", header)).split("\n").filter((key) => key !== "");
    const isOfClones = (key: string) => /^(features|op_features|snapshot_\w+|snap_children_\w+)$/.test(key);
    const before = new Map<string, Uint8Array>();
    for (const key of (await keys()).filter(isOfClones)) before.set(key, await omapValue(ref, header, key));
    const [parent, clone] = [`${inPool(ref, source.image)}@${source.snapshot}`, inPool(ref, image)];
    if (how === "parent") await tool("rbd", "create", "--size=16M", clone);
    else await tool("rbd", "clone", "--rbd-default-clone-format=2", parent, clone);
    for (const key of Object.keys(await metadata(ref, image))) await tool("rbd", "image-meta", "remove", clone, key);
    if (how !== "child") return;
    for (const key of (await keys()).filter(isOfClones)) {
      const value = before.get(key);
      if (value === undefined) await rados(ref, "rmomapkey", header, key);
      else await setOmapValue(ref, header, key, value);
    }
  };
  /** A group's snapshot in the group's header: six bytes, the texts of id and name, then its state. */
  const cutGroupSnapshotShort = async (ref: PoolRef, group: string, snapshot: string): Promise<void> => {
    const encoded = await omapValue(ref, "rbd_group_directory", `name_${group}`);
    const header = `rbd_group_header.${new TextDecoder().decode(encoded.subarray(4))}`;
    for (const key of (await rados(ref, "listomapkeys", header)).split("\n")) {
      if (!key.startsWith("snapshot_")) continue;
      const record = await omapValue(ref, header, key);
      const view = new DataView(record.buffer, record.byteOffset);
      const nameAt = 6 + 4 + view.getUint32(6, true);
      const nameEnd = nameAt + 4 + view.getUint32(nameAt, true);
      if (new TextDecoder().decode(record.subarray(nameAt + 4, nameEnd)) !== snapshot) continue;
      record[nameEnd] = 0;
      await setOmapValue(ref, header, key, record);
      return;
    }
    throw new Error(`no snapshot ${snapshot} of group ${group}`);
  };
  /** Nothing at all is printed where there is none. */
  const metadata = async (ref: PoolRef, image: string): Promise<Record<string, string>> => {
    const listed = await tool("rbd", "image-meta", "ls", inPool(ref, image), "--format=json");
    return JSON.parse(listed === "" ? "{}" : listed) as Record<string, string>;
  };
  let writes = 0;
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

  const write: World["write"] = async (ref, image, { offset, length } = { offset: 0n, length: 4096n }) => {
    const bytes = Buffer.alloc(Number(length), `write ${++writes}; `);
    await bytesOf(importTo(ref, image), diffStream("w", offset, length, bytes));
  };

  const watching: World["listen"] = async (ref, image) => {
    const child = Bun.spawn(["rbd", "watch", inPool(ref, image)], { env, stdin: "pipe", stdout: "pipe" });
    const output = child.stdout.getReader();
    // it says "press enter to exit" once it watches, and then each notification
    const [first, heard] = [await output.read(), [] as Uint8Array[]];
    if (first.value !== undefined) heard.push(first.value);
    const reading = (async () => {
      for (let each = await output.read(); !each.done; each = await output.read()) heard.push(each.value);
    })();
    return {
      heard: () =>
        Buffer.concat(heard)
          .toString()
          .match(/received notification/g)?.length ?? 0,
      close: async () => {
        await child.stdin.end();
        await child.exited;
        await reading;
      },
    };
  };

  return {
    layer,
    access,
    pool,
    dataPool,
    namespace,
    limited: { ...access, user, key: Redacted.make(made?.key ?? "") },
    addPool,
    addCodedPool,
    allowOverwrites: async (name) => {
      await tool("ceph", "osd", "pool", "set", name, "allow_ec_overwrites", "true");
    },
    diffsFromIds: rig.release >= 18,
    trashesMembers: rig.release < 20,
    setQuota: async (name, bytes) => {
      await tool("ceph", "osd", "pool", "set-quota", name, "max_bytes", String(bytes));
    },
    write,
    writeZeros: async (ref, image) => {
      // its tools free what they are told to fill with zeros, so the object is made, and then exchanged
      await write(ref, image);
      const file = `${rig.dir}/contract-zeros`;
      writeFileSync(file, Buffer.alloc(OBJECT_BYTES));
      await rados(ref, "put", `rbd_data.${await idOf(ref, image)}.${"0".repeat(16)}`, file);
    },
    discard: async (ref, image, { offset, length }) => {
      await bytesOf(importTo(ref, image), diffStream("z", offset, length));
    },
    content: async (ref, image, snapshot) => {
      const of = snapshot === undefined ? inPool(ref, image) : `${inPool(ref, image)}@${snapshot}`;
      return Bun.SHA256.hash(await bytesOf(["rbd", "export", "--no-progress", of, "-"]), "hex");
    },
    cutCloneShort,
    cutGroupSnapshotShort,
    groups: liveGroups({ tool, rados, poolName: (id) => poolNames.get(id) ?? `#${id}` }),
    metadata,
    lock: async (ref, image, id) => void (await tool("rbd", "lock", "add", inPool(ref, image), id)),
    watch: async (ref, image) => (await watching(ref, image)).close,
    listen: watching,
    cutShort: async (what, ref, image) => {
      const id = await idOf(ref, image);
      if (what === "header") await rados(ref, "rm", `rbd_header.${id}`);
      else if (what === "object-map") await rados(ref, "rm", `rbd_object_map.${id}`);
      else if (what === "trash-entered" || what === "name-gone" || what === "entry-gone") {
        await cutMoveShort(what, ref, image, id);
      } else throw new Error(`${what}: cutCloneShort makes it`);
    },
    restore: async (ref, id) => {
      await tool("rbd", "trash", "restore", inPool(ref, id));
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
