/** A small device and register helpers for this package's own tests. Not exported. */
import {
  DeviceStatus,
  featureMask,
  hasFeature,
  PciHeader,
  PciMsix,
  VirtioFeature,
  VirtioPciCommon,
  viewOf,
} from '@virtnet/wire';
import type { Effect } from './effects.js';
import type { FunctionOptions } from './function-options.js';
import type { VirtioDevice } from './virtio-device.js';
import { VirtioPciFunction } from './virtio-function.js';

/** Feature bits of the device type: B needs A. */
export const BIT_A = 0;
export const BIT_B = 1;

export class TestDevice implements VirtioDevice {
  readonly deviceType = 1;
  offeredFeatures = featureMask([BIT_A, BIT_B, VirtioFeature.VERSION_1, VirtioFeature.RING_RESET]);
  readonly queueCount: number;
  readonly queueSizeMax = 256;
  readonly config = Uint8Array.from({ length: 28 }, (_, i) => i + 1);
  readonly configBytes = 28;
  accepted = 0n;
  resets = 0;

  constructor(queueCount = 3) {
    this.queueCount = queueCount;
  }

  featureProblems(features: bigint): readonly string[] {
    return hasFeature(features, BIT_B) && !hasFeature(features, BIT_A) ? ['B needs A'] : [];
  }

  acceptFeatures(features: bigint): void {
    this.accepted = features;
  }

  reset(): void {
    this.accepted = 0n;
    this.resets++;
  }

  readConfig(offset: number, count: number): Uint8Array {
    return this.config.slice(offset, offset + count);
  }

  writeConfig(offset: number, bytes: Uint8Array): boolean {
    this.config.set(bytes, offset);
    return true;
  }
}

export const AGREED = featureMask([VirtioFeature.VERSION_1, VirtioFeature.RING_RESET]);
export const UP_TO_DRIVER = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER;
export const UP_TO_FEATURES = UP_TO_DRIVER | DeviceStatus.FEATURES_OK;
export const UP_TO_READY = UP_TO_FEATURES | DeviceStatus.DRIVER_OK;

type Register = keyof typeof VirtioPciCommon.at;

export function bytesOf(value: number, sizeBytes: number): Uint8Array {
  return Uint8Array.from({ length: sizeBytes }, (_, i) => Math.floor(value / 2 ** (8 * i)) & 0xff);
}

/** A function with short hands for its registers. */
export class Bench {
  readonly device: TestDevice;
  readonly fn: VirtioPciFunction;

  constructor(options: Partial<FunctionOptions> & { readonly queueCount?: number } = {}) {
    this.device = new TestDevice(options.queueCount);
    this.fn = new VirtioPciFunction({
      device: this.device,
      classCode: 0x020000,
      msixVectors: 4,
      ...options,
    });
  }

  read(register: Register, sizeBytes = 2): number {
    const bytes = this.fn.readRegion(0, VirtioPciCommon.at[register], sizeBytes);
    return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
  }

  write(register: Register, value: number, sizeBytes = 2): Effect[] {
    return this.fn.writeRegion(0, VirtioPciCommon.at[register], bytesOf(value, sizeBytes));
  }

  status(value: number): Effect[] {
    return this.write('deviceStatus', value, 1);
  }

  features(mask: bigint): void {
    for (const word of [0, 1]) {
      this.write('driverFeatureSelect', word, 4);
      this.write('driverFeature', Number((mask >> BigInt(32 * word)) & 0xffff_ffffn), 4);
    }
  }

  /** Up to FEATURES_OK. */
  agree(mask: bigint = AGREED): void {
    this.status(UP_TO_DRIVER);
    this.features(mask);
    this.status(UP_TO_FEATURES);
  }

  enable(queue: number, vector = 0xffff): Effect[] {
    this.write('queueSelect', queue);
    this.write('queueDescriptor', 0x1_0000_0000 + queue * 0x10000, 8);
    this.write('queueDriver', 0x1_0000_4000 + queue * 0x10000, 8);
    this.write('queueDevice', 0x1_0000_8000 + queue * 0x10000, 8);
    this.write('queueVector', vector);
    return this.write('queueEnable', 1);
  }

  /** Up to DRIVER_OK with every queue enabled; queue n on vector n + 1, as far as they go. */
  ready(): void {
    this.agree();
    const { vectors } = this.fn.layout.msix ?? { vectors: 0 };
    for (let queue = 0; queue < this.device.queueCount; queue++)
      this.enable(queue, queue + 1 < vectors ? queue + 1 : 0xffff);
    this.write('configVector', 0);
    this.status(UP_TO_READY);
  }

  msix(enabled: boolean, masked = false): Effect[] {
    const at = this.fn.capabilities.msix! + PciMsix.at.control;
    return this.fn.writeConfig(at, bytesOf((enabled ? 0x8000 : 0) | (masked ? 0x4000 : 0), 2));
  }

  command(value: number): Effect[] {
    return this.fn.writeConfig(PciHeader.at.command, bytesOf(value, 2));
  }

  config32(offset: number): number {
    return viewOf(this.fn.readConfig(offset, 4)).getUint32(0, true);
  }
}

export const kinds = (effects: readonly Effect[]): string[] => effects.map(({ kind }) => kind);
