/** How figures are shown, and held against what is wanted of them. */

export interface Line {
  readonly what: string;
  readonly ok: boolean;
}

export const column = (value: number, width: number, digits = 2): string => value.toFixed(digits).padStart(width);

export const judged = (what: string, value: number, bound: "at most" | "at least", limit: number): Line => {
  const ok = bound === "at most" ? value <= limit : value >= limit;
  return { ok, what: `${ok ? "PASS" : "FAIL"}  ${what}: ${value.toFixed(2)}, wanted ${bound} ${limit}` };
};
