/** Where a ceph.conf is wrong that librados refuses. That it does is proven in tests/ceph/connect.test.ts. */
import { expect, test } from "bun:test";
import { deadlyLine, faultyLine } from "../../../lib/ceph/cell/conf-file.ts";
import { CONF_FILES } from "../../support/conf-files.ts";

test.each(CONF_FILES.flatMap(({ text, says }) => (says === undefined ? [] : [[text, says] as const])))(
  "The fault in ceph.conf %j has its line",
  (text, says) => {
    expect(deadlyLine(text, "16.2.15") ?? faultyLine(text)).toContain(says);
  },
);

test("A text beyond ASCII is kept from librados before 18, and from no later one", () => {
  const text = "# café\n[global] # café\nfsid = café\n";
  expect(deadlyLine(text, "16.2.15")).toBe("line 3 has a letter beyond ASCII: write it without");
  expect(deadlyLine(text, undefined)).toBeDefined();
  for (const release of ["18.2.4", "20.2.0"]) expect(deadlyLine(text, release)).toBeUndefined();
  expect(deadlyLine("# café\n[global] ;café\n", "16.2.15")).toBeUndefined();
});
