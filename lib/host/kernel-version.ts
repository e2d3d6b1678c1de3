/**
 * The kernel's version, as far as what it can do depends on it.
 *
 * Loaded in host cells: no Effect. Pure.
 */

/** Whether a kernel, by the text of `uname -r`, is older than `version`, such as "5.10". One that cannot be read is not. */
export const isOlderKernel = (release: string, version: string): boolean => {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release) ?? [];
  if (major === undefined || minor === undefined) return false;
  const [wantedMajor = 0, wantedMinor = 0] = version.split(".").map(Number);
  return Number(major) === wantedMajor ? Number(minor) < wantedMinor : Number(major) < wantedMajor;
};
