/**
 * What a tool reads from a file and nobody else is to see, such as the key of a cephx user, for as long as the tool runs.
 *
 * Loaded in host cells: no Effect.
 *
 * 1. A file is in a folder of mode 0700, with mode 0600 itself, and is removed as soon as the tool has ended.
 * 2. A key never appears in an argument or in the environment of a process.
 */
import { mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { namesIn } from "../folder.ts";

const FOLDER = "/tmp/csi/keys";
const PREFIX = "keyfile-";
const HEADER_PREFIX = "luks-header-";
/** No tool that reads one runs for so long. */
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

/**
 * Runs `use` with the path at which cryptsetup makes a file of a LUKS header. The folder is in memory, as the chart and the
 * manifests make it. What a killed driver has left is removed first: a header opens with the passphrase of its volume.
 */
export const withHeaderFile = <A>(use: (path: string) => A): A => {
  mkdirSync(FOLDER, { recursive: true, mode: 0o700 });
  sweepKeys();
  const path = `${FOLDER}/${HEADER_PREFIX}${crypto.randomUUID()}`;
  try {
    return use(path);
  } finally {
    rmSync(path, { force: true });
  }
};

/** Removes files that a killed driver has left behind. Another driver's that are in use are younger. */
export const sweepKeys = (): void => {
  const isOurs = (name: string) => [PREFIX, HEADER_PREFIX].some((prefix) => name.startsWith(prefix));
  for (const name of namesIn(FOLDER).filter(isOurs)) {
    const path = `${FOLDER}/${name}`;
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (age > LONGEST_USE_MS) rmSync(path, { force: true });
  }
};
