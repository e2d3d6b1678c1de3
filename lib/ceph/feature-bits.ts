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

const { layering, striping, "exclusive-lock": LOCK, "object-map": MAP, "fast-diff": DIFF } = FEATURE_BITS;
const { "deep-flatten": DEEP, "data-pool": DATA_POOL, operations } = FEATURE_BITS;
/** Features with which an image is in no journal, no mirror that follows it, and no migration: its header is all of it. */
export const HEADER_FEATURES = layering | striping | LOCK | MAP | DIFF | DEEP | DATA_POOL | operations;
/** `RBD_OPERATION_FEATURE_CLONE_PARENT`, `_CLONE_CHILD`, `_GROUP` and `_SNAP_TRASH`: librbd refuses to change an image with others. */
export const KNOWN_OPERATIONS = 1n | 2n | 4n | 8n;
