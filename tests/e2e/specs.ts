/**
 * The specs of the suite: which of them this cluster can run, and which are run now.
 *
 * Not here: whether a spec applies to the driver. The suite itself decides that from ./driver.ts when the spec is run.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { must } from "../rig/place.ts";

export interface Spec {
  /** Its whole text. */
  readonly text: string;
  readonly labels: ReadonlyArray<string>;
}

const Texts = z.array(z.string()).nullish();
/** Of Ginkgo's report; one of a suite has reports of hooks, too. */
const SpecReport = z.object({
  LeafNodeType: z.string(),
  ContainerHierarchyTexts: Texts,
  ContainerHierarchyLabels: z.array(Texts).nullish(),
  LeafNodeText: z.string(),
  LeafNodeLabels: Texts,
  State: z.string(),
  Failure: z.object({ Message: z.string().nullish() }).nullish(),
});
export type SpecReport = z.infer<typeof SpecReport>;
const Report = z.array(z.object({ SpecReports: z.array(SpecReport).nullish() }));

export const readReport = (text: string): ReadonlyArray<SpecReport> =>
  Report.parse(JSON.parse(text)).flatMap(({ SpecReports }) => SpecReports ?? []);

/** As Ginkgo joins it for -ginkgo.focus. */
export const textOf = ({ ContainerHierarchyTexts, LeafNodeText }: SpecReport): string =>
  [...(ContainerHierarchyTexts ?? []), LeafNodeText].filter((part) => part !== "").join(" ");

const EXTERNAL = "External Storage ";

/** In the order of their texts: the report has them in another order each time. */
export const specsOf = (reports: ReadonlyArray<SpecReport>): ReadonlyArray<Spec> =>
  reports
    .filter((report) => report.LeafNodeType === "It")
    .map((report) => ({
      text: textOf(report),
      labels: [...(report.ContainerHierarchyLabels ?? []), report.LeafNodeLabels].flatMap((labels) => labels ?? []),
    }))
    .filter(({ text }) => text.startsWith(EXTERNAL))
    .toSorted((a, b) => (a.text < b.text ? -1 : 1));

/** All that the suite makes of a driver's definition; nothing is run. */
export const listSpecs = async (program: string, definition: string, work: string): Promise<ReadonlyArray<Spec>> => {
  const report = join(work, "specs.json");
  const flags = ["--ginkgo.dry-run", "--ginkgo.focus=External.Storage", `--ginkgo.json-report=${report}`];
  const command = [program, `--storage.testdriver=${definition}`, "--provider=local", ...flags];
  // without a kubeconfig of this machine, which it would read
  await must({ env: { KUBECONFIG: "", HOME: work } }, command, { timeoutMs: 5 * 60_000 });
  return specsOf(readReport(readFileSync(report, "utf8")));
};

/** A spec's text without what all of them begin with. */
export const shortName = (text: string): string => text.replace(/^External Storage \[Driver: [^\]]+\] /, "");

/** What the cluster has of what specs ask for. */
const SERVED = [
  "Feature:VolumeSnapshotDataSource",
  "Feature:VolumeSourceXFS",
  "Feature:VolumeAttributesClass",
  "Feature:volumegroupsnapshot",
];

/** Features whose specs end at what the suite lacks, whatever the cluster has. */
const UNFIT: Readonly<Record<string, string>> = {
  "Feature:snapshotmetadata":
    "needs the namespace of a driver that the suite itself has installed, and a program from the Internet: snapshotmetadata",
};

/** Why a spec is not run here; undefined: it is. */
export const leftOut = ({ text, labels }: Spec): string | undefined => {
  if (labels.includes("Slow")) return "slow";
  if (labels.includes("Disruptive")) return "disruptive: needs a shell on the node by SSH";
  if (labels.includes("Flaky")) return "flaky, as Kubernetes says";
  const feature = labels.find((label) => label.startsWith("Feature:") && !SERVED.includes(label));
  if (feature !== undefined) {
    return UNFIT[feature] ?? `needs the feature ${feature.slice("Feature:".length)}, which the cluster has not`;
  }
  if (text.includes("any volume data source")) return "needs images that are no Go module";
  return undefined;
};

/** How many are left out, by reason. */
export const countLeftOut = (specs: ReadonlyArray<Spec>): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {};
  for (const spec of specs) {
    const reason = leftOut(spec);
    if (reason !== undefined) counts[reason] = (counts[reason] ?? 0) + 1;
  }
  return counts;
};

/** Another commit, another order: over some commits, all have their turn. */
export const inDrawnOrder = (specs: ReadonlyArray<Spec>, commit: string): ReadonlyArray<Spec> => {
  const rank = ({ text }: Spec): string => createHash("sha256").update(`${commit} ${text}`).digest("hex");
  return specs.toSorted((a, b) => (rank(a) < rank(b) ? -1 : 1));
};

/** The regular expression, as Go reads it, of this spec alone. */
export const focusOf = (text: string): string => ` ${text.replaceAll(/[\\^$.|?*+()[\]{}]/g, String.raw`\$&`)}$`;
