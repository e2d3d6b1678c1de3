/**
 * The encrypted folder of a mounted filesystem, with fscrypt: `ceph-csi-encrypted` in its root, and beside it `.fscrypt`
 * with the wrapped keys, as ceph-csi lays both out.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: where the key comes from (lib/kms/file-key.ts), and when a folder is made (lib/node/crypt-folder.ts).
 *
 * 1. A key reaches fscrypt through its standard input alone. That is a file in memory: fscrypt takes a raw key from
 *    nothing else, because it asks for its size.
 * 2. Wrapped keys are removed only where nothing lies in the filesystem that they could have encrypted.
 * 3. The folder is what fscrypt finds after the change, whatever the change itself says.
 */
import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  opendirSync,
  openSync,
  readdirSync,
  rmdirSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { failure, type Finished, outputOf, run, type RunOptions, SYSTEM_FAILED } from "./child.ts";
import { midway, type PlainKeys } from "./cryptsetup.ts";
import { afterChange } from "./errno.ts";
import { namesIn, syncFolder } from "./folder.ts";
import { type CryptFolder, type CryptFolderKey, ENCRYPTED_FOLDER } from "./host.ts";
import { pathKind } from "./paths.ts";

export type CryptFolderAnswer =
  | { readonly kind: "unlocked" }
  | { readonly kind: "wrong-key" }
  | { readonly kind: "refused"; readonly reason: string };

// ---------------------------------------------------------------------------------------------------- configuration

export const CONFIG_PATH = "/etc/fscrypt.conf";

/**
 * What fscrypt reads before it does anything. The costs are those of each passphrase that is set up here, and are kept
 * with it: the second recommendation of RFC 9106. The container image has the same file.
 */
export const CONFIG = `{
	"source": "custom_passphrase",
	"hash_costs": {
		"time": "3",
		"memory": "65536",
		"parallelism": "4",
		"truncation_fixed": true
	},
	"options": {
		"padding": "32",
		"contents": "AES_256_XTS",
		"filenames": "AES_256_CTS",
		"policy_version": "2"
	},
	"use_fs_keyring_for_v1_policies": true,
	"allow_cross_user_metadata": false
}
`;

/** Makes the file whole or not at all. One that is there stays. */
export const ensureConfig = (path: string): void => {
  if (existsSync(path)) return;
  const temporary = `${path}.${crypto.randomUUID()}`;
  const fd = openSync(temporary, "wx", 0o644);
  try {
    writeSync(fd, CONFIG);
    fsyncSync(fd);
    linkSync(temporary, path);
  } catch (error) {
    if ((error as { readonly code?: unknown }).code !== "EEXIST") throw error;
  } finally {
    closeSync(fd);
    unlinkSync(temporary);
  }
};

const fscrypt = (argv: readonly string[], options: RunOptions): Finished => {
  ensureConfig(CONFIG_PATH);
  return run(["fscrypt", ...argv], options);
};

/** It looks at every mount of the node. So it waits for a dead one elsewhere, and ends before the limit of the call does. */
const STATUS_MS = 30_000;

/** fscrypt breaks its lines at 80 characters. */
const wordsOf = ({ stdout, stderr }: Finished): string => `${stdout} ${stderr}`.replaceAll(/\s+/g, " ");

// ------------------------------------------------------------------------------------------------------ what is there

const METADATA = ".fscrypt";
const KEYS = ["policies", "protectors"] as const;
const LOST_AND_FOUND = "lost+found";
/** Under which ceph-csi looks for the protector. */
const PROTECTOR = "ceph-csi";

interface Protector {
  readonly id: string;
  readonly source: CryptFolderKey["source"];
  /** Whether others unlock the folder, too. */
  readonly isOneOfMany: boolean;
}

/** Some of the names in a folder: it may have millions. */
const someIn = (path: string): readonly string[] => {
  if (pathKind(path) === "absent") return [];
  const folder = opendirSync(path);
  try {
    const names: string[] = [];
    for (let each = folder.readSync(); each !== null && names.length <= MOST_NAMES; each = folder.readSync()) {
      names.push(each.name);
    }
    return names;
  } finally {
    folder.closeSync();
  }
};

/** The files of wrapped keys. */
const keyFiles = (point: string): readonly string[] =>
  KEYS.flatMap((kind) => {
    const folder = `${point}/${METADATA}/${kind}`;
    return namesIn(folder).map((name) => `${folder}/${name}`);
  });

/** Of an fscrypt that was killed while it made its folders. */
const isBegun = (path: string, name: string): boolean =>
  /^\.tmp\d+$/.test(name) &&
  pathKind(path) === "directory" &&
  readdirSync(path).every(
    (each) => pathKind(`${path}/${each}`) === "directory" && someIn(`${path}/${each}`).length === 0,
  );

