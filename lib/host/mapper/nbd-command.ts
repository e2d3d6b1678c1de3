/**
 * The command line of an rbd-nbd process, from which others learn which image it serves. All functions are pure.
 *
 * Loaded in host cells: no Effect.
 *
 * 1. What is not the command line of a map or an attach says nothing.
 */
import type { ImageName } from "../mapped-device.ts";

export interface NbdCommand extends ImageName {
  /** "" for the image itself. */
  readonly snapshot: string;
  /** "" if it was not given. */
  readonly cookie: string;
  /** "" if the kernel has chosen it. */
  readonly device: string;
  readonly keyFile: string;
}

const DEFAULT_POOL = "rbd";

/** Options whose value is the next argument, unless it follows a "=". */
const WITH_VALUE = new Set(
  (
    "--id -i --user --name -n --mon-host --mon_host -m --keyfile -K --key --keyring -k --conf -c --cluster --log-file " +
    "--log_file -l --setuser --setgroup --device --cookie --io-timeout --reattach-timeout --timeout --nbds_max --max_part " +
    "--snap-id --quiesce-hook --encryption-format --encryption-passphrase-file --debug_ms --format"
  ).split(" "),
);

const IMAGE = /^(?:([^/]+)\/(?:([^/@]+)\/)?)?([^/@]+)(?:@([^/@]+))?$/;

/** The options and the other words of a command line. */
const sorted = (argv: readonly string[]) => {
  const options = new Map<string, string>();
  const words: string[] = [];
  for (let at = 1; at < argv.length; at++) {
    const word = argv[at] ?? "";
    const equals = word.indexOf("=");
    if (!word.startsWith("-")) words.push(word);
    else if (equals > 0) options.set(word.slice(0, equals), word.slice(equals + 1));
    else if (WITH_VALUE.has(word)) options.set(word, argv[++at] ?? "");
    else options.set(word, "");
  }
  return { options, words };
};

/** `undefined`: it is no map or attach, or names no image. */
export const parseNbdCommand = (argv: readonly string[]): NbdCommand | undefined => {
  const { options, words } = sorted(argv);
  const [command, spec = ""] = words;
  if (command !== "map" && command !== "attach") return undefined;
  const [, pool = DEFAULT_POOL, namespace = "", image, name = ""] = IMAGE.exec(spec) ?? [];
  if (image === undefined) return undefined;
  const id = options.get("--snap-id");
  return {
    pool,
    namespace,
    image,
    snapshot: id === undefined ? name : `@${id}`,
    cookie: options.get("--cookie") ?? "",
    device: options.get("--device") ?? "",
    keyFile: options.get("--keyfile") ?? "",
  };
};
