/**
 * What a pool holds, as another client sees it: through Ceph's own command-line tools, never through our code.
 *
 * Not a way to change volumes: what writes here lays down what another driver would have written.
 */
import { randomBytes } from "node:crypto";
import { rig } from "../rig/cluster.ts";
import { runTool } from "../rig/control.ts";
import { outputOf } from "../rig/place.ts";

/** Runs ceph, rbd or rados; rejects unless it exits with 0. */
export const tool = async (...command: readonly string[]): Promise<string> =>
  outputOf(command, await runTool(rig().conf, command));

/** As `tool`, but a failure is `undefined`. */
export const tryTool = async (...command: readonly string[]): Promise<string | undefined> => {
  const done = await runTool(rig().conf, command);
  return done.code === 0 ? done.stdout : undefined;
};

/** Waits until the monitors have seen what a quota that was set, or lifted, makes of a pool: some seconds. */
export const untilFull = async (name: string, full: boolean): Promise<void> => {
  for (;;) {
    const listed = JSON.parse(await tool("ceph", "osd", "pool", "ls", "detail", "--format=json")) as {
      pool_name: string;
      flags_names: string;
    }[];
    const flags = listed.find(({ pool_name }) => pool_name === name)?.flags_names.split(",") ?? [];
    if (flags.includes("full") === full) return;
    await Bun.sleep(200);
  }
};

/** A pool of a test's own, removed by the answered function. */
export const makePool = async (prefix: string): Promise<{ name: string; id: bigint; remove: () => Promise<void> }> => {
  const name = `${prefix}-${randomBytes(3).toString("hex")}`;
  await tool("ceph", "osd", "pool", "create", name, "8");
  await tool("rbd", "pool", "init", name);
  const listed = JSON.parse(await tool("ceph", "osd", "pool", "ls", "detail", "--format=json")) as {
    pool_id: number;
    pool_name: string;
  }[];
  const id = BigInt(listed.find(({ pool_name }) => pool_name === name)?.pool_id ?? -1);
  const remove = async () => {
    await tool("ceph", "osd", "pool", "delete", name, name, "--yes-i-really-really-mean-it");
  };
  return { name, id, remove };
};

/** Omap of one object; values as text. `undefined`: no such object. */
export const omapOf = async (
  pool: string,
  object: string,
  namespace = "",
): Promise<Map<string, string> | undefined> => {
  const listed = await tryTool("rados", "--pool", pool, "--namespace", namespace, "listomapvals", object);
  if (listed === undefined) return undefined;
  const found = new Map<string, string>();
  // a key, then its value as a dump of bytes in hexadecimal
  for (const [, key = "", dump = ""] of listed.matchAll(/^(.+)\nvalue \(\d+ bytes\) :\n((?:[0-9a-f]{8}.*\n)*)/gm)) {
    const hex = [...dump.matchAll(/^[0-9a-f]{8} ((?: {1,2}[0-9a-f]{2}){1,16})/gm)].map(([, bytes]) => bytes);
    found.set(key, Buffer.from(hex.join("").replaceAll(" ", ""), "hex").toString());
  }
  return found;
};

export interface Inventory {
  readonly images: readonly string[];
  /** Names of the images in the trash. */
  readonly trash: readonly string[];
  /** Every object but those that each pool for RBD has and that come with the first image. */
  readonly objects: readonly string[];
  /** Keys of names to UUIDs, as the journal has them for volumes, snapshots and groups. */
  readonly names: ReadonlyMap<string, string>;
}

/** The pool's own: they come with its setup, the first image, the first trash entry, the first manager task. */
const PERMANENT = new Set([
  "rbd_info",
  "rbd_directory",
  "rbd_trash",
  "rbd_task",
  "rbd_children",
  "rbd_mirroring",
  "rbd_namespace",
]);

export const inventory = async (pool: string, instance = "default", namespace = ""): Promise<Inventory> => {
  const spec = namespace === "" ? pool : `${pool}/${namespace}`;
  const json = async <A>(...command: string[]): Promise<A> => JSON.parse(await tool(...command, "--format=json")) as A;
  const directories = ["csi.volumes", "csi.snaps", "csi.groups"].map((kind) => `${kind}.${instance}`);
  const [images, trash, objects, ...names] = await Promise.all([
    json<string[]>("rbd", "ls", spec),
    json<{ name: string }[]>("rbd", "trash", "ls", "--all", spec),
    tool("rados", "--pool", pool, "--namespace", namespace, "ls"),
    ...directories.map((object) => omapOf(pool, object, namespace)),
  ]);
  const kept = objects
    .split("\n")
    .filter((name) => name !== "" && !PERMANENT.has(name) && !directories.includes(name))
    .toSorted();
  return {
    images,
    trash: trash.map(({ name }) => name),
    objects: kept,
    names: new Map(names.flatMap((found) => [...(found ?? [])])),
  };
};

export const EMPTY: Inventory = { images: [], trash: [], objects: [], names: new Map() };

/** The inventory once the manager's queue has removed what it was given, or at the limit. */
export const settledInventory = async (pool: string, limitMs = 20_000, namespace = ""): Promise<Inventory> => {
  const deadline = Date.now() + limitMs;
  for (;;) {
    const now = await inventory(pool, "default", namespace);
    if ((now.trash.length === 0 && now.objects.length === 0) || Date.now() > deadline) return now;
    await Bun.sleep(500);
  }
};

/** Keys of `rbd_directory`: what is left there of an image that is gone keeps its name from being made again. */
export const directoryKeys = async (pool: string, namespace = ""): Promise<readonly string[]> => [
  ...((await omapOf(pool, "rbd_directory", namespace)) ?? new Map<string, string>()).keys(),
];
