/** Ends the name of the image that a volume's copy goes through (see ./intermediate.ts); ceph-csi's, too. */
export const TEMP_SUFFIX = "-temp";
