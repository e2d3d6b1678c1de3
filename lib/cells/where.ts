/**
 * Finds the code of a cell: in the checkout, or inside the compiled executable. There `import.meta.url` is the root of the
 * executable, so that a path relative to a module does not work.
 */

/** This is the compiled executable, and not a checkout that Bun runs. */
export const isCompiled = Bun.main.startsWith("/$bunfs/");

const root = isCompiled ? new URL("./", `file://${Bun.main}`) : new URL("../../", import.meta.url);

/** `path` is relative to the project's root, as in `lib/ceph/cell/cell.ts`. */
export const cellUrl = (path: string): string => new URL(path, root).href;
