/**
 * Where a cell's code is: beside this file in a checkout, inside the executable once compiled.
 * In a compiled binary `import.meta.url` is the binary's root, so a path relative to a module would not do.
 */
const root = Bun.main.startsWith("/$bunfs/") ? new URL("./", `file://${Bun.main}`) : new URL("../../", import.meta.url);

/** `path` is relative to the project's root, as in `lib/ceph/cell/cell.ts`. */
export const cellUrl = (path: string): string => new URL(path, root).href;
