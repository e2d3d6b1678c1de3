/** A driver that dies once at each call that it makes: before the call, and after it. */
import type { Moment } from "./ceph-faults.ts";

/**
 * Makes `oneDeath` at the first call, the second and so on, until it gives false because there are no more calls; -> at
 * how many it died. Fails with the moment and the number of the call.
 */
export const everyDeath = async (
  most: number,
  oneDeath: (call: number, moment: Moment) => Promise<boolean>,
): Promise<Readonly<Record<Moment, number>>> => {
  const deaths = { before: 0, after: 0 };
  for (const moment of ["before", "after"] as const) {
    for (let call = 1; call < most; call++) {
      try {
        if (!(await oneDeath(call, moment))) break;
      } catch (error) {
        throw new Error(`death ${moment} call ${call}`, { cause: error });
      }
      deaths[moment] = call;
    }
  }
  return deaths;
};
