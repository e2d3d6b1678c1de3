/**
 * What mappers read of the kernel: attributes in sysfs, and modules.
 *
 * Loaded in host cells: no Effect.
 *
 * 1. Only absence is absence: any other failure to read is thrown.
 */
import { readdirSync, readFileSync } from "node:fs";
import { run } from "../child.ts";

const MODPROBE_LIMIT_MS = 30_000;

const isAbsent = (error: unknown): boolean =>
  ["ENOENT", "ENODEV", "ESRCH"].includes(String((error as { readonly code?: unknown }).code));

/** What `read` gives; `undefined` if what it reads does not exist, or ceases to. */
export const unlessAbsent = <A>(read: () => A): A | undefined => {
  try {
    return read();
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
};

export const attribute = (path: string): string => readFileSync(path, "utf8").trim();

/** An attribute that is not always there. */
export const optional = (path: string): string => unlessAbsent(() => attribute(path)) ?? "";

/** The names in a folder; none if it does not exist. */
export const namesIn = (path: string): readonly string[] => unlessAbsent(() => readdirSync(path)) ?? [];

/** Loads a module of the kernel, as far as that can be done here. */
export const loadModule = (name: string): void => {
  try {
    run(["modprobe", name], { limit: MODPROBE_LIMIT_MS });
  } catch {
    // There is no modprobe here. The module may be built in or loaded from outside; the map finds out.
  }
};
