/**
 * The chart as it is on a real kubelet, its controller in pods, too: what they may do, a claim's whole life by them, and what
 * comes when the pod that leads goes.
 *
 * A cluster of its own, because that of the other tests has the controller beside it (./cluster.test.ts).
 */
import { join } from "node:path";
import { rig } from "../rig/cluster.ts";
import { startCluster } from "./cluster.ts";
import { testsOn } from "./cluster-tests.ts";
import { controllerScenarios } from "./controller-scenarios.ts";

const MINUTES = 1_200_000;

const { claimsLife, scenarios } = testsOn(
  () => startCluster(join(rig().dir, "cluster-in-pods"), console.log, { controllerInPods: true }),
  MINUTES,
);

claimsLife("a claim's life by the controller's pods");
scenarios("the controller's pods", controllerScenarios);
