/** Waits for what Kubernetes, the node or Ceph do in a while. */

/** What a look found, or why what is there is not it. */
type Look<A> = { readonly found: A } | { readonly not: string };

/** -> what `look` finds. Rejects with why the last look found nothing, once the limit is over. */
export const eventually = async <A>(
  look: () => Promise<Look<A>>,
  { limitMs = 180_000, pauseMs = 500 }: { readonly limitMs?: number; readonly pauseMs?: number } = {},
): Promise<A> => {
  for (const until = Date.now() + limitMs; ; await Bun.sleep(pauseMs)) {
    const seen = await look();
    if ("found" in seen) return seen.found;
    if (Date.now() > until) throw new Error(seen.not);
  }
};
