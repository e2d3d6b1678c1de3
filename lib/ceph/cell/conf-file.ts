/**
 * Where a ceph.conf is wrong: librados says EINVAL and no line. Pure.
 *
 * Not here: whether it is wrong. librados decides that, and what it takes is taken.
 */

/** The first release whose librados takes text beyond ASCII; before, Debian's ends the process at it. */
const FIRST_WITH_UNICODE = 18;

const isBlank = (line: string): boolean => /^\s*(?:[;#].*)?$/.test(line);
// oxlint-disable-next-line no-control-regex -- every character beyond ASCII is what it looks for
const BEYOND_ASCII = /[^\u0000-\u007f]/;
const SECTION = /^\[[^\]]+\]\s*(?:[;#].*)?$/;
const PAIR = /^[^=;#[\]]*[^=;#[\]\s][^=;#[\]]*=(.*)$/;

/** What would end the process, not the reading; `undefined`: nothing. `release` is that of librados, `16.2.15`. */
export const deadlyLine = (text: string, release: string | undefined): string | undefined => {
  const lines = text.split("\n");
  const number = lines.findIndex((line) => !isBlank(line) && BEYOND_ASCII.test(line.replace(/[;#].*$/, "")));
  if (number === -1 || Number.parseInt(release ?? "0") >= FIRST_WITH_UNICODE) return undefined;
  const what = lines[number]?.startsWith("\ufeff") ? "begins with a byte order mark" : "has a letter beyond ASCII";
  return `line ${number + 1} ${what}: write it without`;
};

const wrongIn = (line: string): string | undefined => {
  if (isBlank(line) || SECTION.test(line)) return undefined;
  if (line.startsWith("\ufeff")) return "begins with a byte order mark: save the file without it";
  if (line.includes("\0")) return "has a NUL character: remove it";
  if (line.trimStart().startsWith("[")) return 'is not a section: write "[global]" with nothing before or behind it';
  const value = PAIR.exec(line)?.[1];
  if (value === undefined) return 'is not "option = value"';
  const quoted = /^\s*(["'])(.*)$/.exec(value);
  if (quoted === null) return undefined;
  const [, quote = "", rest = ""] = quoted;
  if (!rest.includes(quote)) return "has a quote that does not end";
  return /[;#]/.test(rest.slice(0, rest.indexOf(quote))) ? 'has ";" or "#" in quotes' : undefined;
};

/** The line of a text that librados refuses, and what is wrong with it. */
export const faultyLine = (text: string): string => {
  const lines = text.split("\n");
  let goesOn = false;
  for (const [at, line] of lines.entries()) {
    const wrong = goesOn ? undefined : wrongIn(line);
    if (wrong !== undefined) return `line ${at + 1} ${wrong}`;
    goesOn = /\\\r?$/.test(line);
  }
  const last = lines.at(-1) ?? "";
  if (goesOn) return `line ${lines.length} ends in "\\", and nothing follows`;
  if (last !== "") return `line ${lines.length} has no newline at its end: add one`;
  return "it has a line that is not a section, an option or a comment";
};
