/** The table of outcomes: every domain error has a row, and no row contradicts itself. */
import { expect, test } from "bun:test";
import * as ceph from "../../../lib/ceph/errors.ts";
import * as config from "../../../lib/config/errors.ts";
import * as csi from "../../../lib/csi/errors.ts";
import * as size from "../../../lib/csi/size.ts";
import { Code, codeName } from "../../../lib/grpc/status.ts";
import * as host from "../../../lib/host/errors.ts";
import * as kms from "../../../lib/kms/errors.ts";
import { outcomes } from "../../../lib/operations/outcomes.ts";

/** Codes after which external-provisioner and kubelet take it that the call may have happened, and ask again. */
const ASK_AGAIN: readonly number[] = [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED];

/** The tags of all error classes that the product declares, whatever the table says. */
const declared = [ceph, config, csi, host, kms, size]
  .flatMap((module) => Object.values(module) as unknown[])
  .filter((value): value is new (fields: object) => { readonly _tag: string } => typeof value === "function")
  .filter((value) => value.prototype instanceof Error)
  .map((Class) => new Class({ holders: [], known: [], clusterId: "c" })._tag);

test("Every declared domain error has one row in the table, and every row has an error", () => {
  expect(Object.keys(outcomes).toSorted()).toEqual(declared.toSorted());
});

test.each(Object.entries(outcomes))(
  "The row of %s has a code on which callers ask again if its outcome is unknown",
  (_, { code, outcome }) => {
    if (outcome !== "none") expect(ASK_AGAIN.map(codeName)).toContain(codeName(code));
  },
);

test.each(Object.entries(outcomes))(
  "The row of %s says that nothing happened if its code is final",
  (_, { code, outcome }) => {
    if (!ASK_AGAIN.includes(code)) expect(outcome).toBe("none");
  },
);

test("An unexplained error leaves the outcome open", () => {
  for (const tag of ["TimedOut", "Unreachable", "CallStuck", "HostStuck", "MapTimedOut", "StillRunning", "HalfMade"]) {
    expect([tag, outcomes[tag]?.outcome]).toEqual([tag, "unknown"]);
  }
});
