/**
 * What the table of calls (./calls.test.ts) is made of: a room is a golden file, what its cases start from, and a case for
 * each of its rows.
 */
import type { CephCalls } from "../../../lib/ceph/ceph.ts";
import type { MemoryCluster } from "../../support/ceph-memory/memory.ts";
import type { Driver, DriverWorld } from "../../support/one-world.ts";
import { aCluster } from "../../support/world.ts";

/** One row of a golden file, and of docs/calls.md. */
export interface Row {
  readonly rpc: string;
  readonly case: string;
  readonly calls: readonly string[];
}

/** What a call finds, and the IDs of what was prepared. */
export interface At {
  readonly cluster: MemoryCluster;
  readonly driver: Driver;
  readonly ids: Ids;
}

interface Ids {
  volume: string;
  otherVolume: string;
  snapshot: string;
  otherSnapshot: string;
  copy: string;
  group: string;
}

export const noIds = (): Ids => ({ volume: "", otherVolume: "", snapshot: "", otherSnapshot: "", copy: "", group: "" });

export type Step = (at: At) => Promise<unknown>;

export interface Case {
  readonly given?: DriverWorld;
  /** Calls of Ceph that fail. */
  readonly faults?: (inner: CephCalls) => CephCalls;
  readonly prepare?: Step;
  readonly call: Step;
  /** What it ends with, if not OK. */
  readonly code?: string;
}

export interface Room {
  readonly name: string;
  readonly rows: readonly Row[];
  readonly world: () => Promise<DriverWorld & { readonly cluster: MemoryCluster }>;
  /** Before each case's own preparation. */
  readonly prepare?: Step;
  /** By `rpc: case`. */
  readonly cases: Readonly<Record<string, Case>>;
}

export const emptyWorld = async () => ({ cluster: aCluster() });
