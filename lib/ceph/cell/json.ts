/**
 * Checks of what Ceph's commands answer in JSON. An answer of another form is an error of the call, never an empty list.
 * Loaded in cells only: no schema library, which would be most of a cell's memory.
 */
import { Errno } from "../../cells/cell.ts";

/** Reads the fields of one object of an answer. `absent`: what stands for a field that is not there. */
export interface Fields {
  readonly has: (name: string) => boolean;
  readonly flag: (name: string) => boolean;
  readonly text: (name: string, absent?: string) => string;
  readonly number: (name: string, absent?: number) => number;
  readonly object: (name: string) => Fields;
  readonly list: (name: string) => readonly Fields[];
}

/** `op` names the command in the error. */
export const objectIn = (op: string, answer: string): Fields => fieldsOf(op, parsed(op, answer));
export const listIn = (op: string, answer: string): readonly Fields[] => listOf(op, parsed(op, answer));

const parsed = (op: string, answer: string): unknown => {
  try {
    return JSON.parse(answer);
  } catch {
    return wrong(op, "JSON", answer);
  }
};

const wrong = (op: string, expected: string, found: unknown): never => {
  const shown = JSON.stringify(found)?.slice(0, 200) ?? String(found);
  throw new Errno(
    op,
    0,
    `its answer has ${shown} where ${expected} is expected; this release of Ceph is not known here`,
  );
};

const listOf = (op: string, value: unknown): readonly Fields[] =>
  Array.isArray(value) ? value.map((each: unknown) => fieldsOf(op, each)) : wrong(op, "a list", value);

const fieldsOf = (op: string, value: unknown): Fields => {
  if (typeof value !== "object" || value === null) return wrong(op, "an object", value);
  const record = value as Readonly<Record<string, unknown>>;
  const field = (name: string, absent?: unknown): unknown => (Object.hasOwn(record, name) ? record[name] : absent);
  return {
    has: (name) => Object.hasOwn(record, name),
    flag: (name) => record[name] === true,
    text: (name, absent) => {
      const found = field(name, absent);
      return typeof found === "string" ? found : wrong(op, `the text ${name}`, found);
    },
    number: (name, absent) => {
      const found = field(name, absent);
      return typeof found === "number" ? found : wrong(op, `the number ${name}`, found);
    },
    object: (name) => fieldsOf(op, record[name]),
    list: (name) => listOf(op, record[name]),
  };
};
