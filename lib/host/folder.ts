/**
 * What is in a folder, and that it lasts.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: calls of a cell (./paths.ts), and folders of sysfs, whose entries go while they are read (./mapper/sysfs.ts).
 */
import { closeSync, fsyncSync, openSync, readdirSync } from "node:fs";

/** None where there is no folder. */
export const namesIn = (folder: string): readonly string[] => {
  try {
    return readdirSync(folder);
  } catch (error) {
    if ((error as { readonly code?: unknown }).code === "ENOENT") return [];
    throw error;
  }
};

/** Makes the changes in a folder last. */
export const syncFolder = (folder: string): void => {
  const fd = openSync(folder, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
};
