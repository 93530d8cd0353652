/**
 * device-plan.ts: the complete description of a function that shall exist: static PF, hotplug PF or VF.
 *
 * Theory
 *   A few numbers are chosen; every name and every other number follows from them. A plan is plain JSON, so that it
 *   can be saved with the device. What was saved is not trusted: `restorePlan` checks the chosen values against their
 *   ranges and against one another, and derives the rest anew.
 *   A VF may have given all of its vectors or queue pairs back to the pool of its PF. Then it has no virtqueues, and no
 *   driver can use it until it is given a share again.
 *
 * Invariants
 *   I1  two plans of one controller differ in VUID, PCI address and representor when they differ in (kind, place),
 *       where the place is the number of a static PF, the switch port of a hotplug PF, PF and VF number of a VF.
 */

import { VIRTIO_ID_NET, VIRTIO_PCI_DEVICE_ID_BASE, VIRTIO_PCI_VENDOR_ID } from '@virtnet/wire';
import { FunctionKind, type PciSubsystem } from './facts.js';
import { parseFeatures } from './feature-names.js';
import { hexLower, parseMac } from './format.js';
import * as identity from './identity.js';
import {
  HOTPLUG_PFS_MAX,
  HOTPLUG_SF_FIRST,
  HOTPLUG_SF_LAST,
  MSIX_VECTORS_MAX,
  MSIX_VECTORS_MIN,
  MTU_MAX,
  MTU_MIN,
  PF_IDS,
  QUEUE_SIZE_MAX,
  QUEUE_SIZE_MIN,
  STATIC_PFS_MAX,
  STATIC_SF_FIRST,
  VF_SF_FIRST,
  VF_SF_LAST,
  VFS_MAX,
  VIRT_QUEUES_MAX,
  VIRT_QUEUES_MIN,
} from './limits.js';
import { isFunctional } from './vf-pool.js';

/** What is chosen for a new function. Its subsystem ids are the firmware's. */
export interface DeviceChoice extends PciSubsystem {
  readonly kind: FunctionKind;
  /** Number of the PF; of the parent when the function is a VF. */
  readonly pfId: number;
  /** Number of the VF within its PF, from 0; null for a PF. */
  readonly vfId: number | null;
  /** Port of the emulated switch, from 0; null for what is not a hotplug PF. */
  readonly switchPort: number | null;
  /** PCI address, `bus << 8 | device << 3 | function`: which buses there are is the firmware's configuration. */
  readonly address: number;
  readonly sfNum: number;
  /** VFs a static PF may have; 0 for others. */
  readonly vfsMax: number;
  /** Routing id of its first VF, counted from its own; 0 without VFs. */
  readonly firstVfOffset: number;
  /** RDMA device name of the uplink. */
  readonly ibDevice: string;
  /** Upper-case colon notation. */
  readonly mac: string;
  /** Bytes. */
  readonly mtu: number;
  readonly queuePairs: number;
  /** Entries per virtqueue. */
  readonly queueSize: number;
  readonly msixVectors: number;
  /** Features the device offers: a mask in hexadecimal, `0x…`. */
  readonly features: string;
}

/** What follows from the choice. */
export interface DevicePlan extends DeviceChoice {
  readonly bdf: string;
  readonly vuid: string;
  readonly ibDevicePciAddress: string;
  readonly uplinkPort: 0 | 1;
  /** Virtqueues, control queue included; 0 of a VF that has no share of its PF's vectors or queue pairs. */
  readonly queueCount: number;
  readonly representor: string;
  readonly pciVhcaId: number;
  readonly sfVhcaId: number;
  readonly sfCrossMkey: number;
  readonly sfRdmaDevice: string;
}

/** Virtqueues of a device with `queuePairs` data pairs: the pairs and the control queue. */
export function virtQueueCount(queuePairs: number): number {
  return 2 * queuePairs + 1;
}

/** Whether `value` is a whole number from `least` to `most`. */
export function isWithin(value: unknown, least: number, most: number): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most;
}

/** Whether `value` is a number of data pairs that makes at most `virtQueuesMax` virtqueues. */
export function isQueuePairCount(value: unknown, virtQueuesMax: number): value is number {
  return (
    isWithin(value, 1, VIRT_QUEUES_MAX) && isWithin(virtQueueCount(value), VIRT_QUEUES_MIN, virtQueuesMax)
  );
}

/** Whether `value` is a queue size the specification and the command line permit. */
export function isQueueSize(value: unknown): value is number {
  return isWithin(value, QUEUE_SIZE_MIN, QUEUE_SIZE_MAX) && (value & (value - 1)) === 0;
}

/** Whether six bytes are the address of one station: neither a group's nor zero. */
export function isStationAddress(bytes: Uint8Array): boolean {
  return (bytes[0]! & 1) === 0 && bytes.some((byte) => byte !== 0);
}

/** The plan that follows from a choice whose `ibDevice` is on `uplinkPort`. */
export function completePlan(choice: DeviceChoice, uplinkPort: 0 | 1): DevicePlan {
  const { pfId, vfId, address, sfNum } = choice;
  return {
    ...choice,
    bdf: identity.formatBdf(identity.addressOf(address)),
    vuid: vuidOf(choice),
    ibDevicePciAddress: identity.uplinkPciAddress(uplinkPort),
    uplinkPort,
    queueCount: isFunctional(choice) ? virtQueueCount(choice.queuePairs) : 0,
    representor: identity.representorName(uplinkPort, sfNum),
    pciVhcaId: vfId === null ? identity.pciVhcaId(pfId) : identity.vfVhcaId(address),
    sfVhcaId: identity.sfVhcaId(sfNum),
    sfCrossMkey: identity.sfCrossMkey(sfNum),
    sfRdmaDevice: vfId === null ? identity.sfRdmaDevice(pfId) : identity.vfRdmaDevice(address),
  };
}

