/**
 * The key of a cephx user in a file, for as long as a tool runs that reads it.
 *
 * Loaded in host cells: no Effect.
 *
 * 1. The file has mode 0600 in a folder of mode 0700, and is removed as soon as the tool has ended.
 * 2. The key never appears in an argument or in the environment of a process.
 */
import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";

const FOLDER = "/tmp/csi/keys";
const PREFIX = "keyfile-";
/** No tool that reads a key runs for so long. */
const LONGEST_USE_MS = 800_000;

/** Runs `use` with the path of a file that holds the key. */
export const withKeyFile = <A>(key: string, use: (path: string) => A): A => {
  mkdirSync(FOLDER, { recursive: true, mode: 0o700 });
  const path = `${FOLDER}/${PREFIX}${crypto.randomUUID()}`;
  writeFileSync(path, key, { mode: 0o600, flag: "wx" });
  try {
    return use(path);
  } finally {
    rmSync(path, { force: true });
  }
};

/** Removes key files that a killed driver has left behind. Another driver's that are in use are younger. */
export const sweepKeys = (): void => {
  for (const name of namesIn(FOLDER).filter((each) => each.startsWith(PREFIX))) {
    const path = `${FOLDER}/${name}`;
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (age > LONGEST_USE_MS) rmSync(path, { force: true });
  }
};

const namesIn = (folder: string): readonly string[] => {
  try {
    return readdirSync(folder);
  } catch (error) {
    if ((error as { readonly code?: unknown }).code === "ENOENT") return [];
    throw error;
  }
};
