/**
 * The cluster that specs are run on: that of the cluster suite, with the images of the suite's pods on its node. It stands in
 * a folder, whose file says how to reach it, so that another command can use it.
 *
 * Not here: the cluster itself (tests/cluster/cluster.ts).
 */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { type Cluster, startCluster } from "../cluster/cluster.ts";
import { untilNothingIsLeft } from "../cluster/left-overs.ts";
import { attributesClass } from "../cluster/objects.ts";
import { startCeph } from "../rig/ceph.ts";
import { makeImage } from "../rig/kubernetes/image.ts";
import { kubeProgram } from "../rig/kubernetes/program.ts";
import { ATTRIBUTES, ATTRIBUTES_CLASS, VALUES } from "./driver.ts";
import { driverCommit } from "./results.ts";

/** The images that specs name, with the tags of this release of Kubernetes (test/utils/image/manifest.go). */
const IMAGES = "registry.k8s.io/e2e-test-images";
const AGNHOST = `${IMAGES}/agnhost:2.63.0`;
const BUSYBOX = `${IMAGES}/busybox:1.37.0-1`;
/** Of nginx, specs use nothing but a shell. */
const NGINX = `${IMAGES}/nginx:1.15-4`;

const makeImages = async (dir: string, agnhost: string): Promise<ReadonlyArray<string>> => {
  const archives = [join(dir, "agnhost.tar"), join(dir, "busybox.tar")] as const;
  const files = { agnhost, "agnhost-2": agnhost };
  await makeImage(archives[0], [AGNHOST], { files, entrypoint: ["/agnhost"], command: ["pause"] });
  await makeImage(archives[1], [BUSYBOX, NGINX], { command: ["sh"] });
  return archives;
};

const Facts = z.object({
  kubeconfig: z.string(),
  /** Of the driver that runs on it. */
  commit: z.string(),
});

export interface Standing extends z.infer<typeof Facts> {
  /** Rejects when the cluster has ended though nobody stopped it. */
  readonly broken: Promise<never>;
  /** Waits until specs have left nothing; rejects with what they left. */
  readonly cleared: () => Promise<void>;
  readonly stop: () => Promise<void>;
}

const factsFile = (dir: string): string => join(dir, "e2e.json");

/** A cluster that another command has started in this folder. It looks after what is left. */
export const openStanding = (dir: string): Standing => ({
  ...Facts.parse(JSON.parse(readFileSync(factsFile(dir), "utf8"))),
  broken: new Promise<never>(() => undefined),
  cleared: () => Promise.resolve(),
  stop: () => Promise.resolve(),
});

export const startStanding = async (dir: string, agnhost: string, say: (line: string) => void): Promise<Standing> => {
  const commit = await driverCommit();
  const images = await makeImages(dir, agnhost);
  const ceph = await startCeph({ dir: join(dir, "ceph"), paxosInterval: 0.05 });
  process.env["CSI_RBD_RIG"] = ceph.rigFile;
  const cluster: Cluster = await startCluster(join(dir, "cluster"), say, { images, values: VALUES }).catch(
    async (error: unknown) => {
      await ceph.stop();
      throw error;
    },
  );
  await cluster.apply(attributesClass(ATTRIBUTES_CLASS, ATTRIBUTES));
  const facts = { kubeconfig: cluster.plane.kubeconfig, commit };
  writeFileSync(factsFile(dir), `${JSON.stringify(facts)}\n`);
  return {
    ...facts,
    broken: cluster.node.broken,
    cleared: () => untilNothingIsLeft(cluster),
    stop: async () => {
      await cluster.stop();
      await ceph.stop();
    },
  };
};

/** A program named kubectl, which some specs start. */
export const makeKubectl = async (dir: string): Promise<string> => {
  mkdirSync(dir, { recursive: true });
  const file = join(dir, "kubectl");
  writeFileSync(file, `#!/bin/sh\nexec ${await kubeProgram()} kubectl "$@"\n`);
  chmodSync(file, 0o755);
  return file;
};
