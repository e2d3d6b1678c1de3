/** The chart on a real Kubernetes with a real kubelet: what `npm run cluster` shows, kinds of claims, and what goes wrong. */
import { join } from "node:path";
import { rig } from "../rig/cluster.ts";
import { makeMockDriverImage } from "../rig/kubernetes/mock-driver.ts";
import { access } from "./access.ts";
import { startCluster } from "./cluster.ts";
import { testsOn } from "./cluster-tests.ts";
import { devices } from "./devices.ts";
import { failures } from "./failures.ts";
import { otherDriver } from "./other-driver.ts";

const MINUTES = 900_000;

const { claimsLife, scenarios } = testsOn(async () => {
  const mockDriver = join(rig().dir, "mock-driver.tar");
  await makeMockDriverImage(mockDriver, console.log);
  return startCluster(join(rig().dir, "cluster"), console.log, { images: [mockDriver] });
}, MINUTES);

claimsLife("a claim's life");
scenarios("devices other than the kernel's mapping", devices);
scenarios("several pods at once", access);
scenarios("another driver", otherDriver);
scenarios("what goes wrong", failures);
