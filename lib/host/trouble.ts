/**
 * What the kernel has noticed about a device and the filesystem on it, besides errors that its users get.
 *
 * Loaded in host cells: no Effect. Best effort: what cannot be read was not noticed.
 *
 * 1. Names of devices are used again. What was said of a device before it was mapped is of another volume, and so is what was
 *    said of the layer over it.
 *
 * Source: drivers/block/rbd.c ("failed to reregister watch", "… result -28"), block/blk-core.c ("I/O error, dev"), and
 * /sys/fs/ext4, each seen on a kernel of 6.12; block/genhd.c, set_capacity_and_notify ("detected capacity change from 0 to").
 */
import { readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import type { Trouble, TroubleRequest } from "./host.ts";
import { type LogLine, kernelLog } from "./kernel-log.ts";

/** I/O errors that are older have been seen, or have passed. */
const RECENT_SECONDS = 600;
const E = { NOENT: 2, BLOCKLISTED: 108 } as const;
/** After these the kernel does not try again to watch the image. */
const FOR_GOOD: readonly number[] = Object.values(E);
/**
 * After all others it tries again each second, writes a line each time that it fails, and none when it succeeds. A try may last as
 * long as `osd_request_timeout`. So after two minutes without a line the image is watched, or nothing is known.
 */
const RETRIED_SECONDS = 120;

const textIn = (path: string): string => {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return "";
  }
};

/** The kernel's name of a device, such as `dm-0`; "": there is none. */
const nameOf = ({ major, minor }: TroubleRequest["top"]): string => {
  try {
    return basename(readlinkSync(`/sys/dev/block/${major}:${minor}`));
  } catch {
    return "";
  }
};

export const trouble = ({ path, top }: TroubleRequest): Trouble => {
  const filesystem = nameOf(top);
  const errors = filesystem === "" ? "" : textIn(`/sys/fs/ext4/${filesystem}/errors_count`);
  const now = Number(process.hrtime.bigint()) / 1e9;
  return { ...noticed(kernelLog(), now, basename(path), filesystem), filesystemErrors: Number(errors) || 0 };
};

/** What the lines say of a device since it was mapped, and of `top` over it. */
export const noticed = (
  lines: readonly LogLine[],
  now: number,
  device: string,
  top: string,
): Omit<Trouble, "filesystemErrors"> => {
  const since = sinceMapped(lines, device);
  const watch = since.flatMap(({ at, text }) => {
    const [, name, digits] = /^rbd: (rbd\d+): failed to reregister watch: -(\d+)/.exec(text) ?? [];
    const errno = Number(digits);
    return name === device && (FOR_GOOD.includes(errno) || now - at < RETRIED_SECONDS) ? [errno] : [];
  });
  const patterns = [device, top].filter((name) => name !== "").map(errorOf);
  const isError = ({ text }: LogLine) => patterns.some((pattern) => pattern.test(text));
  const errors = since.filter((line) => now - line.at < RECENT_SECONDS && isError(line));
  return {
    blocklisted: watch.includes(E.BLOCKLISTED),
    imageGone: watch.includes(E.NOENT),
    ...(watch.length > 0 && { unwatched: watch.at(-1)! }),
    ioErrors: errors.length,
    ...(errors.length > 0 && { lastError: errors.at(-1)!.text }),
  };
};

/**
 * The lines that came after a device was mapped. The kernel says so of every image of krbd: where that line is gone, all that
 * are left are newer. Of rbd-nbd it tells the new size since 5.11, and before that not always, so none are known to be newer where there is
 * no such line. A process that succeeds another one, and a volume that grows, do not begin at 0.
 */
const sinceMapped = (lines: readonly LogLine[], device: string): readonly LogLine[] => {
  const isNbd = device.startsWith("nbd");
  const words = isNbd ? `${device}: detected capacity change from 0 to ` : `rbd: ${device}: capacity `;
  const mappedAt = lines.findLastIndex(({ text }) => text.startsWith(words));
  return mappedAt < 0 && isNbd ? [] : lines.slice(mappedAt + 1);
};

/** `name` is followed by what is no part of a longer name. */
const errorOf = (name: string): RegExp =>
  new RegExp(`^rbd: ${name}: .* result -\\d+$|I/O error(?:,| on) dev(?:ice)? ${name}(?![\\w-])`);
