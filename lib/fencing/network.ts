/**
 * Networks of addresses, as `10.0.0.0/24` and `fd00::/64` write them. Pure.
 *
 * 1. Two texts that mean one network are one: Ceph keeps an entry as somebody wrote it, `10.0.0.7/24` say.
 */
import { isIP } from "node:net";

export interface Network {
  readonly family: 4 | 6;
  /** The number of the first address. */
  readonly first: bigint;
  /** Bits that all addresses share. */
  readonly bits: number;
}

const WIDTH = { 4: 32, 6: 128 } as const;
const V6_PARTS = 8;

/** The canonical form of an address that `isIP` takes; a zone is not one. */
const v6Parts = (address: string): readonly string[] => {
  const { hostname } = new URL(`http://[${address}]/`);
  const [head = "", tail] = hostname.slice(1, -1).split("::");
  const parts = (text: string) => (text === "" ? [] : text.split(":"));
  if (tail === undefined) return parts(head);
  const [before, after] = [parts(head), parts(tail)];
  return [...before, ...Array<string>(V6_PARTS - before.length - after.length).fill("0"), ...after];
};

const numberOf = (family: 4 | 6, address: string): bigint =>
  family === 4
    ? address.split(".").reduce((sum, part) => sum * 256n + BigInt(part), 0n)
    : v6Parts(address).reduce((sum, part) => sum * 65_536n + BigInt(`0x${part}`), 0n);

/** `undefined`: it is not a network. An address alone is one of that address. */
export const parseNetwork = (text: string): Network | undefined => {
  const [address = "", length, more] = text.trim().split("/");
  const family = isIP(address);
  if ((family !== 4 && family !== 6) || more !== undefined || address.includes("%")) return undefined;
  const width = WIDTH[family];
  if (length !== undefined && !/^\d{1,3}$/.test(length)) return undefined;
  const bits = length === undefined ? width : Number(length);
  if (bits > width) return undefined;
  const host = BigInt(width - bits);
  return { family, first: (numberOf(family, address) >> host) << host, bits };
};

const addressOf = ({ family, first }: Network): string => {
  if (family === 4) return [24n, 16n, 8n, 0n].map((shift) => String((first >> shift) & 255n)).join(".");
  const parts = Array.from({ length: V6_PARTS }, (_, i) => ((first >> BigInt(112 - 16 * i)) & 65_535n).toString(16));
  return new URL(`http://[${parts.join(":")}]/`).hostname.slice(1, -1);
};

export const formatNetwork = (network: Network): string => `${addressOf(network)}/${network.bits}`;

export const sameNetwork = (a: Network, b: Network): boolean =>
  a.family === b.family && a.bits === b.bits && a.first === b.first;

/** Whether all addresses of the second are in the first. */
export const contains = (outer: Network, inner: Network): boolean => {
  if (outer.family !== inner.family || outer.bits > inner.bits) return false;
  const host = BigInt(WIDTH[outer.family] - outer.bits);
  return inner.first >> host === outer.first >> host;
};

/** The address of a client, `10.0.0.1:0/3412` or `v2:[fd00::1]:0/3412`, as a network. */
export const networkOfClient = (client: string): Network | undefined => {
  const [, six, four] = /^(?:\w+:)?(?:\[([^\]]+)\]|([\d.]+)):\d+\/\d+$/.exec(client) ?? [];
  return parseNetwork(six ?? four ?? "");
};