/** What lies in the filesystem besides the folder and its keys. */
const othersIn = (point: string): readonly string[] => [
  ...readdirSync(point).filter(
    (name) => ![METADATA, ENCRYPTED_FOLDER, LOST_AND_FOUND].includes(name) && !isBegun(`${point}/${name}`, name),
  ),
  ...namesIn(`${point}/${LOST_AND_FOUND}`).map((name) => `${LOST_AND_FOUND}/${name}`),
];

const RESTORE = `Look at it, and restore ${METADATA} from a backup, or the volume from a snapshot`;

export const cryptFolder = ({ point }: { readonly point: string }): CryptFolder => stateOf(point).state;

const stateOf = (point: string): { readonly state: CryptFolder; readonly protector?: Protector | undefined } => {
  const folder = `${point}/${ENCRYPTED_FOLDER}`;
  const other = (reason: string) => ({ state: { kind: "other" as const, reason } });
  for (const path of [folder, `${point}/${METADATA}`]) {
    if (!["absent", "directory"].includes(pathKind(path))) {
      return other(`its ${path} is not a directory. Move it away, or correct encryptionType`);
    }
  }
  const holds = someIn(folder);
  /** Nothing was set up. Files in the root would stay as they are, beside the encrypted ones. */
  const none = () => {
    const others = othersIn(point);
    if (others.length === 0) return { state: { kind: "none" as const } };
    return other(`it holds files that are not encrypted (${some(others)}). Move them away, or correct encryptionType`);
  };
  if (pathKind(`${point}/${METADATA}`) === "absent") {
    if (holds.length === 0) return none();
    return other(`its ${ENCRYPTED_FOLDER} holds files, but ${METADATA}, which has their keys, is missing. ${RESTORE}`);
  }
  if (pathKind(folder) === "directory") {
    const done = fscrypt(["status", folder], { limit: STATUS_MS });
    const words = wordsOf(done);
    if (done.code === 0) {
      const kind = / Unlocked: Yes /.test(words) ? "unlocked" : "locked";
      return { state: { kind }, protector: protectorIn(done.stdout) };
    }
    // Of a filesystem without the feature a change says what to do.
    const isPlain = NO_POLICY.test(words) || NOT_ENABLED.test(words);
    if (!isPlain && !KEYS_MISSING.test(words)) throw failure("fscrypt status", done);
    if (holds.length > 0) {
      const lacks = isPlain
        ? `is not encrypted, and holds files (${some(holds)}). Move them out of it: only an empty folder can be encrypted`
        : `is encrypted, but its keys are missing in ${METADATA}. ${RESTORE}`;
      return other(`its ${ENCRYPTED_FOLDER} ${lacks}`);
    }
  }
  if (keyFiles(point).length === 0) return none();
  const others = othersIn(point);
  if (others.length === 0) return { state: { kind: "half-made" } };
  return other(
    `its ${METADATA} has keys, its ${ENCRYPTED_FOLDER} is not encrypted with them, and the filesystem holds more (${some(others)}), which they may be the keys of. If they are not, move ${METADATA} away`,
  );
};

const NO_POLICY = /is not encrypted/;
/** Of a folder with the policy of keys that are not in the metadata; or it has none of the folders that `setup` makes. */
const KEYS_MISSING = /does not contain the policy metadata|is not setup for use/;
const MOST_NAMES = 3;
const some = (names: readonly string[]): string =>
  `${names.slice(0, MOST_NAMES).join(", ")}${names.length > MOST_NAMES ? ", …" : ""}`;

const ALONE = /Protected with 1 protector:/;

/** `8bb02f824a1282b4  No      raw key protector "ceph-csi"`, or `custom protector`. The only one may have any name. */
const protectorIn = (status: string): Protector | undefined => {
  const all = [...status.matchAll(/^([0-9a-f]{16})\s.*?(raw key|custom) protector "(.*)"$/gm)].map(
    ([, id = "", source, name]) => ({
      id,
      name,
      source: source === "raw key" ? ("raw_key" as const) : ("custom_passphrase" as const),
      isOneOfMany: !ALONE.test(status),
    }),
  );
  return all.find(({ name }) => name === PROTECTOR) ?? (all.length === 1 ? all[0] : undefined);
};

// --------------------------------------------------------------------------------------------------------------- keys

const RAW_BYTES = 32;

/** A raw key has 32 bytes: those that a text begins with, and zeros where it is shorter, as ceph-csi has it. */
export const rawKey = (text: string): Uint8Array => {
  const key = new Uint8Array(RAW_BYTES);
  key.set(Buffer.from(text).subarray(0, RAW_BYTES));
  return key;
};

interface Given {
  readonly argv: readonly string[];
  readonly options: Pick<RunOptions, "input" | "secrets">;
}

/** fscrypt reads a passphrase as if it were typed: these end it, give it up, or take the character before them away. */
// oxlint-disable-next-line no-control-regex -- control characters are what it looks for
const TYPED = /[\u0003\u0004\b\n\r\u007f]/;

