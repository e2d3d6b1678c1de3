/** How messages, keys and commands name what is in a cluster. Cells load this: it imports nothing. */
interface Pool {
  readonly pool: string;
  /** "" is the default one. */
  readonly namespace: string;
}

/** `pool`, or `pool/namespace`. */
export const poolLabel = ({ pool, namespace }: Pool): string => (namespace === "" ? pool : `${pool}/${namespace}`);

/** `pool/image`, or `pool/namespace/image`. */
export const imageLabel = (pool: Pool, image: string): string => `${poolLabel(pool)}/${image}`;
