/**
 * The controller's pods: what they may do on the node, and what comes when one is replaced.
 *
 * Not here: how they get there (./controller-pods.ts), and what they do for claims (./steps.ts).
 */
import { z } from "zod";
import { DEPLOYMENT } from "./chart.ts";
import type { Cluster } from "./cluster.ts";
import { untilRolledOut } from "./controller-pods.ts";
import { eventually } from "./eventually.ts";
import { NAMESPACE } from "./objects.ts";
import { expectEqual, LIMIT, removeAll, type Scenario, startWriter } from "./scenario.ts";

/** A line for each process of the controller: its name, and who and what the kernel lets it be. */
const PROCESSES = `for each in /proc/[0-9]*; do
  mapfile -d "" -t words < $each/cmdline
  case "\${words[*]}" in
    *" --controllerserver=true "*) name=csi-rbdplugin ;;
    /csi-*) name=\${words[0]#/} ;;
    *) continue ;;
  esac
  status=$(awk '/^(Uid|Gid|CapEff|NoNewPrivs|Seccomp):/ { printf "%s%s ", $1, $2 }' $each/status)
  echo "$name $status$(awk '$5 == "/" { split($6, options, ","); print "root:" options[1] }' $each/mountinfo)"
done 2> /dev/null | sort`;

const confined: Scenario = {
  title:
    "its processes are a user's without capabilities, cannot gain any, are held by seccomp, and write to no file system of theirs",
  act: async ({ node }) => {
    const may = "Uid:1000 Gid:1000 CapEff:0000000000000000 NoNewPrivs:1 Seccomp:2 root:ro";
    const names = ["csi-provisioner", "csi-rbdplugin", "csi-resizer", "csi-snapshotter"];
    expectEqual(
      "the processes",
      (await node.shell(PROCESSES)).trim(),
      names.map((name) => `${name} ${may}`).join("\n"),
    );
  },
};

const Leases = z.object({ items: z.array(z.object({ spec: z.object({ holderIdentity: z.string().default("") }) })) });

/** The pods that lead: of the driver's attacher and of the sidecars, each of which elects for itself. */
const leaders = async ({ kubectl }: Cluster): Promise<ReadonlyArray<string>> => {
  const { items } = Leases.parse(JSON.parse(await kubectl("get", "leases", "-n", NAMESPACE, "-o", "json")));
  return items.map(({ spec }) => spec.holderIdentity);
};

const controllerPod = ({ kubectl }: Cluster): Promise<string> =>
  kubectl(
    "get",
    "pod",
    "-n",
    NAMESPACE,
    "--selector=component=provisioner",
    "-o",
    "jsonpath={.items[*].metadata.name}",
  );

/** A sidecar that has ended leaves its lease to run out, which takes it 15 seconds. */
const untilItLeads = (cluster: Cluster, name: string): Promise<void> =>
  eventually(
    async () => {
      const found = await leaders(cluster);
      if (found.length === 4 && found.every((each) => each === name)) return { found: undefined };
      return { not: `${name} does not lead all of it: ${found.join(" ")}` };
    },
    { pauseMs: 1_000 },
  );

const replaced: Scenario = {
  title: "when its pod is replaced, the next one leads after it, and the next claim is bound and written to",
  act: async (cluster) => {
    const { kubectl } = cluster;
    const first = await controllerPod(cluster);
    await untilItLeads(cluster, first);
    await kubectl("rollout", "restart", "-n", NAMESPACE, DEPLOYMENT);
    await untilRolledOut(kubectl, DEPLOYMENT);
    await kubectl("wait", "-n", NAMESPACE, "--for=delete", LIMIT, `pod/${first}`);
    await untilItLeads(cluster, await controllerPod(cluster));
    await startWriter(cluster, "next");
    await removeAll(cluster, "next");
  },
};

export const controllerScenarios: ReadonlyArray<Scenario> = [confined, replaced];
