/**
 * control-site.ts: what the emulator's commands know of the world around the devices: firmware, uplinks, features.
 *
 * Everything is read anew for each command: the firmware's store and the uplinks change without telling us.
 *
 * Invariants
 *   I1  a store that cannot be read is no other configuration: what was believed before is believed on, and nobody takes
 *       it for a change.
 */
import {
  type FirmwareValues,
  initialFirmwareStore,
  type PlanSite,
  type RepresentorKind,
  uplinkOf,
  type VirtnetConf,
} from '@virtnet/engine-control';
import { hotplugFeatures, supportedFeatures } from '@virtnet/engine-virtio-net';
import { readFirmwareStore, type VirtnetPaths } from '@virtnet/host-ipc';
import { getMtu, getSpeed, interfaceExists, supportsUso } from '@virtnet/host-linux';
import { featureMask, NetFeature } from '@virtnet/wire';
import type { HostServices } from './device-parts.js';

/** Where frames are swallowed or made up for each queue, a driver would steer in vain. */
const NOT_STEERED: readonly (RepresentorKind | null)[] = ['sink', 'source'];

export class ControlSite {
  /** Features a function can offer. */
  readonly supportedFeatures: bigint;
  /** Features it offers unless somebody says otherwise. */
  readonly defaultFeatures: bigint;
  readonly #paths: VirtnetPaths;
  readonly #conf: VirtnetConf;
  readonly #log: HostServices['log'];
  /** Values for as long as the store cannot be read; null: nobody knows them. */
  #believed: FirmwareValues | null = null;
  /** What was said last about a store that cannot be read. */
  #said: string | null = null;

  constructor(paths: VirtnetPaths, conf: VirtnetConf, log: HostServices['log']) {
    this.#paths = paths;
    this.#conf = conf;
    this.#log = log;
    const uso = supportsUso();
    this.supportedFeatures = supportedFeatures({ uso });
    this.defaultFeatures = hotplugFeatures({
      uso,
      packedVq: conf.packed_vq === 1,
      mrgRxbuf: conf.mrg_rxbuf === 1,
    });
  }

  /** What a function on `ibDevice` finds. */
  planSite(ibDevice: string): PlanSite {
    const { defaultFeatures } = this;
    const steered = !NOT_STEERED.includes(this.#conf.software.representor);
    const supportedFeatures = steered
      ? this.supportedFeatures
      : this.supportedFeatures & ~featureMask([NetFeature.RSS]);
    return { uplinkMtu: this.#uplinkMtu(ibDevice), supportedFeatures, defaultFeatures };
  }

  /** Mb/s of an uplink's network device, null when it does not exist or does not say. */
  uplinkSpeed(ibDevice: string): number | null {
    const uplink = uplinkOf(this.#conf, ibDevice);
    return uplink === null ? null : getSpeed(uplink.netDevice);
  }

  /**
   * The firmware's current values: the initial ones while there is no store, those that are believed while it cannot be
   * read, and the initial ones again if there are none.
   */
  firmware(): FirmwareValues {
    return this.storedFirmware() ?? this.#believed ?? initialFirmwareStore().current;
  }

  /** The current values by the store; null, which is reported once, while it cannot be read. */
  storedFirmware(): FirmwareValues | null {
    const read = readFirmwareStore(this.#paths.fwconfig);
    if ('store' in read) {
      this.#said = null;
      this.#believed = read.store.current;
      return read.store.current;
    }
    const { problem } = read;
    if (problem !== this.#said)
      this.#log('error', 'the firmware store cannot be read', { path: this.#paths.fwconfig, problem });
    this.#said = problem;
    return null;
  }

  /** Values that were in effect, for as long as the store cannot be read. */
  believe(values: FirmwareValues): void {
    this.#believed = values;
  }

  /** Whether anybody knows the current values. */
  get knowsFirmware(): boolean {
    return this.#believed !== null;
  }

  #uplinkMtu(ibDevice: string): number | null {
    const uplink = uplinkOf(this.#conf, ibDevice);
    if (uplink === null || !interfaceExists(uplink.netDevice)) return null;
    const mtu = getMtu(uplink.netDevice);
    return mtu > 0 ? mtu : null;
  }
}
