/** Builds Kubernetes and its project's sidecars into the cache before a suite asks for them (`npm run kubernetes`). */
import { kubeProgram } from "./program.ts";
import { sidecarFolder } from "./sidecars.ts";

console.log(await kubeProgram());
console.log(await sidecarFolder());
