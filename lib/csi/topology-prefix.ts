/** What the keys of this driver's topology segments begin with: the node's (lib/kube) and those of pools. Pure. */
export const topologyPrefix = (driverName: string): string => `topology.${driverName.toLowerCase()}`;
