/** The driver knows every flag that the chart gives it, and each has an effect. */
import { describe, expect, test } from "bun:test";
import * as Result from "effect/Result";
import { parseFlags } from "../../lib/config/flags.ts";
import { container, only, render, type Tree, valuesOf } from "./helm.ts";

const parsed = async (values: Tree, kind: string, name = "csi-rbdplugin") => {
  const args = container(only(await render(values), kind), name)["args"] as readonly string[];
  return Result.getOrThrow(parseFlags(args.map((arg) => arg.replace("$(NODE_ID)", "node1"))));
};

/** Values that add a flag each. */
const ALL = valuesOf({
  "topology.domainLabels": ["topology.kubernetes.io/zone"],
  "readAffinity.enabled": true,
  "readAffinity.crushLocationLabels": ["topology.kubernetes.io/zone"],
  enableFencing: true,
  "provisioner.clustername": "prod",
  "provisioner.deployController": true,
});

describe("every flag is known, and has an effect", () => {
  for (const values of [{}, ALL]) {
    for (const kind of ["DaemonSet", "Deployment"]) {
      test(`of the ${kind} with ${values === ALL ? "all" : "no"} values`, async () => {
        const { warnings, withoutEffect } = await parsed(values, kind);
        expect({ warnings, withoutEffect }).toEqual({ warnings: [], withoutEffect: [] });
      });
    }
  }
});

test("fencing is turned on for the nodes and the controller alike", async () => {
  for (const kind of ["DaemonSet", "Deployment"]) {
    expect(await parsed({}, kind)).toMatchObject({ enableFencing: false });
    expect(await parsed({ enableFencing: true }, kind)).toMatchObject({ enableFencing: true });
  }
});

test("every flag of the journal's controller is known", async () => {
  expect(await parsed(ALL, "Deployment", "csi-rbdplugin-controller")).toMatchObject({
    type: "controller",
    warnings: [],
  });
});

test("values reach the driver under the flag that they are for", async () => {
  const values = valuesOf({ "nodeplugin.plugin.extraArgs": ["osd-timeout=61s"], "provisioner.hardMaxCloneDepth": 6 });
  expect(await parsed({ ...values, ...valuesOf({ logLevel: 4 }) }, "DaemonSet")).toMatchObject({
    nodeServer: true,
    controllerServer: false,
    verbosity: 4,
    kubeletRegistrationPath: "/var/lib/kubelet/plugins/rbd.csi.ceph.com/csi.sock",
  });
  expect(await parsed(values, "Deployment")).toMatchObject({
    nodeServer: false,
    controllerServer: true,
    rbdHardMaxCloneDepth: 6,
    enableProfiling: true,
    metricsPort: 8080,
  });
});
