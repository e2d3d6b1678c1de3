/**
 * Decodes what the driver reads of Ceph's encoding: little-endian numbers, and texts with their length (32 bits) before
 * them.
 */
const utf8 = new TextDecoder();

export class Decoder {
  private readonly view: DataView;
  private at = 0;

  constructor(private readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** Skips the head of a structure: its version, the oldest version that can read it, and its length. */
  version(): void {
    this.at += 6;
  }

  u8(): number {
    return this.view.getUint8(this.step(1));
  }

  u32(): number {
    return this.view.getUint32(this.step(4), true);
  }

  u64(): bigint {
    return this.view.getBigUint64(this.step(8), true);
  }

  i64(): bigint {
    return this.view.getBigInt64(this.step(8), true);
  }

  text(): string {
    const length = this.u32();
    const start = this.step(length);
    return utf8.decode(this.bytes.subarray(start, start + length));
  }

  private step(bytes: number): number {
    const at = this.at;
    this.at += bytes;
    return at;
  }
}
