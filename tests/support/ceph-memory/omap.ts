/**
 * The omap of one object in memory: keys in the order of their bytes, as RADOS lists them, also when there are tens of
 * thousands.
 *
 * 1. Once a page was asked for, writes keep the order instead of sorting anew: a page costs what is in it.
 */

/** Where a UTF-16 unit comes in the order of UTF-8 bytes: surrogates after all that needs none. */
const rank = (unit: number): number => (unit < 0xd800 ? unit : unit < 0xe000 ? unit + 0x2000 : unit - 0x800);

const inBytes = (a: string, b: string): number => {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const [left, right] = [a.charCodeAt(i), b.charCodeAt(i)];
    if (left !== right) return rank(left) - rank(right);
  }
  return a.length - b.length;
};

export class MemoryOmap extends Map<string, string> {
  #order: string[] | undefined;

  constructor(entries: ReadonlyMap<string, string> = new Map()) {
    // given to Map's own constructor they would come through `set`, before there is an order
    super();
    for (const [key, value] of entries) super.set(key, value);
  }

  override set(key: string, value: string): this {
    if (!this.has(key)) this.#order?.splice(this.#place(key), 0, key);
    return super.set(key, value);
  }

  override delete(key: string): boolean {
    if (this.has(key)) this.#order?.splice(this.#place(key), 1);
    return super.delete(key);
  }

  override clear(): void {
    this.#order = undefined;
    super.clear();
  }

  page(prefix: string, after: string, limit: number): ReadonlyMap<string, string> {
    this.#order ??= [...this.keys()].toSorted(inBytes);
    const found = new Map<string, string>();
    const first = inBytes(after, prefix) < 0 ? this.#place(prefix) : this.#place(after);
    for (let i = first; found.size < limit; i++) {
      const key = this.#order[i];
      if (key === undefined || !key.startsWith(prefix)) break;
      // one of that name is not after it
      if (key !== after) found.set(key, this.get(key) ?? "");
    }
    return found;
  }

  /** Of the first key that is not before `key`. */
  #place(key: string): number {
    const order = this.#order ?? [];
    let [low, high] = [0, order.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (inBytes(order[middle] ?? "", key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Tests may put plain maps in the place of omaps. */
export const asOmap = (entries: ReadonlyMap<string, string>): MemoryOmap =>
  entries instanceof MemoryOmap ? entries : new MemoryOmap(entries);

/** What of it has one of these keys. */
export const only = <V>(entries: ReadonlyMap<string, V>, keys: readonly string[]): ReadonlyMap<string, V> => {
  const found = new Map<string, V>();
  for (const key of keys) {
    const value = entries.get(key);
    if (value !== undefined) found.set(key, value);
  }
  return found;
};
