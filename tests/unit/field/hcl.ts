/**
 * HCL as Nomad's volume files have it: `name = value` and `name { … }` with strings and lists of strings, blocks that
 * repeat, comments. No expressions.
 */

export interface Hcl {
  readonly values: Readonly<Record<string, string>>;
  readonly lists: Readonly<Record<string, readonly string[]>>;
  readonly blocks: readonly { readonly name: string; readonly body: Hcl }[];
}

export const readHcl = (text: string): Hcl => {
  const tokens = [...text.replaceAll(/^\s*#.*$/gm, "").matchAll(/"(?:[^"\\]|\\.)*"|[\w-]+|[={}[\],]/g)].map(String);
  const stringAt = (at: number): string => String(JSON.parse(tokens[at] ?? ""));
  let at = 0;
  const body = (): Hcl => {
    const values: Record<string, string> = {};
    const lists: Record<string, readonly string[]> = {};
    const blocks: { name: string; body: Hcl }[] = [];
    while (at < tokens.length && tokens[at] !== "}") {
      const name = tokens[at++] ?? "";
      const sign = tokens[at++];
      if (sign === "{") {
        blocks.push({ name, body: body() });
        if (tokens[at++] !== "}") throw new Error(`block ${name} does not end`);
      } else if (sign !== "=") {
        throw new Error(`${name} has neither a value nor a block`);
      } else if (tokens[at] === "[") {
        const end = tokens.indexOf("]", at);
        lists[name] = tokens.slice(at + 1, end).flatMap((token, n) => (token === "," ? [] : [stringAt(at + 1 + n)]));
        at = end + 1;
      } else {
        values[name] = stringAt(at++);
      }
    }
    return { values, lists, blocks };
  };
  return body();
};
