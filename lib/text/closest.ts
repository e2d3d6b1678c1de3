/** Finds the word that somebody probably meant, for a hint in an error message. Pure. */

/** Number of single-character edits that turn `from` into `to`. */
const distance = (from: string, to: string): number => {
  let above = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (const [row, letter] of from.split("").entries()) {
    const line = [row + 1];
    for (const [column, other] of to.split("").entries()) {
      const swap = (above[column] ?? 0) + (letter === other ? 0 : 1);
      line.push(Math.min(swap, (above[column + 1] ?? 0) + 1, (line[column] ?? 0) + 1));
    }
    above = line;
  }
  return above.at(-1) ?? 0;
};

const plain = (text: string): string => text.toLowerCase().replaceAll(/[-_]/g, "");

/** The nearest of `words`, unless most of it would have to change. Case, `-` and `_` do not count. */
export const closest = (word: string, words: ReadonlyArray<string>): string | undefined => {
  const meant = plain(word.slice(0, 64));
  const ranked = words
    .map((each) => ({ each, edits: distance(meant, plain(each)) }))
    .toSorted((a, b) => a.edits - b.edits);
  const best = ranked[0];
  return best !== undefined && best.edits <= Math.max(1, Math.floor(best.each.length / 3)) ? best.each : undefined;
};
