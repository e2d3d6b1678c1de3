/**
 * Where the cluster's daemons listen: an address of every Linux machine's loopback, but not the usual one, so that a
 * virtual machine can be given a route to this machine's while its own 127.0.0.1 stays its own (see vm.ts).
 */
export const clusterAddress = "127.7.7.7";
