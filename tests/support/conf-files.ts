/** Texts of a ceph.conf, and where the ones are wrong that librados refuses. */

export interface ConfFile {
  readonly text: string;
  /** Part of the message; `undefined`: librados takes the file. */
  readonly says?: string;
}

export const CONF_FILES: readonly ConfFile[] = [
  { text: "" },
  { text: "# nothing but a comment, and no newline" },
  { text: "[global]\nosd_pool_default_size = 1\n" },
  { text: "osd_pool_default_size = 1\n" },
  { text: "[global]\r\nosd_pool_default_size = 1\r\n" },
  { text: "# café\n[global] ; café\nan option of nobody = 1 # café\n" },
  { text: "[global]\n\tosd pool default size = 1, \\\n  2\n[client]\n[client.other]\nosd_pool_default_size =\n" },
  { text: "[global]\nosd_pool_default_size = not a number\n" },
  { text: "[global]\nosd_pool_default_size = 1", says: "line 2 has no newline at its end: add one" },
  { text: "[global]", says: "line 1 has no newline at its end: add one" },
  { text: "[global]\nosd_pool_default_size: 1\n", says: 'line 2 is not "option = value"' },
  { text: "# ours\n[global]\nosd_pool_default_size = 1\nnonsense\n", says: 'line 4 is not "option = value"' },
  { text: "nonsense\n[global]\n", says: 'line 1 is not "option = value"' },
  { text: "[global]\n = 1\n", says: 'line 2 is not "option = value"' },
  { text: "[global\nosd_pool_default_size = 1\n", says: "line 1 is not a section" },
  { text: "  [global]\n", says: "line 1 is not a section" },
  { text: "[global] x\n", says: "line 1 is not a section" },
  { text: '[global]\nfsid = "x\n', says: "line 2 has a quote that does not end" },
  { text: '[global]\nfsid = "a;b"\n', says: 'line 2 has ";" or "#" in quotes' },
  { text: "[global]\nfsid = x\n\0\n", says: "line 3 has a NUL character: remove it" },
  { text: "[global]\nfsid = x\\", says: 'line 2 ends in "\\", and nothing follows' },
  { text: "\ufeff[global]\nosd_pool_default_size = 1\n", says: "line 1 begins with a byte order mark" },
];
