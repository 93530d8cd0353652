/** uplinks.ts: the RDMA devices of the adapter under a configuration, and the network devices behind them. */
import type { VirtnetConf } from './conf-keys.js';

export interface Uplink {
  readonly ibDevice: string;
  /** Port of the adapter; a bond counts as port 0. */
  readonly port: 0 | 1;
  /** Network device of this host that is the uplink, whether it exists or not. */
  readonly netDevice: string;
}

/** The uplinks that exist: the bond replaces both ports, and a single port is alone. */
export function uplinksOf({ is_lag, single_port, ib_dev_p0, ib_dev_p1, software }: VirtnetConf): Uplink[] {
  const netDevices: Readonly<Record<string, string>> = software.uplinks;
  const uplink = (ibDevice: string, port: 0 | 1): Uplink => ({
    ibDevice,
    port,
    netDevice: netDevices[ibDevice]!,
  });
  if (is_lag === 1) return [uplink(LAG_DEVICE, 0)];
  return single_port === 1 ? [uplink(ib_dev_p0, 0)] : [uplink(ib_dev_p0, 0), uplink(ib_dev_p1, 1)];
}

/** The uplink of an RDMA device; null when there is no such device. */
export function uplinkOf(conf: VirtnetConf, ibDevice: string): Uplink | null {
  return uplinksOf(conf).find((uplink) => uplink.ibDevice === ibDevice) ?? null;
}

/**
 * The uplink that a function has now which was on `ibDevice` before: the bond took the place of both ports. Null when the
 * configuration has none for it.
 */
export function uplinkAgain(conf: VirtnetConf, ibDevice: string): Uplink | null {
  return uplinkOf(conf, ibDevice) ?? (conf.is_lag === 1 ? uplinksOf(conf)[0]! : null);
}

/** RDMA device that manages the emulation: the first there is. */
export function emulationManager(conf: VirtnetConf): string {
  return uplinksOf(conf)[0]!.ibDevice;
}

/** RDMA device that static PFs and their VFs are on. */
export function staticPfDevice(conf: VirtnetConf): string {
  return conf.ib_dev_for_static_pf ?? emulationManager(conf);
}

const LAG_DEVICE = 'mlx5_bond_0';
