/**
 * Which folder may import which: the table, and the check that `npm run check` makes of it.
 *
 * Plain Node, no imports beyond Node's own. Imports of types count: what a file names, it depends on.
 * Invariants:
 * 1. Every file is in a room: nothing lies loose in lib/ or tests/.
 * 2. A room imports only what its line says, and its line says nothing that it does not import.
 * 3. Rooms import in one direction: there is no circle, not even one that the table allows.
 * 4. A guarded file or package is imported by the rooms that its line names, and by no other.
 * 5. README's "How it is built" names every room of lib.
 */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

/** Foundations first. `lib/*` stands for every room of lib. */
export const ROOMS = {
  "lib/text": [],
  "lib/gen": [],
  "lib/telemetry": ["lib/text"],
  "lib/cells": ["lib/telemetry"],

  // Ceph and the machine: nothing of CSI.
  "lib/ceph": ["lib/text"],
  "lib/ceph/cell": ["lib/ceph", "lib/cells"],
  "lib/ceph/live": ["lib/ceph", "lib/ceph/cell", "lib/cells"],
  "lib/host": ["lib/cells", "lib/text"],

  // The wire: transport alone, then the words of CSI.
  "lib/grpc": ["lib/gen", "lib/telemetry", "lib/text"],
  "lib/csi": ["lib/gen", "lib/text"],

  "lib/registrar": ["lib/gen", "lib/grpc", "lib/text"],

  // What recipes are made of.
  "lib/config": ["lib/ceph", "lib/csi", "lib/grpc", "lib/text"],
  "lib/qos": ["lib/config", "lib/csi", "lib/text"],
  "lib/kube": ["lib/config", "lib/csi", "lib/text"],
  "lib/attacher": ["lib/kube", "lib/telemetry", "lib/text"],
  "lib/journal": ["lib/ceph", "lib/config", "lib/csi", "lib/text"],
  "lib/kms": ["lib/ceph", "lib/config", "lib/kube", "lib/text"],
  "lib/operations": [
    "lib/cells",
    "lib/ceph",
    "lib/config",
    "lib/csi",
    "lib/grpc",
    "lib/host",
    "lib/kms",
    "lib/telemetry",
  ],
  "lib/images": ["lib/ceph", "lib/config", "lib/csi", "lib/journal", "lib/kms", "lib/operations", "lib/telemetry"],

  // Recipes.
  "lib/volume": [
    "lib/ceph",
    "lib/config",
    "lib/csi",
    "lib/images",
    "lib/journal",
    "lib/kms",
    "lib/operations",
    "lib/qos",
  ],
  "lib/snapshot": [
    "lib/ceph",
    "lib/config",
    "lib/csi",
    "lib/images",
    "lib/journal",
    "lib/kms",
    "lib/operations",
    "lib/text",
    "lib/volume",
  ],
  "lib/listing": ["lib/ceph", "lib/config", "lib/csi", "lib/images", "lib/journal", "lib/text", "lib/volume"],
  "lib/changed-blocks": ["lib/ceph", "lib/config", "lib/csi", "lib/journal", "lib/kms", "lib/listing"],
  "lib/group": [
    "lib/ceph",
    "lib/config",
    "lib/csi",
    "lib/images",
    "lib/journal",
    "lib/kms",
    "lib/listing",
    "lib/operations",
    "lib/snapshot",
  ],
  "lib/node": [
    "lib/ceph",
    "lib/config",
    "lib/csi",
    "lib/fencing",
    "lib/host",
    "lib/images",
    "lib/journal",
    "lib/kms",
    "lib/kube",
    "lib/operations",
    "lib/qos",
    "lib/text",
  ],

  "lib/fencing": ["lib/ceph", "lib/config", "lib/csi", "lib/images", "lib/journal", "lib/kube", "lib/operations"],

  // The process, and the roles that it can have.
  "lib/process": [
    "lib/cells",
    "lib/ceph",
    "lib/ceph/cell",
    "lib/ceph/live",
    "lib/config",
    "lib/grpc",
    "lib/host",
    "lib/kms",
    "lib/kube",
    "lib/operations",
    "lib/telemetry",
    "lib/text",
  ],
  services: [
    "lib/attacher",
    "lib/changed-blocks",
    "lib/config",
    "lib/csi",
    "lib/fencing",
    "lib/gen",
    "lib/group",
    "lib/grpc",
    "lib/host",
    "lib/images",
    "lib/kube",
    "lib/listing",
    "lib/node",
    "lib/operations",
    "lib/process",
    "lib/qos",
    "lib/registrar",
    "lib/snapshot",
    "lib/telemetry",
    "lib/volume",
  ],

  "tests/rig": [],
  container: ["tests/rig"],
  "tests/support": ["lib/*", "services"],
  "tests/apiserver": ["lib/*", "tests/ceph", "tests/chart", "tests/rig", "tests/support"],
  "tests/unit": ["lib/*", "services", "tests/support"],
  "tests/chart": ["lib/*", "tests/rig"],
  "tests/kms": ["lib/*", "tests/rig", "tests/support"],
  "tests/contract": ["lib/*", "tests/rig", "tests/support"],
  "tests/ceph": ["lib/*", "tests/contract", "tests/rig", "tests/support"],
  "tests/cluster": ["container", "tests/chart", "tests/rig", "tests/support"],
  "tests/e2e": ["tests/cluster", "tests/rig"],
  "tests/conformance": ["lib/*", "tests/ceph", "tests/rig"],
  "tests/vm": ["lib/*", "tests/ceph", "tests/conformance", "tests/rig", "tests/support"],
  "tests/image": ["lib/*", "container", "tests/ceph", "tests/rig"],
  "tests/demo": ["lib/*", "tests/rig", "tests/support"],
  "tests/bench": ["lib/*", "services", "tests/ceph", "tests/rig", "tests/support"],
};

