/**
 * Finds the code of a cell: in the checkout, or inside the compiled executable. There `import.meta.url` is the root of the
 * executable, so that a path relative to a module does not work.
 */
const root = Bun.main.startsWith("/$bunfs/") ? new URL("./", `file://${Bun.main}`) : new URL("../../", import.meta.url);

/** `path` is relative to the project's root, as in `lib/ceph/cell/cell.ts`. */
export const cellUrl = (path: string): string => new URL(path, root).href;