function vuidOf({ kind, pfId, vfId, switchPort }: DeviceChoice): string {
  switch (kind) {
    case FunctionKind.HOTPLUG_PF:
      return identity.hotplugVuid(switchPort!);
    case FunctionKind.STATIC_PF:
      return identity.staticVuid(pfId);
    case FunctionKind.VF:
      return identity.vfVuid(pfId, vfId!);
  }
}

/** The numbers by which a kind of function is known, each in its range and all of them in agreement. */
function placeProblem(choice: DeviceChoice): string | null {
  const { kind, pfId, vfId, switchPort, address, sfNum } = choice;
  if (kind !== FunctionKind.VF && !isFunctional(choice))
    return 'only a VF can have no msixVectors or no queuePairs';
  const { bus, device, fn } = identity.addressOf(address);
  switch (kind) {
    case FunctionKind.STATIC_PF:
      if (vfId !== null || switchPort !== null) return 'a static PF has no VF number and no switch port';
      if (pfId >= STATIC_PFS_MAX) return 'pfId of the plan is out of range';
      if (address !== identity.rawBdf(identity.staticAddress(pfId)))
        return 'address is not that of the static PF';
      return isWithin(sfNum, STATIC_SF_FIRST, HOTPLUG_SF_FIRST - 1)
        ? null
        : 'sfNum of the plan is out of range';
    case FunctionKind.HOTPLUG_PF:
      if (vfId !== null) return 'a hotplug PF has no VF number';
      if (!isWithin(switchPort, 0, HOTPLUG_PFS_MAX - 1)) return 'switchPort of the plan is out of range';
      if (device !== 0 || fn !== 0 || !identity.isHotplugBus(bus - switchPort))
        return 'address is not that of the switch port';
      return isWithin(sfNum, HOTPLUG_SF_FIRST, HOTPLUG_SF_LAST) ? null : 'sfNum of the plan is out of range';
    case FunctionKind.VF:
      if (switchPort !== null) return 'a VF has no switch port';
      if (pfId >= STATIC_PFS_MAX) return 'pfId of the plan is out of range';
      if (!isWithin(vfId, 0, VFS_MAX - 1)) return 'vfId of the plan is out of range';
      if (!identity.isVfAddress(address)) return 'address is not that of a VF';
      return isWithin(sfNum, VF_SF_FIRST, VF_SF_LAST) ? null : 'sfNum of the plan is out of range';
  }
}

/** What a value of each chosen field must be. */
const CHECKS: { readonly [K in keyof DeviceChoice]: (value: unknown) => boolean } = {
  kind: (value) => Object.values(FunctionKind).includes(value as FunctionKind),
  pfId: (value) => isWithin(value, 0, PF_IDS - 1),
  vfId: (value) => value === null || isWithin(value, 0, VFS_MAX - 1),
  switchPort: (value) => value === null || isWithin(value, 0, HOTPLUG_PFS_MAX - 1),
  address: (value) => isWithin(value, 0, 0xffff),
  sfNum: (value) => isWithin(value, STATIC_SF_FIRST, VF_SF_LAST),
  vfsMax: (value) => isWithin(value, 0, VFS_MAX),
  firstVfOffset: (value) => isWithin(value, 0, 0xffff),
  ibDevice: (value) => typeof value === 'string' && identity.uplinkPort(value) !== null,
  mac: (value) => typeof value === 'string' && isStationMac(value),
  mtu: (value) => isWithin(value, MTU_MIN, MTU_MAX),
  queuePairs: (value) => value === 0 || isQueuePairCount(value, VIRT_QUEUES_MAX),
  queueSize: isQueueSize,
  msixVectors: (value) => value === 0 || isWithin(value, MSIX_VECTORS_MIN, MSIX_VECTORS_MAX),
  features: (value) => typeof value === 'string' && parseFeatures(value) !== null,
  subsystemVendorId: (value) => isWithin(value, 0, 0xffff),
  subsystemId: (value) => isWithin(value, 0, 0xffff),
};

/** Of a function that can have no VFs, and of plans saved before there were any. */
export const NO_VFS = { vfsMax: 0, firstVfOffset: 0 } as const;

/** Of plans saved before the firmware decided about it: the ids of a modern virtio network card. */
const VIRTIO_SUBSYSTEM: PciSubsystem = {
  subsystemVendorId: VIRTIO_PCI_VENDOR_ID,
  subsystemId: VIRTIO_PCI_DEVICE_ID_BASE + VIRTIO_ID_NET,
};

function isStationMac(text: string): boolean {
  const bytes = parseMac(text);
  return bytes !== null && isStationAddress(bytes);
}

/** The plan that was saved as JSON, or a sentence that says what is wrong with it. Never throws. */
export function restorePlan(saved: unknown): DevicePlan | string {
  if (typeof saved !== 'object' || saved === null) return 'the plan is not an object';
  const fields: Record<string, unknown> = { ...NO_VFS, ...VIRTIO_SUBSYSTEM, ...saved };
  for (const [name, isRight] of Object.entries(CHECKS))
    if (!isRight(fields[name])) return `${name} of the plan is out of range`;
  const names = Object.keys(CHECKS) as (keyof DeviceChoice)[];
  const choice = Object.fromEntries(names.map((name) => [name, fields[name]])) as unknown as DeviceChoice;
  const misplaced = placeProblem(choice);
  if (misplaced !== null) return misplaced;
  const uplinkPort = identity.uplinkPort(choice.ibDevice)!;
  return completePlan(
    { ...choice, mac: choice.mac.toUpperCase(), features: hexLower(parseFeatures(choice.features)!) },
    uplinkPort,
  );
}
