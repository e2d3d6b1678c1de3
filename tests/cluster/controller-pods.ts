/**
 * The chart's controller as its Deployment has it: pods, with the Kubernetes project's sidecars in images that are made here
 * under the names that the chart gives them. In emulation they take some minutes to start.
 *
 * Not here: the controller as processes of this machine (./controller.ts).
 */
import { join } from "node:path";
import { listAt, only, podOf, render } from "../chart/helm.ts";
import { librariesOf, makeImage } from "../rig/kubernetes/image.ts";
import { type Sidecar, sidecarFolder, sidecarNames } from "../rig/kubernetes/sidecars.ts";
import type { Cluster } from "./cluster.ts";
import type { Controller } from "./controller.ts";
import { NAMESPACE } from "./objects.ts";

const isSidecar = (name: string): name is Sidecar => sidecarNames.some((known) => known === name);

/** Archives of the images of the Deployment's sidecars. Each has what upstream's has: the program in the top folder. */
export const makeSidecarImages = async (dir: string): Promise<ReadonlyArray<string>> => {
  const programs = await sidecarFolder();
  const containers = listAt(podOf(only(await render(), "Deployment")), "containers");
  const archives: Array<string> = [];
  for (const { name, image } of containers) {
    if (typeof name !== "string" || !isSidecar(name)) continue;
    const program = join(programs, name);
    const archive = join(dir, `${name}.tar`);
    const files = { [name]: program, ...(await librariesOf(program)) };
    await makeImage(archive, [String(image)], { files, entrypoint: [`/${name}`], command: [] });
    archives.push(archive);
  }
  return archives;
};

type Kubectl = Cluster["kubectl"];

/** `deployment`: as kubectl takes it. */
export const untilRolledOut = async (kubectl: Kubectl, deployment: string): Promise<void> => {
  await kubectl("-n", NAMESPACE, "rollout", "status", deployment, "--timeout=580s");
};

export const controllerPods = (kubectl: Kubectl, deployment: string): Controller => {
  const rolledOut = () => untilRolledOut(kubectl, deployment);
  return { rolledOut, restart: rolledOut, stop: () => Promise.resolve() };
};
