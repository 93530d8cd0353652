/**
 * control-site.ts: what the emulator's commands know of the world around the devices: firmware, uplinks, features.
 *
 * Everything is read anew for each command: the firmware's store and the uplinks change without telling us.
 */
import { readFileSync } from 'node:fs';
import {
  type FirmwareValues,
  initialFirmwareStore,
  type PlanSite,
  parseFirmwareStore,
  type RepresentorKind,
  uplinkOf,
  type VirtnetConf,
} from '@virtnet/engine-control';
import { hotplugFeatures, supportedFeatures } from '@virtnet/engine-virtio-net';
import type { VirtnetPaths } from '@virtnet/host-ipc';
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

  /** The firmware's current values; the initial ones while there is no store. */
  firmware(): FirmwareValues {
    let text: string;
    try {
      text = readFileSync(this.#paths.fwconfig, 'utf8');
    } catch {
      return initialFirmwareStore().current;
    }
    const parsed = parseFirmwareStore(text);
    if ('store' in parsed) return parsed.store.current;
    this.#log('error', 'the firmware store is damaged; using the initial values', { ...parsed });
    return initialFirmwareStore().current;
  }

  #uplinkMtu(ibDevice: string): number | null {
    const uplink = uplinkOf(this.#conf, ibDevice);
    if (uplink === null || !interfaceExists(uplink.netDevice)) return null;
    const mtu = getMtu(uplink.netDevice);
    return mtu > 0 ? mtu : null;
  }
}
