/** csi-sanity's Node cases, on this virtual machine's kernel. */
import { nodeCases } from "../conformance/node-cases.ts";

nodeCases();
