/** What a PCI function needs of the device behind it. The device knows nothing of PCI. */
export interface VirtioDevice {
  /** virtio device type (virtio 1.3, section 5). */
  readonly deviceType: number;
  /** Features offered to the driver. */
  readonly offeredFeatures: bigint;
  readonly queueCount: number;
  /** Largest size of each queue; a power of two. */
  readonly queueSizeMax: number;
  /** Size in bytes of the device configuration. */
  readonly configBytes: number;
  /** Why this set cannot be accepted; empty when it can. Has no side effect. */
  featureProblems(features: bigint): readonly string[];
  /** The driver's features, once agreed. */
  acceptFeatures(features: bigint): void;
  /** Back to the state after power on; what the operator configured stays. */
  reset(): void;
  /** Exactly `count` bytes of the device configuration; 0 where there is nothing. */
  readConfig(offset: number, count: number): Uint8Array;
  /** The driver wrote; true when a value it can read has changed. */
  writeConfig(offset: number, bytes: Uint8Array): boolean;
}

/** One byte kept by the program, in memory that survives this process if it likes. */
export interface CellPort {
  get(): number;
  set(value: number): void;
}