/** How fscrypt gets the key; a text says why it cannot. */
const given = ({ source, key }: PlainKeys<CryptFolderKey>): Given | string => {
  if (source === "raw_key") {
    return { argv: ["--key=/proc/self/fd/0"], options: { secrets: [key], input: rawKey(key) } };
  }
  if (TYPED.test(key)) {
    return "the passphrase has a line end or another key of a terminal, which fscrypt does not take. Write it into its Secret without";
  }
  return { argv: [], options: { secrets: [key], input: key } };
};

const refused = (reason: string): CryptFolderAnswer => ({ kind: "refused", reason });

const WRONG_KEY = /incorrect key/;
const NOT_ENABLED = /encryption not (enabled|supported)/i;

/** What a change that failed says. */
const answerOf = (op: string, done: Finished): CryptFolderAnswer => {
  const words = wordsOf(done);
  if (WRONG_KEY.test(words)) return { kind: "wrong-key" };
  if (NOT_ENABLED.test(words)) {
    return refused(
      `its filesystem does not have the feature "encrypt" (or this kernel lacks CONFIG_FS_ENCRYPTION). Unstage the volume, map its image on one node, run "tune2fs -O encrypt" on the device, and unmap it. fscrypt says: ${outputOf(done)}`,
    );
  }
  if (done.code > 0 && !SYSTEM_FAILED.test(words)) return refused(outputOf(done));
  throw midway(op, done);
};

// ------------------------------------------------------------------------------------------------------------- changes

const FOLDER_MODE = 0o755;

const makeFolder = (path: string): void => {
  if (pathKind(path) === "directory") return;
  mkdirSync(path);
  chmodSync(path, FOLDER_MODE);
};

/** Makes the folder and its keys where there is none, or none that anything was written to; leaves it unlocked. */
export const setUpCryptFolder = (request: PlainKeys<CryptFolderKey>): CryptFolderAnswer => {
  const { point, source } = request;
  const folder = `${point}/${ENCRYPTED_FOLDER}`;
  const key = given(request);
  if (typeof key === "string") return refused(key);
  const { state } = stateOf(point);
  if (state.kind === "other") return refused(state.reason);
  if (state.kind === "locked" || state.kind === "unlocked")
    return refused(`its ${ENCRYPTED_FOLDER} is encrypted by now`);
  // First the folder, which fails unless it is empty: the keys that go then encrypt nothing.
  if (pathKind(folder) === "directory") rmdirSync(folder);
  if (state.kind === "half-made") for (const path of keyFiles(point)) unlinkSync(path);
  const metadata = `${point}/${METADATA}`;
  const made = [metadata, ...KEYS.map((kind) => `${metadata}/${kind}`), folder];
  for (const path of made) makeFolder(path);
  for (const path of [point, ...made]) syncFolder(path);
  const named = [`--source=${source}`, `--name=${PROTECTOR}`, "--no-recovery", "--quiet"];
  const done = fscrypt(["encrypt", folder, ...named, ...key.argv], key.options);
  if (done.code !== 0) return answerOf("fscrypt encrypt", done);
  return afterChange("fscrypt encrypt", () => {
    for (const path of [...made, point]) syncFolder(path);
    return proveUnlocked(point, "encrypt");
  });
};

export const unlockCryptFolder = (request: PlainKeys<CryptFolderKey>): CryptFolderAnswer => {
  const { point, source } = request;
  const { state, protector } = stateOf(point);
  if (state.kind === "unlocked") return { kind: "unlocked" };
  if (state.kind !== "locked") {
    return refused(state.kind === "other" ? state.reason : `its ${ENCRYPTED_FOLDER} is not encrypted`);
  }
  if (protector === undefined) return refused(`it has no protector with the name ${PROTECTOR}`);
  if (protector.source !== source) {
    return refused(
      `its key is a ${sourceLabel(protector.source)}, and the key store of the volume gives a ${sourceLabel(source)}. Correct encryptionKMSID`,
    );
  }
  const key = given(request);
  if (typeof key === "string") return refused(key);
  const folder = `${point}/${ENCRYPTED_FOLDER}`;
  const chosen = protector.isOneOfMany ? [`--unlock-with=${point}:${protector.id}`] : [];
  const done = fscrypt(["unlock", folder, ...chosen, "--quiet", ...key.argv], key.options);
  if (done.code !== 0) return answerOf("fscrypt unlock", done);
  return afterChange("fscrypt unlock", () => proveUnlocked(point, "unlock"));
};

const sourceLabel = (source: CryptFolderKey["source"]): string => (source === "raw_key" ? "raw key" : "passphrase");

const proveUnlocked = (point: string, verb: string): CryptFolderAnswer => {
  const { kind } = stateOf(point).state;
  if (kind === "unlocked") return { kind };
  throw new Error(`fscrypt ${verb} succeeded, but ${ENCRYPTED_FOLDER} is ${kind} then`);
};