/** Files and packages that only these rooms import, besides a file's own room. */
export const GUARDED = {
  // C is called in worker threads only; the process calls libc once, before anything else.
  "bun:ffi": ["lib/ceph/cell", "lib/host", "lib/process", "tests/ceph", "tests/unit"],
  "node:child_process": ["tests/demo", "tests/rig", "tests/unit"],
  "@grpc/grpc-js": ["lib/grpc", "tests/support", "tests/unit"],
  // The host's blocking calls are for its own cells; others use the Host service.
  "lib/host/cell.ts": [],
  "lib/host/child.ts": ["tests/unit"],
  "lib/host/live.ts": ["lib/process", "tests/unit", "tests/vm"],
  "lib/ceph/live/live.ts": ["lib/process", "tests/bench", "tests/ceph", "tests/contract", "tests/unit"],
};

const SOURCES = ["lib", "services", "container", "tests"];
const IMPORT = /^\s*(?:import|export)\b[^"'`;]*?\bfrom\s+"([^"]+)"|^\s*import\s+"([^"]+)"|\bimport\("([^"]+)"\)/gm;

const codeFiles = (top) =>
  SOURCES.flatMap((folder) =>
    readdirSync(join(top, folder), { recursive: true, encoding: "utf8" }).map((name) => `${folder}/${name}`),
  ).filter((file) => /\.(ts|mjs)$/.test(file));

/** The room with the longest name that the file is in. */
const roomOf = (rooms, file) =>
  Object.keys(rooms)
    .filter((room) => file.startsWith(`${room}/`))
    .toSorted((a, b) => b.length - a.length)[0];

/** The imports of a file: packages as they are written, files from the top. */
const importsOf = (top, file) =>
  [...readFileSync(join(top, file), "utf8").matchAll(IMPORT)]
    .map(([, from, alone, dynamic]) => from ?? alone ?? dynamic)
    .map((target) => (target.startsWith(".") ? normalize(join(dirname(file), target)) : target))
    .filter((target) => !target.endsWith(".json"));

const isAllowed = (lines, target) =>
  lines.some((line) => line === target || (line.endsWith("/*") && target.startsWith(line.slice(0, -1))));

/** A circle among the rooms, as the way round it; undefined where there is none. */
const circleIn = (edges) => {
  const done = new Set();
  const visit = (room, way) => {
    if (way.includes(room)) return [...way.slice(way.indexOf(room)), room];
    if (done.has(room)) return undefined;
    for (const next of edges.get(room) ?? []) {
      const found = visit(next, [...way, room]);
      if (found !== undefined) return found;
    }
    done.add(room);
    return undefined;
  };
  for (const room of edges.keys()) {
    const found = visit(room, []);
    if (found !== undefined) return found;
  }
  return undefined;
};

/** What is wrong, one line each. */
export const checkRooms = (top, rooms = ROOMS, guarded = GUARDED) => {
  const wrong = [];
  const used = new Map(Object.keys(rooms).map((room) => [room, new Set()]));
  for (const file of codeFiles(top)) {
    const room = roomOf(rooms, file);
    if (room === undefined) {
      wrong.push(`${file} is in no room: move it into a folder that says what it is about`);
      continue;
    }
    for (const target of importsOf(top, file)) {
      const other = roomOf(rooms, target);
      const guards = guarded[target];
      if (guards !== undefined && other !== room && !guards.includes(room)) {
        wrong.push(`${file} imports ${target}, which is for ${guards.join(", ") || other} alone`);
      }
      if (other === undefined || other === room) continue;
      used.get(room).add(other);
      if (!isAllowed(rooms[room], other)) wrong.push(`${file} imports ${target}: ${room} must not import ${other}`);
    }
  }
  for (const [room, lines] of Object.entries(rooms)) {
    for (const line of lines.filter((each) => !each.endsWith("/*") && !used.get(room).has(each))) {
      wrong.push(`${room} does not import ${line}: take it out of its line`);
    }
  }
  const circle = circleIn(used);
  if (circle !== undefined) wrong.push(`rooms import each other in a circle: ${circle.join(" -> ")}`);
  return wrong;
};

/** Rooms of lib that README's tree lacks. */
const checkReadme = (top) => {
  const text = readFileSync(join(top, "README.md"), "utf8").split("## How it is built")[1] ?? "";
  return Object.keys(ROOMS)
    .filter((room) => /^lib\/[^/]+$/.test(room) && !new RegExp(`^ +${room} `, "m").test(text))
    .map((room) => `README.md, "How it is built", has no line for ${room}`);
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const top = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), "..", "..");
  const wrong = [...checkRooms(top), ...checkReadme(top)];
  for (const line of wrong) console.error(`rooms: ${line}`);
  if (wrong.length > 0) console.error("rooms: the table is in tests/rig/rooms.mjs");
  process.exitCode = wrong.length === 0 ? 0 : 1;
}
