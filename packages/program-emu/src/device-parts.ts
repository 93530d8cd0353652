/** device-parts.ts: what a function is made of, and what its process gives it. */
import type { DevicePlan, RepresentorKind } from '@virtnet/engine-control';
import type { VirtioPciFunction } from '@virtnet/engine-pci';
import type { NetDevice } from '@virtnet/engine-virtio-net';
import type { Poller } from '@virtnet/host-linux';
import type { DatapathPort } from './datapath.js';
import type { SwitchedConfig } from './datapath-protocol.js';
import type { DeviceInterrupts } from './device-interrupts.js';
import type { DeviceMemory } from './device-memory.js';
import type { DeviceHealth } from './device-record.js';
import type { DeviceSettings } from './device-settings.js';
import type { DeviceStore } from './device-store.js';
import type { DeviceTaps } from './device-taps.js';
import type { PageMapping } from './page-mapping.js';

export interface DeviceParts {
  readonly plan: DevicePlan;
  readonly settings: DeviceSettings;
  readonly requestId: string;
  readonly fn: VirtioPciFunction;
  readonly net: NetDevice;
  readonly page: PageMapping;
  /** What stands for the function on the host; `taps` are none unless it is a TAP. */
  readonly representor: RepresentorKind;
  readonly taps: DeviceTaps;
  readonly memory: DeviceMemory;
  readonly interrupts: DeviceInterrupts;
  readonly kicks: Map<number, number>;
  readonly health: DeviceHealth;
}

export interface HostServices {
  readonly datapath: DatapathPort;
  readonly poller: Poller;
  readonly store: DeviceStore;
  /** Size of the frames a function gives whose representor is a source. */
  readonly sourceFrameBytes: number;
  /** Tells of something an operator should see. */
  log(level: 'info' | 'warn' | 'error', message: string, facts?: Record<string, unknown>): void;
}

/** What an operator can give another shape while no driver holds the function. */
export interface DeviceShape {
  readonly plan: DevicePlan;
  readonly fn: VirtioPciFunction;
  readonly net: NetDevice;
  readonly interrupts: DeviceInterrupts;
}

/** How the workers are told; null: there is a TAP. The functions of one uplink port are one switch domain. */
export function switchedConfig(
  representor: RepresentorKind,
  { uplinkPort }: DevicePlan,
  frameBytes: number,
): SwitchedConfig | null {
  return representor === 'tap' ? null : { mode: representor, domain: uplinkPort, frameBytes };
}
