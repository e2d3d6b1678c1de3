/** RBD's image features by name and bit, as librbd and the kernel have them. Cells load this: it imports nothing. */
export const FEATURE_BITS = {
  layering: 1n,
  striping: 2n,
  "exclusive-lock": 4n,
  "object-map": 8n,
  "fast-diff": 16n,
  "deep-flatten": 32n,
  journaling: 64n,
  "data-pool": 128n,
  /** Of an image that is a clone, has clones or is in a group. */
  operations: 256n,
  migrating: 512n,
} as const;
