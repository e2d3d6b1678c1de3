/**
 * An image as an OCI layout in one archive, which `ctr images import`, `skopeo copy oci-archive:` and `docker load` take.
 *
 * Not here: what is in the layers (./build.ts). Pure.
 *
 * 1. The same layers, configuration and name give the same bytes.
 * 2. `docker load` of before 25 reads manifest.json; all others read index.json. Both name the same blobs.
 */
import { type Entry, tar } from "./tar.ts";

export interface Layer {
  readonly tar: Uint8Array<ArrayBuffer>;
  /** A line of the image's history: what made the layer. */
  readonly createdBy: string;
}

export interface ImageOptions {
  /** With registry and tag, as a kubelet names it. */
  readonly name: string;
  /** As Go names it: amd64, arm64. */
  readonly architecture: string;
  readonly created: Date;
  readonly entrypoint: ReadonlyArray<string>;
  readonly environment: Readonly<Record<string, string>>;
  readonly labels: Readonly<Record<string, string>>;
  /** Lowest first. */
  readonly layers: ReadonlyArray<Layer>;
}

export interface Image {
  /** The bytes of the archive. */
  readonly archive: Uint8Array<ArrayBuffer>;
  /** The manifest's, by which a kubelet pulls it: `sha256:…`. */
  readonly digest: string;
  /** What a registry stores and a node pulls. */
  readonly compressedBytes: number;
  readonly unpackedBytes: number;
}

interface Blob {
  readonly bytes: Uint8Array;
  readonly descriptor: { readonly mediaType: string; readonly digest: string; readonly size: number };
}

export const sha256 = (bytes: Uint8Array): string => new Bun.CryptoHasher("sha256").update(bytes).digest("hex");

/** libdeflate writes no time, and the same bytes on every machine. */
const gzip = (bytes: Uint8Array<ArrayBuffer>): Uint8Array => Bun.gzipSync(bytes, { library: "libdeflate", level: 6 });

const blob = (mediaType: string, bytes: Uint8Array): Blob => ({
  bytes,
  descriptor: { mediaType, digest: `sha256:${sha256(bytes)}`, size: bytes.length },
});
const jsonBlob = (mediaType: string, value: unknown): Blob => blob(mediaType, Buffer.from(JSON.stringify(value)));

const configOf = (image: ImageOptions): unknown => ({
  created: image.created.toISOString(),
  architecture: image.architecture,
  os: "linux",
  config: {
    Env: Object.entries(image.environment).map(([name, value]) => `${name}=${value}`),
    Entrypoint: image.entrypoint,
    Labels: image.labels,
  },
  rootfs: { type: "layers", diff_ids: image.layers.map((layer) => `sha256:${sha256(layer.tar)}`) },
  history: image.layers.map(({ createdBy }) => ({ created: image.created.toISOString(), created_by: createdBy })),
});

const pathOf = ({ descriptor }: Blob): string => `blobs/sha256/${descriptor.digest.slice("sha256:".length)}`;

export const makeImage = (options: ImageOptions): Image => {
  const layers = options.layers.map((layer) => blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip(layer.tar)));
  const config = jsonBlob("application/vnd.oci.image.config.v1+json", configOf(options));
  const manifestType = "application/vnd.oci.image.manifest.v1+json";
  const manifest = jsonBlob(manifestType, {
    schemaVersion: 2,
    mediaType: manifestType,
    config: config.descriptor,
    layers: layers.map(({ descriptor }) => descriptor),
  });
  const index = {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: [
      {
        ...manifest.descriptor,
        platform: { architecture: options.architecture, os: "linux" },
        annotations: {
          "io.containerd.image.name": options.name,
          "org.opencontainers.image.ref.name": options.name.slice(options.name.lastIndexOf(":") + 1),
        },
      },
    ],
  };
  const forDocker = [{ Config: pathOf(config), RepoTags: [options.name], Layers: layers.map(pathOf) }];
  const file = (name: string, bytes: Uint8Array): Entry => ({ name, mode: 0o644, content: { file: bytes } });
  const folder = (name: string): Entry => ({ name, mode: 0o755, content: "folder" });
  const text = (name: string, value: unknown) => file(name, Buffer.from(JSON.stringify(value)));
  const blobs = [...layers, config, manifest];
  const entries = [
    text("oci-layout", { imageLayoutVersion: "1.0.0" }),
    text("index.json", index),
    text("manifest.json", forDocker),
    folder("blobs"),
    folder("blobs/sha256"),
    ...blobs.map((each) => file(pathOf(each), each.bytes)),
  ];
  return {
    archive: tar(entries, options.created.getTime() / 1000),
    digest: manifest.descriptor.digest,
    compressedBytes: blobs.reduce((sum, { bytes }) => sum + bytes.length, 0),
    unpackedBytes: options.layers.reduce((sum, layer) => sum + layer.tar.length, 0),
  };
};
