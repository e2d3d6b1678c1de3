/**
 * The Python modules that the cluster's manager loads: of some thirty only the task queue, which makes it start in
 * half a second instead of several (in the emulated VM: of half a minute).
 *
 * Not a patched Ceph: what is changed is what Debian 13's Python cannot run, and only in the cluster's own folder.
 */
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";

const installed = "/usr/share/ceph/mgr";

/** Fills `modules` (the manager's `mgr module path`) from the packages of the root that it runs in. */
export const layOutManager = (modules: string, release: number, root = ""): void => {
  mkdirSync(modules);
  for (const name of ["mgr_module.py", "mgr_util.py", "object_format.py"]) {
    symlinkSync(`${installed}/${name}`, `${modules}/${name}`);
  }
  if (release !== 18) {
    symlinkSync(`${installed}/rbd_support`, `${modules}/rbd_support`);
    return;
  }
  // Ceph 18 on Python 3.13: bcrypt refuses to load in a second interpreter of one process, and takes every module
  // down with it; the task queue hashes no password
  writeFileSync(`${modules}/bcrypt.py`, "hashpw = gensalt = checkpw = None\n");
  // and a thread of librbd that reports progress enters the wrong interpreter: the manager dies of its first task
  cpSync(`${root}${installed}/rbd_support`, `${modules}/rbd_support`, { recursive: true });
  const task = `${modules}/rbd_support/task.py`;
  const quiet = readFileSync(task, "utf8").replaceAll("on_progress=partial(self.progress_callback, task)", "");
  writeFileSync(task, quiet);
};
