/**
 * Temporary folders that can hold a cluster: the OSD's store (bluestore) writes past the page cache (O_DIRECT).
 *
 * Not here: the caches that outlive a run, which are roots.ts's `cacheFolder`.
 */
import { closeSync, constants, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const canDirectIo = (dir: string): boolean => {
  const probe = join(dir, ".direct-io");
  try {
    closeSync(openSync(probe, constants.O_RDWR | constants.O_CREAT | constants.O_DIRECT, 0o600));
    return true;
  } catch {
    return false;
  } finally {
    rmSync(probe, { force: true });
  }
};

/** Why a folder cannot hold a cluster, and what to do; undefined where it can. */
export const withoutDirectIo = (dir: string): string | undefined =>
  canDirectIo(dir)
    ? undefined
    : `the filesystem of ${dir} has no direct I/O (O_DIRECT), which Ceph's store needs: name a folder on a disk, for example TMPDIR=/var/tmp`;

/** A new temporary folder that can hold a cluster: in TMPDIR, else in /var/tmp. */
export const temporaryFolder = (prefix: string): string => {
  const parent = [tmpdir(), "/var/tmp"].find(canDirectIo);
  if (parent === undefined) throw new Error(withoutDirectIo(tmpdir()));
  return mkdtempSync(join(parent, prefix));
};
